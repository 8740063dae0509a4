"""One definition, inline and async: what is built, when, and what a failure does."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from evsrc import (
    NO_STREAM,
    RETIRED,
    Appended,
    AppendOutcomeUnknownError,
    CheckpointAheadError,
    CheckpointError,
    Conflict,
    Delivery,
    Fence,
    HandlerProjection,
    Park,
    ProjectionDefinition,
    ProjectionRetiredError,
    RebuildError,
    RebuildProgress,
    Redriven,
    SaveCheckpoint,
    StoreBusyError,
    StreamName,
    SubscriptionStateError,
    TransactionError,
    View,
    ViewProjection,
    Write,
    cancel_rebuild,
    inline,
    load_view,
    postgresql_store,
    project,
    rebuild,
    wait_for_checkpoint,
)
from evsrc.ports import EventStore
from evsrc.testing import CODEC, intercepted
from evsrc.testing.databases import fresh_database
from tests.projections import (
    Store,
    Sums,
    add,
    folded,
    note,
    sums_in,
    sums_table,
    sums_view,
    tables_of,
    write,
)

SOON = timedelta(seconds=10)
Definition = ProjectionDefinition[Any, Any]


@pytest.fixture(params=["memory", "sqlite", "sqlite-memory", "postgresql"])
def evsrc_back_end(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def evsrc_shared_database(evsrc_postgres_url: str) -> Any:
    """Give each test a database of its own: tables have the same names in all."""
    with fresh_database(evsrc_postgres_url) as url:
        yield url


@pytest.fixture(params=["view", "table"])
def kind(request: pytest.FixtureRequest, evsrc_back_end: str) -> str:
    if request.param == "table" and evsrc_back_end == "memory":
        return "view"  # there are no tables in memory
    return request.param


def define(kind: str, name: str = "sums@1", table: str = "sums") -> Definition:
    return sums_view(name) if kind == "view" else sums_table(name, table)


async def built(store: Store, definition: Definition) -> Sums:
    """Give the stored read model."""
    if isinstance(definition, ViewProjection):
        state, _ = await load_view(store, definition)
        return state
    return await sums_in(store)


async def position_of(store: Store, name: str) -> int | None:
    checkpoint = await store.checkpoints.load(name)
    return None if checkpoint is None else checkpoint.position


async def test_async_builds_what_a_fold_gives(store: Store, kind: str) -> None:
    """A projection by subscription contains each event once, over restarts."""
    definition = define(kind)
    for n in range(3):
        await store.append(write("a", n, 1), note("other"))
        async with project(store, definition, Delivery(page=2)) as projection:
            await store.append(write("b", n))
            await projection.subscription.caught_up()
        assert await built(store, definition) == await folded(store)
    assert await built(store, definition) == {"a": 6, "b": 3}


async def test_inline_is_there_when_the_append_returns(store: Store, kind: str) -> None:
    """Each append, alone or in a transaction, leaves the read model up to date."""
    definition = define(kind)
    await store.append(write("a", 1), note("before"))
    inlined = await inline(store, definition)
    assert await built(store, definition) == {"a": 1}
    for n in range(3):
        done = await inlined.append(write("a", n), write("b", n), note("x"))
        assert isinstance(done, Appended)
        assert await built(store, definition) == await folded(store)
    async with inlined.transaction() as tx:
        await tx.append(write("c", 1))
        await tx.append(write("c", 2))
    assert await built(store, definition) == {"a": 4, "b": 3, "c": 3}
    assert await position_of(store, "sums@1") == await store.head()


async def test_inline_takes_what_came_another_way(store: Store, kind: str) -> None:
    """Events of the plain store are in the read model after the next inline append."""
    definition = define(kind)
    inlined = await inline(store, definition)
    await store.append(write("plain", 5))
    await inlined.append(write("inline", 1))
    assert await built(store, definition) == {"plain": 5, "inline": 1}


async def test_inline_and_async_take_turns(store: Store, kind: str) -> None:
    """The definition does not know which it is: one goes on where the other was."""
    definition = define(kind)
    for n in range(2):
        await (await inline(store, definition)).append(write("a", n))
        async with project(store, definition) as projection:
            await store.append(write("a", 10))
            await projection.subscription.caught_up()
    assert await built(store, definition) == await folded(store) == {"a": 21}


async def test_inline_sees_what_async_sees(store: Store) -> None:
    """Versions, positions, ids, times and metadata are those of the record."""
    seen: list[Any] = []

    async def look(tx: Any, events: Any) -> None:
        seen.extend(events)

    inlined = await inline(store, HandlerProjection(name="look@1", handle=look))
    await inlined.append(write("a", 1, 2), write("b", 3))
    await inlined.append(write("a", 4))
    assert seen == list((await store.read_all()).events)


async def test_a_failing_projection_refuses_the_append(store: Store) -> None:
    """Nothing is appended, and the other projections are not changed either."""

    def refuse(sums: Sums, recorded: Any) -> Sums:
        if recorded.event.n == 13:
            raise ValueError("thirteen")
        return sums

    good = sums_view()
    bad = replace(sums_view("bad@1"), view=View({}, refuse))
    inlined = await inline(store, good, bad)
    await inlined.append(write("a", 1))
    with pytest.raises(ValueError, match="thirteen") as refused:
        await inlined.append(write("a", 13), also=[SaveCheckpoint("other", 1)])
    assert "'bad@1'" in refused.value.__notes__[0]
    await inlined.append(write("a", 2))
    assert await built(store, good) == await folded(store) == {"a": 3}
    assert await position_of(store, "other") is None


async def test_inline_leaves_the_rest_of_a_store_alone(store: Store) -> None:
    """Conflicts, repetitions and records without events are what they were."""
    definition = sums_view()
    inlined = await inline(store, definition)
    one = write("a", 1)
    first = await inlined.append(one)
    again = await inlined.append(one)
    assert isinstance(first, Appended)
    assert isinstance(again, Appended)
    assert again.repeated
    assert again.placed == first.placed
    conflict = await inlined.append(Write(one.stream, one.events, 7))
    assert isinstance(conflict, Appended), "the same ids in the same place"
    refused = await inlined.append(replace_expected(write("a", 2), NO_STREAM))
    assert refused == Conflict(StreamName("sum", "a"), NO_STREAM, 1)
    await inlined.append(also=[SaveCheckpoint("other", 1)])
    assert await built(store, definition) == {"a": 1}
    assert await position_of(store, "other") == 1


def replace_expected(given: Write[Any], expected: Any) -> Write[Any]:
    return Write(given.stream, given.events, expected)


async def test_many_inline_appends_at_once(store: Store, kind: str) -> None:
    """Appends that run at once, inline and plain, are all in the read model once."""
    definition = define(kind)
    inlined = await inline(store, definition)
    appends = [
        (inlined if n % 3 else store).append(write(f"s{n % 4}", n)) for n in range(30)
    ]
    await asyncio.gather(*appends)
    await inlined.append(write("last", 1))
    assert await built(store, definition) == await folded(store)


async def test_concurrent_ordering_has_no_inline(evsrc_postgres_database: str) -> None:
    """Where a transaction does not know what comes before it, inline is refused."""
    async with await postgresql_store(
        evsrc_postgres_database, CODEC, ordering="concurrent"
    ) as store:
        with pytest.raises(ValueError, match="serial ordering"):
            await inline(store, sums_view())


async def test_a_torn_state_is_folded_anew(store: Store) -> None:
    """A state of another schema is built from the beginning, inline and async."""
    inlined = await inline(store, sums_view())
    await inlined.append(write("a", 1))
    newer = sums_view(schema=2)
    await (await inline(store, newer)).append(write("a", 2))
    assert await built(store, newer) == {"a": 3}
    newest = sums_view(schema=3)
    async with project(store, newest) as projection:
        await projection.subscription.caught_up()
        assert projection.state == {"a": 3}
    assert await load_view(store, newest) == ({"a": 3}, await store.head())


async def test_a_projection_has_its_own_query_and_start(store: Store) -> None:
    """What would make two truths is refused."""
    for wrong in (Delivery[Any](query=sums_view().query, start="end"),):
        with pytest.raises(ValueError, match="its own query"):
            project(store, sums_view(), wrong)


async def test_readers_wait_for_a_position(store: Store, kind: str) -> None:
    """Whoever knows a position can wait until another process has built it."""
    definition = define(kind)
    async with project(store, definition):
        for n in range(3):
            done = await store.append(write("a", n))
            assert isinstance(done, Appended)
            await wait_for_checkpoint(store, "sums@1", done.position, SOON)
            assert (await built(store, definition)) == await folded(store)
    with pytest.raises(TimeoutError):
        await wait_for_checkpoint(
            store, "sums@1", done.position + 1, timedelta(milliseconds=20)
        )


# Rebuild.


async def half_done(store: Store, definition: Definition, after: int) -> None:
    """Leave a rebuild once it has handled so many events."""

    def leave(progress: RebuildProgress) -> None:
        if progress.handled >= after:
            raise asyncio.CancelledError

    with suppress(asyncio.CancelledError):
        await rebuild(
            store, definition, replaces="sums@1", page=3, near=1, on_progress=leave
        )
    assert await position_of(store, definition.name)


async def live(store: Store, kind: str, count: int = 12) -> Definition:
    """Fill the log, and build the live version from it."""
    for n in range(count):
        await store.append(write(f"s{n % 3}", n), note("x"))
    definition = define(kind)
    async with project(store, definition) as projection:
        await projection.subscription.caught_up()
    return definition


def new(kind: str) -> Definition:
    return define(kind, "sums@2", "sums_new")


async def test_a_rebuild_takes_the_place_of_the_live_version(
    store: Store, kind: str
) -> None:
    """The new version equals a fold, nothing of the old one is left, and it goes on."""
    old = await live(store, kind)
    told: list[RebuildProgress] = []
    definition = new(kind)
    done = await rebuild(
        store, definition, replaces="sums@1", page=4, near=2, on_progress=told.append
    )
    assert (done.name, done.replaced, done.handled) == ("sums@2", "sums@1", 12)
    assert await built(store, definition) == await folded(store)
    assert await store.snapshots.load("sums@1") is None
    if kind == "table":
        assert await tables_of(store) == {"sums"}
    shares = [progress.share for progress in told]
    assert shares == sorted(shares)
    assert shares[-1] == 1
    assert told[-1].remaining == timedelta(0)
    assert told[-1].rate > 0
    with pytest.raises(ProjectionRetiredError, match="'sums@1'"):
        async with project(store, old):
            pass
    successor = sums_table("sums@2") if kind == "table" else definition
    async with project(store, successor) as projection:
        await store.append(write("more", 1))
        await projection.subscription.caught_up()
    assert await built(store, definition) == await folded(store)
    again = await rebuild(store, definition, replaces="sums@1")
    assert (again.name, again.handled) == ("sums@2", 0)


async def test_an_old_worker_cannot_commit_after_the_swap(
    store: Store, kind: str
) -> None:
    """A worker of the old version that is still running is fenced off."""
    old = await live(store, kind)
    async with project(store, old, Delivery(poll=timedelta(milliseconds=20))) as worker:
        await worker.subscription.caught_up()
        await rebuild(store, new(kind), replaces="sums@1")
        before = await built(store, new(kind))
        await store.append(write("late", 1))
        with pytest.raises(Exception, match="sums@1"):
            await worker.subscription.caught_up(SOON)
            await worker.subscription.wait_for(await store.head() + 1, SOON)
    assert await built(store, new(kind)) == before
    assert await position_of(store, "sums@1") == RETIRED


async def test_an_old_worker_that_missed_an_answer_is_fenced(store: Store) -> None:
    """A save whose outcome is unknown is no reason to overwrite a retired one."""
    old = await live(store, "view")
    missed = asyncio.Event()

    async def append(*writes: Any, also: Any = ()) -> Any:
        if not writes and not missed.is_set():
            missed.set()
            raise StoreBusyError("the answer never came")
        return await store.append(*writes, also=also)

    poll = Delivery[Any](poll=timedelta(milliseconds=20))
    async with project(replace(store, append=append), old, poll) as worker:
        await worker.subscription.caught_up()
        await store.append(write("seen", 1))
        await asyncio.wait_for(missed.wait(), SOON.total_seconds())
        await rebuild(store, new("view"), replaces="sums@1")
        await store.append(write("late", 1))
    assert await position_of(store, "sums@1") == RETIRED
    assert await store.snapshots.load("sums@1") is None


async def test_a_rebuild_never_overtakes_the_live_version(
    store: Store, kind: str
) -> None:
    """At the swap both are at one place, so outside effects are had exactly once."""
    log: list[bool] = []
    await live(store, kind)
    reached = await position_of(store, "sums@1")
    await store.append(write("later", 5))
    await rebuild(store, new(kind), replaces="sums@1")
    assert await position_of(store, "sums@2") == reached
    assert "later" not in await built(store, new(kind))
    if kind == "table":
        async with project(store, sums_table("sums@2", log=log)) as projection:
            await projection.subscription.caught_up()
        assert log == [False]


async def test_handlers_know_that_they_are_rebuilding(store: Store) -> None:
    """`tx.rebuilding` is set for history, and not afterwards."""
    log: list[bool] = []

    async def look(tx: Any, events: Any) -> None:
        log.extend([tx.rebuilding] * len(events))

    definition = HandlerProjection[Any](name="look@1", handle=look)
    await store.append(write("a", 1, 2, 3))
    await rebuild(store, definition, replaces=None, page=2, near=1)
    async with project(store, definition) as projection:
        await store.append(write("a", 4))
        await projection.subscription.caught_up()
    await (await inline(store, definition)).append(write("a", 5))
    assert log == [True] * 3 + [False] * 2


async def test_a_cancelled_rebuild_leaves_nothing_behind(
    store: Store, kind: str
) -> None:
    """Tables, checkpoint and state are gone; the live version is as it was."""
    old = await live(store, kind)
    definition = new(kind)
    await half_done(store, definition, 6)
    await cancel_rebuild(store, definition, replaces="sums@1")
    await cancel_rebuild(store, definition, replaces="sums@1")
    assert await position_of(store, "sums@2") is None
    assert await store.snapshots.load("sums@2") is None
    if kind == "table":
        assert await tables_of(store) == {"sums"}
    assert await built(store, old) == await folded(store)
    await rebuild(store, definition, replaces="sums@1")
    assert await built(store, definition) == await folded(store)
    with pytest.raises(RebuildError, match="already"):
        await cancel_rebuild(store, definition, replaces="sums@1")


async def test_a_run_that_was_cancelled_elsewhere_ends(store: Store, kind: str) -> None:
    """Cancelling from another process stops a run at its next page."""
    await live(store, kind)
    definition = new(kind)
    pages: asyncio.Queue[int] = asyncio.Queue()
    gate = asyncio.Event()

    async def held(*asked: Any, **more: Any) -> Any:
        pages.put_nowait(1)
        if pages.qsize() >= 3:
            await gate.wait()
        return await store.read_all(*asked, **more)

    slow: EventStore[Any] = replace(store, read_all=held)
    running = asyncio.create_task(
        rebuild(slow, definition, replaces="sums@1", page=3, near=1)
    )
    while pages.qsize() < 3:
        await asyncio.sleep(0)
    await cancel_rebuild(store, definition, replaces="sums@1")
    gate.set()
    error = CheckpointError if kind == "view" else Exception  # its table is gone
    with pytest.raises(error, match="sums"):
        await running
    assert await position_of(store, "sums@2") is None
    assert await store.snapshots.load("sums@2") is None


@pytest.mark.parametrize("change", ["missing", "same", "sizes"])
async def test_a_rebuild_that_makes_no_sense_is_refused(
    store: Store, change: str
) -> None:
    """A live version that is not there, or the same name, is an error; no trace."""
    await store.append(write("a", 1))
    attempt: Callable[[], Any] = {
        "missing": lambda: rebuild(store, sums_view("sums@2"), replaces="nothing@1"),
        "same": lambda: rebuild(store, sums_view("sums@2"), replaces="sums@2"),
        "sizes": lambda: rebuild(store, sums_view("sums@2"), replaces=None, page=0),
    }[change]
    with pytest.raises((RebuildError, ValueError)):
        await attempt()
    assert await position_of(store, "sums@2") is None


async def test_inline_goes_over_to_the_new_version(store: Store, kind: str) -> None:
    """An old inline registration does not stop appends after the swap."""
    await live(store, kind)
    before = await inline(store, define(kind))
    await before.append(write("a", 1))
    await rebuild(store, new(kind), replaces="sums@1")
    await before.append(write("a", 2))
    successor = sums_table("sums@2") if kind == "table" else new(kind)
    after = await inline(store, successor)
    await after.append(write("a", 3))
    assert await built(store, successor) == await folded(store)


async def test_transactions_of_projections_refuse_the_plain_store(
    store: Store,
) -> None:
    """A handler that appends through the store would wait for itself: it is told."""

    async def react(tx: Any, events: Any) -> None:
        await store.append(write("reaction", 1))

    inlined = await inline(store, HandlerProjection(name="react@1", handle=react))
    with pytest.raises(TransactionError):
        await inlined.append(write("a", 1))
    assert await store.head() == 0


async def test_a_rebuild_notices_a_log_that_lost_its_end(
    store: Store, kind: str
) -> None:
    """The live version has handled more than there is: it cannot be caught up with."""
    await live(store, kind)
    head = await store.head()
    await store.checkpoints.save(SaveCheckpoint("sums@1", head + 7))
    async with asyncio.timeout(20):
        with pytest.raises(CheckpointAheadError, match=f"it ends at {head}"):
            await rebuild(store, new(kind), replaces="sums@1")


async def beaten(store: Store, kind: str) -> Definition:
    """Leave a rebuild half done, and let another one take the place meanwhile."""
    await live(store, kind)
    definition = define(kind, "sums@3", "sums_newer")
    await half_done(store, definition, 3)
    await rebuild(store, new(kind), replaces="sums@1")
    return definition


async def test_a_rebuild_that_lost_says_so(store: Store, kind: str) -> None:
    """One version has taken the place; the other has not, and can be cancelled."""
    lost = await beaten(store, kind)
    reached = await position_of(store, "sums@3")
    with pytest.raises(ProjectionRetiredError, match="'sums@1'"):
        await rebuild(store, lost, replaces="sums@1")
    assert await position_of(store, "sums@3") == reached
    await cancel_rebuild(store, lost, replaces="sums@1")
    assert await position_of(store, "sums@3") is None
    if kind == "table":
        assert await tables_of(store) == {"sums"}
    again = await rebuild(store, new(kind), replaces="sums@1")
    assert (again.name, again.handled) == ("sums@2", 0)
    assert await built(store, new(kind)) == await folded(store)


async def test_a_rebuild_ends_when_another_one_swaps(store: Store, kind: str) -> None:
    """It does not wait for a live version that moves no more."""
    await live(store, kind)
    told = 0

    async def held(*asked: Any, **more: Any) -> Any:
        nonlocal told
        told += 1
        assert told < 30, "it goes round and round"
        if told == 3:
            await rebuild(store, new(kind), replaces="sums@1")
        return await store.read_all(*asked, **more)

    slow: EventStore[Any] = replace(store, read_all=held)
    definition = define(kind, "sums@3", "sums_newer")
    with pytest.raises(ProjectionRetiredError, match="'sums@1'"):
        await rebuild(slow, definition, replaces="sums@1", page=3, near=1)
    assert await built(store, new(kind)) == await folded(store)


async def parked_view(
    store: Store, numbers: tuple[int, ...] = (10,)
) -> ViewProjection[Sums, Any]:
    """Leave the letters of some of three events, which a View takes in from now on."""
    broken = True

    def add_unless_broken(sums: Sums, recorded: Any) -> Sums:
        if broken and recorded.event.n in numbers:
            raise ValueError(recorded.event.n)
        return add(sums, recorded)

    view = View[Sums, Any]({}, add_unless_broken)
    definition = replace(sums_view(), view=view)
    parking: Delivery[Any] = Delivery(on_failure=lambda _: Park())
    await store.append(write("a", 1, 10, 100))
    async with project(store, definition, parking) as projection:
        await projection.subscription.caught_up(SOON)
    broken = False
    return definition


async def test_a_letter_of_a_view_that_was_not_started_stays(store: Store) -> None:
    """There is no state to add it to; once the projection runs, it is driven again."""
    definition = await parked_view(store)
    letters = project(store, definition).subscription.dead_letters
    (letter,) = await letters.list()
    with pytest.raises(
        SubscriptionStateError, match=r"not started.*inside `async with"
    ):
        await letters.redrive(letter)
    assert await letters.list() == (letter,)
    assert await built(store, definition) == {"a": 101}
    async with project(store, definition) as projection:
        letters = projection.subscription.dead_letters
        assert await letters.redrive(letter) == Redriven(1)
        assert projection.state == {"a": 111}
    assert await built(store, definition) == await folded(store) == {"a": 111}


@pytest.mark.parametrize(
    "evsrc_back_end", ["sqlite", "postgresql"], indirect=["evsrc_back_end"]
)
async def test_a_letter_of_tables_that_are_not_there_stays(store: Store) -> None:
    """A projection that was never started, was reset, or was replaced, gets no event."""
    definition = sums_table()

    async def fail(*_: Any) -> None:
        raise ValueError("no")

    broken = replace(definition, handle=fail)
    parking: Delivery[Any] = Delivery(on_failure=lambda _: Park())
    await store.append(write("a", 1))
    async with project(store, broken, parking) as projection:
        await projection.subscription.caught_up(SOON)
    letters = project(store, definition).subscription.dead_letters
    (letter,) = await letters.list()
    await rebuild(store, new("table"), replaces="sums@1")
    with pytest.raises(ProjectionRetiredError, match="'sums@1'"):
        await letters.redrive(letter)
    assert await letters.list() == (letter,)
    assert await sums_in(store) == {"a": 1}
    await store.checkpoints.delete("sums@1")
    with pytest.raises(
        SubscriptionStateError, match="at 0, so the event at 1 is still"
    ):
        await letters.redrive(letter)
    assert await letters.list() == (letter,)
    assert await sums_in(store) == {"a": 1}


@pytest.mark.parametrize("landed", [True, False], ids=["landed", "lost"])
@pytest.mark.parametrize("again", [True, False], ids=["running", "started again"])
async def test_a_view_takes_in_a_parked_event_once(
    store: Store, landed: bool, again: bool
) -> None:
    """The answer of the commit never comes: the letter tells what is in the state."""
    definition = await parked_view(store)
    async with project(without_answer(store, landed), definition) as projection:
        letters = projection.subscription.dead_letters
        (letter,) = await letters.list()
        with pytest.raises(AppendOutcomeUnknownError):
            await letters.redrive(letter)
        if again:
            await goes_on(store, projection, landed=landed)
    async with project(store, definition) as projection:
        if not again:
            await goes_on(store, projection, landed=landed)
        await projection.subscription.caught_up(SOON)
        assert projection.state == await folded(store) == {"a": 1111}


async def test_a_view_takes_in_another_event_after_a_lost_answer(store: Store) -> None:
    """What became of the first append is found out before the second is made."""
    definition = await parked_view(store, (10, 100))
    async with project(without_answer(store, landed=True), definition) as projection:
        await projection.subscription.caught_up(SOON)
    letters = projection.subscription.dead_letters  # it has stopped: no page between
    first, second = await letters.list()
    with pytest.raises(AppendOutcomeUnknownError):
        await letters.redrive(first)
    assert await letters.redrive(second) == Redriven(1)
    assert projection.state == {"a": 111}
    async with project(store, definition) as projection:
        assert await projection.subscription.caught_up(SOON) is None
        assert projection.state == await folded(store) == {"a": 111}


def without_answer(store: Store, landed: bool) -> Store:
    """Lose the answer of the first append of a re-drive, and perhaps the append."""
    lost = 0

    async def lose(_: str, call: Any) -> Any:
        nonlocal lost
        if lost or not any(isinstance(c, Fence) for c in call.keywords["also"]):
            return await call()
        lost += 1
        if landed:
            await call()
        raise AppendOutcomeUnknownError("the answer never came")

    return intercepted(store, lose, ports=["append"])


async def goes_on(store: Store, projection: Any, *, landed: bool) -> None:
    """Deliver one more event, and drive the letter again if it is still open."""
    await store.append(write("a", 1000))
    await projection.subscription.caught_up(SOON)
    (letter,) = await projection.subscription.dead_letters.list()
    assert letter.status == ("resolved" if landed else "failed")
    if not landed:
        assert projection.state == {"a": 1101}
        letters = projection.subscription.dead_letters
        assert await letters.redrive(letter) == Redriven(1)
    assert projection.state == {"a": 1111}


async def test_a_view_is_not_folded_in_parallel(store: Store) -> None:
    """An order that is not the log's is refused; handlers may have it elsewhere."""
    parallel: Delivery[Any] = Delivery(max_streams=2)
    with pytest.raises(ValueError, match="'sums@1' is a View, .*`max_streams`"):
        project(store, sums_view(), parallel)
