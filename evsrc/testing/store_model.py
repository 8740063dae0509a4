"""Compare a store with a list, over random calls.

    TestMyStore = store_machine(my_store).TestCase

`store_checks` says what is promised, one thing at a time; this finds what becomes of it
in combination.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeAlias
from uuid import UUID

from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)
from msgspec.structs import replace

from ..core.errors import CheckpointError, DuplicateEventError, LeaseLostError
from ..core.event import NewEvent, StreamName
from ..core.expectation import (
    ANY,
    NO_STREAM,
    STREAM_EXISTS,
    Query,
    QueryItem,
    matches,
    satisfies,
)
from ..ports import (
    Also,
    Appended,
    Checkpoint,
    Conflict,
    DeadLetter,
    EventStore,
    Fence,
    Lease,
    SaveCheckpoint,
    SaveDeadLetter,
    Write,
)
from ._bench import CODEC, Fact, Note

MakeStore: TypeAlias = Callable[[Path], Awaitable[EventStore[Any]]]
"""Opens the store of a folder, made with `CODEC`; a new folder is a new, empty store.
A store that keeps no files uses the folder's name, as a prefix or a key."""

STREAMS = [StreamName(c, i) for c in ("a", "b") for i in ("1", "2")]
streams = st.sampled_from(STREAMS)
happenings = st.builds(Fact, st.integers(0, 9)) | st.builds(Note, st.sampled_from("xy"))
expectations = st.integers(0, 6) | st.sampled_from([ANY, ANY, NO_STREAM, STREAM_EXISTS])
ids = st.integers(1, 40).map(lambda n: UUID(int=n))
news = st.lists(st.builds(NewEvent, happenings, ids), min_size=1, max_size=3)
writes = st.lists(st.builds(Write, streams, news, expectations), min_size=1, max_size=3)
names = st.frozensets(st.sampled_from("ab"), max_size=2)
types = st.frozensets(st.sampled_from(["fact", "note", "else"]), max_size=2)
items = st.tuples(names, types).filter(any).map(lambda item: QueryItem(*item))
owned, tokens = st.sampled_from(["lease", "x"]), st.integers(0, 4)
statuses = st.sampled_from(["failed", "retrying", "resolved"])
times = st.integers(0, 3).map(lambda n: datetime(2026, 1, 1, 0, 0, n, 1, tzinfo=UTC))
texts = st.text(max_size=3)
letters = st.builds(
    DeadLetter,
    subscription=st.sampled_from("xy"),
    event_id=st.integers(1, 2).map(lambda n: UUID(int=n)),
    type=st.just("fact"),
    data=st.binary(max_size=3),
    error=texts,
    stacktrace=st.none() | texts,
    attempts=st.integers(1, 2),
    first_failed_at=times,
    last_failed_at=times,
    status=statuses,
    resolved_at=st.none() | times,
    resolved_by=st.none() | texts,
    stream=st.none() | streams,
    position=st.integers(0, 2),
)
LONG, OVER = timedelta(hours=1), timedelta(0)
queries = st.just("all") | st.lists(items, min_size=1, max_size=3).map(
    lambda found: Query(tuple(found))
)


class _Model:
    """What a store should be: a list, and nothing clever."""

    def __init__(self) -> None:
        self.log: list[tuple[StreamName, int, NewEvent[Any]]] = []
        self.checkpoints: dict[str, int] = {}
        self.letters: dict[tuple[str, UUID], DeadLetter] = {}
        self.leases: dict[str, Lease] = {}
        self.tokens: dict[str, int] = {}

    def stream(self, name: StreamName) -> list[NewEvent[Any]]:
        return [new for stream, _, new in self.log if stream == name]

    def append(self, wanted: list[Write[Any]]) -> Any:
        """Give what the store should say; change nothing unless it is accepted."""
        log = list(self.log)
        verdict: Any = None
        for write in wanted:
            version = sum(stream == write.stream for stream, _, _ in log)
            if not satisfies(write.expected, version):
                verdict = Conflict(write.stream, write.expected, version)
                break
            for n, new in enumerate(write.events, version + 1):
                log.append((write.stream, n, new))
        if verdict is None and len({new.id for _, _, new in log}) < len(log):
            verdict = DuplicateEventError
        if verdict is not None:
            return "repeated" if self._repeated(wanted) else verdict
        self.log = log
        return "appended"

    def _repeated(self, wanted: list[Write[Any]]) -> bool:
        places = {new.id: (stream, version) for stream, version, new in self.log}
        for write in wanted:
            found = [places.get(new.id) for new in write.events]
            _, first = found[0] or (None, 0)
            if found != [(write.stream, first + n) for n in range(len(found))]:
                return False
        return True


