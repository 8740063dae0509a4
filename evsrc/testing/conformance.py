"""Check that a store keeps what `evsrc.ports` promises.

Each check is a coroutine function that takes a fresh, empty store made with `CODEC` and
raises AssertionError where the store breaks a promise:

    @pytest.mark.parametrize("check", store_checks, ids=lambda check: check.__name__)
    async def test_my_store(check):
        async with await my_store(CODEC) as store:
            await check(store)

Nothing is skipped: a store does all of it, or it is not a store.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from itertools import permutations
from typing import Any, Final, TypeAlias
from uuid import UUID, uuid4

from msgspec import Struct
from msgspec.structs import replace

from ..core.codec import Codec, Opaque, json_codec
from ..core.errors import (
    CheckpointError,
    DuplicateEventError,
    EventTypeNotFoundError,
    InvalidEventError,
    LeaseLostError,
    StoreClosedError,
    TransactionError,
)
from ..core.event import Metadata, NewEvent, Recorded, StreamName
from ..core.expectation import (
    ALL,
    ANY,
    NO_STREAM,
    STREAM_EXISTS,
    Expected,
    Query,
    QueryItem,
)
from ..core.snapshot import Snapshot
from ..ports import (
    START,
    Also,
    Appended,
    Checkpoint,
    Conflict,
    EventStore,
    Fence,
    SaveCheckpoint,
    SaveDeadLetter,
    SaveSnapshot,
    Transaction,
    Write,
)
from .records import (
    NOW,
)
from .records import letter as _letter
from .records import refuses as _refuses


class Fact(Struct, frozen=True):
    """An event of the suite."""

    n: int
    text: str = ""


class Note(Struct, frozen=True):
    """Another event of the suite."""

    text: str


class Tagged(Struct, frozen=True):
    """An event of the suite that has tags."""

    n: int
    tags: tuple[str, ...] = ()


class Marked(Struct, frozen=True):
    """Another one."""

    n: int
    tags: tuple[str, ...] = ()


class Stranger(Struct, frozen=True):
    """An event that the suite's codec does not know."""

    n: int


CODEC: Final[Codec[Any]] = json_codec(
    {"fact": Fact, "note": Note, "tagged": Tagged, "marked": Marked},
    tags={Tagged: lambda event: event.tags, Marked: lambda event: event.tags},
)
"""The codec that stores under test are made with."""

Store: TypeAlias = EventStore[Any]
Check: TypeAlias = Callable[[Store], Awaitable[None]]

_A: Final = StreamName("suite", "a")
_B: Final = StreamName("suite", "b")
_ELSEWHERE: Final = StreamName("elsewhere", "a")
_SOON: Final = timedelta(seconds=5)
_NOW: Final = datetime(2026, 5, 4, 3, 2, 1, 654321, tzinfo=UTC)
_checks: list[Check] = []


def _check(check: Check) -> Check:
    _checks.append(check)
    return check


def _new(*numbers: int) -> list[NewEvent[Any]]:
    return [NewEvent(Fact(n), uuid4()) for n in numbers]


async def _append(
    store: Store, stream: StreamName, numbers: Iterable[int], expected: Expected = ANY
) -> Appended:
    outcome = await store.append(Write(stream, _new(*numbers), expected))
    assert isinstance(outcome, Appended), f"refused: {outcome}"
    return outcome


async def _numbers(store: Store, stream: StreamName) -> list[int]:
    return [event.n for event in (await store.load_events(stream)).events]


async def _log(store: Store, **asked: Any) -> list[Recorded[Any]]:
    """Read the log to its end, in pages, as a reader would."""
    events: list[Recorded[Any]] = []
    after = asked.pop("after", START)
    while True:
        page = await store.read_all(after=after, **asked)
        events += page.events
        assert page.reached >= after, "reading never goes back"
        if page.reached >= page.head:
            return events
        assert page.reached > after, "a page before the end makes progress"
        after = page.reached


async def _is_empty(store: Store) -> None:
    assert await store.head() == START, "nothing was to be written"
    assert not await _log(store), "nothing was to be written"


# Appending.


@_check
async def numbers_events(store: Store) -> None:
    """Versions count from 1 in each stream, positions rise over all of them."""
    first = await _append(store, _A, [1, 2], NO_STREAM)
    second = await _append(store, _B, [3], NO_STREAM)
    third = await _append(store, _A, [4], 2)
    assert (first.version, second.version, third.version) == (2, 1, 3)
    log = await _log(store)
    assert [r.event.n for r in log] == [1, 2, 3, 4]
    assert [(str(r.stream), r.version) for r in log] == [
        ("suite-a", 1),
        ("suite-a", 2),
        ("suite-b", 1),
        ("suite-a", 3),
    ]
    positions = [r.position for r in log]
    assert positions == sorted(set(positions)), "positions rise"
    assert positions[0] > START
    assert first.placed[0].first_position == positions[0]
    assert [o.position for o in (first, second, third)] == positions[1:]
    assert await store.head() == positions[-1]


