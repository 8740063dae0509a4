"""Appends that come together are committed together; a lone one is not kept waiting."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from evsrc.core.errors import StoreClosedError
from evsrc.core.expectation import ANY
from evsrc.ports import Appended, EventStore, Write
from evsrc.stores.commits import Commits, Job, Verdict
from evsrc.stores.sqlite import sqlite_store
from evsrc.testing import CODEC
from evsrc.testing._bench import A, new, put
from tests.guarantees.test_poison import until

LIMIT = 10
JOB = Job((), (), 1)


class Disk:
    """Notes how many appends each commit had; ends none of them while it is not open."""

    def __init__(self, *, busy: bool) -> None:
        self.busy = busy
        self.open = asyncio.Event()
        self.open.set()
        self.flights: list[int] = []
        self.commits = Commits(self.commit, largest=500, store="a store")

    async def commit(self, jobs: Sequence[Job]) -> Sequence[Verdict]:
        self.flights.append(len(jobs))
        if self.busy:
            await asyncio.sleep(0)
        await self.open.wait()
        return [Appended(())] * len(jobs)

    async def append(self, count: int) -> None:
        async with asyncio.timeout(LIMIT):
            await asyncio.gather(*(self.commits.submit(JOB) for _ in range(count)))

    async def one_aboard(self) -> asyncio.Task[Any]:
        """Give a lone append that is in flight until the disk opens."""
        await self.append(1)
        await self.append(1)
        self.open.clear()
        alone = asyncio.create_task(self.commits.submit(JOB))
        await until(lambda: len(self.flights) == 3)
        return alone


async def test_who_comes_together_flies_together() -> None:
    """Only the first after a lone append may leave without the others."""
    disk = Disk(busy=True)
    for count in (1, 1, 32, 32, 32):
        await disk.append(count)
    assert disk.flights[:2] == [1, 1]
    assert disk.flights[2:-2] in ([32], [1, 31])
    assert disk.flights[-2:] == [32, 32]


async def test_a_commit_that_waits_for_nothing_ends_its_flight() -> None:
    """The next append begins another one."""
    disk = Disk(busy=False)
    for count in (1, 1, 1, 3, 1):
        await disk.append(count)
    assert sum(disk.flights) == 7
    await disk.commits.close()


@pytest.mark.parametrize("gives_up", [False, True])
async def test_who_comes_during_a_lone_append_flies_after_it(*, gives_up: bool) -> None:
    """All together, also if the caller of the lone one is cancelled."""
    disk = Disk(busy=True)
    alone = await disk.one_aboard()
    others = [asyncio.create_task(disk.commits.submit(JOB)) for _ in range(5)]
    await until(lambda: len(disk.commits.waiting) == 5)
    if gives_up:
        alone.cancel()
    disk.open.set()
    async with asyncio.timeout(LIMIT):
        assert len(await asyncio.gather(*others)) == 5
        await asyncio.wait([alone])
    assert alone.cancelled() == gives_up
    assert disk.flights == [1, 1, 1, 5]


async def test_nothing_is_committed_for_those_who_gave_up() -> None:
    """If all who waited have gone, there is no flight."""
    disk = Disk(busy=False)
    aboard = await disk.one_aboard()
    late = [asyncio.create_task(disk.commits.submit(JOB)) for _ in range(2)]
    await asyncio.sleep(0)
    for task in late:
        task.cancel()
    await asyncio.wait(late)
    disk.open.set()
    await aboard
    await disk.append(1)
    assert disk.flights == [1, 1, 1, 1]


async def test_what_cannot_be_decoded_is_committed_all_the_same() -> None:
    """Whatever decoding raises, it is the reader's affair."""

    class Panic(BaseException):
        """As a library in another language may raise."""

    def decode(*_: object) -> Any:
        raise Panic

    codec = replace(CODEC, decode=decode)
    async with await sqlite_store(":memory:", codec) as store:
        waiting = asyncio.create_task(
            store.changed(0, timeout=timedelta(seconds=LIMIT))
        )
        await asyncio.sleep(0)
        assert isinstance(await store.append(Write(A, new(1), ANY)), Appended)
        assert await waiting is None


async def test_closing_waits_for_a_lone_append_and_for_those_after_it() -> None:
    """They have their verdicts; whoever comes later is refused."""
    disk = Disk(busy=True)
    appends = [await disk.one_aboard(), asyncio.create_task(disk.commits.submit(JOB))]
    await until(lambda: len(disk.commits.waiting) == 1)
    closing = asyncio.create_task(disk.commits.close())
    await until(lambda: disk.commits.closing)
    with pytest.raises(StoreClosedError):
        await disk.commits.submit(JOB)
    assert not closing.done()
    disk.open.set()
    async with asyncio.timeout(LIMIT):
        await closing
    assert all(append.done() for append in appends)


async def test_an_append_whose_caller_has_gone_wakes_who_waits_in_memory() -> None:
    """Nobody would look again: no other process can write there."""
    store: EventStore[Any]
    async with await sqlite_store(":memory:", CODEC) as store:
        for n in range(50):
            head = (await put(store, n)).position  # so that the next one is alone
            write = Write(A, new(n), ANY)
            gone = asyncio.create_task(store.append(write))
            await asyncio.sleep(0)
            gone.cancel()
            async with asyncio.timeout(LIMIT):
                await store.changed(head, timeout=timedelta(hours=1))
            assert await store.head() == head + 1
