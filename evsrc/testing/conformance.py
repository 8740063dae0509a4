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
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from itertools import permutations
from typing import Any, Final
from uuid import UUID, uuid4

from msgspec import Struct
from msgspec.structs import replace

from ..core.codec import Opaque
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
from ..core.expectation import ANY, NO_STREAM, STREAM_EXISTS, Expected, Query
from ..core.snapshot import Snapshot
from ..ports import (
    START,
    Also,
    Appended,
    Checkpoint,
    Conflict,
    Fence,
    SaveCheckpoint,
    SaveDeadLetter,
    SaveSnapshot,
    Write,
)
from . import query_checks, records
from ._bench import (
    ELSEWHERE,
    HOSTILE,
    NOW,
    SOON,
    A,
    B,
    Check,
    Fact,
    Store,
    Tagged,
    accepted,
    checks_of,
    is_empty,
    letter,
    log_of,
    new,
    numbers_in,
    numbers_of,
    put,
    refuses,
    some,
)


class Stranger(Struct, frozen=True):
    """An event that the suite's codec does not know."""

    n: int


class _OnPurposeError(Exception):
    """What a block is left with."""


# Appending.


async def numbers_events(store: Store) -> None:
    """Versions count from 1 in each stream, positions rise over all of them."""
    first = await put(store, 1, 2, expected=NO_STREAM)
    second = await put(store, 3, to=B, expected=NO_STREAM)
    third = await put(store, 4, expected=2)
    assert (first.version, second.version, third.version) == (2, 1, 3)
    log = await log_of(store)
    assert numbers_of(log) == [1, 2, 3, 4]
    assert [(r.stream, r.version) for r in log] == [(A, 1), (A, 2), (B, 1), (A, 3)]
    positions = [r.position for r in log]
    assert positions == sorted(set(positions)), "positions rise"
    assert positions[0] > START
    assert first.placed[0].first_position == positions[0]
    assert [o.position for o in (first, second, third)] == positions[1:]
    assert await store.head() == positions[-1]


async def judges_expected_versions(store: Store) -> None:
    """Each expectation accepts exactly the versions it names."""
    for length in (0, 1, 2):
        cases: list[tuple[Expected, bool]] = [
            *((n, n == length) for n in range(4)),
            *((NO_STREAM, length == 0), (STREAM_EXISTS, length > 0), (ANY, True)),
        ]
        for expected, right in cases:
            stream, added = StreamName("suite", f"{length}-{expected}"), [9] * right
            if length:
                await put(store, *range(length), to=stream)
            outcome = await store.append(Write(stream, new(9), expected))
            if not right:
                assert outcome == Conflict(stream, expected, length)
            assert await numbers_in(store, stream) == [*range(length), *added]


async def appends_several_streams_at_once(store: Store) -> None:
    """The writes of one append are recorded together, in order, or not at all."""
    writes = Write(A, new(1, 2), NO_STREAM), Write(B, new(3), NO_STREAM)
    done = await accepted(store.append(*writes, Write(A, new(4), 2)))
    assert [placed.version for placed in done.placed] == [2, 1, 3]
    again = await accepted(store.append(*writes))
    assert (again.placed, again.repeated) == (done.placed[:2], True)
    refused = await store.append(
        Write(ELSEWHERE, new(5), NO_STREAM), Write(A, new(6), NO_STREAM)
    )
    assert refused == Conflict(A, NO_STREAM, 3)
    assert await numbers_in(store, ELSEWHERE) == []
    assert numbers_of(await log_of(store)) == [1, 2, 3, 4]


async def shows_appends_whole(store: Store) -> None:
    """A reader sees all of an append or nothing of it, while appends run."""

    async def write() -> None:
        for n in range(30):
            await store.append(Write(A, new(n, n, n), ANY), Write(B, new(n, n), ANY))
            await asyncio.sleep(0)

    writing = asyncio.create_task(write())
    while not writing.done():
        page = await store.read_all(limit=10_000)
        counts = Counter(numbers_of(page.events))
        assert set(counts.values()) <= {5}, "a part of an append was seen"
        if page.events:
            assert page.head == page.events[-1].position, "page and head differ"
        version = (await store.load_events(A)).version
        assert version % 3 == 0, "a part of a write was seen"
        await asyncio.sleep(0)
    await writing
    assert len(await log_of(store)) == 150


