"""Have the server at the next page of the log while the last one is being decoded."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Final, Generic, TypeVar

T = TypeVar("T")

_KEPT: Final = 1.0  # seconds: a reader that takes longer would gain little


class Ahead(Generic[T]):
    """The page after the one that was read last, for whoever walks through the log.

    Who has read two pages, one after the other, will want the third. There is one page
    at most, and nothing is left of it after a moment; readers who take turns do without
    it, since each has the server at work while another decodes.
    """

    def __init__(self) -> None:
        self._next: object = None  # what a walk asks for when it goes on
        self._page: asyncio.Task[T] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._running = set[asyncio.Task[T]]()

    def take(self, asked: object) -> tuple[bool, asyncio.Task[T] | None]:
        """Tell whether *asked* goes on with a walk; give its page, if it is coming."""
        if asked != self._next:
            return False, None
        page, self._page = self._page, None
        return True, page

    async def follow(
        self, asked: object, read: Callable[[], Coroutine[Any, Any, T]] | None
    ) -> None:
        """Expect *asked* next; have it read now, if there is *read*."""
        self.drop()
        self._next = asked
        if read is not None:
            loop = asyncio.get_running_loop()
            self._page = loop.create_task(read())
            self._running.add(self._page)
            self._page.add_done_callback(self._ended)
            self._timer = loop.call_later(_KEPT, self.drop)
            await asyncio.sleep(0)  # the request leaves before we decode

    def _ended(self, page: asyncio.Task[T]) -> None:
        self._running.discard(page)
        if not page.cancelled():
            page.exception()  # if nobody comes for it, nobody need know

    def drop(self) -> None:
        """Forget the page."""
        if self._page is not None:
            self._page.cancel()
        if self._timer is not None:
            self._timer.cancel()
        self._page = self._timer = self._next = None

    async def close(self) -> None:
        """Forget the page; nothing goes on after this."""
        self.drop()
        if self._running:
            await asyncio.wait(self._running)
