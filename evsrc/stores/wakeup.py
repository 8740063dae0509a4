"""Wake the readers of one process when its store has committed something."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, TypeAlias

from ..ports import Page
from .handoff import Handoff

News: TypeAlias = "Page[Any] | None"


class Wakeup:
    """The highest position known to be readable, and those who wait for more.

    Any thread may `advance` it.
    """

    __slots__ = ("_waiting", "head")

    def __init__(self) -> None:
        self.head = 0
        self._waiting: dict[Handoff[News], int] = {}

    @property
    def awaited(self) -> bool:
        """Whether somebody waits."""
        return bool(self._waiting)

    def advance(self, head: int, page: News = None) -> None:
        """Tell everyone who waits that *head* is readable, if that is news.

        Only then: who is woken may look at the store, and say what it found here.
        *page*: everything from its first event to *head*, for one who waits for just
        that; only one, so that no two handlers share an event.
        """
        if head > self.head:
            self.head = head
            if self._waiting:
                self.rouse(page)

    def rouse(self, page: News = None) -> None:
        """Tell everyone who waits that there may be more to read."""
        before = page.events[0].position - 1 if page else None
        for sleep, position in self._waiting.copy().items():
            if self._waiting.pop(sleep, None) is not None:  # it has not gone meanwhile
                fits = position == before
                sleep.set_result(page if fits else None)
                page = None if fits else page

    async def wait(self, position: int, timeout: timedelta) -> News:
        """Return once there may be more after *position*, or *timeout* is over."""
        if self.head > position:
            return None
        sleep: Handoff[News] = Handoff()
        self._waiting[sleep] = position
        if self.head > position:  # since a moment ago
            sleep.set_result(None)
        seconds = max(0.0, timeout.total_seconds())
        timer = sleep.get_loop().call_later(seconds, sleep.set_result, None)
        try:
            return await sleep
        finally:
            timer.cancel()
            self._waiting.pop(sleep, None)