async def repeats_appends_harmlessly(store: Store) -> None:
    """The same event ids in the same place succeed again, with the first positions.

    Also while the first append is under way: one of the two is the repetition.
    """
    await put(store, 0, to=ELSEWHERE)
    for expected in (NO_STREAM, 0, ANY):
        stream = StreamName("repeated", str(expected))
        write = Write(stream, new(1, 2), expected)
        one, other = await asyncio.gather(
            accepted(store.append(write)), accepted(store.append(write))
        )
        assert {one.repeated, other.repeated} == {False, True}
        await put(store, 3, to=stream)
        again = await accepted(store.append(write))
        assert again.repeated
        assert one.placed == other.placed == again.placed
        assert await numbers_in(store, stream) == [1, 2, 3]


async def refuses_ids_used_elsewhere(store: Store) -> None:
    """An event id stands for one event for ever; a partial repetition is refused."""
    events = new(1, 2)
    await store.append(Write(A, events, NO_STREAM))
    for write in (
        Write(B, events, NO_STREAM),
        Write(B, [*new(7), events[0]], ANY),
        Write(A, [events[1], *new(8)], ANY),
        Write(A, [events[1], events[0]], ANY),
    ):
        await refuses(DuplicateEventError, store.append(write))
    twice = new(5) * 2
    await refuses(DuplicateEventError, store.append(Write(B, twice, ANY)))
    assert numbers_of(await log_of(store)) == [1, 2]


async def refuses_bad_events(store: Store) -> None:
    """A field of a wrong type, or an unknown class, is refused and nothing written."""
    wrong: Any = "one"
    await refuses(
        InvalidEventError, store.append(Write(A, new(1, Fact(wrong)), NO_STREAM))
    )
    await refuses(
        EventTypeNotFoundError, store.append(Write(A, new(Stranger(1)), NO_STREAM))
    )
    await is_empty(store)


async def lets_one_writer_win(store: Store) -> None:
    """Of many appends that expect one version exactly one is recorded."""
    for version in range(3):
        outcomes = await asyncio.gather(
            *(store.append(Write(A, new(n), version)) for n in range(20))
        )
        won = [o for o in outcomes if isinstance(o, Appended)]
        lost = [o for o in outcomes if isinstance(o, Conflict)]
        assert (len(won), len(lost)) == (1, 19)
        assert {o.actual for o in lost} == {version + 1}
    assert (await store.load_events(A)).version == 3


async def judges_each_append_alone(store: Store) -> None:
    """Good, conflicting, repeated and invalid appends at once: each gets its own."""
    await put(store, 0)
    wrong: Any = "one"
    known = new(1)
    await store.append(Write(B, known, NO_STREAM))
    taken = NewEvent(Fact(9), known[0].id)
    jobs: list[tuple[type[Any], Write[Any]]] = []
    for n in range(8):
        jobs += [
            (Appended, Write(StreamName("good", str(n)), new(n), NO_STREAM)),
            (Appended, Write(B, known, NO_STREAM)),
            (Conflict, Write(A, new(n), 7)),
            (DuplicateEventError, Write(StreamName("bad", str(n)), [taken], NO_STREAM)),
            (InvalidEventError, Write(A, new(Fact(wrong)), ANY)),
        ]
    outcomes = await asyncio.gather(
        *(store.append(write) for _, write in jobs), return_exceptions=True
    )
    for (kind, _), outcome in zip(jobs, outcomes, strict=True):
        assert isinstance(outcome, kind), outcome
    recorded = [o.repeated for o in outcomes if isinstance(o, Appended)]
    assert recorded == [False, True] * 8
    lost = [outcome for outcome in outcomes if isinstance(outcome, Conflict)]
    assert lost == [Conflict(A, 7, 1)] * 8
    assert len(await log_of(store)) == 2 + 8


async def orders_concurrent_appends(store: Store) -> None:
    """Appends to one stream that were started in order stay in order."""
    await asyncio.gather(*(put(store, n) for n in range(50)))
    assert await numbers_in(store, A) == list(range(50))


async def reads_what_it_acknowledged(store: Store) -> None:
    """An event is readable in every way the moment its append returns."""
    for n in range(20):
        (one,) = new(n)
        outcome = await accepted(store.append(Write(A, [one], n)))
        assert (await store.load_events(A)).version == n + 1
        assert await store.head() >= outcome.position
        assert await store.find(one.id) is not None
        page = await store.read_all(after=outcome.position - 1)
        assert [r.id for r in page.events] == [one.id]