def store_machine(
    make_store: MakeStore, *, durable: bool = False, dense: bool = True
) -> type[RuleBasedStateMachine]:
    """Make a state machine that drives a store and a list, and compares.

    It appends (alone, together, conflicting, repeated), reads streams and the log, and
    uses checkpoints, dead letters and leases.

    Args:
        make_store: opens the store of a folder; each example has a new folder.
        durable: whether it still has everything after it was closed and opened again;
            then that is done, too.
        dense: whether positions are 1, 2, 3 and so on, without holes.

    Returns:
        the class; its attribute `TestCase` is what pytest runs, and `TestCase.settings`
        says how many examples.
    """
    options = {"make": staticmethod(make_store), "durable": durable, "dense": dense}
    return type("Machine", (_StoreMachine,), options)


class _StoreMachine(RuleBasedStateMachine):
    """Random appends, reads and checkpoints; subclasses say which store."""

    make: MakeStore
    durable: bool
    dense: bool
    store: EventStore[Any]

    @initialize()
    def start(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.loop = asyncio.new_event_loop()
        self.model = _Model()
        self.store = self.wait(self.make(Path(self.folder.name)))

    def wait(self, work: Any) -> Any:
        return self.loop.run_until_complete(work)

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.wait(self.store.close())
            self.loop.close()
            self.folder.cleanup()

    def ask(self, *calls: Awaitable[Any]) -> list[Any]:
        """Make calls together; give what each gave or raised."""

        async def gathered() -> list[Any]:
            return await asyncio.gather(*calls, return_exceptions=True)

        outcomes: list[Any] = self.wait(gathered())
        return outcomes

    def expect(self, outcome: Any, expected: Any) -> None:
        if isinstance(expected, Conflict):
            assert outcome == expected
        elif expected is DuplicateEventError:
            assert isinstance(outcome, DuplicateEventError)
        else:
            assert isinstance(outcome, Appended)
            assert outcome.repeated == (expected == "repeated")

    @rule(wanted=writes)
    def append(self, wanted: list[Write[Any]]) -> None:
        expected = self.model.append(wanted)
        (outcome,) = self.ask(self.store.append(*wanted))
        self.expect(outcome, expected)

    @rule(wanted=st.lists(writes, min_size=2, max_size=6))
    def append_together(self, wanted: list[list[Write[Any]]]) -> None:
        expected = [self.model.append(each) for each in wanted]
        outcomes = self.ask(*(self.store.append(*each) for each in wanted))
        for outcome, verdict in zip(outcomes, expected, strict=True):
            self.expect(outcome, verdict)

    @rule(stream=streams, after=st.integers(0, 7), limit=st.none() | st.integers(0, 4))
    def read_stream(self, stream: StreamName, after: int, limit: int | None) -> None:
        events = self.model.stream(stream)
        loaded = self.wait(self.store.load_events(stream, after=after))
        assert list(loaded.events) == [new.event for new in events[after:]]
        assert loaded.version == len(events)
        page = self.wait(self.store.read_stream(stream, after=after, limit=limit))
        stop = None if limit is None else after + limit
        assert [r.id for r in page.events] == [new.id for new in events[after:stop]]
        back = self.wait(
            self.store.read_stream(stream, after=after, limit=limit, backward=True)
        )
        before = events if after == 0 else events[: after - 1]
        assert [r.id for r in back.events] == [new.id for new in before[::-1][:limit]]

    @rule(query=queries, start=st.integers(0, 12), limit=st.integers(1, 5))
    def read_log(self, query: Any, start: int, limit: int) -> None:
        positions = [0, *self.positions()]
        after = positions[min(start, len(self.model.log))]
        expected = [
            (position, stream, version, new.id)
            for position, (stream, version, new) in zip(
                positions[1:], self.model.log, strict=True
            )
            if position > after
            and matches(query, stream.category, CODEC.name(new.event))
        ]
        found, head = [], after + 1
        while after < head:
            page = self.wait(self.store.read_all(query, after=after, limit=limit))
            assert len(page.events) <= limit
            assert page.head >= positions[-1]
            found += [(r.position, r.stream, r.version, r.id) for r in page.events]
            after, head = page.reached, page.head
        assert found == expected

    def positions(self) -> list[int]:
        """Give the positions of the log."""
        if self.dense:
            return list(range(1, len(self.model.log) + 1))
        page = self.wait(self.store.read_all(limit=10_000))
        found = [recorded.position for recorded in page.events]
        assert found == sorted(set(found))
        return found

    @precondition(lambda self: self.durable)
    @rule()
    def reopen(self) -> None:
        assert self.wait(self.store.verify()) == ()
        self.wait(self.store.close())
        self.store = self.wait(self.make(Path(self.folder.name)))

    @rule(
        name=st.sampled_from("xy"),
        position=st.integers(1, 9),
        after=st.none() | st.integers(0, 9),
    )
    def save_checkpoint(self, name: str, position: int, after: int | None) -> None:
        kept = self.model.checkpoints
        change = SaveCheckpoint(name, position, after)
        (outcome,) = self.ask(self.store.checkpoints.save(change))
        if after is not None and kept.get(name, 0) != after:
            assert isinstance(outcome, CheckpointError)
        else:
            assert not isinstance(outcome, Exception)
            kept[name] = position
        expected = Checkpoint(name, kept[name]) if name in kept else None
        assert self.wait(self.store.checkpoints.load(name)) == expected

    @rule(letter=letters, wanted=st.none() | writes, name=owned, token=tokens)
    def park(
        self, letter: DeadLetter, wanted: list[Write[Any]] | None, name: str, token: int
    ) -> None:
        """A fenced append of a letter, with events or without."""
        held, key = self.model.leases.get(name), (letter.subscription, letter.event_id)
        also: list[Also] = [SaveDeadLetter(letter), Fence(name, token)]
        fenced = held is None or held.token != token
        before = list(self.model.log)
        expected = "appended" if wanted is None else self.model.append(wanted)
        (outcome,) = self.ask(self.store.append(*wanted or (), also=also))
        if fenced and expected == "appended":
            self.model.log = before
            assert isinstance(outcome, LeaseLostError)
        elif fenced and expected is DuplicateEventError:  # either is told first
            assert isinstance(outcome, (LeaseLostError, DuplicateEventError))
        else:
            self.expect(outcome, expected)
            if expected == "appended":
                self.model.letters[key] = letter

    @rule(letter=letters, was=letters, forget=st.booleans())
    def change_letter(self, letter: DeadLetter, was: DeadLetter, forget: bool) -> None:
        kept = self.store.dead_letters
        key = was.subscription, was.event_id
        letter = replace(letter, subscription=key[0], event_id=key[1])
        there = self.model.letters.get(key) == was
        change = kept.delete(was) if forget else kept.update(letter, was)
        assert self.wait(change) == there
        if there and forget:
            del self.model.letters[key]
        elif there:
            self.model.letters[key] = letter

    @rule(
        subscription=st.none() | st.sampled_from("xy"),
        status=st.none() | statuses,
        limit=st.integers(0, 4),
    )
    def list_letters(self, subscription: str | None, status: Any, limit: int) -> None:
        all = self.model.letters.values()
        expected = [
            letter
            for letter in sorted(all, key=lambda x: (*_age(x), x.event_id))
            if subscription in (None, letter.subscription)
            and status in (None, letter.status)
        ]
        listed = self.wait(
            self.store.dead_letters.list(subscription, status=status, limit=limit)
        )
        assert list(map(_age, listed)) == list(map(_age, expected[:limit]))
        assert len(set(listed)) == len(listed)
        assert set(listed) <= set(expected)

    @rule(subscription=st.sampled_from("xy"), status=st.none() | statuses)
    def list_letters_of_streams(self, subscription: str, status: Any) -> None:
        """List what is put aside of each stream, in the order of the log."""
        kept, expected = self.store.dead_letters, self.model.letters.values()
        mine = [x for x in expected if x.subscription == subscription]
        streams: dict[Any, int] = {}
        for x in mine:
            if x.stream is not None and x.status != "resolved":
                streams[x.stream] = min(x.position, streams.get(x.stream, x.position))
        assert self.wait(kept.streams(subscription)) == streams
        for stream in streams:
            here = [
                x for x in mine if x.stream == stream and status in (None, x.status)
            ]
            listed = self.wait(kept.list(subscription, status=status, stream=stream))
            assert set(listed) == set(here)
            places = [x.position for x in listed]
            assert places == sorted(places)

    @rule(name=owned, owner=st.sampled_from("ab"), over=st.booleans())
    def acquire(self, name: str, owner: str, over: bool) -> None:
        held, leases = self.model.leases.get(name), self.model.leases
        free = held is None or held.owner == owner or held.until <= datetime.now(UTC)
        lease = self.wait(
            self.store.leases.acquire(name, owner, OVER if over else LONG)
        )
        assert (lease is not None) == free
        if lease is not None:
            self.model.tokens[name] = self.model.tokens.get(name, 0) + 1
            assert (lease.owner, lease.token) == (owner, self.model.tokens[name])
            leases[name] = lease

    @rule(name=owned, owner=st.sampled_from("ab"), token=tokens, renew=st.booleans())
    def renew_or_release(self, name: str, owner: str, token: int, renew: bool) -> None:
        held, leases = self.model.leases.get(name), self.store.leases
        lease = Lease(name, owner, token, datetime.now(UTC))
        valid = held is not None and held.token == token
        if renew:
            renewed = self.wait(leases.renew(lease, LONG))
            assert (renewed is not None) == valid
            if valid:
                self.model.leases[name] = renewed
        else:
            self.wait(leases.release(lease))
            if valid:
                del self.model.leases[name]

    @invariant()
    def the_log_is_the_list(self) -> None:
        if not hasattr(self, "store"):
            return
        page = self.wait(self.store.read_all(limit=10_000))
        assert [(r.stream, r.version, r.event, r.id) for r in page.events] == [
            (stream, version, new.event, new.id)
            for stream, version, new in self.model.log
        ]


def _age(letter: DeadLetter) -> tuple[datetime, int]:
    return letter.first_failed_at, letter.position
