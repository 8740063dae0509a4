"""Hand something from a thread to a task, in one turn of the event loop.

A thread that has the loop set the result of one of asyncio's futures needs two: the
first sets it, the second runs the task. That turn is a tenth of the time from an append
to its handler, and more where several tasks are at work.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from contextvars import Context
from threading import get_ident
from typing import Any, Generic, TypeVar, cast

T = TypeVar("T")


class Handoff(Generic[T]):
    """What one task awaits and any thread may end; future-like, as asyncio says."""

    __slots__ = (
        "_asyncio_future_blocking",
        "_cancelled",
        "_error",
        "_loop",
        "_over",
        "_owner",
        "_result",
        "_wake",
    )

    def __init__(self) -> None:
        self._asyncio_future_blocking = False  # a task looks for this name
        self._loop = asyncio.get_running_loop()
        self._owner = get_ident()
        self._wake: list[tuple[Callable[[Any], object], Context | None]] = []
        self._over = self._cancelled = False
        self._error: BaseException | None = None
        self._result: T | None = None

    def __await__(self) -> Generator[Any, None, T]:
        """Give what was handed over."""
        if not self._over:
            self._asyncio_future_blocking = True
            yield self
        return self.result()

    def set_result(self, result: T) -> None:
        """Hand *result* over."""
        self._result = result
        self._end()

    def set_exception(self, error: BaseException) -> None:
        """Raise *error* where this is awaited."""
        self._error = error
        self._end()

    def done(self) -> bool:
        """Tell whether it came to an end."""
        return self._over

    # For the task.

    def get_loop(self) -> asyncio.AbstractEventLoop:
        """Give the loop of the task."""
        return self._loop

    def add_done_callback(
        self, wake: Callable[[Any], object], *, context: Context | None = None
    ) -> None:
        """Have the task woken."""
        self._wake.append((wake, context))
        if self._over:  # a thread was faster
            self._end()

    def cancel(self, msg: object = None) -> bool:
        """Raise CancelledError where this is awaited, if it is not too late."""
        del msg
        if self._over:
            return False
        self._cancelled = True
        self._end()
        return True

    def result(self) -> T:
        """Give what was handed over."""
        if self._cancelled:
            raise asyncio.CancelledError
        if self._error is not None:
            raise self._error
        return cast("T", self._result)

    def _end(self) -> None:
        self._over = True
        while self._wake:
            try:
                wake, context = self._wake.pop()
            except IndexError:  # another thread was faster
                return
            if get_ident() == self._owner:
                self._loop.call_soon(wake, self, context=context)
            else:
                self._loop.call_soon_threadsafe(wake, self, context=context)
