"""Appends that come together are committed together; a lone one is not kept waiting."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from evsrc.ports import Appended
from evsrc.stores.commits import Commits, Job, Verdict

LIMIT = 10


class Disk:
    """Notes how many appends each commit had."""

    def __init__(self, *, busy: bool) -> None:
        self.busy = busy
        self.flights: list[int] = []
        self.commits = Commits(self.commit, largest=500, store="a store")

    async def commit(self, jobs: Sequence[Job]) -> Sequence[Verdict]:
        self.flights.append(len(jobs))
        if self.busy:
            await asyncio.sleep(0)
        return [Appended(())] * len(jobs)

    async def append(self, count: int) -> None:
        job = Job((), (), 1)
        async with asyncio.timeout(LIMIT):
            await asyncio.gather(*(self.commits.submit(job) for _ in range(count)))


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
