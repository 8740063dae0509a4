"""Keep what a subscription has done, what it is doing, and what it is told to do."""

from __future__ import annotations

import asyncio
import logging
import math
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeVar

from ..core.errors import (
    AppendOutcomeUnknownError,
    StoreBusyError,
    StoreFullError,
    StoreUnavailableError,
)
from ..core.event import Recorded
from ..ports import START
from .delivery import State

T = TypeVar("T")

log: Final = logging.getLogger("evsrc")
PASSING: Final = (
    StoreBusyError,
    StoreFullError,
    StoreUnavailableError,
    AppendOutcomeUnknownError,
)
"""What a store raises that will work again when the cause is gone; it is waited out."""
_LONGEST_WAIT: Final = 5.0


class LeftError(Exception):
    """The page is left before its end: to stop, to pause, or to serve a request."""


class _Waiter:
    """Somebody who waits for a position."""

    __slots__ = ("impatient", "position", "told")

    def __init__(self, position: int, *, impatient: bool) -> None:
        self.position = position
        self.impatient = impatient
        self.told = asyncio.Event()


class Run:
    """The state that the parts of one subscription share; it belongs to one loop."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.state = State.STARTING
        self.position = START
        self.head = START
        self.handled = 0
        self.failed = 0
        self.parked = 0
        self.skipped = 0
        self.turns = 0
        self.error: Exception | None = None
        self.last_error: Exception | None = None
        self.last_error_at: datetime | None = None
        self.ready = False
        self.handling = False  # a handler may be at work
        self.idle = False  # waiting on purpose
        self.held = False  # leave the page: stopping, paused, or asked for something
        self.stopping = False
        self.paused = False
        self.attend = asyncio.Event()  # set with `held`
        self.events: tuple[Recorded[Any], ...] = ()  # of the page in hand
        self.samples: deque[tuple[float, int, int]] = deque(maxlen=64)
        self.nearest: float = math.inf  # the first position that somebody waits for
        self._waiters: set[_Waiter] = set()

    @property
    def done(self) -> int:
        """How many events were handled, parked or skipped."""
        return self.handled + self.parked + self.skipped

    @property
    def ended(self) -> bool:
        """Whether it delivers no more."""
        return self.state in (State.STOPPED, State.FAILED)

    @property
    def sound(self) -> bool:
        """Whether events flow."""
        return self.state in (State.STARTING, State.CATCHING_UP, State.LIVE)

    def hold(self) -> None:
        """Have the page in hand left after the event in hand."""
        self.held = True
        self.attend.set()

    def become(self, state: State, error: Exception | None = None) -> None:
        """Enter a state, because of an error or with none."""
        paused = self.paused and error is None
        self.state, self.error = State.PAUSED if paused else state, error
        if error is not None:
            self.note(error)
        if state in (State.RETRYING, State.CIRCUIT_OPEN):
            self.let_go()

    def note(self, error: Exception) -> None:
        """Remember the last thing that went wrong."""
        self.last_error, self.last_error_at = error, datetime.now(UTC)

    def end(self, state: State) -> None:
        """Enter a state that is never left; tell all who wait."""
        self.state = state
        for waiter in self._waiters:
            waiter.told.set()

    # Waiting for the subscription.

    def reached(self, position: int) -> bool:
        """Tell whether everything up to *position* is handled."""
        return self.position >= position and self.state is not State.STARTING

    async def wait(
        self, position: int, timeout: timedelta, *, impatient: bool = False
    ) -> None:
        """Wait until *position* is handled, or it ends; impatient: or is in trouble.

        Raises:
            TimeoutError: *timeout* is over.
        """
        waiter = _Waiter(position, impatient=impatient)
        self._waiters.add(waiter)
        self.nearest = min(self.nearest, position)
        try:
            async with asyncio.timeout(timeout.total_seconds()):
                await waiter.told.wait()
        finally:
            self._waiters.discard(waiter)
            self.nearest = min((w.position for w in self._waiters), default=math.inf)

    def advance(self, position: int) -> None:
        """Move on to *position*; tell those who wait for it."""
        self.position = max(self.position, position)
        for waiter in self._waiters:
            if waiter.position <= self.position:
                waiter.told.set()

    def let_go(self) -> None:
        """Release those who only wait while all goes well."""
        for waiter in self._waiters:
            if waiter.impatient:
                waiter.told.set()

    # Waiting inside the subscription.

    async def rest(self, seconds: float) -> None:
        """Sleep, but not through a call for attention."""
        self.idle = True
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self.attend.wait()
        finally:
            self.idle = False
            self.turns += 1

    async def wait_out(self, error: Exception, attempt: int) -> None:
        """Rest after the store failed for the *attempt*-th time.

        Raises:
            LeftError: there is something else to do than to try again.
        """
        if attempt == 1:
            fields = log_fields(self.name, position=self.position, error=error)
            log.warning("subscription %r waits for its store", self.name, extra=fields)
        self.become(State.RETRYING, error)
        await self.rest(min(0.05 * 2 ** min(attempt, 16), _LONGEST_WAIT))
        if self.held:
            raise LeftError

    async def patiently(self, call: Callable[[], Awaitable[T]]) -> T:
        """Do something with the store, as soon as it can.

        Raises:
            LeftError: there is something else to do meanwhile.
            Exception: what will not pass by itself.
        """
        attempt = 0
        while True:
            try:
                return await call()
            except PASSING as error:
                attempt += 1
                await self.wait_out(error, attempt)


def log_fields(
    subscription: str,
    recorded: Recorded[Any] | None = None,
    *,
    position: int | None = None,
    error: BaseException | None = None,
) -> dict[str, Any]:
    """Give a log record's `extra`: where it happened, not what an event or error says.

    An error's text may quote a payload, so only its type is told, and where it is from.
    """
    fields: dict[str, Any] = {"subscription": subscription, "position": position}
    if recorded is not None:
        fields |= {
            "position": recorded.position,
            "stream": str(recorded.stream),
            "event_id": str(recorded.id),
            "event_type": recorded.type,
            "correlation_id": recorded.metadata.correlation_id,
        }
    if error is not None:
        fields |= {"error_type": type(error).__qualname__, "error_at": _place(error)}
    return fields


def _place(error: BaseException) -> str | None:
    """Tell the file and line where an error was raised."""
    trace = error.__traceback__
    if trace is None:
        return None
    while trace.tb_next is not None:
        trace = trace.tb_next
    return f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}"
