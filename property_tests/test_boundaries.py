"""A stateful machine holds queries and conditions of each store against a plain list."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, TypeAlias
from uuid import UUID

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from evsrc import (
    ALL,
    ANY,
    NO_STREAM,
    STREAM_EXISTS,
    AppendCondition,
    Appended,
    Conflict,
    DuplicateEventError,
    EventStoreRecord,
    NewEvent,
    Page,
    Query,
    QueryItem,
    Recorded,
    StreamName,
    Write,
    memory_store,
    postgresql_store,
    satisfies,
    sqlite_store,
)
from evsrc.testing import CODEC, Fact, Marked, Tagged

BACK_ENDS = ("memory", "sqlite", "sqlite-memory", "postgresql", "postgresql-concurrent")
Store: TypeAlias = EventStoreRecord[Any]

tags = st.lists(st.sampled_from(["x", "y", "z", ""]), max_size=3).map(tuple)
numbers = st.integers(0, 9)
happenings = (
    st.builds(Tagged, numbers, tags)
    | st.builds(Marked, numbers, tags)
    | st.builds(Fact, numbers)
)
streams = st.sampled_from([StreamName(c, i) for c in ("a", "b") for i in ("1", "2")])
ids = st.integers(1, 60).map(lambda n: UUID(int=n))
news = st.lists(st.builds(NewEvent, happenings, ids), min_size=1, max_size=3)
items = (
    st.tuples(
        st.frozensets(st.sampled_from("ab"), max_size=1),
        st.frozensets(st.sampled_from(["tagged", "marked", "fact", "no"]), max_size=2),
        st.frozensets(st.sampled_from(["x", "y", "z", "", "no"]), max_size=2),
    )
    .filter(any)
    .map(lambda parts: QueryItem(*parts))
)
several = st.lists(items, min_size=1, max_size=3).map(lambda them: Query(tuple(them)))
queries = several | several | several | st.just(ALL)
versions = st.sampled_from([ANY, ANY, ANY, NO_STREAM, STREAM_EXISTS, 0, 1, 2, 3])


class Place(NamedTuple):
    """A position that is found once the log is known: at, before or after an event."""

    event: int
    beside: int

    def of(self, log: Sequence[Entry]) -> int:
        positions = [0, *(entry.position for entry in log)]
        return max(0, positions[min(self.event, len(log))] + self.beside)


# near the end, where it matters; from the start; and beyond the head
places = st.builds(
    Place, st.just(99) | st.integers(0, 20), st.sampled_from([0, 0, -1, 1, 7])
)


class Wish(NamedTuple):
    """A write, before its condition's position is known."""

    stream: StreamName
    events: list[NewEvent[Any]]
    version: Any
    query: Any
    after: Place

    def at(self, log: Sequence[Entry]) -> Write[Any]:
        expected = self.version
        if self.query is not None:
            expected = AppendCondition(self.query, self.after.of(log), self.version)
        return Write(self.stream, self.events, expected)


wishes = st.lists(
    st.builds(Wish, streams, news, versions, st.none() | queries | queries, places),
    min_size=1,
    max_size=2,
)


class Entry(NamedTuple):
    """An event of the plain list."""

    position: int
    stream: StreamName
    version: int
    new: NewEvent[Any]

    def asked_for(self, query: Any) -> bool:
        """Say once more, slowly, what a query means."""
        if query == ALL:
            return True
        own = set(getattr(self.new.event, "tags", ()))
        kind = type(self.new.event).__name__.lower()
        for item in query.items:
            right = self.stream.category in (item.categories or {self.stream.category})
            right = right and kind in (item.types or {kind})
            if right and all(tag in own for tag in item.tags):
                return True
        return False


def version_of(log: Iterable[Entry], stream: StreamName) -> int:
    return sum(entry.stream == stream for entry in log)


def verdict(log: Sequence[Entry], writes: Sequence[Write[Any]]) -> Any:
    """Tell what an append to *log* has to give: for a conflict, all it may name."""
    seen = {entry.new.id: (entry.stream, entry.version) for entry in log}
    used = [new.id for write in writes for new in write.events]
    judged = first_conflict(log, writes)
    if judged is None and len({*used}) == len(used) and not seen.keys() & set(used):
        return "appended"
    for write in writes:
        at = [seen.get(new.id) for new in write.events]
        first = at[0]
        if first is None or at != [
            (write.stream, first[1] + n) for n in range(len(at))
        ]:
            return judged or DuplicateEventError
    return "repeated"


def first_conflict(
    log: Sequence[Entry], writes: Sequence[Write[Any]]
) -> list[Conflict] | None:
    added: dict[StreamName, int] = {}
    for write in writes:
        actual = version_of(log, write.stream) + added.get(write.stream, 0)
        added[write.stream] = added.get(write.stream, 0) + len(write.events)
        expected = write.expected
        if not satisfies(expected, actual):
            return [
                Conflict(write.stream, getattr(expected, "version", expected), actual)
            ]
        if isinstance(expected, AppendCondition):
            against = [
                Conflict(write.stream, expected, entry.position)
                for entry in log
                if entry.position > expected.after and entry.asked_for(expected.query)
            ]
            if against:
                return against
    return None


