"""Run subscribers over the log, with names, checkpoints and health."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from enum import Enum
from signal import Signals
from typing import Any, Protocol, Self

from msgspec import Struct

from ..core.errors import (
    SubscriptionAlreadyExistsError,
    SubscriptionConfigError,
    SubscriptionError,
)
from ..ports import EventStore as Record
from ..runtime.delivery import AnyHandler, Delivery, State
from ..runtime.signals import on_signals
from ..runtime.subscribe import Subscription as Core
from ..runtime.subscribe import subscribe
from .bus import EventBus, HandlesEvents, InMemoryEventBus
from .checkpoints import CheckpointRepository
from .config import SubscriptionConfig
from .database import DatabaseProjection, record_of
from .delivering import Delivering
from .dlq import DeadLetters, DLQRepository
from .events import DomainEvent
from .failures import (
    ErrorCallback,
    ErrorCategory,
    ErrorHandlingConfig,
    ErrorSeverity,
    now,
)
from .filters import EventFilter
from .health import (
    HealthCheckConfig,
    LivenessStatus,
    ManagerHealth,
    ReadinessStatus,
    SubscriptionHealth,
    health_of,
    liveness,
    manager_health,
    readiness,
)
from .redriving import redrive
from .stores import EventStore
from .subscribers import HandlesBatches
from .subscription import PauseReason, Subscription, SubscriptionState
from .subscription import SubscriptionStatus as Status

_FOREVER = timedelta(days=365)


class ShutdownPhase(Enum):
    """Where a shutdown is; FORCED: a handler had to be cancelled."""

    RUNNING = "running"
    STOPPING = "stopping"
    STOPPED = "stopped"
    FORCED = "forced"


class ShutdownResult(Struct, frozen=True, kw_only=True):
    """How a shutdown went.

    Args:
        phase: STOPPED or FORCED.
        duration_seconds: how long it took.
        subscriptions_stopped: how many ran until then.
        checkpoints_saved: of how many the saved position is the one they were at.
        forced: whether a handler was cancelled; its event comes again.
        signal: what told the process to end; None: `request_shutdown`.
    """

    phase: ShutdownPhase
    duration_seconds: float
    subscriptions_stopped: int
    checkpoints_saved: int
    forced: bool
    signal: str | None


class Subscribe(Protocol):
    """Makes the core's subscription: `evsrc.subscribe`, or one that does more."""

    def __call__(
        self,
        store: Record[DomainEvent],
        name: str,
        handle: AnyHandler[DomainEvent],
        delivery: Delivery[DomainEvent],
    ) -> Core[DomainEvent]:
        """Make the subscription."""
        ...


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
        error_handling_config: what is done about failures; by default what each
            subscription's `continue_on_error` says.
        health_check_config: from where on a subscription is degraded or unhealthy.
        subscribe: makes the core's subscriptions, such as `traced_subscribe`.
    """

    def __init__(
        self,
        event_store: EventStore,
        event_bus: EventBus,
        checkpoint_repo: CheckpointRepository,
        shutdown_timeout: float = 30.0,
        *,
        dlq_repo: DeadLetters | None = None,
        error_handling_config: ErrorHandlingConfig | None = None,
        health_check_config: HealthCheckConfig | None = None,
        subscribe: Subscribe = subscribe,
    ) -> None:
        self._store = event_store
        self._bus = event_bus
        self._dlq = dlq_repo
        self._shutdown_timeout = shutdown_timeout
        self._handling = error_handling_config or ErrorHandlingConfig()
        self._delivering = Delivering(checkpoint_repo, dlq_repo, self._handling)
        self._health = health_check_config or HealthCheckConfig()
        self._subscribe = subscribe
        self._subscriptions: dict[str, Subscription] = {}
        self._behind: set[str] = set()
        self._started_at = now()
        self._shutdown = asyncio.Event()
        self.is_running = False
        self.shutdown_phase = ShutdownPhase.RUNNING
        self.last_shutdown_result: ShutdownResult | None = None

    # Subscriptions.

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

    def get_all_statuses(self) -> dict[str, Status]:
        """Tell how each of them is doing."""
        return {name: s.get_status() for name, s in self._subscriptions.items()}

    async def subscribe(
        self,
        subscriber: HandlesEvents | HandlesBatches,
        config: SubscriptionConfig | None = None,
        name: str | None = None,
    ) -> Subscription:
        """Add a subscriber: any object with `handle(event)` or `handle_batch(events)`.

        Args:
            subscriber: which events it gets is said by *config*, else by its
                `subscribed_to()`, else it gets all. Its methods may be sync or async. A
                `DatabaseProjection` is handled exactly once, in transactions.
            config: how it is run.
            name: what its position is kept under; by default the class's name.

        Raises:
            SubscriptionAlreadyExistsError: the name is taken.
            SubscriptionConfigError: it has neither method, or cannot be run so.
        """
        name = name or type(subscriber).__name__
        if name in self._subscriptions:
            raise SubscriptionAlreadyExistsError(name)
        if not isinstance(subscriber, (HandlesEvents, HandlesBatches)):
            raise SubscriptionConfigError(
                f"{subscriber!r} has no `handle` method, and no `handle_batch`"
            )
        subscription = Subscription(
            name,
            config or SubscriptionConfig(),
            subscriber,
            self._handling.max_recent_errors,
        )
        subscription.core = await self._core(subscription)
        self._subscriptions[name] = subscription
        if self.is_running:
            self._start_one(subscription)
        return subscription

    async def unsubscribe(self, name: str) -> bool:
        """Stop and remove a subscription; tell whether there was one."""
        subscription = self._subscriptions.pop(name, None)
        if subscription is None:
            return False
        await subscription.core.stop(self._span(None))
        return True

    async def _core(self, subscription: Subscription) -> Core[DomainEvent]:
        """Make the delivery behind a subscription."""
        subscriber, delivering = subscription.subscriber, self._delivering
        chosen = EventFilter.from_config_and_subscriber(subscription.config, subscriber)
        record = await self._store.core()
        if isinstance(subscriber, DatabaseProjection):
            record = record_of(
                subscriber, self._store, record, lambda: subscription.last
            )
        query = chosen.query(self._store.event_registry)
        subscription.filtered, subscription.record = 0, record
        try:
            return self._subscribe(
                record,
                subscription.name,
                delivering.handler_of(subscription, chosen),
                delivering.delivery_of(subscription, query),
            )
        except ValueError as error:
            raise SubscriptionConfigError(f"{subscription.name}: {error}") from error

    # Starting and stopping.

    async def start(
        self,
        subscription_names: Sequence[str] | None = None,
        concurrent: bool = True,
    ) -> dict[str, Exception | None]:
        """Start delivering; return when history is handled, or cannot be for now.

        All subscriptions, or those named; all at once, or each when the one before it
        has had the time to catch up. Gives for each None, or the error that keeps it
        back.
        """
        if not self.is_running:
            self.is_running, self._started_at = True, now()
            self._shutdown.clear()
            self.shutdown_phase = ShutdownPhase.RUNNING
            if isinstance(self._bus, InMemoryEventBus):
                self._bus.attach(self._settle)
        wanted = self._named(subscription_names)
        for group in [wanted] if concurrent else [[one] for one in wanted]:
            for subscription in group:
                if subscription.is_terminal:  # it starts anew from its checkpoint
                    subscription.core = await self._core(subscription)
                if not subscription.is_running:
                    self._start_one(subscription)
            head = await (await self._store.core()).head()
            await asyncio.gather(*(s.core.settled(head, _FOREVER) for s in group))
        return {s.name: s.core.error for s in wanted}

    def _start_one(self, subscription: Subscription) -> None:
        subscription.started_at = now()
        subscription.core.start()

    def _named(self, names: Sequence[str] | None) -> list[Subscription]:
        if names is None:
            return self.subscriptions
        return [self._subscriptions[name] for name in names]

    async def stop(
        self,
        timeout: float | None = None,
        subscription_names: Sequence[str] | None = None,
    ) -> None:
        """Finish the events in hand, save positions, end; within *timeout* seconds."""
        if subscription_names is None:
            self._detach()
        wanted, span = self._named(subscription_names), self._span(timeout)
        await asyncio.gather(*(s.core.stop(span) for s in wanted))

    def _span(self, seconds: float | None) -> timedelta:
        return timedelta(seconds=self._shutdown_timeout if seconds is None else seconds)

    def _detach(self) -> None:
        self.is_running = False
        if isinstance(self._bus, InMemoryEventBus):
            self._bus.detach(self._settle)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    # Shutting down with the process.

    async def run_until_shutdown(
        self, shutdown_timeout: float | None = None
    ) -> ShutdownResult:
        """Run until SIGTERM, SIGINT or `request_shutdown`, then stop all subscriptions.

        It starts what does not run. Each subscription finishes what it has in hand and
        saves its position, within *shutdown_timeout* seconds; then the program goes on
        to its end. Meanwhile another signal has the effect that it had before, which is
        to end the process at once. (On Windows, asyncio knows no signals.)

        Raises:
            StoreError: the store cannot be opened.
        """
        told: list[Signals] = []

        def tell(number: Signals) -> None:
            told.append(number)
            self._shutdown.set()

        self._shutdown.clear()
        with on_signals(tell):
            await self._until_told()
        self.shutdown_phase = ShutdownPhase.STOPPING
        self._detach()
        name = told[0].name if told else None
        result = await self._shut_down(self._span(shutdown_timeout), name)
        self.shutdown_phase, self.last_shutdown_result = result.phase, result
        return result

    async def _shut_down(self, span: timedelta, signal: str | None) -> ShutdownResult:
        loop = asyncio.get_running_loop()
        began, running = loop.time(), [s for s in self.subscriptions if s.is_running]
        ended = all(await asyncio.gather(*(s.core.stop(span) for s in running)))
        saved = [s for s in running if s.core.status().checkpoint == s.core.position]
        return ShutdownResult(
            phase=ShutdownPhase.STOPPED if ended else ShutdownPhase.FORCED,
            duration_seconds=loop.time() - began,
            subscriptions_stopped=len(running),
            checkpoints_saved=len(saved),
            forced=not ended,
            signal=signal,
        )

    async def _until_told(self) -> None:
        """Start, and wait for the word to stop; it may come before all has started."""
        told = asyncio.ensure_future(self._shutdown.wait())
        starting = asyncio.ensure_future(self.start())
        try:
            await asyncio.wait((told, starting), return_when=asyncio.FIRST_COMPLETED)
            if starting.done():
                starting.result()
                await told
        except BaseException:
            await self.stop()
            raise
        finally:
            told.cancel()
            starting.cancel()

    def request_shutdown(self) -> None:
        """Have `run_until_shutdown` stop, as if a signal had come."""
        self._shutdown.set()

    @property
    def is_shutting_down(self) -> bool:
        """Whether `run_until_shutdown` stops the subscriptions now."""
        return self.shutdown_phase is ShutdownPhase.STOPPING

    # Pausing.

    async def pause_subscription(
        self, name: str, reason: PauseReason | None = None
    ) -> bool:
        """Have a subscription wait; tell whether it exists and runs."""
        paused = self._subscriptions.get(name)
        return paused is not None and paused.pause(reason)

    async def resume_subscription(self, name: str) -> bool:
        """Have a paused subscription go on; tell whether it was paused."""
        paused = self._subscriptions.get(name)
        return paused is not None and paused.resume()

    async def pause_all(self, reason: PauseReason | None = None) -> dict[str, bool]:
        """Have all subscriptions wait; tell which run."""
        return {name: s.pause(reason) for name, s in self._subscriptions.items()}

    async def resume_all(self) -> dict[str, bool]:
        """Have all paused subscriptions go on; tell which were paused."""
        return {name: s.resume() for name, s in self._subscriptions.items()}

    @property
    def paused_subscriptions(self) -> list[Subscription]:
        """The subscriptions that wait."""
        return [s for s in self._subscriptions.values() if s.is_paused]

    @property
    def paused_subscription_names(self) -> list[str]:
        """Their names."""
        return [s.name for s in self.paused_subscriptions]

    # Failures.

    def on_error(self, callback: ErrorCallback) -> None:
        """Have *callback*, sync or async, told of each failed attempt."""
        self._delivering.callbacks.append((lambda _: True, callback))

    def on_error_category(
        self, category: ErrorCategory, callback: ErrorCallback
    ) -> None:
        """Have *callback* told of failed attempts of one category."""
        self._delivering.callbacks.append(
            (lambda info: info.classification.category is category, callback)
        )

    def on_error_severity(
        self, severity: ErrorSeverity, callback: ErrorCallback
    ) -> None:
        """Have *callback* told of failed attempts of one severity."""
        self._delivering.callbacks.append(
            (lambda info: info.classification.severity is severity, callback)
        )

    def get_error_stats(self) -> dict[str, Any]:
        """Give `total_errors`, `total_dlq_count` and each subscription's statistics."""
        return {
            "total_errors": self.total_errors,
            "total_dlq_count": self.total_dlq_count,
            "subscriptions": {
                name: s.error_stats.to_dict() for name, s in self._subscriptions.items()
            },
        }

    @property
    def total_errors(self) -> int:
        """How many attempts failed."""
        return sum(s.error_stats.total_errors for s in self.subscriptions)

    @property
    def total_dlq_count(self) -> int:
        """How many events were put into the dead letters."""
        return sum(s.error_stats.dlq_count for s in self.subscriptions)

    async def redrive(self, dlq_id: int, dlq_repo: DLQRepository | None = None) -> bool:
        """Give a dead letter's event to its subscriber again; tell whether it worked.

        It is done between two of the subscription's pages; the entry is "resolved"
        then, or "failed" again with the new error. Of several who try, one takes it;
        if its process dies, the entry stays "retrying", and the same call tries it
        again after half a minute. What a `DatabaseProjection` has committed by then is
        not done twice. A mark that you made yourself does not keep others away.

        Args:
            dlq_id: which entry.
            dlq_repo: of which dead letters; by default of the manager's.

        Raises:
            SubscriptionError: there is no such entry, subscription or event.
            SubscriptionStateError: it is resolved, or somebody else tries it now.
            LeaseLostError, CheckpointError: this process stood still for so long that
                somebody else has tried it; what it wrote is undone.
            AppendOutcomeUnknownError: it may have been handled; try it again.
        """
        letters: Any = dlq_repo or self._dlq
        if not isinstance(letters, DLQRepository):
            raise SubscriptionError("there are no dead letters that can be read")
        return await redrive(
            dlq_id,
            letters,
            self._delivering,
            self._subscriptions,
            await self._store.core(),
        )

    # Health.

    @property
    def is_healthy(self) -> bool:
        """Whether `get_health` says "healthy"."""
        return bool(self.get_health()["status"] == "healthy")

    @property
    def uptime_seconds(self) -> float:
        """How long ago it was started; 0: it does not run."""
        return (now() - self._started_at).total_seconds() if self.is_running else 0.0

    def get_health(self) -> dict[str, Any]:
        """Tell how all of it is doing: status, running, and each subscription."""
        states = {s.state for s in self.subscriptions}
        status = "starting" if SubscriptionState.STARTING in states else "healthy"
        if SubscriptionState.ERROR in states:
            status = "unhealthy"
        elif not self.is_running:
            status = "stopped"
        return {
            "status": status,
            "running": self.is_running,
            "subscription_count": self.subscription_count,
            "subscriptions": [
                {
                    "name": told.name,
                    "status": told.state,
                    "position": told.position,
                    "events_processed": told.events_processed,
                    "error": told.error,
                }
                for told in self.get_all_statuses().values()
            ],
        }

    async def health_check(self) -> ManagerHealth:
        """Judge all subscriptions by the `health_check_config`."""
        return manager_health(
            self.subscriptions,
            self._health,
            running=self.is_running,
            uptime_seconds=self.uptime_seconds,
        )

    def get_subscription_health(
        self, subscription_name: str
    ) -> SubscriptionHealth | None:
        """Judge one subscription; None: there is none of that name."""
        subscription = self._subscriptions.get(subscription_name)
        return None if subscription is None else health_of(subscription, self._health)

    async def readiness_check(self) -> ReadinessStatus:
        """Tell whether all run and have caught up with the log once."""
        return readiness(self.subscriptions, running=self.is_running)

    async def liveness_check(self) -> LivenessStatus:
        """Tell whether no handler hangs for twice its `processing_timeout`."""
        return liveness(self.subscriptions)

    # Read your writes.

    async def _settle(self, patience: timedelta) -> None:
        """Wait for the subscriptions that keep up to see what was just saved."""
        head = await (await self._store.core()).head()
        others = [s for s in self.subscriptions if not s.core.runs_here]
        await asyncio.gather(*(self._settle_one(s, head, patience) for s in others))

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
