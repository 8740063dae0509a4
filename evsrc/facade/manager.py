"""Run subscribers over the log, with names, checkpoints and health."""

from __future__ import annotations

import asyncio
import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Any, Literal, Protocol, Self, TypeAlias
from uuid import UUID

from msgspec import Struct

from ..core.errors import (
    SubscriptionAlreadyExistsError,
    SubscriptionConfigError,
    SubscriptionError,
)
from ..core.event import Recorded
from ..core.expectation import ALL, AnyQuery, Query
from ..core.policy import Park, Stop, retry_then
from ..ports import Checkpoint, Checkpoints, SaveCheckpoint
from ..runtime.delivery import (
    CheckpointDue,
    Delivery,
    Handler,
    Parked,
    State,
    after_page,
)
from ..runtime.subscribe import Subscription as Core
from ..runtime.subscribe import subscribe
from .bus import EventBus, HandlesEvents, InMemoryEventBus
from .checkpoints import CheckpointRepository
from .events import DomainEvent
from .stores import EventStore

Reports: TypeAlias = dict[str, Exception | None]


class CheckpointStrategy(Enum):
    """When a subscription's position is saved."""

    EVERY_EVENT = "every_event"
    EVERY_BATCH = "every_batch"
    PERIODIC = "periodic"


class SubscriptionState(Enum):
    """What a subscription is doing."""

    STARTING = "starting"
    CATCHING_UP = "catching_up"
    LIVE = "live"
    PAUSED = "paused"
    STOPPED = "stopped"
    ERROR = "error"


_STATES = {
    State.STARTING: SubscriptionState.STARTING,
    State.CATCHING_UP: SubscriptionState.CATCHING_UP,
    State.LIVE: SubscriptionState.LIVE,
    State.RETRYING: SubscriptionState.ERROR,
    State.CIRCUIT_OPEN: SubscriptionState.ERROR,
    State.PAUSED: SubscriptionState.PAUSED,
    State.STOPPED: SubscriptionState.STOPPED,
    State.FAILED: SubscriptionState.ERROR,
}


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


@dataclass(frozen=True)
class SubscriptionConfig:
    """How a subscriber is run.

    Args:
        start_from: "checkpoint" (where it was, else the beginning), "beginning", "end",
            or after a position.
        batch_size: events read at once.
        checkpoint_strategy: when the position is saved.
        checkpoint_interval_seconds: how often, if periodic.
        processing_timeout: seconds a handler may take for one event.
        event_types: classes to deliver; by default those that the subscriber names.
        aggregate_types: types of aggregates to deliver.
        tenant_id: deliver this tenant's events only.
        continue_on_error: once the retries are used up, put the event into the
            manager's dead letters and go on; without dead letters, or if False, stop
            with state ERROR. An event is never passed over unless it is kept somewhere.
        max_retries, initial_retry_delay, max_retry_delay, retry_exponential_base,
            retry_jitter: how a failed event is tried again (delays in seconds).

    Raises:
        SubscriptionConfigError: a value is out of its range.
    """

    start_from: Literal["beginning", "end", "checkpoint"] | int = "checkpoint"
    batch_size: int = 100
    checkpoint_strategy: CheckpointStrategy = CheckpointStrategy.EVERY_BATCH
    checkpoint_interval_seconds: float = 5.0
    processing_timeout: float = 30.0
    event_types: tuple[type[DomainEvent], ...] | None = None
    aggregate_types: tuple[str, ...] | None = None
    tenant_id: UUID | None = None
    continue_on_error: bool = True
    max_retries: int = 5
    initial_retry_delay: float = 1.0
    max_retry_delay: float = 60.0
    retry_exponential_base: float = 2.0
    retry_jitter: float = 0.1

    def __post_init__(self) -> None:
        start = self.start_from
        named = start in ("beginning", "end", "checkpoint")
        if not named and (not isinstance(start, int) or start < 0):
            _refuse("start_from", start, "a position >= 0, or a named start")
        for name, least, most in (
            ("batch_size", 1, math.inf),
            ("checkpoint_interval_seconds", 0.001, math.inf),
            ("processing_timeout", 0.001, math.inf),
            ("max_retries", 0, math.inf),
            ("initial_retry_delay", 0, self.max_retry_delay),
            ("retry_exponential_base", 1, math.inf),
            ("retry_jitter", 0, 1),
        ):
            if not least <= getattr(self, name) <= most:
                _refuse(name, getattr(self, name), f"from {least} to {most}")


