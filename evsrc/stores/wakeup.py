"""Wake the readers of one process when its store has committed something."""

from __future__ import annotations

import asyncio
from datetime import timedelta


class Wakeup:
    """The highest position known to be readable, and those who wait for more."""

    __slots__ = ("_waiting", "head")

    def __init__(self) -> None:
        self.head = 0
        self._waiting: set[asyncio.Future[None]] = set()

    @property
    def awaited(self) -> bool:
        """Whether somebody waits."""
        return bool(self._waiting)

    def advance(self, head: int) -> None:
        """Tell everyone who waits that *head* is readable, if that is news.

        Only then: who is woken may look at the store, and say what it found here.
        """
        if head > self.head:
            self.head = head
            if self._waiting:
                self.rouse()

    def rouse(self) -> None:
        """Tell everyone who waits that there may be more to read."""
        waiting, self._waiting = self._waiting, set()
        for future in waiting:
            if not future.done():
                future.set_result(None)

    async def wait(self, position: int, timeout: timedelta) -> None:
        """Return once there may be more after *position*, or *timeout* is over."""
        if self.head > position:
            return
        future = asyncio.get_running_loop().create_future()
        self._waiting.add(future)
        try:
            async with asyncio.timeout(timeout.total_seconds()):
                await future
        except TimeoutError:
            return
        finally:
            self._waiting.discard(future)