@_check
async def judges_expected_versions(store: Store) -> None:
    """Each expectation accepts exactly the versions it names."""
    for length in (0, 1, 2):
        stream = StreamName("suite", f"length-{length}")
        if length:
            await _append(store, stream, range(length))
        cases: list[tuple[Expected, bool]] = [
            (NO_STREAM, length == 0),
            (STREAM_EXISTS, length > 0),
            (0, length == 0),
            (1, length == 1),
            (2, length == 2),
            (3, False),
        ]
        for expected, accepted in cases:
            if accepted:
                continue
            outcome = await store.append(Write(stream, _new(9), expected))
            assert outcome == Conflict(stream, expected, length)
        for expected, accepted in [*cases, (ANY, True)]:
            if accepted:
                fresh = StreamName("fresh", f"{length}-{expected}")
                if length:
                    await _append(store, fresh, range(length))
                await _append(store, fresh, [9], expected)
        assert await _numbers(store, stream) == list(range(length))


@_check
async def writes_nothing_on_conflict(store: Store) -> None:
    """A conflict in one stream leaves all streams of the append alone."""
    await _append(store, _A, [1])
    outcome = await store.append(
        Write(_B, _new(2), NO_STREAM), Write(_A, _new(3), NO_STREAM)
    )
    assert outcome == Conflict(_A, NO_STREAM, 1)
    assert await _numbers(store, _A) == [1]
    assert await _numbers(store, _B) == []
    assert len(await _log(store)) == 1


@_check
async def appends_several_streams_at_once(store: Store) -> None:
    """The writes of one append are recorded together, in order."""
    outcome = await store.append(
        Write(_A, _new(1, 2), NO_STREAM),
        Write(_B, _new(3), NO_STREAM),
        Write(_A, _new(4), 2),
    )
    assert isinstance(outcome, Appended)
    assert [placed.version for placed in outcome.placed] == [2, 1, 3]
    assert [r.event.n for r in await _log(store)] == [1, 2, 3, 4]


@_check
async def shows_appends_whole(store: Store) -> None:
    """A reader sees all of an append or nothing of it, while appends run."""

    async def write() -> None:
        for n in range(30):
            await store.append(
                Write(_A, _new(n, n, n), ANY), Write(_B, _new(n, n), ANY)
            )
            await asyncio.sleep(0)

    writing = asyncio.create_task(write())
    while not writing.done():
        page = await store.read_all(limit=10_000)
        counts: dict[int, int] = {}
        for recorded in page.events:
            counts[recorded.event.n] = counts.get(recorded.event.n, 0) + 1
        assert set(counts.values()) <= {5}, "a part of an append was seen"
        if page.events:
            assert page.head == page.events[-1].position, "page and head differ"
        version = (await store.load_events(_A)).version
        assert version % 3 == 0, "a part of a write was seen"
        await asyncio.sleep(0)
    await writing
    assert len(await _log(store)) == 150


@_check
async def repeats_appends_harmlessly(store: Store) -> None:
    """The same event ids in the same place succeed again, with the first positions."""
    await _append(store, _ELSEWHERE, [0])
    for expected in (NO_STREAM, 0, ANY):
        stream = StreamName("repeated", str(expected))
        write = Write(stream, _new(1, 2), expected)
        first = await store.append(write)
        await _append(store, stream, [3])
        again = await store.append(write)
        assert isinstance(first, Appended)
        assert isinstance(again, Appended), f"a repetition was refused: {again}"
        assert again.repeated
        assert not first.repeated
        assert again.placed == first.placed
        assert await _numbers(store, stream) == [1, 2, 3]


@_check
async def repeats_appends_that_are_under_way(store: Store) -> None:
    """Of two that come together one is recorded, the other is its repetition."""
    for expected in (NO_STREAM, 0, ANY):
        write = Write(StreamName("together", str(expected)), _new(1, 2), expected)
        one, other = await asyncio.gather(store.append(write), store.append(write))
        assert isinstance(one, Appended), f"refused: {one}"
        assert isinstance(other, Appended), f"a repetition was refused: {other}"
        assert one.placed == other.placed
        assert {one.repeated, other.repeated} == {False, True}
        assert await _numbers(store, write.stream) == [1, 2]


@_check
async def repeats_several_streams_harmlessly(store: Store) -> None:
    """A repetition over several streams gives all the first positions."""
    writes = Write(_A, _new(1, 2), NO_STREAM), Write(_B, _new(3), NO_STREAM)
    first = await store.append(*writes)
    again = await store.append(*writes)
    assert isinstance(first, Appended)
    assert isinstance(again, Appended)
    assert again.placed == first.placed
    assert len(await _log(store)) == 3