def _refuse(name: str, value: object, wanted: str) -> None:
    raise SubscriptionConfigError(f"{name} must be {wanted}, not {value!r}")


def create_catch_up_config(
    batch_size: int = 1000, checkpoint_every_batch: bool = True
) -> SubscriptionConfig:
    """Give a configuration for working through a long history."""
    strategy = CheckpointStrategy.EVERY_BATCH
    if not checkpoint_every_batch:
        strategy = CheckpointStrategy.PERIODIC
    return SubscriptionConfig(
        start_from="beginning", batch_size=batch_size, checkpoint_strategy=strategy
    )


def create_live_only_config() -> SubscriptionConfig:
    """Give a configuration that leaves history out."""
    return SubscriptionConfig(start_from="end")


class SubscriptionStatus(Struct, frozen=True):
    """How a subscription is doing."""

    name: str
    state: str
    position: int
    events_processed: int
    events_failed: int
    events_dlq: int
    last_processed_at: datetime | None
    error: str | None


class Subscription:
    """One subscriber under a name; made by `SubscriptionManager.subscribe`."""

    def __init__(
        self,
        name: str,
        config: SubscriptionConfig,
        subscriber: HandlesEvents,
    ) -> None:
        self.name = name
        self.config = config
        self.subscriber = subscriber
        self.core: Core[DomainEvent]
        self.last_event: DomainEvent | None = None
        self.last_processed_at: datetime | None = None

    @property
    def last_event_id(self) -> UUID | None:
        """The id of the last event that was dealt with."""
        return None if self.last_event is None else self.last_event.event_id

    @property
    def last_event_type(self) -> str | None:
        """The stored name of that event."""
        return None if self.last_event is None else self.last_event.event_type

    @property
    def state(self) -> SubscriptionState:
        """What it is doing; ERROR also while it retries."""
        return _STATES[self.core.state]

    @property
    def last_processed_position(self) -> int:
        """The position that everything up to has been handled (or parked)."""
        return self.core.position

    @property
    def events_processed(self) -> int:
        """How many events were handled."""
        return self.core.handled

    @property
    def events_failed(self) -> int:
        """How many attempts failed."""
        return self.core.failed

    @property
    def events_dlq(self) -> int:
        """How many events were put into the dead letters."""
        return self.core.parked

    @property
    def last_error(self) -> Exception | None:
        """Why it retries or stopped."""
        return self.core.error

    @property
    def is_running(self) -> bool:
        """Whether it delivers, or will go on to."""
        return self.core.running

    @property
    def is_paused(self) -> bool:
        """Whether it waits for `resume_subscription`."""
        return self.core.state is State.PAUSED

    async def caught_up(self, timeout: float = 30.0) -> None:
        """Return when everything that is in the log now has been handled.

        Raises:
            SubscriptionError: it failed or stopped before.
            TimeoutError: *timeout* seconds are over.
        """
        await self.core.caught_up(timedelta(seconds=timeout))

    def get_status(self) -> SubscriptionStatus:
        """Tell how it is doing."""
        return SubscriptionStatus(
            self.name,
            self.state.value,
            self.last_processed_position,
            self.events_processed,
            self.events_failed,
            self.events_dlq,
            self.last_processed_at,
            None if self.last_error is None else repr(self.last_error),
        )