async def survives_cancelled_callers(store: Store) -> None:
    """A cancelled append happened wholly or not at all; the next one works."""
    for n in range(40):
        stream = StreamName("cancelled", str(n))
        appending = asyncio.create_task(
            store.append(Write(stream, new(1, 2, 3), NO_STREAM))
        )
        for _ in range(n % 5):
            await asyncio.sleep(0)
        appending.cancel()
        with suppress(asyncio.CancelledError):
            await appending
        await put(store, n, expected=n)
        assert await numbers_in(store, stream) in ([], [1, 2, 3])
    assert await numbers_in(store, A) == list(range(40))


async def takes_large_appends(store: Store) -> None:
    """An append of 3,000 events and one of 256 KiB are nothing special."""
    outcome = await put(store, *range(3000), expected=NO_STREAM)
    assert outcome.version == 3000
    await put(store, Fact(1, "x" * 262_144), to=B)
    assert await numbers_in(store, A) == list(range(3000))
    assert (await store.load_events(B)).events[0].text == "x" * 262_144
    assert len(await log_of(store, page=700)) == 3001


# Transactions.


async def _transact(
    store: Store,
    write: Write[Any],
    begun: asyncio.Event,
    end: asyncio.Event,
    also: Sequence[Also] = (),
) -> None:
    """Append in a transaction that is open from *begun* to *end*."""
    async with store.transaction() as tx:
        await accepted(tx.append(write, also=also))
        begun.set()
        await end.wait()


async def commits_transactions_whole(store: Store) -> None:
    """What a transaction appends is judged at once, and seen together at its end."""
    await put(store, 0, to=B)
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
        first = await accepted(tx.append(Write(A, new(1, 2), NO_STREAM)))
        await asyncio.sleep(0.01)
        kept = SaveSnapshot("tx", Snapshot(b"1", 1, 1))
        also: list[Also] = [SaveCheckpoint("tx", 1, after=START), kept]
        second = await accepted(tx.append(Write(B, new(3), 1), also=also))
        third = await accepted(tx.append(Write(A, new(4), 2)))
        assert (first.version, second.version, third.version) == (2, 2, 3)
        assert await tx.load_checkpoint("tx") == Checkpoint("tx", 1)
        assert await tx.load_snapshot("tx") == kept.snapshot
        if not store.concurrent:
            inside = await tx.read_all(Query.of(types=["fact"]), after=START)
            assert numbers_of(inside.events) == [0, 1, 2, 3, 4]
            assert inside.reached == inside.head == third.position
        await asyncio.sleep(0.01)
    done.set()
    await watching
    assert sizes <= {(False, 1), (False, 5), (True, 5)}, (
        "a part of a transaction was seen"
    )
    log = await log_of(store)
    assert numbers_of(log) == [0, 1, 2, 3, 4]
    told = [first.position, second.position, third.position]
    assert [log[2].position, log[3].position, log[4].position] == told
    assert await store.checkpoints.load("tx") == Checkpoint("tx", 1)
    assert await numbers_in(store, A) == [1, 2, 4]


async def rolls_transactions_back(store: Store) -> None:
    """An exception or a cancellation takes everything back; the store goes on."""
    write = Write(A, new(1, 2), NO_STREAM)
    also: list[Also] = [SaveCheckpoint("tx", 1), SaveDeadLetter(letter(1))]
    with suppress(_OnPurposeError):
        async with store.transaction() as tx:
            await accepted(tx.append(write, also=also))
            raise _OnPurposeError
    begun, end = asyncio.Event(), asyncio.Event()
    holding = asyncio.create_task(_transact(store, write, begun, end, also))
    await begun.wait()
    holding.cancel()
    await asyncio.wait([holding])
    assert holding.cancelled()
    await is_empty(store)
    assert await store.checkpoints.load("tx") is None
    assert await store.dead_letters.list() == ()
    again = await accepted(store.append(write))
    assert not again.repeated, "the ids of what was taken back are free"
    assert await numbers_in(store, A) == [1, 2]