@_check
async def refuses_ids_used_elsewhere(store: Store) -> None:
    """An event id stands for one event for ever; a partial repetition is refused."""
    events = _new(1, 2)
    await store.append(Write(_A, events, NO_STREAM))
    for write in (
        Write(_B, events, NO_STREAM),
        Write(_B, [*_new(7), events[0]], ANY),
        Write(_A, [events[1], *_new(8)], ANY),
        Write(_A, [events[1], events[0]], ANY),
    ):
        await _refuses(DuplicateEventError, store.append(write))
    twice = _new(5) * 2
    await _refuses(DuplicateEventError, store.append(Write(_B, twice, ANY)))
    assert [r.event.n for r in await _log(store)] == [1, 2]


@_check
async def refuses_bad_events(store: Store) -> None:
    """A field of a wrong type, or an unknown class, is refused and nothing written."""
    wrong: Any = "one"
    bad = NewEvent(Fact(wrong), uuid4())
    await _refuses(
        InvalidEventError, store.append(Write(_A, [*_new(1), bad], NO_STREAM))
    )
    stranger = NewEvent(Stranger(1), uuid4())
    await _refuses(
        EventTypeNotFoundError, store.append(Write(_A, [stranger], NO_STREAM))
    )
    await _is_empty(store)


@_check
async def lets_one_writer_win(store: Store) -> None:
    """Of many appends that expect one version exactly one is recorded."""
    for version in range(3):
        outcomes = await asyncio.gather(
            *(store.append(Write(_A, _new(n), version)) for n in range(20))
        )
        won = [o for o in outcomes if isinstance(o, Appended)]
        lost = [o for o in outcomes if isinstance(o, Conflict)]
        assert (len(won), len(lost)) == (1, 19)
        assert {o.actual for o in lost} == {version + 1}
    assert (await store.load_events(_A)).version == 3


@_check
async def judges_each_append_alone(store: Store) -> None:
    """Good, conflicting, repeated and invalid appends at once: each gets its own."""
    await _append(store, _A, [0])
    wrong: Any = "one"
    known = _new(1)
    await store.append(Write(_B, known, NO_STREAM))
    taken = NewEvent(Fact(9), known[0].id)
    jobs: list[tuple[str, Write[Any]]] = []
    for n in range(8):
        jobs += [
            ("good", Write(StreamName("good", str(n)), _new(n), NO_STREAM)),
            ("conflict", Write(_A, _new(n), 7)),
            ("repeated", Write(_B, known, NO_STREAM)),
            ("taken", Write(StreamName("bad", str(n)), [taken], NO_STREAM)),
            ("invalid", Write(_A, [NewEvent(Fact(wrong), uuid4())], ANY)),
        ]
    outcomes = await asyncio.gather(
        *(store.append(write) for _, write in jobs), return_exceptions=True
    )
    for (kind, _), outcome in zip(jobs, outcomes, strict=True):
        match kind:
            case "good":
                assert isinstance(outcome, Appended), outcome
                assert not outcome.repeated
            case "conflict":
                assert outcome == Conflict(_A, 7, 1)
            case "repeated":
                assert isinstance(outcome, Appended), outcome
                assert outcome.repeated
            case "taken":
                assert isinstance(outcome, DuplicateEventError), outcome
            case _:
                assert isinstance(outcome, InvalidEventError), outcome
    assert len(await _log(store)) == 2 + 8


@_check
async def orders_concurrent_appends(store: Store) -> None:
    """Appends to one stream that were started in order stay in order."""
    started = [
        asyncio.create_task(store.append(Write(_A, _new(n), ANY))) for n in range(50)
    ]
    await asyncio.gather(*started)
    assert await _numbers(store, _A) == list(range(50))


@_check
async def reads_what_it_acknowledged(store: Store) -> None:
    """An event is readable in every way the moment its append returns."""
    for n in range(20):
        (new,) = _new(n)
        outcome = await store.append(Write(_A, [new], n))
        assert isinstance(outcome, Appended)
        assert (await store.load_events(_A)).version == n + 1
        assert await store.head() >= outcome.position
        assert await store.find(new.id) is not None
        page = await store.read_all(after=outcome.position - 1)
        assert [r.id for r in page.events] == [new.id]


@_check
async def survives_cancelled_callers(store: Store) -> None:
    """A cancelled append happened wholly or not at all; the next one works."""
    for n in range(40):
        stream = StreamName("cancelled", str(n))
        appending = asyncio.create_task(
            store.append(Write(stream, _new(1, 2, 3), NO_STREAM))
        )
        for _ in range(n % 5):
            await asyncio.sleep(0)
        appending.cancel()
        with suppress(asyncio.CancelledError):
            await appending
        after = await store.append(Write(_A, _new(n), n))
        assert isinstance(after, Appended)
        assert await _numbers(store, stream) in ([], [1, 2, 3])
    assert await _numbers(store, _A) == list(range(40))