class SubscriptionManager:
    """Runs subscribers: each catches up with the log, then follows it.

    Args:
        event_store: the log.
        event_bus: with an `InMemoryEventBus`, `publish` (and so `save`) returns when
            the subscriptions that keep up have seen the events; nobody waits for the
            others.
        checkpoint_repo: where positions are kept.
        shutdown_timeout: how many seconds `stop` takes at most.
        dlq_repo: where events go that cannot be handled.
    """

    def __init__(
        self,
        event_store: EventStore,
        event_bus: EventBus,
        checkpoint_repo: CheckpointRepository,
        shutdown_timeout: float = 30.0,
        *,
        dlq_repo: DeadLetters | None = None,
    ) -> None:
        self._store = event_store
        self._bus = event_bus
        self._checkpoints = checkpoint_repo
        self._shutdown_timeout = shutdown_timeout
        self._dlq = dlq_repo
        self._subscriptions: dict[str, Subscription] = {}
        self._behind: set[str] = set()
        self._running = False

    @property
    def is_running(self) -> bool:
        """Whether it was started and not stopped."""
        return self._running

    @property
    def subscriptions(self) -> list[Subscription]:
        """All subscriptions."""
        return list(self._subscriptions.values())

    @property
    def subscription_names(self) -> list[str]:
        """Their names."""
        return list(self._subscriptions)

    @property
    def subscription_count(self) -> int:
        """How many there are."""
        return len(self._subscriptions)

    def get_subscription(self, name: str) -> Subscription | None:
        """Give the subscription of a name, or None."""
        return self._subscriptions.get(name)

    def get_all_statuses(self) -> dict[str, SubscriptionStatus]:
        """Tell how each of them is doing."""
        return {name: s.get_status() for name, s in self._subscriptions.items()}

    async def subscribe(
        self,
        subscriber: HandlesEvents,
        config: SubscriptionConfig | None = None,
        name: str | None = None,
    ) -> Subscription:
        """Add a subscriber: any object with `handle(event)`, sync or async.

        Args:
            subscriber: which events it gets is said by *config*, else by its
                `subscribed_to()`, else it gets all.
            config: how it is run.
            name: what its position is kept under; by default the class's name.

        Raises:
            SubscriptionAlreadyExistsError: the name is taken.
            SubscriptionConfigError: it has no `handle`.
        """
        name = name or type(subscriber).__name__
        if name in self._subscriptions:
            raise SubscriptionAlreadyExistsError(name)
        if not isinstance(subscriber, HandlesEvents):
            raise SubscriptionConfigError(f"{subscriber!r} has no `handle` method")
        config = config or SubscriptionConfig()
        subscription = Subscription(name, config, subscriber)
        subscription.core = await self._core(subscription)
        self._subscriptions[name] = subscription
        if self._running:
            subscription.core.start()
        return subscription

    async def unsubscribe(self, name: str) -> bool:
        """Stop and remove a subscription; tell whether there was one."""
        subscription = self._subscriptions.pop(name, None)
        if subscription is None:
            return False
        await subscription.core.stop(timedelta(seconds=self._shutdown_timeout))
        return True

    async def start(self, subscription_names: Sequence[str] | None = None) -> Reports:
        """Start delivering; return when history is handled, or cannot be for now.

        Returns:
            for each subscription None, or the error that keeps it back.
        """
        if not self._running:
            self._running = True
            if isinstance(self._bus, InMemoryEventBus):
                self._bus.attach(self._settle)
        names = (
            self.subscription_names
            if subscription_names is None
            else subscription_names
        )
        wanted = [self._subscriptions[name] for name in names]
        for subscription in wanted:
            if subscription.core.ended:  # a stopped one starts anew from its checkpoint
                subscription.core = await self._core(subscription)
            if not subscription.core.running:
                subscription.core.start()
        head = await (await self._store.core()).head()
        forever = timedelta(days=365)
        await asyncio.gather(*(s.core.settled(head, forever) for s in wanted))
        return {s.name: s.core.error for s in wanted}

    async def stop(
        self,
        timeout: float | None = None,
        subscription_names: Sequence[str] | None = None,
    ) -> None:
        """Finish the events in hand, save positions, end; within *timeout* seconds."""
        seconds = self._shutdown_timeout if timeout is None else timeout
        if subscription_names is None:
            self._running = False
            if isinstance(self._bus, InMemoryEventBus):
                self._bus.detach(self._settle)
        names = (
            self.subscription_names
            if subscription_names is None
            else subscription_names
        )
        await asyncio.gather(
            *(
                self._subscriptions[n].core.stop(timedelta(seconds=seconds))
                for n in names
            )
        )

    async def pause_subscription(self, name: str) -> bool:
        """Have a subscription wait; tell whether it exists and runs."""
        subscription = self._subscriptions.get(name)
        if subscription is None or not subscription.core.running:
            return False
        subscription.core.pause()
        return True

    async def resume_subscription(self, name: str) -> bool:
        """Have a paused subscription go on; tell whether it was paused."""
        subscription = self._subscriptions.get(name)
        if subscription is None or not subscription.is_paused:
            return False
        subscription.core.resume()
        return True

    def get_health(self) -> dict[str, Any]:
        """Tell how all of it is doing: status, running, and each subscription."""
        states = [s.state for s in self._subscriptions.values()]
        if SubscriptionState.ERROR in states:
            status = "unhealthy"
        elif not self._running:
            status = "stopped"
        elif SubscriptionState.STARTING in states:
            status = "starting"
        else:
            status = "healthy"
        return {
            "status": status,
            "running": self._running,
            "subscription_count": len(states),
            "subscriptions": [
                {
                    "name": s.name,
                    "status": s.state.value,
                    "position": s.core.position,
                    "events_processed": s.events_processed,
                    "error": s.get_status().error,
                }
                for s in self._subscriptions.values()
            ],
        }

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def _settle(self, patience: timedelta) -> None:
        """Wait for the subscriptions that keep up to see what was just saved."""
        head = await (await self._store.core()).head()
        waits = [
            self._settle_one(subscription, head, patience)
            for subscription in self._subscriptions.values()
            if not subscription.core.runs_here
        ]
        await asyncio.gather(*waits)

    async def _settle_one(
        self, subscription: Subscription, head: int, patience: timedelta
    ) -> None:
        core, name = subscription.core, subscription.name
        if name in self._behind and core.state is not State.LIVE:
            return
        if await core.settled(head, patience):
            self._behind.discard(name)
        else:
            self._behind.add(name)

    async def _core(self, subscription: Subscription) -> Core[DomainEvent]:
        """Make the delivery behind a subscription."""
        config = subscription.config
        park = self._park if config.continue_on_error and self._dlq else None
        delivery: Delivery[DomainEvent] = Delivery(
            query=self._query(config, subscription.subscriber),
            start=config.start_from,
            page=config.batch_size,
            on_failure=retry_then(
                Stop() if park is None else Park(),
                retries=config.max_retries,
                delay=timedelta(seconds=config.initial_retry_delay),
                factor=config.retry_exponential_base,
                longest=timedelta(seconds=config.max_retry_delay),
                jitter=config.retry_jitter,
            ),
            park=park,
            checkpoint_due=_due(config),
            checkpoints=self._kept(subscription),
        )
        record = await self._store.core()
        return subscribe(record, subscription.name, _deliver(subscription), delivery)

    def _query(self, config: SubscriptionConfig, subscriber: HandlesEvents) -> AnyQuery:
        named: Callable[[], Sequence[type[DomainEvent]]] | None = getattr(
            subscriber, "subscribed_to", None
        )
        classes = config.event_types or (() if named is None else named())
        types = [self._store.event_registry.name_of(cls) for cls in classes]
        categories = config.aggregate_types or ()
        if not types and not categories:
            return ALL
        return Query.of(categories=categories, types=types)

    def _kept(self, subscription: Subscription) -> Checkpoints:
        """Give the repository as the core asks for it."""
        repository = self._checkpoints

        async def load(name: str) -> Checkpoint | None:
            position = await repository.get_position(name)
            return None if position is None else Checkpoint(name, position)

        async def save(change: SaveCheckpoint) -> None:
            last = subscription.last_event  # there is one: nothing else is noted
            if last is not None:
                await repository.save_position(
                    change.name, change.position, last.event_id, last.event_type
                )

        return Checkpoints(load, save, repository.reset_checkpoint)

    async def _park(self, parked: Parked[DomainEvent]) -> None:
        event = parked.recorded.event
        if self._dlq is None:
            raise SubscriptionError("there are no dead letters to park in")
        await self._dlq.add_failed_event(
            event_id=event.event_id,
            projection_name=parked.subscription,
            event_type=event.event_type,
            event_data=event.to_dict(),
            error=parked.error,
            retry_count=parked.attempts - 1,
        )


def _deliver(subscription: Subscription) -> Handler[DomainEvent]:
    """Make the function that gives an event to the subscriber, sync or async."""
    config, call = subscription.config, subscription.subscriber.handle
    is_async = inspect.iscoroutinefunction(call)

    async def deliver(recorded: Recorded[DomainEvent]) -> None:
        event = recorded.event
        if config.tenant_id is None or event.tenant_id == config.tenant_id:
            if is_async:
                async with asyncio.timeout(config.processing_timeout):
                    await call(event)
            else:
                call(event)
            subscription.last_processed_at = datetime.now(UTC)
        subscription.last_event = event

    return deliver


def _due(config: SubscriptionConfig) -> CheckpointDue:
    match config.checkpoint_strategy:
        case CheckpointStrategy.EVERY_BATCH:
            return after_page
        case CheckpointStrategy.EVERY_EVENT:
            return lambda progress: progress.events > 0
        case CheckpointStrategy.PERIODIC:
            interval = config.checkpoint_interval_seconds
            return lambda progress: progress.seconds >= interval