async def judges_inside_transactions(store: Store) -> None:
    """A conflict leaves a transaction usable; an append that raised ends it."""
    await put(store, 1)
    twice = Write(A, new(2), 1)
    async with store.transaction() as tx:
        assert await tx.append(Write(A, new(9), 0)) == Conflict(A, 0, 1)
        done = await accepted(tx.append(twice))
        again = await accepted(tx.append(twice))
        assert again.repeated
        assert again.placed == done.placed
        assert await tx.append(Write(A, new(9), 1)) == Conflict(A, 1, 2)
    stale = [SaveCheckpoint("x", 2, after=1)]
    try:
        async with store.transaction() as tx:
            await accepted(
                tx.append(Write(B, new(3), 0), also=[SaveCheckpoint("y", 1)])
            )
            await refuses(CheckpointError, tx.append(also=stale))
            await refuses(TransactionError, tx.append(Write(B, new(4), ANY)))
    except TransactionError:
        pass
    else:
        raise AssertionError("a transaction in which an append failed was committed")
    await refuses(TransactionError, tx.append(Write(B, new(5), ANY)))
    assert await store.checkpoints.load("y") is None
    assert numbers_of(await log_of(store)) == [1, 2]


async def keeps_others_in_line(store: Store) -> None:
    """Appends of others wait for a transaction; those inside it are told not to."""
    stream = StreamName("others", "x")
    async with store.transaction():
        await refuses(TransactionError, store.append(Write(B, new(9), ANY)))
    begun, end = asyncio.Event(), asyncio.Event()
    write = Write(A, new(1), ANY)
    holding = asyncio.create_task(_transact(store, write, begun, end))
    await begun.wait()
    others = [
        asyncio.create_task(accepted(store.append(Write(stream, new(n), n))))
        for n in range(5)
    ]
    saving = asyncio.ensure_future(store.checkpoints.save(SaveCheckpoint("x", 1)))
    leasing = asyncio.ensure_future(store.leases.acquire("x", "worker", SOON))
    await asyncio.sleep(0.01)
    end.set()
    await asyncio.gather(holding, saving, leasing, *others)
    assert leasing.result() is not None
    assert await numbers_in(store, stream) == list(range(5))
    assert await numbers_in(store, A) == [1]
    each = [Write(B, new(n), ANY) for n in range(5)]
    await asyncio.gather(*(_transact(store, write, begun, end) for write in each))
    assert sorted(await numbers_in(store, B)) == list(range(5))
    assert await store.verify() == ()


async def wakes_readers_after_transactions(store: Store) -> None:
    """Whoever waits is woken by the commit, and not before it."""
    waiting = asyncio.create_task(store.changed(START, timeout=4 * SOON))
    async with store.transaction() as tx:
        await accepted(tx.append(Write(A, new(1), ANY)))
        await asyncio.sleep(0.01)
        assert not waiting.done(), "woken before the commit"
    await asyncio.wait_for(waiting, SOON.total_seconds())
    assert await store.head() > START


# Reading.


async def reads_streams(store: Store) -> None:
    """A stream is read after a version, in either direction, up to a limit."""
    await put(store, *range(1, 6))
    await put(store, 9, to=B)

    async def read(**asked: Any) -> tuple[list[int], int]:
        page = await store.read_stream(A, **asked)
        assert [r.version for r in page.events] == numbers_of(page.events)
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
    for after, expected in ((0, [1, 2, 3, 4, 5]), (3, [4, 5]), (5, []), (9, [])):
        loaded = await store.load_events(A, after=after)
        assert [event.n for event in loaded.events] == expected
        assert loaded.version == 5
    page = await store.read_stream(ELSEWHERE)
    assert (page.events, page.head) == ((), 0)
    loaded = await store.load_events(ELSEWHERE)
    assert (list(loaded.events), loaded.version) == ([], 0)


async def misses_nothing_while_tailing(store: Store) -> None:
    """A reader that goes on where it was sees every event once, in stream order."""
    seen: list[Recorded[Any]] = []

    async def write(name: str) -> None:
        for n in range(0, 40, 2):
            await store.append(Write(StreamName("tail", name), new(n, n + 1), n))

    async def read() -> None:
        after = START
        while len(seen) < 8 * 40:
            await store.changed(after, timeout=SOON)
            page = await store.read_all(after=after, limit=7)
            seen.extend(page.events)
            after = page.reached

    async with asyncio.timeout(60):
        await asyncio.gather(read(), *(write(str(n)) for n in range(8)))
    assert [r.position for r in seen] == sorted({r.position for r in seen})
    for n in range(8):
        stream = StreamName("tail", str(n))
        assert [r.event.n for r in seen if r.stream == stream] == list(range(40))


