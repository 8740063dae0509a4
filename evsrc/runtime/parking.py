"""Put events aside with their errors, and keep the streams that wait for them."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Generic

from ..core.event import E, Recorded, StreamName
from ..ports import DeadLetter, EventStore, SaveDeadLetter
from .checkpointing import Saver
from .delivery import Delivery, Parked
from .run import Run, log, log_fields


class Parking(Generic[E]):
    """The dead letters of one subscription, as its deliveries make them."""

    def __init__(
        self,
        store: EventStore[E],
        run: Run,
        saver: Saver[E],
        delivery: Delivery[E],
    ) -> None:
        self.held: dict[StreamName, int] = {}  # from which position on
        self._store = store
        self._run = run
        self._saver = saver
        self._elsewhere = delivery.park
        self._holds = delivery.hold_streams

    async def refresh(self, *, all: bool = False) -> None:
        """Forget the streams that are free again; *all*: find all that are held."""
        if self._holds and (all or self.held):
            open_ones = await self._run.patiently(
                lambda: self._store.dead_letters.streams(self._run.name)
            )
            kept = open_ones if all else self.held.keys() & open_ones
            self.held = {stream: open_ones[stream] for stream in kept}

    async def park(
        self,
        recorded: Recorded[E],
        error: Exception,
        attempts: int,
        reached: int | None,
    ) -> None:
        """Put an event aside, as durably as the store; the checkpoint is at *reached*.

        Raises:
            LeftError: told to do something else while the store could not.
        """
        run, park = self._run, self._elsewhere
        if park is not None:
            parked = Parked(run.name, recorded, error, attempts)
            await run.patiently(lambda: park(parked))
            run.parked += 1
        else:
            letter = await run.patiently(
                lambda: letter_of(self._store, run.name, recorded, error, attempts)
            )
            await self._keep(letter, reached)
        if self._holds:
            self.held.setdefault(recorded.stream, recorded.position)
        fields = log_fields(run.name, recorded, error=error)
        log.warning("subscription %r parks an event", run.name, extra=fields)

    def holds(self, recorded: Recorded[E]) -> bool:
        """Tell whether an event is parked, or an earlier one of its stream.

        One before the first that is parked was handled, and comes again after a crash.
        """
        first = self.held.get(recorded.stream)
        return first is not None and recorded.position >= first

    async def behind(self, recorded: Recorded[E], reached: int | None) -> bool:
        """Park an event if its stream is held; tell whether it was."""
        if not self.holds(recorded):
            return False
        name, now, run = self._run.name, datetime.now(UTC), self._run
        known = await run.patiently(
            lambda: self._store.dead_letters.get(name, recorded.id)
        )
        if known is not None and known.status != "resolved":
            return True  # it was parked before a crash
        letter = DeadLetter(
            subscription=name,
            event_id=recorded.id,
            type=recorded.type,
            data=self._store.encode(recorded.event),
            error="not handled: an earlier event of the stream is parked",
            attempts=0,
            first_failed_at=now,
            last_failed_at=now,
            stream=recorded.stream,
            position=recorded.position,
        )
        await self._keep(letter, reached)
        return True

    async def _keep(self, letter: DeadLetter, reached: int | None) -> None:
        """Save a letter with the checkpoint, which may be done twice without harm."""
        run = self._run
        await run.patiently(
            lambda: self._saver.commit(reached, (SaveDeadLetter(letter),))
        )
        run.parked += 1


async def letter_of(
    store: EventStore[E],
    subscription: str,
    recorded: Recorded[E],
    error: Exception,
    attempts: int,
    *,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> DeadLetter:
    """Make the letter of an event that failed (again)."""
    known = await store.dead_letters.get(subscription, recorded.id)
    at = now()
    told = traceback.TracebackException.from_exception(error)
    return DeadLetter(
        subscription=subscription,
        event_id=recorded.id,
        type=recorded.type,
        data=store.encode(recorded.event),
        error=described(error),
        stacktrace="".join(told.format()),
        attempts=attempts + (0 if known is None else known.attempts),
        first_failed_at=at if known is None else known.first_failed_at,
        last_failed_at=at,
        stream=recorded.stream,
        position=recorded.position,
    )


def described(error: Exception) -> str:
    """Give an error's class and message."""
    return f"{type(error).__qualname__}: {error}"