def agrees(outcome: Any, expected: Any) -> bool:
    match outcome:
        case Conflict():
            return isinstance(expected, list) and outcome in expected
        case Appended(repeated=True):
            return bool(expected == "repeated")
        case Appended():
            return bool(expected == "appended")
        case DuplicateEventError():
            return expected is DuplicateEventError
        case _:
            raise AssertionError(f"neither appended nor refused: {outcome!r}")


class BoundaryMachine(RuleBasedStateMachine):
    """Random appends and reads; subclasses say on which store."""

    opened: ClassVar[Callable[[Path], Awaitable[Store]]]

    @initialize()
    def start(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.loop = asyncio.new_event_loop()
        self.log: list[Entry] = []
        self.store: Store = self.wait(type(self).opened(Path(self.folder.name)))

    def wait(self, work: Any) -> Any:
        return self.loop.run_until_complete(work)

    def teardown(self) -> None:
        if hasattr(self, "store"):
            try:
                assert self.wait(self.store.verify()) == ()
            finally:
                self.wait(self.store.close())
                self.loop.close()
                self.folder.cleanup()

    @rule(wished=st.lists(wishes, min_size=1, max_size=5))
    def append(self, wished: list[list[Wish]]) -> None:
        """Append together: it is as if one came after the other, in the log's order."""
        calls = [[wish.at(self.log) for wish in each] for each in wished]
        outcomes = self.wait(gathered(*(self.store.append(*each) for each in calls)))
        recorded = self.wait(self.store.read_all(limit=10_000)).events
        at = {found.id: found.position for found in recorded}
        logs = [self.log]
        accepted = [
            (outcome, writes)
            for outcome, writes in zip(outcomes, calls, strict=True)
            if isinstance(outcome, Appended) and not outcome.repeated
        ]
        for outcome, writes in sorted(
            accepted, key=lambda one: one[0].placed[0].first_position
        ):
            assert verdict(logs[-1], writes) == "appended"
            logs.append(self.placed(logs[-1], outcome, writes, at))
        for outcome, writes in zip(outcomes, calls, strict=True):
            if (outcome, writes) not in accepted:
                told = [verdict(log, writes) for log in logs]
                assert any(agrees(outcome, each) for each in told), (outcome, told)
        self.log = sorted(logs[-1])

    def placed(
        self,
        log: Sequence[Entry],
        outcome: Appended,
        writes: Sequence[Write[Any]],
        at: dict[UUID, int],
    ) -> list[Entry]:
        """Give the list after an append, and hold what was told of it against it."""
        after = list(log)
        for write, told in zip(writes, outcome.placed, strict=True):
            version = version_of(after, write.stream)
            positions = [at[new.id] for new in write.events if new.id in at]
            assert len(positions) == len(write.events), "told, but not there"
            assert positions == sorted(positions)
            after += [
                Entry(position, write.stream, version + n, new)
                for n, (position, new) in enumerate(
                    zip(positions, write.events, strict=True), 1
                )
            ]
            assert told.stream == write.stream
            assert told.version == version + len(write.events)
            assert (told.first_position, told.last_position) == (
                positions[0],
                positions[-1],
            )
        return after

    @rule(query=queries, start=places, limit=st.integers(1, 4) | st.just(1000))
    def read_forward(self, query: Any, start: Place, limit: int) -> None:
        after = start.of(self.log)
        while True:
            page = self.wait(self.store.read_all(query, after=after, limit=limit))
            assert len(page.events) <= limit
            assert page.head >= max((entry.position for entry in self.log), default=0)
            wanted = [e for e in self.log if after < e.position <= page.reached]
            self.same(page.events, query, wanted)
            assert page.reached >= after
            if page.reached >= page.head:
                break
            assert page.reached > after
            after = page.reached
        assert not [e for e in self.log if e.position > page.reached]

    @rule(query=queries, start=places, limit=st.integers(1, 4) | st.just(1000))
    def read_backward(self, query: Any, start: Place, limit: int) -> None:
        before = start.of(self.log)
        while True:
            page = self.wait(
                self.store.read_all(query, after=before, limit=limit, backward=True)
            )
            assert len(page.events) <= limit
            wanted = [
                entry
                for entry in self.log
                if entry.position >= page.reached
                and (before == 0 or entry.position < before)
            ]
            self.same(page.events, query, wanted[::-1])
            if page.reached == 0:
                break
            assert before == 0 or page.reached < before
            before = page.reached

    def same(
        self, found: Iterable[Recorded[Any]], query: Any, wanted: Iterable[Entry]
    ) -> None:
        """See that events are those of *wanted* that *query* asks for, in order."""
        shown = [
            (r.position, r.stream, r.version, r.event, r.id, r.tags) for r in found
        ]
        assert shown == [
            (
                *(entry.position, entry.stream, entry.version),
                *(entry.new.event, entry.new.id),
                frozenset(getattr(entry.new.event, "tags", ())),
            )
            for entry in wanted
            if entry.asked_for(query)
        ]

    @invariant()
    def the_log_is_the_list(self) -> None:
        if hasattr(self, "store"):
            self.same(
                self.wait(self.store.read_all(limit=10_000)).events, ALL, self.log
            )


async def gathered(*work: Any) -> Any:
    return await asyncio.gather(*work, return_exceptions=True)


@pytest.mark.parametrize("back_end", BACK_ENDS)
def test_stores_are_as_a_plain_list(
    back_end: str, request: pytest.FixtureRequest
) -> None:
    """Whatever is appended, alone or together, and asked for."""
    url = ""
    if back_end.startswith("postgresql"):
        url = request.getfixturevalue("evsrc_postgres_database")
    numbers = count(1)

    async def opened(folder: Path) -> Store:
        match back_end:
            case "memory":
                return memory_store(CODEC)
            case "sqlite":
                return await sqlite_store(folder / "e.db", CODEC, synchronous="NORMAL")
            case "sqlite-memory":
                return await sqlite_store(":memory:", CODEC)
            case _:
                ordering: Any = "concurrent" if "concurrent" in back_end else "serial"
                prefix = f"b{next(numbers)}"
                return await postgresql_store(
                    url, CODEC, prefix=prefix, ordering=ordering
                )

    if url:  # each example makes tables; to shrink one would take too long
        phases = [Phase.explicit, Phase.reuse, Phase.generate]
        run(opened, max_examples=10, phases=phases)
    else:
        run(opened, max_examples=60)


def run(opened: Callable[[Path], Awaitable[Store]], **limits: Any) -> None:
    machine = type("Machine", (BoundaryMachine,), {"opened": staticmethod(opened)})
    run_state_machine_as_test(
        machine, settings=settings(stateful_step_count=20, **limits)
    )


# The machine finds what is wrong.


def ignores_conditions(store: Store) -> Store:
    return judging(store, lambda expected: expected.version)


def forgets_the_head(store: Store) -> Store:
    """One position too many is taken for known."""
    return judging(
        store,
        lambda expected: AppendCondition(
            expected.query, expected.after + 1, expected.version
        ),
    )


def judging(store: Store, change: Callable[[AppendCondition], Any]) -> Store:
    async def append(*writes: Write[Any], also: Any = ()) -> Any:
        changed = [
            Write(w.stream, w.events, change(w.expected))
            if isinstance(w.expected, AppendCondition)
            else w
            for w in writes
        ]
        outcome = await store.append(*changed, also=also)
        if isinstance(outcome, Conflict) and outcome.stream == writes[0].stream:
            told = writes[0].expected
            expected = (
                told
                if isinstance(outcome.expected, AppendCondition)
                else outcome.expected
            )
            return Conflict(outcome.stream, expected, outcome.actual)
        return outcome

    return replace(store, append=append)


def judges_before_it_appends(store: Store) -> Store:
    async def append(*writes: Write[Any], also: Any = ()) -> Any:
        unconditional = []
        for write in writes:
            expected = write.expected
            if isinstance(expected, AppendCondition):
                page = await store.read_all(expected.query, backward=True, limit=1)
                for found in page.events:
                    if found.position > expected.after:
                        return await store.append(*writes, also=also)
                expected = expected.version
            unconditional.append(Write(write.stream, write.events, expected))
        await asyncio.sleep(0)
        return await store.append(*unconditional, also=also)

    return replace(store, append=append)


def takes_any_of_the_tags(store: Store) -> Store:
    async def read_all(query: Any = ALL, **how: Any) -> Any:
        if query != ALL:
            loose = [
                QueryItem(item.categories, item.types, frozenset([tag]))
                for item in query.items
                for tag in item.tags
            ]
            query = Query((*query.items, *loose))
        return await store.read_all(query, **how)

    return replace(store, read_all=read_all)


def leaves_out_the_last(store: Store) -> Store:
    """Of a page that is full."""

    async def read_all(query: Any = ALL, *, limit: int = 1000, **how: Any) -> Any:
        page = await store.read_all(query, limit=limit, **how)
        full = len(page.events) == limit
        return Page(page.events[: limit - full], page.reached, page.head)

    return replace(store, read_all=read_all)


@pytest.mark.parametrize(
    "broken",
    [
        ignores_conditions,
        forgets_the_head,
        judges_before_it_appends,
        takes_any_of_the_tags,
        leaves_out_the_last,
    ],
    ids=lambda broken: broken.__name__,
)
def test_broken_stores_are_found(broken: Callable[[Store], Store]) -> None:
    """A store that is wrong in one way is not as a plain list."""

    async def opened(_: Path) -> Store:
        return broken(memory_store(CODEC))

    with pytest.raises(AssertionError):
        run(
            opened,
            max_examples=300,
            phases=[Phase.generate],
            report_multiple_bugs=False,
            database=None,
        )