async def keeps_what_it_was_given(store: Store) -> None:
    """Ids, metadata and values come back equal; times are aware and of now."""
    metadata = Metadata(
        correlation_id="c", causation_id="d", actor_id="é", extra={"a": [1, None]}
    )
    given = NewEvent(Fact(-1, 'ü"\\\n\U0001f680'), uuid4(), metadata)
    before = datetime.now(UTC) - timedelta(seconds=1)
    await store.append(Write(A, [given], NO_STREAM))
    page = await store.read_all()
    found = some(await store.find(given.id))
    for recorded in (*page.events, *(await store.read_stream(A)).events, found):
        assert recorded.event == given.event
        assert (recorded.id, recorded.metadata) == (given.id, metadata)
        assert (recorded.type, recorded.stream, recorded.version) == ("fact", A, 1)
        assert before <= recorded.recorded_at <= datetime.now(UTC)
    assert await store.find(UUID(int=1)) is None
    assert json.loads(store.encode(given.event))["n"] == -1


async def keeps_hostile_names(store: Store) -> None:
    """Names are data: quotes, wildcards, unicode, and what looks like SQL."""
    for n, name in enumerate(HOSTILE):
        for stream in (StreamName(name, "1"), StreamName("hostile", name * 3)):
            await put(store, n, to=stream, expected=NO_STREAM)
            assert await numbers_in(store, stream) == [n]
        found = await log_of(store, Query.of(categories=[name]))
        assert numbers_of(found) == [n]
    assert len(await log_of(store)) == 2 * len(HOSTILE)


async def shows_unknown_types(store: Store) -> None:
    """A type that this codec does not know is read as Opaque, and stops nobody."""
    opaque = Opaque("from-the-future", b'{"x":1}')
    await put(store, opaque, 1)
    assert [r.event for r in await log_of(store)] == [opaque, Fact(1)]
    assert list((await store.load_events(A)).events) == [opaque, Fact(1)]
    found = await log_of(store, Query.of(types=["from-the-future"]))
    assert [r.event for r in found] == [opaque]


# Waking, records, closing.


async def wakes_readers(store: Store) -> None:
    """Waiting ends when something comes, when it was there already, or in time."""
    await store.changed(START, timeout=timedelta(milliseconds=1))
    waiting = [
        asyncio.create_task(store.changed(START, timeout=SOON)) for _ in range(3)
    ]
    await asyncio.sleep(0)
    started = asyncio.get_running_loop().time()
    outcome = await put(store, 1)
    await asyncio.gather(*waiting)
    await store.changed(START, timeout=SOON)
    waited = asyncio.get_running_loop().time() - started
    assert waited < SOON.total_seconds() / 2, "nobody was woken"
    await store.changed(outcome.position, timeout=timedelta(milliseconds=1))


async def hands_over_what_can_be_read(store: Store) -> None:
    """What waiting gives is what reading gives, with all that was recorded."""
    here, there = new(1, Tagged(2, ("x",))), new(3)
    there[0] = replace(there[0], metadata=Metadata(actor_id="é", extra={"a": 1}))
    for writes in (
        [Write(A, new(0), NO_STREAM)],
        [Write(A, here, 1), Write(B, there, ANY)],
        [Write(A, new(4), 9), Write(B, new(5), ANY)],
        [Write(B, new(6), STREAM_EXISTS)],
        [Write(A, here, 1), Write(B, there, ANY)],
        [Write(B, new(*range(7, 99)), 2)],
    ):
        before = await store.head()
        waiting = asyncio.create_task(store.changed(before, timeout=SOON / 50))
        await asyncio.sleep(0)
        await asyncio.gather(*(store.append(*writes), store.append(*writes)))
        at_hand = await waiting
        if at_hand is not None:
            page, count = at_hand.page, len(at_hand.page.events)
            assert page.events, "there is nothing in it"
            for read_all in (store.read_all, at_hand.read_all):
                read = await read_all(after=before, limit=count)
                assert page.events == read.events, "something else is read"
                assert page.reached == read.reached <= page.head <= read.head


