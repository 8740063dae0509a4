"""Look at the events a subscription has parked; handle them again, or discard them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import Generic, Protocol

from msgspec import Struct
from msgspec.structs import replace

from ..core.errors import SubscriptionError, SubscriptionStateError
from ..core.event import E, Recorded, StreamName
from ..ports import Also, DeadLetter, DeadLetterStatus, EventStore, SaveDeadLetter
from .parking import letter_of
from .run import log, log_fields


class Inspected(Struct, Generic[E], frozen=True):
    """A dead letter and the event it is about, as the log has it."""

    letter: DeadLetter
    recorded: Recorded[E]


class Redriven(Struct, frozen=True):
    """What came of handling parked events again.

    Args:
        resolved: how many were handled.
        failed: the letter of the one that failed again, with its new error; None: none
            did.
    """

    resolved: int
    failed: DeadLetter | None = None


class Again(Protocol[E]):
    """Handle a parked event, and write what belongs to it with it if that can be."""

    async def __call__(
        self, recorded: Recorded[E], also: Sequence[Also]
    ) -> Exception | None:
        """Give the handler's error, or None."""
        ...


class Between(Protocol):
    """Do something while the subscription has no event in hand."""

    async def __call__(self, work: Callable[[], Awaitable[Redriven]]) -> Redriven:
        """Give what *work* gave."""
        ...


class Letters(Generic[E]):
    """The dead letters of one subscription; see `Subscription.dead_letters`.

    What is handled again goes through the subscription's own handler, between two of
    its pages if it runs. A letter is taken before its event is handled, so that of
    several who try only one does; whoever dies meanwhile leaves it "retrying", see
    *take_over*.
    """

    def __init__(
        self,
        store: EventStore[E],
        name: str,
        again: Again[E],
        *,
        between: Between,
        ordered: bool,
        keep: Callable[[], Awaitable[None]],
    ) -> None:
        self._store = store
        self._name = name
        self._again = again
        self._between = between
        self._ordered = ordered
        self._keep = keep

    async def list(
        self,
        *,
        status: DeadLetterStatus | None = None,
        stream: StreamName | None = None,
        limit: int = 100,
    ) -> tuple[DeadLetter, ...]:
        """List letters: those that failed first, or those of a stream by position."""
        return await self._store.dead_letters.list(
            self._name, status=status, stream=stream, limit=limit
        )

    async def inspect(self, letter: DeadLetter) -> Inspected[E]:
        """Give a letter as it is now, with its event.

        Raises:
            SubscriptionError: there is no such letter, or the log has no such event.
        """
        now = await self._current(letter)
        recorded = await self._store.find(letter.event_id)
        if recorded is None:
            raise SubscriptionError(
                f"event {letter.event_id} of a dead letter of {self._name!r} is not in "
                "the log"
            )
        return Inspected(now, recorded)

    async def redrive(self, letter: DeadLetter, *, take_over: bool = False) -> Redriven:
        """Handle one parked event again: resolve its letter, or count the attempt.

        Args:
            letter: which.
            take_over: also if somebody has taken it to try again (and has died).

        Raises:
            SubscriptionStateError: it is resolved, or somebody else has taken it, or
                (if streams are held) an earlier event of its stream comes first.
            SubscriptionError: there is no such letter, or the log has no such event.
        """
        return await self._between(lambda: self._redrive(letter, take_over))

    async def redrive_stream(
        self, stream: StreamName, *, take_over: bool = False
    ) -> Redriven:
        """Handle all parked events of a stream again, in order, up to one that fails.

        A stream that was held is free again when the last one is resolved.

        Raises:
            SubscriptionStateError: somebody else has taken one.
            SubscriptionError: the log does not have an event.
        """
        return await self._between(lambda: self._redrive_stream(stream, take_over))

    async def discard(self, letter: DeadLetter) -> bool:
        """Forget a letter, so that its event stays unhandled for good.

        Gives False if it is not stored exactly so any more: look at it again.
        """
        gone = await self._store.dead_letters.delete(letter)
        if gone:
            fields = log_fields(self._name, position=letter.position)
            log.warning("a dead letter of %r is discarded", self._name, extra=fields)
        return gone

    async def _redrive_stream(self, stream: StreamName, take_over: bool) -> Redriven:
        resolved = 0
        while True:
            letter = await self._first(stream)
            if letter is None:
                return Redriven(resolved)
            outcome = await self._redrive(letter, take_over)
            if outcome.failed is not None:
                return Redriven(resolved, outcome.failed)
            resolved += outcome.resolved

    async def _first(self, stream: StreamName) -> DeadLetter | None:
        """Give the first letter of a stream that is not resolved."""
        found = [
            letter
            for status in ("failed", "retrying")
            for letter in await self.list(status=status, stream=stream, limit=1)
        ]
        return min(found, key=lambda letter: letter.position, default=None)

    async def _redrive(self, letter: DeadLetter, take_over: bool) -> Redriven:
        inspected = await self.inspect(letter)
        await self._check_turn(inspected.letter)
        taken = await self._take(inspected.letter, take_over)
        recorded = inspected.recorded
        resolved = replace(
            taken,
            status="resolved",
            resolved_at=datetime.now(UTC),
            resolved_by=f"re-drive of {self._name}",
        )
        try:
            error = await self._again(recorded, (SaveDeadLetter(resolved),))
        except Exception:  # it is not known to be handled: give it back
            await self._store.dead_letters.update(inspected.letter, taken)
            raise
        if error is None:
            await self._keep()
            await self._store.dead_letters.update(resolved, taken)
            return Redriven(1)
        failed = await letter_of(self._store, self._name, recorded, error, 1)
        await self._store.dead_letters.save(SaveDeadLetter(failed))
        fields = log_fields(self._name, recorded, error=error)
        log.warning("a dead letter of %r failed again", self._name, extra=fields)
        return Redriven(0, failed)

    async def _current(self, letter: DeadLetter) -> DeadLetter:
        now = await self._store.dead_letters.get(self._name, letter.event_id)
        if now is None:
            raise SubscriptionError(
                f"{self._name!r} has no dead letter of event {letter.event_id}"
            )
        return now

    async def _check_turn(self, letter: DeadLetter) -> None:
        if not self._ordered or letter.stream is None:
            return
        first = await self._first(letter.stream)
        if first is not None and first.position < letter.position:
            raise SubscriptionStateError(
                f"stream '{letter.stream}' is held: its event at {first.position} "
                f"comes before the one at {letter.position}; re-drive the stream"
            )

    async def _take(self, letter: DeadLetter, take_over: bool) -> DeadLetter:
        """Take a letter, so that nobody else handles its event now."""
        allowed = ("failed", "retrying") if take_over else ("failed",)
        taken = replace(letter, status="retrying")
        if letter.status not in allowed or not await self._store.dead_letters.update(
            taken, letter
        ):
            raise SubscriptionStateError(
                f"the dead letter of event {letter.event_id} is not to be taken: it is "
                f"{letter.status}, or was changed meanwhile"
            )
        return taken
