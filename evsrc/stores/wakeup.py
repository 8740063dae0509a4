"""Wake the readers of one process when its store has committed something."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

from ..ports import Page


class Wakeup:
    """The highest position known to be readable, and those who wait for more."""

    __slots__ = ("_waiting", "head")

    def __init__(self) -> None:
        self.head = 0
        self._waiting: dict[asyncio.Future[Page[Any] | None], int] = {}

    @property
    def awaited(self) -> bool:
        """Whether somebody waits."""
        return bool(self._waiting)

    def advance(self, head: int, page: Page[Any] | None = None) -> None:
        """Tell everyone who waits that *head* is readable, if that is news.

        Only then: who is woken may look at the store, and say what it found here.
        *page*: everything from its first event to *head*, for one who waits for just
        that; only one, so that no two handlers share an event.
        """
        if head > self.head:
            self.head = head
            if self._waiting:
                self.rouse(page)

    def rouse(self, page: Page[Any] | None = None) -> None:
        """Tell everyone who waits that there may be more to read."""
        waiting, self._waiting = self._waiting, {}
        before = page.events[0].position - 1 if page else None
        for future, position in waiting.items():
            if not future.done():
                fits = position == before
                future.set_result(page if fits else None)
                page = None if fits else page

    async def wait(self, position: int, timeout: timedelta) -> Page[Any] | None:
        """Return once there may be more after *position*, or *timeout* is over."""
        if self.head > position:
            return None
        future: asyncio.Future[Page[Any] | None]
        future = asyncio.get_running_loop().create_future()
        self._waiting[future] = position
        try:
            async with asyncio.timeout(timeout.total_seconds()):
                return await future
        except TimeoutError:
            return None
        finally:
            self._waiting.pop(future, None)
