"""Look at the events a subscription has parked; handle them again, or discard them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Generic, Protocol

from msgspec import Struct
from msgspec.structs import replace

from ..core.errors import LeaseLostError, SubscriptionError, SubscriptionStateError
from ..core.event import E, Recorded, StreamName
from ..ports import (
    Also,
    DeadLetter,
    DeadLetterStatus,
    EventStore,
    Fence,
    SaveDeadLetter,
)
from .parking import letter_of
from .run import log, log_fields
from .taking import WHILE_TRYING, taken


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
    several who try only one does. It is "retrying" then, and stays so if the process
    dies: the same call tries it again when the dead one's lease is over. What a
    `Transactional` handler has committed by then is not done twice.
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

    async def redrive(
        self, letter: DeadLetter, *, lease: timedelta = WHILE_TRYING
    ) -> Redriven:
        """Handle one parked event again: resolve its letter, or count the attempt.

        Args:
            letter: which.
            lease: for how long nobody else may try it, should this process die in it.
                As long as it lives, the lease is renewed.

        Raises:
            SubscriptionStateError: it is resolved, or somebody else tries it, or (if
                streams are held) an earlier event of its stream comes first.
            SubscriptionError: there is no such letter, or the log has no such event.
            LeaseLostError: this process stood still for longer than its lease, and
                somebody else tries it; a `Transactional` handler's work is undone.
            ValueError: *lease* is not longer than nothing.
        """
        return await self._between(lambda: self._redrive(letter, lease))

    async def redrive_stream(
        self, stream: StreamName, *, lease: timedelta = WHILE_TRYING
    ) -> Redriven:
        """Handle all parked events of a stream again, in order, up to one that fails.

        A stream that was held is free again when the last one is resolved.

        Raises:
            SubscriptionStateError: somebody else tries one.
            SubscriptionError: the log does not have an event.
            LeaseLostError: as from `redrive`.
        """
        return await self._between(lambda: self._redrive_stream(stream, lease))

    async def discard(self, letter: DeadLetter) -> bool:
        """Forget a letter, so that its event stays unhandled for good.

        Gives False if it is not stored exactly so any more: look at it again.
        """
        gone = await self._store.dead_letters.delete(letter)
        if gone:
            fields = log_fields(self._name, position=letter.position)
            log.warning("a dead letter of %r is discarded", self._name, extra=fields)
        return gone

    async def _redrive_stream(self, stream: StreamName, lease: timedelta) -> Redriven:
        resolved = 0
        while True:
            letter = await self._first(stream)
            if letter is None:
                return Redriven(resolved)
            outcome = await self._redrive(letter, lease)
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

    async def _redrive(self, letter: DeadLetter, lease: timedelta) -> Redriven:
        inspected = await self.inspect(letter)
        _check_open(inspected.letter)
        await self._check_turn(inspected.letter)
        leases, id = self._store.leases, letter.event_id
        async with taken(leases, self._name, id, lease) as fence:
            ours = await self._take(inspected.letter)
            return await self._try(inspected, ours, fence)

    async def _try(
        self, inspected: Inspected[E], ours: DeadLetter, fence: Fence
    ) -> Redriven:
        recorded = inspected.recorded
        resolved = replace(
            ours,
            status="resolved",
            resolved_at=datetime.now(UTC),
            resolved_by=f"re-drive of {self._name}",
        )
        try:
            error = await self._again(recorded, (fence, SaveDeadLetter(resolved)))
        except LeaseLostError:  # somebody else's now
            raise
        except Exception:  # it is not known to be handled: give it back
            await self._store.dead_letters.update(replace(ours, status="failed"), ours)
            raise
        if error is None:
            await self._keep()
            await self._store.dead_letters.update(resolved, ours)
            return Redriven(1)
        failed = await letter_of(self._store, self._name, recorded, error, 1)
        await self._store.append(also=(fence, SaveDeadLetter(failed)))
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

    async def _take(self, letter: DeadLetter) -> DeadLetter:
        """Show that we try a letter, whose lease we have; it may show it already."""
        ours = replace(letter, status="retrying")
        if not await self._store.dead_letters.update(ours, letter):
            _check_open(await self._current(letter))
            raise SubscriptionStateError(
                f"the dead letter of event {letter.event_id} is not to be taken: it "
                "was changed meanwhile"
            )
        return ours


def _check_open(letter: DeadLetter) -> None:
    if letter.status == "resolved":
        raise SubscriptionStateError(
            f"the dead letter of event {letter.event_id} is not to be taken: it is "
            "resolved"
        )
