"""Interrupt a piece of work everywhere it can be interrupted, one place after another.

`cancel_everywhere` cancels it at its first await, then (in a new trial) at its second,
and so on; `fail_everywhere` fails the n-th step that it takes. Both end with a trial
that runs untouched, and tell how many did not.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import aclosing
from itertools import count
from types import coroutine
from typing import Any, Final, TypeAlias, TypeVar

from .faults import intercepted

R = TypeVar("R")
T = TypeVar("T")
Work: TypeAlias = Awaitable[object]
_MOST: Final = 10_000  # trials; work that is not through by then never will be


@coroutine
def _cut(work: Work, n: int) -> Generator[Any, Any, bool]:
    """Drive work, and cancel it at its n-th suspension, from 0; tell if that came."""
    steps, reply = work.__await__(), None
    try:
        for left in count(n, -1):
            waits_for = steps.send(reply)
            if left == 0:
                if waits_for is not None:  # a future: nobody waits for it now
                    waits_for._asyncio_future_blocking = False  # noqa: SLF001
                    waits_for.cancel()
                n = -1
                waits_for = steps.throw(asyncio.CancelledError())
            reply = yield waits_for
    except StopIteration:
        pass
    except asyncio.CancelledError:
        if n >= 0:
            raise
    return n < 0


async def cancel_everywhere(trial: Callable[[int], AsyncGenerator[Work, None]]) -> int:
    """Cancel work at its first await, at its second ... until it runs through.

    Args:
        trial: `trial(n)` is an async generator, like a fixture: it prepares what it
            needs, yields the work once, and checks afterwards what must be true
            however far the work has come. The work must be a coroutine or a future.

    Returns how many trials were cut short. Awaits inside tasks that the work starts
    are the tasks' own, and are not counted.

    >>> async def trial(n):
    ...     done = []
    ...     async def work():
    ...         await asyncio.sleep(0)
    ...         done.append(n)
    ...         await asyncio.sleep(0)
    ...     yield work()
    ...     assert done == ([n] if n > 0 else [])
    >>> asyncio.run(cancel_everywhere(trial))
    2
    """
    for n in range(_MOST):
        async with aclosing(trial(n)) as run:
            cut = await _cut(await anext(run), n)
            await _checked(run)
        if not cut:
            return n
    raise AssertionError(f"the work still awaits after {_MOST} awaits")


class InjectedError(Exception):
    """What `fail_everywhere` raises, unless it is told another error."""


class Trap:
    """What fails in one trial of `fail_everywhere`.

    Every call is two moments: before its effect and after it. Each is a place to fail.

    Attributes:
        n: which moment fails, from 1.
        left: how many are left until it comes.
        sprung: the failure, once it has come.
    """

    def __init__(self, n: int, error: Callable[[], BaseException]) -> None:
        self.n = self.left = n
        self.sprung: BaseException | None = None
        self._error = error

    def over(self, record: R) -> R:
        """Give a store, or a record of one, whose calls may fail."""
        return intercepted(record, lambda _, call: self.step(call))

    async def step(self, call: Callable[[], Awaitable[T]]) -> T:
        """Make a call that may fail too, such as that of a handler."""
        self._tick()
        result = await call()
        self._tick()
        return result

    def _tick(self) -> None:
        self.left -= 1
        if self.left == 0:
            self.sprung = self._error()
            raise self.sprung


async def fail_everywhere(
    trial: Callable[[Trap], AsyncGenerator[Work, None]],
    *,
    error: Callable[[], BaseException] = InjectedError,
) -> int:
    """Fail work at its first step, at its second ... until it runs through.

    Args:
        trial: an async generator, like a fixture: it yields the work once, over a store
            made by `trap.over`, and checks afterwards what must be true even if the
            work has failed. It may try the work again before: nothing fails twice.
        error: makes what is raised; a BaseException is the end of the process.

    Returns how many trials failed somewhere. The work may raise what was injected, or
    an error because of it; any other error is the trial's.

    >>> from evsrc import memory_store
    >>> async def trial(trap):
    ...     store = trap.over(memory_store())
    ...     yield store.head()
    ...     assert await store.head() == 0
    >>> asyncio.run(fail_everywhere(trial))
    2
    """
    for n in range(1, _MOST):
        trap = Trap(n, error)
        async with aclosing(trial(trap)) as run:
            try:
                await (await anext(run))
            except BaseException as raised:  # a crash is one, too
                because: BaseException | None = raised
                while because not in (None, trap.sprung):
                    because = because.__cause__ or because.__context__
                if because is None:
                    raise
            trap.left = 0  # the work is over
            await _checked(run)
        if not trap.sprung:
            return n - 1
    raise AssertionError(f"the work still takes steps after {_MOST} steps")


async def _checked(run: AsyncGenerator[Work, None]) -> None:
    """Let a trial make its checks."""
    async for more in run:
        if asyncio.iscoroutine(more):
            more.close()
        raise TypeError("a trial yields its work once, then checks what became of it")