@_check
async def takes_large_appends(store: Store) -> None:
    """An append of 3,000 events and one of 256 KiB are nothing special."""
    outcome = await _append(store, _A, range(3000), NO_STREAM)
    assert outcome.version == 3000
    large = NewEvent(Fact(1, "x" * 262_144), uuid4())
    await store.append(Write(_B, [large], NO_STREAM))
    assert await _numbers(store, _A) == list(range(3000))
    assert (await store.load_events(_B)).events[0].text == "x" * 262_144
    assert len(await _log(store, limit=700)) == 3001


# Transactions.


class _OnPurposeError(Exception):
    """What a block is left with."""


async def _placed(tx: Transaction[Any], write: Write[Any], **also: Any) -> Appended:
    outcome = await tx.append(write, **also)
    assert isinstance(outcome, Appended), f"refused: {outcome}"
    return outcome


@_check
async def commits_transactions_whole(store: Store) -> None:
    """What a transaction appends is judged at once, and seen together at its end."""
    await _append(store, _B, [0])
    sizes: set[tuple[bool, int]] = set()
    done = asyncio.Event()

    async def watch() -> None:
        while not done.is_set():
            saved = await store.checkpoints.load("tx") is not None
            page = await store.read_all()
            sizes.add((saved, len(page.events)))
            await asyncio.sleep(0)

    watching = asyncio.create_task(watch())
    async with store.transaction() as tx:
        first = await _placed(tx, Write(_A, _new(1, 2), NO_STREAM))
        await asyncio.sleep(0.01)
        kept = SaveSnapshot("tx", Snapshot(b"1", 1, 1))
        also = [SaveCheckpoint("tx", 1, after=START), kept]
        second = await _placed(tx, Write(_B, _new(3), 1), also=also)
        third = await _placed(tx, Write(_A, _new(4), 2))
        assert (first.version, second.version, third.version) == (2, 2, 3)
        assert await tx.load_checkpoint("tx") == Checkpoint("tx", 1)
        assert await tx.load_snapshot("tx") == kept.snapshot
        if not store.concurrent:
            inside = await tx.read_all(Query.of(types=["fact"]), after=START)
            assert [r.event.n for r in inside.events] == [0, 1, 2, 3, 4]
            assert inside.reached == inside.head == third.position
        await asyncio.sleep(0.01)
    done.set()
    await watching
    assert sizes <= {(False, 1), (False, 5), (True, 5)}, (
        "a part of a transaction was seen"
    )
    log = await _log(store)
    assert [r.event.n for r in log] == [0, 1, 2, 3, 4]
    told = [first.position, second.position, third.position]
    assert [log[2].position, log[3].position, log[4].position] == told
    assert await store.checkpoints.load("tx") == Checkpoint("tx", 1)
    assert await _numbers(store, _A) == [1, 2, 4]


@_check
async def rolls_transactions_back(store: Store) -> None:
    """An exception or a cancellation takes everything back; the store goes on."""
    write = Write(_A, _new(1, 2), NO_STREAM)
    also = [SaveCheckpoint("tx", 1), SaveDeadLetter(_letter(1))]
    with suppress(_OnPurposeError):
        async with store.transaction() as tx:
            await _placed(tx, write, also=also)
            raise _OnPurposeError
    begun = asyncio.Event()

    async def hold() -> None:
        async with store.transaction() as tx:
            await _placed(tx, write, also=also)
            begun.set()
            await asyncio.Event().wait()

    holding = asyncio.create_task(hold())
    await begun.wait()
    holding.cancel()
    await asyncio.wait([holding])
    assert holding.cancelled()
    await _is_empty(store)
    assert await store.checkpoints.load("tx") is None
    assert await store.dead_letters.list() == ()
    again = await store.append(write)
    assert isinstance(again, Appended)
    assert not again.repeated, "the ids of what was taken back are free"
    assert await _numbers(store, _A) == [1, 2]


@_check
async def judges_inside_transactions(store: Store) -> None:
    """A conflict leaves a transaction usable; an append that raised ends it."""
    await _append(store, _A, [1])
    twice = Write(_A, _new(2), 1)
    async with store.transaction() as tx:
        assert await tx.append(Write(_A, _new(9), 0)) == Conflict(_A, 0, 1)
        done = await _placed(tx, twice)
        again = await _placed(tx, twice)
        assert again.repeated
        assert again.placed == done.placed
        assert await tx.append(Write(_A, _new(9), 1)) == Conflict(_A, 1, 2)
    stale = [SaveCheckpoint("x", 2, after=1)]
    try:
        async with store.transaction() as tx:
            await _placed(tx, Write(_B, _new(3), 0), also=[SaveCheckpoint("y", 1)])
            await _refuses(CheckpointError, tx.append(also=stale))
            await _refuses(TransactionError, tx.append(Write(_B, _new(4), ANY)))
    except TransactionError:
        pass
    else:
        raise AssertionError("a transaction in which an append failed was committed")
    await _refuses(TransactionError, tx.append(Write(_B, _new(5), ANY)))
    assert await store.checkpoints.load("y") is None
    assert [r.event.n for r in await _log(store)] == [1, 2]


