"""Every store passes the suite, and the suite fails stores that are broken."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from msgspec import structs

from evsrc.core.errors import CheckpointError, LeaseLostError, TransactionError
from evsrc.core.expectation import ANY
from evsrc.ports import (
    Appended,
    AtHand,
    DeadLetter,
    EventStore,
    Fence,
    Page,
    Placed,
    SaveCheckpoint,
    SaveDeadLetter,
    Transaction,
    Write,
)
from evsrc.stores.memory import memory_store
from evsrc.testing import CODEC, Check, store_checks
from tests.conftest import OpenStore

Store = EventStore[Any]


def by_name(check: Check) -> str:
    return check.__name__


@pytest.mark.parametrize("check", store_checks, ids=by_name)
async def test_store_passes(check: Check, store: Store) -> None:
    """The store keeps the promise."""
    await check(store)


def drops_an_event(store: Store) -> Store:
    async def append(*writes: Write[Any], also: Any = ()) -> Any:
        kept = [
            replace_events(w, w.events[:-1]) if len(w.events) > 2 else w for w in writes
        ]
        return await store.append(*kept, also=also)

    return replace(store, append=append)


def accepts_stale_versions(store: Store) -> Store:
    async def append(*writes: Write[Any], also: Any = ()) -> Any:
        return await store.append(
            *(Write(w.stream, w.events, ANY) for w in writes), also=also
        )

    return replace(store, append=append)


def reorders(store: Store) -> Store:
    async def append(*writes: Write[Any], also: Any = ()) -> Any:
        turned = [replace_events(w, tuple(reversed(w.events))) for w in writes]
        return await store.append(*turned, also=also)

    return replace(store, append=append)


def reorders_concurrent_appends(store: Store) -> Store:
    calls = 0

    async def append(*writes: Write[Any], also: Any = ()) -> Any:
        nonlocal calls
        calls += 1
        for _ in range(3 * (calls % 4)):
            await asyncio.sleep(0)
        return await store.append(*writes, also=also)

    return replace(store, append=append)


def acknowledges_before_commit(store: Store) -> Store:
    tasks = set()

    async def append(*writes: Write[Any], also: Any = ()) -> Any:
        async def later() -> None:
            for _ in range(5):
                await asyncio.sleep(0)
            await store.append(*writes, also=also)

        if len(writes) != 1 or len(writes[0].events) != 1:
            return await store.append(*writes, also=also)
        task = asyncio.ensure_future(later())
        tasks.add(task)
        version = (await store.load_events(writes[0].stream)).version + 1
        position = await store.head() + 1
        return Appended((Placed(writes[0].stream, version, position, position),))

    return replace(store, append=append)


def splits_appends(store: Store) -> Store:
    async def append(*writes: Write[Any], also: Any = ()) -> Any:
        placed: list[Placed] = []
        for write in writes:
            outcome = await store.append(write, also=also)
            if not isinstance(outcome, Appended):
                return outcome
            placed += outcome.placed
            await asyncio.sleep(0)
        return Appended(tuple(placed)) if writes else await store.append(also=also)

    return replace(store, append=append)


def forgets_ids(store: Store) -> Store:
    async def append(*writes: Write[Any], also: Any = ()) -> Any:
        renewed = [
            replace_events(
                w, tuple(type(e)(e.event, new_id(), e.metadata) for e in w.events)
            )
            for w in writes
        ]
        return await store.append(*renewed, also=also)

    from evsrc import new_id

    return replace(store, append=append)


def stops_filtered_reads_early(store: Store) -> Store:
    async def read_all(query: Any = "all", *, after: int = 0, **how: Any) -> Any:
        page = await store.read_all(query, after=after, **how)
        if query == "all" or page.events:
            return page
        return Page((), after, page.head)

    return replace(store, read_all=read_all)


def skips_at_page_ends(store: Store) -> Store:
    async def read_all(query: Any = "all", *, after: int = 0, **how: Any) -> Any:
        page = await store.read_all(query, after=after, **how)
        return Page(page.events, min(page.reached + 1, page.head), page.head)

    return replace(store, read_all=read_all)


def takes_head_too_late(store: Store) -> Store:
    async def read_all(query: Any = "all", *, after: int = 0, **how: Any) -> Any:
        page = await store.read_all(query, after=after, **how)
        for _ in range(3):
            await asyncio.sleep(0)
        return Page(page.events, page.reached, await store.head())

    return replace(store, read_all=read_all)


def never_wakes(store: Store) -> Store:
    async def changed(position: int, *, timeout: Any) -> None:
        await asyncio.sleep(timeout.total_seconds())

    return replace(store, changed=changed)


def hands_over_too_little(store: Store) -> Store:
    async def changed(position: int, *, timeout: Any) -> Any:
        await store.changed(position, timeout=timeout)
        page = await store.read_all(after=position)
        bare = [structs.replace(r, _metadata=None) for r in page.events]
        page = Page(tuple(bare), page.reached, page.head)
        return AtHand(store.read_all, page) if bare else None

    return replace(store, changed=changed)


def ignores_checkpoints_on_append(store: Store) -> Store:
    async def append(*writes: Write[Any], also: Any = ()) -> Any:
        for change in also:
            if hasattr(change, "position"):
                await store.checkpoints.save(type(change)(change.name, change.position))
        return await store.append(*writes)

    return replace(store, append=append)


def ignores_fences(store: Store) -> Store:
    async def append(*writes: Write[Any], also: Any = ()) -> Any:
        kept = [change for change in also if not isinstance(change, Fence)]
        return await store.append(*writes, also=kept)

    return replace(store, append=append)


def blames_the_first_checkpoint(store: Store) -> Store:
    async def append(*writes: Write[Any], also: Any = ()) -> Any:
        try:
            return await store.append(*writes, also=also)
        except CheckpointError as error:
            (first, *_) = [c for c in also if isinstance(c, SaveCheckpoint)]
            wrong = CheckpointError(first.name, error.expected, error.actual)
            raise wrong from error

    return replace(store, append=append)


def fences_by_time(store: Store) -> Store:
    """Takes an expired lease for a lost one."""
    ends: dict[str, Any] = {}
    kept = store.leases

    async def acquire(name: str, owner: str, ttl: Any) -> Any:
        lease = await kept.acquire(name, owner, ttl)
        ends[name] = lease.until if lease else ends.get(name)
        return lease

    async def append(*writes: Write[Any], also: Any = ()) -> Any:
        for change in also:
            end = ends.get(change.name) if isinstance(change, Fence) else None
            if end is not None and datetime.now(UTC) >= end:
                raise LeaseLostError(change.name, change.token, None)
        return await store.append(*writes, also=also)

    leases = replace(kept, acquire=acquire)
    return replace(store, append=append, leases=leases)


def parks_outside_the_append(store: Store) -> Store:
    async def append(*writes: Write[Any], also: Any = ()) -> Any:
        for change in also:
            if isinstance(change, SaveDeadLetter):
                await store.dead_letters.save(change)  # before it, and alone
        return await store.append(*writes, also=also)

    return replace(store, append=append)


def refuses_the_whole_flight(store: Store) -> Store:
    """One lost lease refuses the appends that came with it."""
    lost: list[LeaseLostError] = []

    async def append(*writes: Write[Any], also: Any = ()) -> Any:
        await asyncio.sleep(0)
        if lost and any(isinstance(change, Fence) for change in also):
            raise lost.pop()
        try:
            return await store.append(*writes, also=also)
        except LeaseLostError as error:
            lost.append(error)
            raise

    return replace(store, append=append)


def marks_letters_twice(store: Store) -> Store:
    kept = store.dead_letters

    async def update(letter: DeadLetter, was: DeadLetter) -> bool:
        there = await kept.get(was.subscription, was.event_id) is not None
        await asyncio.sleep(0)
        if there:
            await kept.save(SaveDeadLetter(letter))
        return there

    return replace(store, dead_letters=replace(kept, update=update))


def deletes_new_failures(store: Store) -> Store:
    kept = store.dead_letters

    async def delete(letter: DeadLetter) -> bool:
        now = await kept.get(letter.subscription, letter.event_id)
        return now is not None and await kept.delete(now)

    return replace(store, dead_letters=replace(kept, delete=delete))


def lists_the_newest_first(store: Store) -> Store:
    kept = store.dead_letters

    async def newest(*asked: Any, **also: Any) -> Any:
        return (await kept.list(*asked, **also))[::-1]

    return replace(store, dead_letters=replace(kept, list=newest))


def lists_all_streams(store: Store) -> Store:
    kept = store.dead_letters

    async def everywhere(*asked: Any, stream: Any = None, **also: Any) -> Any:
        return await kept.list(*asked, **also)

    return replace(store, dead_letters=replace(kept, list=everywhere))


def leases_to_everyone(store: Store) -> Store:
    kept = store.leases

    async def acquire(name: str, owner: str, ttl: Any) -> Any:
        return await kept.acquire(name, "everyone", ttl)

    return replace(store, leases=replace(kept, acquire=acquire))


def starts_tokens_again(store: Store) -> Store:
    """A released lease is forgotten, and its token with it."""
    kept, released = store.leases, dict[str, int]()

    async def acquire(name: str, owner: str, ttl: Any) -> Any:
        lease = await kept.acquire(name, owner, ttl)
        if lease is None:
            return None
        return structs.replace(lease, token=lease.token - released.get(name, 0))

    async def release(lease: Any) -> None:
        await kept.release(lease)
        released[lease.name] = lease.token

    return replace(store, leases=replace(kept, acquire=acquire, release=release))


def releases_for_others(store: Store) -> Store:
    kept, latest = store.leases, dict[str, Any]()

    async def acquire(name: str, owner: str, ttl: Any) -> Any:
        lease = await kept.acquire(name, owner, ttl)
        latest[name] = lease or latest.get(name)
        return lease

    async def release(lease: Any) -> None:
        await kept.release(latest[lease.name])

    return replace(store, leases=replace(kept, acquire=acquire, release=release))


def renews_lost_leases(store: Store) -> Store:
    kept = store.leases

    async def renew(lease: Any, ttl: Any) -> Any:
        return await kept.renew(lease, ttl) or lease

    return replace(store, leases=replace(kept, renew=renew))


def lists_leases_that_are_over(store: Store) -> Store:
    kept, given = store.leases, dict[str, Any]()

    async def acquire(name: str, owner: str, ttl: Any) -> Any:
        given[name] = await kept.acquire(name, owner, ttl)
        return given[name]

    async def over(prefix: str) -> Any:
        now = {lease.name: lease for lease in await kept.list(prefix)}
        late = {n: g for n, g in given.items() if n.startswith(prefix)}
        return tuple(lease for _, lease in sorted((late | now).items()))

    return replace(store, leases=replace(kept, acquire=acquire, list=over))


def outside(store: Store, append: Any) -> Transaction[Any]:
    """Give a transaction that is none."""
    return Transaction(
        append, store.read_all, store.checkpoints.load, store.snapshots.load, None
    )


def transacts_without_a_transaction(store: Store) -> Store:
    @asynccontextmanager
    async def transaction() -> AsyncIterator[Transaction[Any]]:
        yield outside(store, store.append)

    return replace(store, transaction=transaction)


def judges_transactions_at_their_end(store: Store) -> Store:
    @asynccontextmanager
    async def transaction() -> AsyncIterator[Transaction[Any]]:
        kept: list[Write[Any]] = []

        async def append(*writes: Write[Any], also: Any = ()) -> Any:
            kept.extend(writes)
            position = await store.head() + len(kept)
            placed = [
                Placed(w.stream, len(w.events), position, position) for w in writes
            ]
            return Appended(tuple(placed))

        yield outside(store, append)
        await store.append(*kept)

    return replace(store, transaction=transaction)


def forgets_records_in_transactions(store: Store) -> Store:
    @asynccontextmanager
    async def transaction() -> AsyncIterator[Transaction[Any]]:
        async with store.transaction() as tx:

            async def append(*writes: Write[Any], also: Any = ()) -> Any:
                return await tx.append(*writes)

            yield outside(store, append)

    return replace(store, transaction=transaction)


def hides_failed_transactions(store: Store) -> Store:
    @asynccontextmanager
    async def transaction() -> AsyncIterator[Transaction[Any]]:
        with suppress(TransactionError):
            async with store.transaction() as tx:
                yield tx

    return replace(store, transaction=transaction)


def lets_others_into_transactions(store: Store) -> Store:
    """An append inside the block goes around the transaction, unnoticed."""

    async def append(*writes: Write[Any], also: Any = ()) -> Any:
        try:
            return await store.append(*writes, also=also)
        except TransactionError:
            return Appended((Placed(writes[0].stream, 1, 1, 1),))

    return replace(store, append=append)


def wakes_before_the_commit(store: Store) -> Store:
    begun = asyncio.Event()

    @asynccontextmanager
    async def transaction() -> AsyncIterator[Transaction[Any]]:
        async with store.transaction() as tx:
            begun.set()
            yield tx

    async def changed(position: int, *, timeout: Any) -> None:
        waits = [
            asyncio.ensure_future(store.changed(position, timeout=timeout)),
            asyncio.ensure_future(begun.wait()),
        ]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()

    return replace(store, transaction=transaction, changed=changed)


def replace_events(write: Write[Any], events: Any) -> Write[Any]:
    return Write(write.stream, events, write.expected)


@pytest.mark.parametrize(
    "broken",
    [
        drops_an_event,
        accepts_stale_versions,
        reorders,
        reorders_concurrent_appends,
        acknowledges_before_commit,
        splits_appends,
        forgets_ids,
        stops_filtered_reads_early,
        skips_at_page_ends,
        takes_head_too_late,
        never_wakes,
        hands_over_too_little,
        ignores_checkpoints_on_append,
        ignores_fences,
        fences_by_time,
        parks_outside_the_append,
        refuses_the_whole_flight,
        marks_letters_twice,
        deletes_new_failures,
        lists_the_newest_first,
        lists_all_streams,
        leases_to_everyone,
        starts_tokens_again,
        blames_the_first_checkpoint,
        releases_for_others,
        renews_lost_leases,
        lists_leases_that_are_over,
        transacts_without_a_transaction,
        judges_transactions_at_their_end,
        forgets_records_in_transactions,
        hides_failed_transactions,
        lets_others_into_transactions,
        wakes_before_the_commit,
    ],
    ids=lambda broken: broken.__name__,
)
async def test_suite_fails_broken_stores(broken: Callable[[Store], Store]) -> None:
    """A store broken on purpose fails at least one check."""
    failed = []
    for check in store_checks:
        store = memory_store(CODEC)
        try:
            await asyncio.wait_for(check(broken(store)), 15)
        except Exception:
            failed.append(check.__name__)
            break
    assert failed, "the suite let it pass"


async def test_suite_passes_the_same_store_unbroken(open_store: OpenStore) -> None:
    """Replacing functions of a record is not what fails the suite."""
    for check in store_checks:
        store = memory_store(CODEC)
        await check(replace(store, append=store.append))