async def lists_dead_letters_of_a_stream(store: Store) -> None:
    """Those of one stream are listed by position, whenever they failed."""
    kept = store.dead_letters
    late, early = (
        replace(letter(n), position=position) for n, position in ((1, 7), (2, 3))
    )
    elsewhere = replace(letter(3), stream=B, position=5)
    other = replace(letter(4), subscription="other", position=1)
    nowhere = replace(letter(5), stream=None)
    for each in (late, early, elsewhere, other, nowhere):
        await kept.save(SaveDeadLetter(each))
    assert await kept.list("reader", stream=A) == (early, late)
    assert await kept.list("reader", stream=A, limit=1) == (early,)
    assert await kept.list(stream=A) == (other, early, late)
    assert await kept.list("reader", stream=B, status="retrying") == ()
    assert await kept.streams("reader") == {A: 3, B: 5}
    done = replace(elsewhere, status="resolved", resolved_at=NOW, resolved_by="me")
    assert await kept.update(done, elsewhere)
    assert await kept.update(replace(late, status="retrying"), late)
    assert await kept.streams("reader") == {A: 3}
    assert await kept.update(replace(early, status="resolved"), early)
    assert await kept.streams("reader") == {A: 7}
    assert await kept.streams("nobody") == {}


async def leases_that_are_listed(store: Store) -> None:
    """Listed are those with the prefix that somebody has, as they are, by name."""
    kept, over = store.leases, timedelta(0)
    assert await kept.list("") == ()
    for name in ("w#2", "w#10", "w#9", "W#1", "w%", "w"):
        await kept.acquire(name, f"owner of {name}", SOON)
    gone = some(await kept.acquire("w#3", "left", SOON))
    await kept.release(gone)
    await kept.acquire("w#4", "died", over)
    listed = await kept.list("w#")
    assert [lease.name for lease in listed] == ["w#10", "w#2", "w#9"]
    longer = some(await kept.renew(listed[1], 2 * SOON))
    assert longer.until > listed[1].until
    assert await kept.list("w#2") == (longer,)
    assert len(await kept.list("w")) == 5
    assert len(await kept.list("")) == 6
    assert await kept.list("_") == await kept.list("%") == ()


async def fences_with_tokens(store: Store) -> None:
    """An append with the token of a lost lease writes nothing at all of its own."""
    kept, over = store.leases, timedelta(0)
    old = some(await kept.acquire("x", "paused", over))
    fence, aside = Fence("x", old.token), letter(1)
    await accepted(store.append(Write(A, new(1), 0), also=[fence]))
    taken = some(await kept.acquire("x", "thief", SOON))

    async def refused(fence: Fence) -> None:
        also = (SaveCheckpoint("no", 1), SaveDeadLetter(letter(2)), fence)
        before = await log_of(store)
        for writes in ((Write(A, new(9), ANY), Write(B, new(9), ANY)), ()):
            await refuses(LeaseLostError, store.append(*writes, also=also))
        assert await log_of(store) == before
        assert await store.checkpoints.load("no") is None

    for stale in (fence, Fence("x", taken.token + 1), Fence("never", 1)):
        await refused(stale)
    also = (Fence("x", taken.token), SaveDeadLetter(aside), SaveCheckpoint("x", 1))
    write = Write(A, new(2), 1)
    await accepted(store.append(write, also=also))
    assert await numbers_in(store, A) == [1, 2]
    assert await store.checkpoints.load("x") == Checkpoint("x", 1)
    assert await store.dead_letters.list() == (aside,)
    await kept.release(taken)
    await refused(Fence("x", taken.token))
    again = await accepted(store.append(write, also=also))
    assert again.repeated


async def fences_each_append_alone(store: Store) -> None:
    """Appends of lost and valid leases at once: each gets its own verdict."""
    lost = some(await store.leases.acquire("x", "worker", SOON))
    valid = some(await store.leases.acquire("x", "worker", SOON))
    leases = [lost, valid] * 8
    outcomes = await asyncio.gather(
        *(
            store.append(
                Write(StreamName("fenced", str(n)), new(n), NO_STREAM),
                also=[SaveDeadLetter(letter(n)), Fence("x", lease.token)],
            )
            for n, lease in enumerate(leases)
        ),
        return_exceptions=True,
    )
    for lease, outcome in zip(leases, outcomes, strict=True):
        expected = Appended if lease is valid else LeaseLostError
        assert isinstance(outcome, expected), outcome
    kept = [n for n, lease in enumerate(leases) if lease is valid]
    assert numbers_of(await log_of(store)) == kept
    assert [each.attempts for each in await store.dead_letters.list()] == kept


