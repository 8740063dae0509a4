"""Run coroutines on a clock that jumps: hours pass in milliseconds, and repeatably.

`run_virtually` runs a coroutine on a `VirtualLoop`, whose time moves on to the next
timer whenever nothing else is to be done. With a seed the loop takes what is ready in
an order of chance, the same for the same seed. It does no I/O and knows no threads.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
import random
import sys
from asyncio import Handle, TimerHandle
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from contextlib import contextmanager
from contextvars import Context
from itertools import count
from typing import Any, Final, TypeVar
from weakref import WeakSet

T = TypeVar("T")
_log: Final = logging.getLogger("evsrc")


class StuckError(RuntimeError):
    """Everybody waits, and there is no timer that could ever wake anybody."""

    def __init__(self, tasks: list[asyncio.Task[Any]]) -> None:
        waiting = "; ".join(f"{task.get_name()} at {_place(task)}" for task in tasks)
        super().__init__(f"nothing can ever happen again; waiting: {waiting}")
        self.tasks = tasks


def _place(task: asyncio.Task[Any]) -> str:
    frames = task.get_stack(limit=1)
    where = frames[0] if frames else None
    return "?" if where is None else f"{where.f_code.co_qualname}:{where.f_lineno}"


class _Future(asyncio.Future[Any]):
    """A future that hashes to its number: sets of them have one order."""

    def __init__(self, number: int, loop: asyncio.AbstractEventLoop) -> None:
        self.number = number
        super().__init__(loop=loop)

    def __hash__(self) -> int:
        return self.number


class _Task(asyncio.Task[Any]):
    """A task, likewise."""

    def __init__(self, number: int, work: Any, **options: Any) -> None:
        self.number = number
        super().__init__(work, **options)

    def __hash__(self) -> int:
        return self.number


class VirtualLoop(asyncio.AbstractEventLoop):
    """An event loop with a clock of its own.

    Args:
        seed: of the order in which ready callbacks run; None: first come, first served.
        step: how many seconds a callback takes on this clock, at most; the seed says.
    """

    def __init__(self, seed: int | None = None, *, step: float = 0.0) -> None:
        self._chance = None if seed is None else random.Random(seed)  # noqa: S311
        self._step = step
        self._now = 0.0
        self._numbers = count(1)
        self._ready: list[Handle] = []
        self._timers: list[tuple[float, int, TimerHandle]] = []
        self._tasks: WeakSet[asyncio.Task[Any]] = WeakSet()
        self._generators: WeakSet[AsyncGenerator[Any, Any]] = WeakSet()
        self._running = self._closed = False
        self.on_task: Callable[[asyncio.Task[Any]], None] = self._tasks.add
        self.on_error: Callable[[dict[str, Any]], None] = _report

    # Time and callbacks.

    def time(self) -> float:
        """Tell the time: seconds since the loop was made."""
        return self._now

    def call_soon(  # type: ignore[override]
        self,
        callback: Callable[..., object],
        *args: Any,
        context: Context | None = None,
    ) -> Handle:
        """Run *callback* next, or soon."""
        handle = Handle(callback, args, self, context)
        self._ready.append(handle)
        return handle

    def call_later(  # type: ignore[override]
        self,
        delay: float,
        callback: Callable[..., object],
        *args: Any,
        context: Context | None = None,
    ) -> TimerHandle:
        """Run *callback* in *delay* seconds of this clock."""
        return self.call_at(self._now + delay, callback, *args, context=context)

    def call_at(  # type: ignore[override]
        self,
        when: float,
        callback: Callable[..., object],
        *args: Any,
        context: Context | None = None,
    ) -> TimerHandle:
        """Run *callback* at a time of this clock."""
        timer = TimerHandle(when, callback, args, self, context)
        heapq.heappush(self._timers, (when, next(self._numbers), timer))
        return timer

    def _timer_handle_cancelled(self, handle: TimerHandle) -> None:
        """Do nothing: a cancelled timer is dropped when its time comes."""

    def create_future(self) -> asyncio.Future[Any]:
        """Make a future of this loop."""
        return _Future(next(self._numbers), self)

    def create_task(
        self, coro: Any, *, name: str | None = None, **options: Any
    ) -> asyncio.Task[Any]:
        """Make a task of this loop; `on_task` is told."""
        number = next(self._numbers)
        task = _Task(number, coro, loop=self, name=name or f"task-{number}", **options)
        self._tasks.add(task)
        self.on_task(task)
        return task

    def get_debug(self) -> bool:
        """Tell that there is no debug mode."""
        return False

    def is_running(self) -> bool:
        """Tell whether it runs."""
        return self._running

    def is_closed(self) -> bool:
        """Tell whether it was closed."""
        return self._closed

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Tell `on_error` about an error that nobody waits for."""
        self.on_error(context)

    # What a clock that jumps cannot do.

    def call_soon_threadsafe(self, *_: Any, **__: Any) -> Handle:  # type: ignore[override]
        """Refuse: another thread's time is real."""
        raise RuntimeError("a virtual loop has no threads and no I/O: use the real one")

    def run_in_executor(self, *_: Any, **__: Any) -> Any:  # type: ignore[override]
        """Refuse, likewise."""
        return self.call_soon_threadsafe()

    # Running.

    def run_until_complete(self, future: Any) -> Any:
        """Run until *future* is done; give its result.

        Raises:
            StuckError: it waits for something that can never happen.
        """
        if asyncio._get_running_loop() is not None:  # noqa: SLF001 - for loops
            if asyncio.iscoroutine(future):
                future.close()
            raise RuntimeError(
                "another loop runs here: call this from a plain function"
            )
        with self._entered():
            task = asyncio.ensure_future(future, loop=self)
            while not task.done():
                self._turn()
        return task.result()

    def run_up(self) -> None:
        """Cancel what is left and run until nothing is, but for what refuses to end."""
        if asyncio._get_running_loop() is not None:  # noqa: SLF001 - it never ran
            return
        with self._entered():
            for _ in range(3):  # who suppresses a cancellation gets two more
                for task in self._left():
                    task.cancel()
                self._drain()
            for generator in list(self._generators):
                self.create_task(generator.aclose())
            self._drain()

    def close(self) -> None:
        """Close the loop for good."""
        self._closed = True
        self._ready.clear()
        self._timers.clear()

    def _left(self) -> list[asyncio.Task[Any]]:
        left = [task for task in self._tasks if not task.done()]
        return sorted(left, key=hash)

    def _drain(self) -> None:
        for _ in range(100_000):
            if not self._left():
                return
            try:
                self._turn()
            except StuckError:
                return

    @contextmanager
    def _entered(self) -> Generator[None]:
        hooks = sys.get_asyncgen_hooks()
        sys.set_asyncgen_hooks(self._generators.add, self._finalize)
        asyncio._set_running_loop(self)  # noqa: SLF001 - documented for event loops
        self._running = True
        try:
            yield
        finally:
            self._running = False
            asyncio._set_running_loop(None)  # noqa: SLF001
            sys.set_asyncgen_hooks(*hooks)

    def _finalize(self, generator: AsyncGenerator[Any, Any]) -> None:
        if not self._closed:
            self.create_task(generator.aclose())

    def _turn(self) -> None:
        """Run one callback; if none is ready, jump to the next timer first."""
        self._ring()
        if not self._ready:
            if not self._timers:
                raise StuckError(self._left())
            self._now = max(self._now, self._timers[0][0])
            self._ring()
            return
        chance = self._chance
        which = 0 if chance is None else chance.randrange(len(self._ready))
        handle = self._ready.pop(which)
        if not handle.cancelled():
            handle._run()  # noqa: SLF001 - what a loop does with its handles
        if chance is not None and self._step:
            self._now += chance.random() * self._step

    def _ring(self) -> None:
        while self._timers and (
            self._timers[0][0] <= self._now or self._timers[0][2].cancelled()
        ):
            _, _, timer = heapq.heappop(self._timers)
            if not timer.cancelled():
                self._ready.append(timer)


def _report(context: dict[str, Any]) -> None:
    _log.error("%s", context.get("message"), exc_info=context.get("exception"))


def virtual_loop(seed: int | None = None, *, step: float = 0.0) -> VirtualLoop:
    """Make a `VirtualLoop`; its arguments are described there."""
    # typeshed has all methods abstract; those of I/O and threads stay so on purpose
    return VirtualLoop(seed, step=step)  # type: ignore[abstract]


def run_virtually(
    work: Coroutine[Any, Any, T], *, seed: int | None = None, step: float = 0.0
) -> T:
    """Run *work* on a `VirtualLoop` to its end, and give its result.

    Args:
        work: must do no I/O: a memory store, not a database.
        seed: run what is ready in an order of chance; None: as asyncio does.
        step: how long a callback takes at most, in seconds; needs a seed.

    Raises:
        StuckError: everybody waits for ever.

    >>> run_virtually(asyncio.sleep(3600, "an hour later"))
    'an hour later'
    """
    loop = virtual_loop(seed, step=step)
    try:
        result: T = loop.run_until_complete(work)
        return result
    finally:
        loop.run_up()
        loop.close()