@_check
async def keeps_others_in_line(store: Store) -> None:
    """Appends of others wait for a transaction; those inside it are told not to."""
    stream = StreamName("others", "x")
    async with store.transaction():
        await _refuses(TransactionError, store.append(Write(_B, _new(9), ANY)))
    begun, end = asyncio.Event(), asyncio.Event()

    async def hold() -> None:
        async with store.transaction() as tx:
            await _placed(tx, Write(_A, _new(1), ANY))
            begun.set()
            await end.wait()

    holding = asyncio.create_task(hold())
    await begun.wait()
    others = [
        asyncio.create_task(store.append(Write(stream, _new(n), n))) for n in range(5)
    ]
    saving = asyncio.ensure_future(store.checkpoints.save(SaveCheckpoint("x", 1)))
    leasing = asyncio.ensure_future(store.leases.acquire("x", "worker", _SOON))
    await asyncio.sleep(0.01)
    end.set()
    await asyncio.gather(holding, saving, leasing)
    assert all(isinstance(each, Appended) for each in await asyncio.gather(*others))
    assert leasing.result() is not None
    assert await _numbers(store, stream) == list(range(5))
    assert await _numbers(store, _A) == [1]
    await asyncio.gather(*(_in_transaction(store, n) for n in range(5)))
    assert sorted(await _numbers(store, _B)) == list(range(5))
    assert await store.verify() == ()


async def _in_transaction(store: Store, n: int) -> None:
    async with store.transaction() as tx:
        await _placed(tx, Write(_B, _new(n), ANY))


@_check
async def wakes_readers_after_transactions(store: Store) -> None:
    """Whoever waits is woken by the commit, and not before it."""
    waiting = asyncio.create_task(store.changed(START, timeout=4 * _SOON))
    async with store.transaction() as tx:
        await _placed(tx, Write(_A, _new(1), ANY))
        await asyncio.sleep(0.01)
        assert not waiting.done(), "woken before the commit"
    await asyncio.wait_for(waiting, _SOON.total_seconds())
    assert await store.head() > START


# Reading.


@_check
async def reads_streams_in_pages(store: Store) -> None:
    """A stream is read after a version, forward or backward, up to a limit."""
    await _append(store, _A, range(1, 6))
    await _append(store, _B, [9])

    async def read(**asked: Any) -> tuple[list[int], int]:
        page = await store.read_stream(_A, **asked)
        assert [r.version for r in page.events] == [r.event.n for r in page.events]
        return [r.version for r in page.events], page.head

    assert await read() == ([1, 2, 3, 4, 5], 5)
    assert await read(after=3) == ([4, 5], 5)
    assert await read(after=1, limit=2) == ([2, 3], 5)
    assert await read(limit=0) == ([], 5)
    assert await read(after=5) == ([], 5)
    assert await read(after=50) == ([], 5)
    assert await read(backward=True) == ([5, 4, 3, 2, 1], 5)
    assert await read(backward=True, limit=2) == ([5, 4], 5)
    assert await read(backward=True, after=3) == ([2, 1], 5)
    assert await read(backward=True, after=1) == ([], 5)
    assert await read(backward=True, after=99, limit=1) == ([5], 5)
    unknown = await store.read_stream(StreamName("suite", "unknown"))
    assert (unknown.events, unknown.head) == ((), 0)


@_check
async def loads_streams(store: Store) -> None:
    """Loading gives the events after a version, and the version they lead to."""
    await _append(store, _A, range(1, 6))
    for after, expected in ((0, [1, 2, 3, 4, 5]), (3, [4, 5]), (5, []), (9, [])):
        loaded = await store.load_events(_A, after=after)
        assert [event.n for event in loaded.events] == expected
        assert loaded.version == 5
    unknown = await store.load_events(StreamName("suite", "unknown"))
    assert (list(unknown.events), unknown.version) == ([], 0)


@_check
async def reads_the_log_in_pages(store: Store) -> None:
    """The log is read after a position up to a limit; the head is the whole log's."""
    empty = await store.read_all()
    assert (empty.events, empty.reached, empty.head) == ((), START, START)
    for n in range(7):
        await _append(store, _A if n % 2 else _B, [n])
    everything = await store.read_all()
    assert [r.event.n for r in everything.events] == list(range(7))
    assert everything.reached == everything.head == await store.head()
    third = everything.events[2].position
    page = await store.read_all(after=third, limit=2)
    assert [r.event.n for r in page.events] == [3, 4]
    assert page.reached == page.events[-1].position
    assert page.head == everything.head
    nothing = await store.read_all(after=third, limit=0)
    assert (nothing.events, nothing.reached) == ((), third)
    at_end = await store.read_all(after=everything.head)
    assert (at_end.events, at_end.reached) == ((), everything.head)