async def writes_records_with_events(store: Store) -> None:
    """Events and records of one append are there together, or not."""
    snapshot = SaveSnapshot("s", Snapshot(b"1", 1, 1))
    aside = letter(1)
    also = (SaveCheckpoint("x", 4, after=START), snapshot, SaveDeadLetter(aside))
    write = Write(A, new(1), NO_STREAM)
    await accepted(store.append(write, also=also))
    again = await accepted(store.append(write, also=also))
    assert again.repeated
    assert await store.checkpoints.load("x") == Checkpoint("x", 4)
    assert await store.snapshots.load("s") == snapshot.snapshot
    late = (SaveDeadLetter(letter(2)), SaveCheckpoint("x", 9, after=1))
    stale = store.append(Write(A, new(2), 1), also=late)
    await refuses(CheckpointError, stale)
    lost = await store.append(
        Write(A, new(3), NO_STREAM), also=(SaveCheckpoint("x", 9), late[0])
    )
    assert isinstance(lost, Conflict)
    await accepted(store.append(also=[SaveCheckpoint("alone", 1)]))
    assert await store.checkpoints.load("x") == Checkpoint("x", 4)
    assert await store.checkpoints.load("alone") == Checkpoint("alone", 1)
    assert await store.dead_letters.list() == (aside,)
    assert await numbers_in(store, A) == [1]


async def names_the_record_that_refused(store: Store) -> None:
    """Of several checkpoints or leases of one append, the one that is elsewhere."""
    here, there = SaveCheckpoint("live", 25), SaveCheckpoint("new", 24)
    await store.append(also=[here, there])
    stale = SaveCheckpoint("live", 26, after=24)
    right = SaveCheckpoint("new", 25, after=24)
    lease = some(await store.leases.acquire("x", "worker", SOON))
    fence, lost = Fence("x", lease.token), Fence("y", lease.token)
    unsaved = SaveCheckpoint("z", 24, after=START)
    one_moved: tuple[Also, ...] = (stale, right, fence, unsaved)
    for also in permutations(one_moved):
        moved = await refuses(CheckpointError, store.append(also=also))
        assert (moved.name, moved.expected, moved.actual) == ("live", 24, 25), moved
    one_lost: tuple[Also, ...] = (right, fence, lost)
    for also in permutations(one_lost):
        gone = await refuses(LeaseLostError, store.append(also=also))
        assert (gone.name, gone.actual) == ("y", None), gone
    assert await store.checkpoints.load("new") == Checkpoint("new", 24)


async def is_sound(store: Store) -> None:
    """A store that was only used has nothing to complain about itself."""
    await put(store, *range(20))
    also = (SaveCheckpoint("x", 1), SaveDeadLetter(letter(1)))
    await store.append(Write(B, new(1), ANY), also=also)
    await store.leases.acquire("x", "worker", SOON)
    assert await store.verify() == ()


async def closes(store: Store) -> None:
    """After close everything is refused, and closing again does nothing."""
    await put(store, 1)
    waiting = asyncio.create_task(store.changed(await store.head(), timeout=SOON))
    await asyncio.sleep(0)
    await store.close()
    with suppress(StoreClosedError):
        await asyncio.wait_for(waiting, SOON.total_seconds() / 2)
    calls: Sequence[Callable[[], Awaitable[object]]] = (
        lambda: store.append(Write(A, new(2), ANY)),
        lambda: store.load_events(A),
        store.read_all,
        store.head,
        lambda: store.checkpoints.save(SaveCheckpoint("x", 1)),
        lambda: store.dead_letters.save(SaveDeadLetter(letter(1))),
        store.dead_letters.list,
        lambda: store.leases.acquire("x", "worker", SOON),
        lambda: store.leases.list("x"),
    )
    for call in calls:
        await refuses(StoreClosedError, call())
    await store.close()


def _on(record: str, check: Callable[[Any], Awaitable[None]]) -> Check:
    """Run the check of a record on that of a store."""

    async def run(store: Store) -> None:
        await check(getattr(store, record))

    run.__name__, run.__doc__ = check.__name__, check.__doc__
    return run


store_checks: Final[tuple[Check, ...]] = (
    *checks_of(__name__, "Store"),
    *query_checks.checks,
    *(_on("checkpoints", check) for check in records.checkpoint_checks),
    *(_on("snapshots", check) for check in records.snapshot_checks),
    *(_on("dead_letters", check) for check in records.dead_letter_checks),
    *(_on("leases", check) for check in records.lease_checks),
)
"""All checks; each takes a fresh, empty store made with `CODEC`."""
