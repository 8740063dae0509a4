"""Say in the core's terms how a subscriber is run; the core delivers and retries."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import Any, Protocol
from uuid import UUID

from ..core.event import Recorded
from ..core.expectation import AnyQuery
from ..core.policy import Failure, FailurePolicy, Outcome, Park, Skip, Stop
from ..ports import Checkpoint, Checkpoints, SaveCheckpoint, Transaction
from ..runtime.delivery import (
    AnyHandler,
    Batched,
    Delivery,
    Parked,
    ParkEvent,
    Transactional,
)
from .checkpoints import CheckpointRepository
from .config import breaker_of, checkpoint_due
from .database import DatabaseProjection
from .events import DomainEvent
from .failures import Callbacks, ErrorClassifier, ErrorHandlingConfig, now
from .filters import EventFilter
from .retrying import ExponentialBackoffRetryPolicy, RetryPolicy, failure_policy
from .subscribers import HandlesBatches
from .subscription import Subscription
from .tables import outages


class DeadLetters(Protocol):
    """Where events go that a subscriber cannot handle."""

    async def add_failed_event(
        self,
        event_id: UUID,
        projection_name: str,
        event_type: str,
        event_data: dict[str, Any],
        error: Exception,
        retry_count: int = 0,
    ) -> None:
        """Keep an event with its error."""
        ...


class Delivering:
    """What all subscriptions of one manager share."""

    def __init__(
        self,
        checkpoints: CheckpointRepository,
        dead_letters: DeadLetters | None,
        handling: ErrorHandlingConfig | None,
    ) -> None:
        self.callbacks = Callbacks()
        self.handling = handling
        self._checkpoints = checkpoints
        self._dead_letters = dead_letters
        given = None if handling is None else handling.classifier
        self._classifier = given or ErrorClassifier()
        self._judges = given is not None

    def dead_letters_of(self, subscription: Subscription) -> DeadLetters | None:
        """Give the projection's own, else the manager's."""
        own: DeadLetters | None = getattr(subscription.subscriber, "dlq_repo", None)
        return own or self._dead_letters

    def delivery_of(
        self, subscription: Subscription, query: AnyQuery
    ) -> Delivery[DomainEvent]:
        """Give how the core is to run a subscription."""
        config = subscription.config
        last = self._last(subscription)
        in_transaction = isinstance(subscription.subscriber, DatabaseProjection)
        return Delivery(
            query=query,
            start=config.start_from,
            page=config.batch_size,
            on_failure=self._policy(subscription, last),
            park=self._park(subscription) if isinstance(last, Park) else None,
            breaker=breaker_of(config),
            checkpoint_due=checkpoint_due(config),
            checkpoints=None if in_transaction else self._kept(subscription),
            stuck_after=timedelta(seconds=2 * config.processing_timeout),
        )

    # Failures.

    def _last(self, subscription: Subscription) -> Skip | Park | Stop:
        kept = self.dead_letters_of(subscription) is not None
        if not subscription.config.continue_on_error:
            return Stop()
        if self.handling is not None:
            return self.handling.last(dead_letters=kept)
        return Park() if kept else Stop()

    def _policy(
        self, subscription: Subscription, last: Skip | Park | Stop
    ) -> FailurePolicy:
        if self.handling is not None and not self.handling.retries:
            return self._limited(subscription, lambda _: last)
        own: RetryPolicy | None = getattr(subscription.subscriber, "retry_policy", None)
        retry = own or ExponentialBackoffRetryPolicy(
            subscription.config.get_retry_config()
        )
        if not self._judges:
            return self._limited(subscription, failure_policy(retry, last))
        classify = self._classifier.classify
        judged = failure_policy(retry, last, lambda error: classify(error).retryable)
        return self._limited(subscription, judged)

    def _limited(
        self, subscription: Subscription, policy: FailurePolicy
    ) -> FailurePolicy:
        most = None if self.handling is None else self.handling.max_errors_before_stop
        if most is None:
            return policy

        def limited(failure: Failure) -> Outcome:
            return Stop() if subscription.events_failed >= most else policy(failure)

        return limited

    def _park(self, subscription: Subscription) -> ParkEvent[DomainEvent]:
        async def park(parked: Parked[DomainEvent]) -> None:
            with outages():
                await self.put_aside(
                    subscription, parked.recorded, parked.error, parked.attempts - 1
                )
            subscription.error_stats.dlq_count += 1

        return park

    async def put_aside(
        self,
        subscription: Subscription,
        recorded: Recorded[DomainEvent],
        error: Exception,
        retry_count: int,
    ) -> None:
        """Put an event into the dead letters."""
        letters, event = self.dead_letters_of(subscription), recorded.event
        assert letters is not None  # noqa: S101 - else nothing is put aside
        await letters.add_failed_event(
            event_id=event.event_id,
            projection_name=subscription.name,
            event_type=event.event_type,
            event_data=event.to_dict(),
            error=error,
            retry_count=retry_count,
        )

    # Positions.

    def _kept(self, subscription: Subscription) -> Checkpoints:
        """Give the repository as the core asks for it."""
        repository = self._checkpoints

        async def load(name: str) -> Checkpoint | None:
            with outages():
                position = await repository.get_position(name)
            return None if position is None else Checkpoint(name, position)

        async def save(change: SaveCheckpoint) -> None:
            last = subscription.last  # there is one: nothing else is noted
            if last is not None:
                event = last.event
                with outages():
                    await repository.save_position(
                        change.name, change.position, event.event_id, event.event_type
                    )

        return Checkpoints(load, save, repository.reset_checkpoint)

    # Handling.

    def handler_of(
        self, subscription: Subscription, chosen: EventFilter
    ) -> AnyHandler[DomainEvent]:
        """Give the core's handler: by itself, in batches, or in transactions."""
        subscriber: Any = subscription.subscriber
        timeout = subscription.config.processing_timeout
        if isinstance(subscriber, DatabaseProjection):
            projection = subscriber

            async def apply(
                tx: Transaction[DomainEvent], batch: Sequence[Recorded[DomainEvent]]
            ) -> None:
                async def work(events: list[DomainEvent]) -> None:
                    await projection.handle_in(tx.connection, events)

                await self._deliver(
                    subscription, chosen, batch, _in_time(work, timeout)
                )

            return Transactional(apply)
        if isinstance(subscriber, HandlesBatches):
            call = _in_time(subscriber.handle_batch, timeout)

            async def many(batch: Sequence[Recorded[DomainEvent]]) -> None:
                await self._deliver(subscription, chosen, batch, call)

            return Batched(many)
        handle = _in_time(subscriber.handle, timeout)

        async def one(recorded: Recorded[DomainEvent]) -> None:
            await self._deliver(
                subscription, chosen, (recorded,), lambda events: handle(events[0])
            )

        return one

    async def _deliver(
        self,
        subscription: Subscription,
        chosen: EventFilter,
        batch: Sequence[Recorded[DomainEvent]],
        call: Callable[[list[DomainEvent]], Awaitable[None]],
    ) -> None:
        wanted = [recorded for recorded in batch if chosen.admits(recorded)]
        if wanted:
            try:
                await call([recorded.event for recorded in wanted])
            except Exception as error:
                if len(batch) == 1:  # of more, which one it was is found out first
                    info = subscription.note_error(batch[0], error, self._classifier)
                    await self.callbacks.tell(info)
                raise
            subscription.last_processed_at = now()
        subscription.filtered += len(batch) - len(wanted)
        subscription.note_delivered(batch[-1])


def _in_time(
    call: Callable[[Any], Any], timeout: float
) -> Callable[[Any], Awaitable[None]]:
    """Call something sync or async; what is async has *timeout* seconds."""

    async def run(given: Any) -> None:
        done = call(given)
        if inspect.isawaitable(done):
            async with asyncio.timeout(timeout):
                await done

    return run
