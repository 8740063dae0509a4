"""Say in the core's terms how a subscriber is run; the core delivers and retries."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from functools import partial
from typing import Any, Final, TypeAlias

from ..core.event import Recorded
from ..core.expectation import AnyQuery
from ..core.policy import Failure, FailurePolicy, Outcome, Park, Retry, Skip, Stop
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
from .dlq import DeadLetters
from .events import DomainEvent
from .failures import (
    ErrorCallback,
    ErrorClassifier,
    ErrorHandlingConfig,
    ErrorInfo,
    now,
)
from .filters import EventFilter
from .retrying import ExponentialBackoffRetryPolicy, RetryPolicy
from .subscribers import HandlesBatches
from .subscription import Subscription
from .tables import outages

_log: Final = logging.getLogger("evsrc")

Wants: TypeAlias = Callable[[ErrorInfo], bool]


class Delivering:
    """What all subscriptions of one manager share."""

    def __init__(
        self,
        checkpoints: CheckpointRepository,
        dead_letters: DeadLetters | None,
        handling: ErrorHandlingConfig,
    ) -> None:
        self.callbacks: list[tuple[Wants, ErrorCallback]] = []
        self._handling = handling
        self._checkpoints = checkpoints
        self._dead_letters = dead_letters
        self._classifier = handling.classifier or ErrorClassifier()

    def dead_letters_of(self, subscription: Subscription) -> DeadLetters | None:
        """Give the projection's own, else the manager's."""
        own: DeadLetters | None = getattr(subscription.subscriber, "dlq_repo", None)
        return own or self._dead_letters

    def delivery_of(
        self, subscription: Subscription, query: AnyQuery
    ) -> Delivery[DomainEvent]:
        """Give how the core is to run a subscription."""
        config = subscription.config
        kept = self.dead_letters_of(subscription) is not None
        last = self._handling.last(dead_letters=kept)
        if not config.continue_on_error:
            last = Stop()
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

    def _policy(
        self, subscription: Subscription, last: Skip | Park | Stop
    ) -> FailurePolicy:
        """Retry as the projection or the configuration says, then do *last*."""
        handling, classify = self._handling, self._classifier.classify
        most = handling.max_errors_before_stop
        own: RetryPolicy | None = getattr(subscription.subscriber, "retry_policy", None)
        retry = own or ExponentialBackoffRetryPolicy(
            subscription.config.get_retry_config()
        )

        def policy(failure: Failure) -> Outcome:
            attempt, error = failure.attempt - 1, failure.error
            if most is not None and subscription.events_failed >= most:
                return Stop()
            if (
                handling.retries
                and attempt < retry.max_retries
                and (handling.classifier is None or classify(error).retryable)
                and retry.should_retry(attempt, error)
            ):
                return Retry(timedelta(seconds=max(0.0, retry.get_backoff(attempt))))
            return last

        return policy

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
        deliver = partial(self._deliver, subscription, chosen)
        if isinstance(subscriber, DatabaseProjection):
            handle_in = subscriber.handle_in

            async def apply(
                tx: Transaction[DomainEvent], batch: Sequence[Recorded[DomainEvent]]
            ) -> None:
                await deliver(
                    batch, _in_time(partial(handle_in, tx.connection), timeout)
                )

            return Transactional(apply)
        if isinstance(subscriber, HandlesBatches):
            call = _in_time(subscriber.handle_batch, timeout)

            async def many(batch: Sequence[Recorded[DomainEvent]]) -> None:
                await deliver(batch, call)

            return Batched(many)
        handle = _in_time(subscriber.handle, timeout)

        async def one(recorded: Recorded[DomainEvent]) -> None:
            await deliver((recorded,), lambda events: handle(events[0]))

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
                    await self._tell(info)
                raise
            subscription.last_processed_at = now()
        subscription.filtered += len(batch) - len(wanted)
        subscription.note_delivered(batch[-1])

    async def _tell(self, info: ErrorInfo) -> None:
        """Tell who wants to know; who raises is logged, and changes nothing."""
        for wants, callback in self.callbacks:
            if wants(info):
                try:
                    done = callback(info)
                    if inspect.isawaitable(done):
                        await done
                except Exception as error:  # noqa: BLE001 - it is not the handler's
                    name = type(error).__qualname__
                    _log.warning("an error callback raised %s", name)


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