@_check
async def filters_the_log(store: Store) -> None:
    """A query gives what matches any item, once, in order; it goes to the end."""
    await _append(store, _A, [1])
    await store.append(Write(_B, [NewEvent(Note("2"), uuid4())], ANY))
    await _append(store, _ELSEWHERE, [3])
    await store.append(Write(_ELSEWHERE, [NewEvent(Note("4"), uuid4())], ANY))
    await _append(store, StreamName("noise", "x"), range(100))
    log = await _log(store)
    place = {r.position: index for index, r in enumerate(log, 1)}
    both = Query(
        (
            QueryItem(types=frozenset({"note"})),
            QueryItem(categories=frozenset({"elsewhere"})),
        )
    )
    cases: list[tuple[Any, list[int]]] = [
        (Query.of(categories=["suite"]), [1, 2]),
        (Query.of(types=["note"]), [2, 4]),
        (Query.of(categories=["elsewhere"], types=["fact"]), [3]),
        (Query.of(categories=["suite", "elsewhere"]), [1, 2, 3, 4]),
        (Query.of(types=["unknown"]), []),
        (Query.of(categories=["unknown", "suite"], types=["note"]), [2]),
        (both, [2, 3, 4]),
        (ALL, list(range(1, 105))),
    ]
    for query, expected in cases:
        for limit in (1, 2, 1000):
            found = await _log(store, query=query, limit=limit)
            assert [place[r.position] for r in found] == expected, (query, limit)
    page = await store.read_all(Query.of(categories=["suite"]))
    assert page.reached == page.head == log[-1].position


@_check
async def misses_nothing_while_tailing(store: Store) -> None:
    """A reader that goes on where it was sees every event once, in stream order."""
    seen: list[Recorded[Any]] = []

    async def write(name: str) -> None:
        for n in range(0, 40, 2):
            await store.append(Write(StreamName("tail", name), _new(n, n + 1), n))

    async def read() -> None:
        after = START
        while len(seen) < 8 * 40:
            await store.changed(after, timeout=_SOON)
            page = await store.read_all(after=after, limit=7)
            seen.extend(page.events)
            after = page.reached

    await asyncio.wait_for(
        asyncio.gather(read(), *(write(str(n)) for n in range(8))), 60
    )
    assert [r.position for r in seen] == sorted({r.position for r in seen})
    for n in range(8):
        stream = StreamName("tail", str(n))
        assert [r.event.n for r in seen if r.stream == stream] == list(range(40))


@_check
async def keeps_what_it_was_given(store: Store) -> None:
    """Ids, metadata and values come back equal; times are aware and of now."""
    metadata = Metadata(
        correlation_id="c", causation_id="d", actor_id="é", extra={"a": [1, None]}
    )
    given = NewEvent(Fact(-1, 'ü"\\\n\U0001f680'), uuid4(), metadata)
    before = datetime.now(UTC) - timedelta(seconds=1)
    await store.append(Write(_A, [given], NO_STREAM))
    page = await store.read_all()
    found = await store.find(given.id)
    assert found is not None
    for recorded in (*page.events, *(await store.read_stream(_A)).events, found):
        assert recorded.event == given.event
        assert (recorded.id, recorded.metadata) == (given.id, metadata)
        assert (recorded.type, recorded.stream, recorded.version) == ("fact", _A, 1)
        assert before <= recorded.recorded_at <= datetime.now(UTC)
    assert await store.find(UUID(int=1)) is None


@_check
async def keeps_hostile_names(store: Store) -> None:
    """Names are data: quotes, wildcards, unicode, and what looks like SQL."""
    names = (
        "it's",
        '"; DROP TABLE x; --',
        "%",
        "_",
        "日本\U0001f680",
        "a:b|c&d",
        " ",
        "\n",
    )
    for n, name in enumerate(names):
        for stream in (StreamName(name, "1"), StreamName("hostile", name * 3)):
            await _append(store, stream, [n], NO_STREAM)
            assert await _numbers(store, stream) == [n]
        found = await _log(store, query=Query.of(categories=[name]))
        assert [r.event.n for r in found] == [n]
        await store.checkpoints.save(SaveCheckpoint(name, n))
        assert await store.checkpoints.load(name) == Checkpoint(name, n)
    assert len(await _log(store)) == 2 * len(names)


@_check
async def shows_unknown_types(store: Store) -> None:
    """A type that this codec does not know is read as Opaque, and stops nobody."""
    opaque = Opaque("from-the-future", b'{"x":1}')
    await store.append(Write(_A, [NewEvent(opaque, uuid4()), *_new(1)], NO_STREAM))
    assert [r.event for r in await _log(store)] == [opaque, Fact(1)]
    assert list((await store.load_events(_A)).events) == [opaque, Fact(1)]
    found = await _log(store, query=Query.of(types=["from-the-future"]))
    assert [r.event for r in found] == [opaque]


# Waking, records, closing.


