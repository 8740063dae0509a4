"""Do with an event that failed what the policy says: the only place that retries."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Generic, TypeAlias

from ..core import breaker as circuits
from ..core.errors import SubscriptionError
from ..core.event import E, Recorded
from ..core.policy import Failure, Outcome, Park, Retry, Skip, Stop
from .delivery import Delivery, State
from .parking import Parking
from .run import LeftError, Run, log, log_fields

Attempt: TypeAlias = Callable[[Recorded[E]], Awaitable[Exception | None]]
"""Handle one event by itself; give the handler's error, or None."""


class Settling(Generic[E]):
    """How one subscription deals with failures."""

    def __init__(self, run: Run, parking: Parking[E], delivery: Delivery[E]) -> None:
        self._run = run
        self._parking = parking
        self._policy = delivery.on_failure
        self._breaker = delivery.breaker
        self._circuit = circuits.CLOSED
        self._handled = 0  # how many were when the circuit was looked at last
        self._tried: dict[int, int] = {}  # attempts at events that were left
        self._trial = asyncio.Lock()  # of one event while the circuit is open

    async def settle(
        self,
        recorded: Recorded[E],
        error: Exception,
        attempt: Attempt[E],
        reached: int | None,
    ) -> None:
        """Return when a failed event was handled after all, parked or skipped.

        The checkpoint may then be at *reached* (None: where the run is).

        Raises:
            LeftError: told to do something else; the event is not dealt with.
            SubscriptionError: the policy stops the subscription.
        """
        attempts = self._tried.pop(recorded.position, 0)
        failure: Exception | None = error
        while failure is not None:
            attempts += 1
            self._run.failed += 1
            outcome = self._policy(Failure(failure, attempts))
            if not isinstance(outcome, Retry) and self._is_outage():
                failure = await self._try_one(recorded, failure, attempts, attempt)
            elif isinstance(outcome, Retry):
                failure = await self._retry(
                    recorded, failure, attempts, attempt, outcome
                )
            else:
                await self._give_up(recorded, failure, attempts, outcome, reached)
                break
        else:
            self._run.handled += 1
            self._circuit = circuits.CLOSED
        self._run.become(State.CATCHING_UP)

    async def _retry(
        self,
        recorded: Recorded[E],
        error: Exception,
        attempts: int,
        attempt: Attempt[E],
        outcome: Retry,
    ) -> Exception | None:
        self._run.become(State.RETRYING, error)
        chance = 1 + outcome.jitter * random.uniform(-1, 1)  # noqa: S311
        await self._rest(recorded, attempts, outcome.delay.total_seconds() * chance)
        return await attempt(recorded)

    async def _rest(self, recorded: Recorded[E], attempts: int, seconds: float) -> None:
        await self._run.rest(seconds)
        if self._run.held:
            self._tried[recorded.position] = attempts
            raise LeftError

    def _is_outage(self) -> bool:
        """Note that an event is given up; tell whether the circuit is open."""
        if self._breaker is None:
            return False
        since = self._run.handled - self._handled
        self._handled = self._run.handled
        was_open = self._circuit.trials is not None
        self._circuit = circuits.failed(self._breaker, self._circuit, since)
        is_open = self._circuit.trials is not None
        if is_open and not was_open:
            fields = log_fields(self._run.name, position=self._run.position)
            log.error("the circuit of %r opens", self._run.name, extra=fields)
        return is_open

    async def _try_one(
        self,
        recorded: Recorded[E],
        error: Exception,
        attempts: int,
        attempt: Attempt[E],
    ) -> Exception | None:
        """Wait, then try the event; of several that failed, one at a time."""
        assert self._breaker is not None  # noqa: S101 - it has opened
        self._run.become(State.CIRCUIT_OPEN, error)
        async with self._trial:
            if self._circuit.trials is not None:
                seconds = circuits.pause_of(self._breaker, self._circuit)
                await self._rest(recorded, attempts, seconds.total_seconds())
            failure = await attempt(recorded)
            if failure is None:
                self._circuit = circuits.CLOSED
        return failure

    async def _give_up(
        self,
        recorded: Recorded[E],
        error: Exception,
        attempts: int,
        outcome: Outcome,
        reached: int | None,
    ) -> None:
        run = self._run
        match outcome:
            case Park():
                run.become(State.RETRYING, error)
                await self._parking.park(recorded, error, attempts, reached)
            case Skip():
                run.note(error)
                run.skipped += 1
                fields = log_fields(run.name, recorded, error=error)
                log.warning("subscription %r skips an event", run.name, extra=fields)
            case Stop() | Retry():
                raise SubscriptionError(
                    f"subscription {run.name!r} stopped before position "
                    f"{recorded.position} ({recorded.type} of '{recorded.stream}') "
                    f"after {attempts} attempts: {error!r}"
                ) from error


def raised_by_handler(error: BaseException) -> Exception:
    """Give the handler's error; a cancellation of the subscription itself goes on."""
    if isinstance(error, Exception):
        return error
    task = asyncio.current_task()
    if task is None or task.cancelling():
        raise error
    return SubscriptionError("the handler raised CancelledError")
