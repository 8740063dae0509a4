"""Read the log once for all partitions of a worker.

The last pages are kept, and a partition that asks for what is in one of them gets its
own events out of it. Partitions that go on from different positions so come to walk the
same pages. No more than a few pages are kept, however far apart the partitions are.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final, Generic

from ..core.event import E, Recorded
from ..core.expectation import ALL, AnyQuery
from ..core.partition import partition_of
from ..ports import START, Page, ReadAll

_KEPT: Final = 4


class _Kept(Generic[E]):
    """A page, what was asked for, and the events of each partition."""

    __slots__ = ("after", "asked", "page", "parts")

    def __init__(
        self, asked: tuple[AnyQuery, int], after: int, page: Page[E], partitions: int
    ) -> None:
        self.asked = asked
        self.after = after
        self.page = page
        self.parts: list[list[Recorded[E]]] = [[] for _ in range(partitions)]
        for recorded in page.events:
            self.parts[partition_of(recorded.stream, partitions)].append(recorded)

    def has(self, asked: tuple[AnyQuery, int], after: int) -> bool:
        # An empty page at the end of the log holds nothing, not even that it ends.
        return self.asked == asked and self.after <= after < self.page.reached

    def part(self, partition: int, after: int) -> Page[E]:
        events = self.parts[partition]
        if after > self.after:
            events = [recorded for recorded in events if recorded.position > after]
        return Page(tuple(events), self.page.reached, self.page.head)


class SharedPages(Generic[E]):
    """The pages that the partitions of one worker share.

    Args:
        read_all: the store's.
        partitions: how many there are in all.
    """

    def __init__(self, read_all: ReadAll[E], partitions: int) -> None:
        self._read_all = read_all
        self._partitions = partitions
        self._kept: deque[_Kept[E]] = deque(maxlen=_KEPT)
        self._reading = asyncio.Lock()  # who waits finds the page of who was faster

    def of(self, partition: int) -> ReadAll[E]:
        """Give what reads the events of one partition, as if there were no others."""
        if self._partitions == 1:
            return self._read_all

        async def read_all(
            query: AnyQuery = ALL, *, after: int = START, limit: int = 1000
        ) -> Page[E]:
            async with self._reading:
                kept = await self._page((query, limit), after)
            return kept.part(partition, after)

        return read_all

    async def _page(self, asked: tuple[AnyQuery, int], after: int) -> _Kept[E]:
        for kept in reversed(self._kept):
            if kept.has(asked, after):
                return kept
        query, limit = asked
        page = await self._read_all(query, after=after, limit=limit)
        kept = _Kept(asked, after, page, self._partitions)
        if page.reached > after:
            self._kept.append(kept)
        return kept