@_check
async def wakes_readers(store: Store) -> None:
    """Waiting ends when something comes, when it was there already, or in time."""
    await store.changed(START, timeout=timedelta(milliseconds=1))
    waiting = [
        asyncio.create_task(store.changed(START, timeout=_SOON)) for _ in range(3)
    ]
    await asyncio.sleep(0)
    started = asyncio.get_running_loop().time()
    outcome = await _append(store, _A, [1])
    await asyncio.gather(*waiting)
    await store.changed(START, timeout=_SOON)
    waited = asyncio.get_running_loop().time() - started
    assert waited < _SOON.total_seconds() / 2, "nobody was woken"
    await store.changed(outcome.position, timeout=timedelta(milliseconds=1))


@_check
async def lists_dead_letters_of_a_stream(store: Store) -> None:
    """Those of one stream are listed by position, whenever they failed."""
    kept = store.dead_letters
    late, early = (
        replace(_letter(n), position=position) for n, position in ((1, 7), (2, 3))
    )
    elsewhere = replace(_letter(3), stream=_B, position=5)
    other = replace(_letter(4), subscription="other", position=1)
    nowhere = replace(_letter(5), stream=None)
    for letter in (late, early, elsewhere, other, nowhere):
        await kept.save(SaveDeadLetter(letter))
    assert await kept.list("reader", stream=_A) == (early, late)
    assert await kept.list("reader", stream=_A, limit=1) == (early,)
    assert await kept.list(stream=_A) == (other, early, late)
    assert await kept.list("reader", stream=_B, status="retrying") == ()
    assert await kept.streams("reader") == {_A, _B}
    done = replace(elsewhere, status="resolved", resolved_at=NOW, resolved_by="me")
    assert await kept.update(done, elsewhere)
    assert await kept.update(replace(late, status="retrying"), late)
    assert await kept.streams("reader") == {_A}
    assert await kept.streams("nobody") == frozenset()


@_check
async def encodes_what_it_keeps(store: Store) -> None:
    """An event's payload can be asked for, as it is stored."""
    (new,) = _new(1)
    assert json.loads(store.encode(new.event))["n"] == 1


@_check
async def leases_that_are_listed(store: Store) -> None:
    """Listed are those with the prefix that somebody has, as they are, by name."""
    kept, over = store.leases, timedelta(0)
    assert await kept.list("") == ()
    for name in ("w#2", "w#10", "w#9", "W#1", "w%", "w"):
        await kept.acquire(name, f"owner of {name}", _SOON)
    gone = await kept.acquire("w#3", "left", _SOON)
    assert gone is not None
    await kept.release(gone)
    await kept.acquire("w#4", "died", over)
    listed = await kept.list("w#")
    assert [lease.name for lease in listed] == ["w#10", "w#2", "w#9"]
    longer = await kept.renew(listed[1], 2 * _SOON)
    assert longer is not None
    assert longer.until > listed[1].until
    assert await kept.list("w#2") == (longer,)
    assert len(await kept.list("w")) == 5
    assert len(await kept.list("")) == 6
    assert await kept.list("_") == await kept.list("%") == ()


@_check
async def fences_with_tokens(store: Store) -> None:
    """An append with the token of a lost lease writes nothing at all of its own."""
    kept, over = store.leases, timedelta(0)
    old = await kept.acquire("x", "paused", over)
    assert old is not None
    fence, letter = Fence("x", old.token), _letter(1)
    late = await store.append(Write(_A, _new(1), 0), also=[fence])
    assert isinstance(late, Appended), "over, but nobody took it"
    new = await kept.acquire("x", "thief", _SOON)
    assert new is not None

    async def refused(fence: Fence) -> None:
        also = (SaveCheckpoint("no", 1), SaveDeadLetter(_letter(2)), fence)
        before = await _log(store)
        for writes in ((Write(_A, _new(9), ANY), Write(_B, _new(9), ANY)), ()):
            await _refuses(LeaseLostError, store.append(*writes, also=also))
        assert await _log(store) == before
        assert await store.checkpoints.load("no") is None

    for stale in (fence, Fence("x", new.token + 1), Fence("never", 1)):
        await refused(stale)
    also = (Fence("x", new.token), SaveDeadLetter(letter), SaveCheckpoint("x", 1))
    write = Write(_A, _new(2), 1)
    done = await store.append(write, also=also)
    assert isinstance(done, Appended)
    assert await _numbers(store, _A) == [1, 2]
    assert await store.checkpoints.load("x") == Checkpoint("x", 1)
    assert await store.dead_letters.list() == (letter,)
    await kept.release(new)
    await refused(Fence("x", new.token))
    again = await store.append(write, also=also)
    assert isinstance(again, Appended), "a repetition was refused"
    assert again.repeated


