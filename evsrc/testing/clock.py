"""Run coroutines on a clock that jumps: hours pass in milliseconds, and repeatably.

The time of a `VirtualLoop` moves on to the next timer whenever nothing else is to be
done. With a seed the loop takes what is ready in an order of chance, the same for the
same seed. It does no I/O and knows no threads.
"""

from __future__ import annotations

import asyncio
import heapq
import random
from asyncio import Handle, TimerHandle
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from contextlib import closing, contextmanager
from itertools import count
from threading import get_ident
from typing import Any, Final, TypeVar

T = TypeVar("T")
_PATIENCE: Final = 3600.0  # seconds of the virtual clock, for what is cancelled


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


class _Numbered:
    """What hashes to its number: sets of futures have one order in every run."""

    def __init__(self, number: int, *args: Any, **options: Any) -> None:
        self.number = number
        super().__init__(*args, **options)

    def __hash__(self) -> int:
        return self.number


class _Future(_Numbered, asyncio.Future[Any]): ...


class _Task(_Numbered, asyncio.Task[Any]): ...


class VirtualLoop(asyncio.BaseEventLoop):
    """An event loop with a clock of its own; `virtual_loop` makes it.

    Attributes:
        on_task: is told of each new task.
    """

    _ready: deque[Handle]
    _scheduled: list[TimerHandle]

    def __init__(self, seed: int | None, step: float) -> None:
        super().__init__()
        self._chance = None if seed is None else random.Random(seed)  # noqa: S311
        self._step = step
        self._now = 0.0
        self._numbers = count(1)
        self._thread = get_ident()
        self.on_task: Callable[[asyncio.Task[Any]], object] = lambda _: None

    def time(self) -> float:
        """Tell the time: seconds since the loop was made."""
        return self._now

    def create_future(self) -> asyncio.Future[Any]:
        """Make a future of this loop."""
        return _Future(next(self._numbers), loop=self)

    def create_task(
        self, coro: Any, *, name: object = None, **options: Any
    ) -> asyncio.Task[Any]:
        """Make a task of this loop; `on_task` is told."""
        number = next(self._numbers)
        task = _Task(number, coro, loop=self, name=name or f"task-{number}", **options)
        self.on_task(task)
        return task

    def run_in_executor(self, *_: Any, **__: Any) -> Any:  # type: ignore[override]
        """Refuse: another thread's time is real."""
        raise RuntimeError("a virtual loop has no threads and no I/O: use the real one")

    def _write_to_self(self) -> None:  # what `call_soon_threadsafe` ends with
        if get_ident() != self._thread:
            self.run_in_executor()

    def _run_once(self) -> None:
        """Run one callback; if none is ready, jump to the next timer first."""
        ready, timers, chance = self._ready, self._scheduled, self._chance
        while timers and timers[0].cancelled():
            heapq.heappop(timers)
        if not ready and not timers:
            raise StuckError(self._left())
        if not ready:
            self._now = max(self._now, timers[0].when())
        while timers and timers[0].when() <= self._now:
            ready.append(heapq.heappop(timers))
        which = 0 if chance is None else chance.randrange(len(ready))
        handle = ready[which]
        del ready[which]
        if not handle.cancelled():
            handle._run()  # noqa: SLF001 - what a loop does with its handles
        if chance is not None and self._step:
            self._now += chance.random() * self._step

    def _left(self) -> list[asyncio.Task[Any]]:
        return sorted(asyncio.all_tasks(self), key=hash)

    def run_up(self) -> None:
        """Cancel what is left and run until nothing is, but for what refuses to end."""
        for _ in range(3):  # who suppresses a cancellation gets two more
            if left := self._left():
                for task in left:
                    task.cancel()
                self.run_until_complete(asyncio.wait(left, timeout=_PATIENCE))
        self.run_until_complete(self.shutdown_asyncgens())


@contextmanager
def virtual_loop(
    seed: int | None = None, *, step: float = 0.0
) -> Generator[VirtualLoop]:
    """Give the loop of `run_virtually`; what is left over ends with the block."""
    if asyncio._get_running_loop() is not None:  # noqa: SLF001 - for loops
        raise RuntimeError("another loop runs here: call this from a plain function")
    loop = VirtualLoop(seed, step)
    try:
        yield loop
    finally:
        loop.run_up()
        loop.close()


def run_virtually(
    work: Coroutine[Any, Any, T], *, seed: int | None = None, step: float = 0.0
) -> T:
    """Run *work* on a clock that jumps, to its end, and give its result.

    Args:
        work: must do no I/O: a memory store, not a database.
        seed: run what is ready in an order of chance; None: as asyncio does.
        step: how long a callback takes at most, in seconds; needs a seed.

    Raises:
        StuckError: everybody waits for ever.
        RuntimeError: another loop runs here.

    >>> run_virtually(asyncio.sleep(3600, "an hour later"))
    'an hour later'
    """
    with closing(work), virtual_loop(seed, step=step) as loop:
        return loop.run_until_complete(work)