@_check
async def fences_each_append_alone(store: Store) -> None:
    """Appends of lost and valid leases at once: each gets its own verdict."""
    lost = await store.leases.acquire("x", "worker", _SOON)
    valid = await store.leases.acquire("x", "worker", _SOON)
    assert lost is not None
    assert valid is not None
    leases = [lost, valid] * 8
    outcomes = await asyncio.gather(
        *(
            store.append(
                Write(StreamName("fenced", str(n)), _new(n), NO_STREAM),
                also=[SaveDeadLetter(_letter(n)), Fence("x", lease.token)],
            )
            for n, lease in enumerate(leases)
        ),
        return_exceptions=True,
    )
    for lease, outcome in zip(leases, outcomes, strict=True):
        expected = Appended if lease is valid else LeaseLostError
        assert isinstance(outcome, expected), outcome
    kept = [n for n, lease in enumerate(leases) if lease is valid]
    assert [r.event.n for r in await _log(store)] == kept
    assert [letter.attempts for letter in await store.dead_letters.list()] == kept


@_check
async def writes_records_with_events(store: Store) -> None:
    """Events and records of one append are there together, or not."""
    snapshot = SaveSnapshot("s", Snapshot(b"1", 1, 1))
    letter = _letter(1)
    also = (SaveCheckpoint("x", 4, after=START), snapshot, SaveDeadLetter(letter))
    write = Write(_A, _new(1), NO_STREAM)
    done = await store.append(write, also=also)
    assert isinstance(done, Appended)
    again = await store.append(write, also=also)
    assert isinstance(again, Appended), "a repetition was refused"
    assert again.repeated
    assert await store.checkpoints.load("x") == Checkpoint("x", 4)
    assert await store.snapshots.load("s") == snapshot.snapshot
    late = (SaveDeadLetter(_letter(2)), SaveCheckpoint("x", 9, after=1))
    stale = store.append(Write(_A, _new(2), 1), also=late)
    await _refuses(CheckpointError, stale)
    lost = await store.append(
        Write(_A, _new(3), NO_STREAM), also=(SaveCheckpoint("x", 9), late[0])
    )
    assert isinstance(lost, Conflict)
    only = await store.append(also=[SaveCheckpoint("alone", 1)])
    assert isinstance(only, Appended)
    assert await store.checkpoints.load("x") == Checkpoint("x", 4)
    assert await store.checkpoints.load("alone") == Checkpoint("alone", 1)
    assert await store.dead_letters.list() == (letter,)
    assert await _numbers(store, _A) == [1]


@_check
async def names_the_record_that_refused(store: Store) -> None:
    """Of several checkpoints or leases of one append, the one that is elsewhere."""
    here, there = SaveCheckpoint("live", 25), SaveCheckpoint("new", 24)
    await store.append(also=[here, there])
    stale = SaveCheckpoint("live", 26, after=24)
    right = SaveCheckpoint("new", 25, after=24)
    lease = await store.leases.acquire("x", "worker", _SOON)
    assert lease is not None
    fence, lost = Fence("x", lease.token), Fence("y", lease.token)
    unsaved = SaveCheckpoint("z", 24, after=START)
    one_moved: tuple[Also, ...] = (stale, right, fence, unsaved)
    for also in permutations(one_moved):
        moved = await _refuses(CheckpointError, store.append(also=also))
        assert (moved.name, moved.expected, moved.actual) == ("live", 24, 25), moved
    one_lost: tuple[Also, ...] = (right, fence, lost)
    for also in permutations(one_lost):
        gone = await _refuses(LeaseLostError, store.append(also=also))
        assert (gone.name, gone.actual) == ("y", None), gone
    assert await store.checkpoints.load("new") == Checkpoint("new", 24)


@_check
async def is_sound(store: Store) -> None:
    """A store that was only used has nothing to complain about itself."""
    await _append(store, _A, range(20))
    also = (SaveCheckpoint("x", 1), SaveDeadLetter(_letter(1)))
    await store.append(Write(_B, _new(1), ANY), also=also)
    await store.leases.acquire("x", "worker", _SOON)
    assert await store.verify() == ()


@_check
async def closes(store: Store) -> None:
    """After close everything is refused, and closing again does nothing."""
    await _append(store, _A, [1])
    waiting = asyncio.create_task(store.changed(await store.head(), timeout=_SOON))
    await asyncio.sleep(0)
    await store.close()
    with suppress(StoreClosedError):
        await asyncio.wait_for(waiting, _SOON.total_seconds() / 2)
    calls: Sequence[Callable[[], Awaitable[object]]] = (
        lambda: store.append(Write(_A, _new(2), ANY)),
        lambda: store.load_events(_A),
        store.read_all,
        store.head,
        lambda: store.checkpoints.save(SaveCheckpoint("x", 1)),
        lambda: store.dead_letters.save(SaveDeadLetter(_letter(1))),
        store.dead_letters.list,
        lambda: store.leases.acquire("x", "worker", _SOON),
        lambda: store.leases.list("x"),
    )
    for call in calls:
        await _refuses(StoreClosedError, call())
    await store.close()


checks: Final[tuple[Check, ...]] = tuple(_checks)
"""The checks of this module; `evsrc.testing.store_checks` are all."""
