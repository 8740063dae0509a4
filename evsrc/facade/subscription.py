"""One subscriber under a name: what it has done, and how it is."""

from __future__ import annotations

from collections import deque
from datetime import UTC, datetime, timedelta
from enum import Enum
from uuid import UUID

from msgspec import Struct

from ..core.event import Recorded
from ..ports import EventStore as Record
from ..runtime.delivery import State
from ..runtime.subscribe import Subscription as Core
from .config import SubscriptionConfig
from .events import DomainEvent
from .failures import ErrorClassifier, ErrorInfo, ErrorStats, now, stacktrace_of


class SubscriptionState(Enum):
    """What a subscription is doing."""

    STARTING = "starting"
    CATCHING_UP = "catching_up"
    LIVE = "live"
    PAUSED = "paused"
    STOPPED = "stopped"
    ERROR = "error"


class PauseReason(Enum):
    """Why a subscription is paused."""

    MANUAL = "manual"
    MAINTENANCE = "maintenance"


_STATES = {
    state: SubscriptionState.__members__.get(state.name, SubscriptionState.ERROR)
    for state in State
}


class SubscriptionStatus(Struct, frozen=True, kw_only=True):
    """How a subscription is doing; `lag_events` in positions, as it was seen last."""

    name: str
    state: str
    position: int
    lag_events: int
    events_processed: int
    events_failed: int
    events_dlq: int
    last_processed_at: datetime | None
    started_at: datetime | None
    uptime_seconds: float
    error: str | None
    recent_errors_count: int


class Subscription:
    """One subscriber under a name; made by `SubscriptionManager.subscribe`.

    `recent_errors` are its last failed attempts, `error_stats` counts them.
    """

    core: Core[DomainEvent]
    record: Record[DomainEvent]  # what the core works with

    def __init__(
        self,
        name: str,
        config: SubscriptionConfig,
        subscriber: object,
        max_recent_errors: int = 100,
    ) -> None:
        self.name = name
        self.config = config
        self.subscriber = subscriber
        self.last: Recorded[DomainEvent] | None = None
        self.last_processed_at: datetime | None = None
        self.started_at: datetime | None = None
        self.recent_errors: deque[ErrorInfo] = deque(maxlen=max_recent_errors)
        self.error_stats = ErrorStats()
        self.filtered = 0  # delivered by the core, but not wanted
        self.pause_reason: PauseReason | None = None
        self.paused_at: datetime | None = None
        self._failing: tuple[UUID | None, int] = (None, 0)

    # What it has done.

    def note_delivered(self, recorded: Recorded[DomainEvent]) -> None:
        """Note the event that was dealt with last."""
        if self.last is None or recorded.position > self.last.position:
            self.last = recorded

    def note_error(
        self,
        recorded: Recorded[DomainEvent],
        error: Exception,
        classifier: ErrorClassifier,
    ) -> ErrorInfo:
        """Note a failed attempt."""
        id, before = recorded.id, 0
        if self._failing[0] == id:
            before = self._failing[1]
        self._failing = id, before + 1
        info = ErrorInfo(
            event_id=id,
            event_type=recorded.type,
            position=recorded.position,
            error_type=type(error).__name__,
            error_message=str(error),
            error_stacktrace=stacktrace_of(error),
            classification=classifier.classify(error),
            timestamp=now(),
            subscription_name=self.name,
            retry_count=before,
        )
        self.recent_errors.append(info)
        self.error_stats.record_error(info)
        return info

    @property
    def last_event_id(self) -> UUID | None:
        """The id of the last event that was dealt with."""
        return None if self.last is None else self.last.event.event_id

    @property
    def last_event_type(self) -> str | None:
        """The stored name of that event."""
        return None if self.last is None else self.last.event.event_type

    @property
    def last_processed_position(self) -> int:
        """The position that everything up to has been handled (or parked)."""
        return self.core.position

    @property
    def lag(self) -> int:
        """How many positions it is behind the log's head, as it saw that last."""
        return self.core.lag

    @property
    def events_processed(self) -> int:
        """How many events were handled."""
        return self.core.handled - self.filtered

    @property
    def events_failed(self) -> int:
        """How many attempts failed."""
        return self.core.failed

    @property
    def events_dlq(self) -> int:
        """How many events were put into the dead letters."""
        return self.core.parked

    # How it is.

    @property
    def state(self) -> SubscriptionState:
        """What it is doing; ERROR also while it retries."""
        return _STATES[self.core.state]

    @property
    def last_error(self) -> Exception | None:
        """Why it retries or stopped."""
        return self.core.error

    @property
    def last_error_at(self) -> datetime | None:
        """When an attempt failed last."""
        return self.error_stats.last_error_at

    @property
    def is_running(self) -> bool:
        """Whether it delivers, or will go on to."""
        return self.core.running

    @property
    def is_terminal(self) -> bool:
        """Whether it has stopped or failed."""
        return self.core.ended

    @property
    def uptime_seconds(self) -> float:
        """How long ago it was started; 0: it was not."""
        return _since(self.started_at)

    def get_status(self) -> SubscriptionStatus:
        """Tell how it is doing."""
        return SubscriptionStatus(
            name=self.name,
            state=self.state.value,
            position=self.last_processed_position,
            lag_events=self.lag,
            events_processed=self.events_processed,
            events_failed=self.events_failed,
            events_dlq=self.events_dlq,
            last_processed_at=self.last_processed_at,
            started_at=self.started_at,
            uptime_seconds=self.uptime_seconds,
            error=None if self.last_error is None else repr(self.last_error),
            recent_errors_count=len(self.recent_errors),
        )

    async def caught_up(self, timeout: float = 30.0) -> None:
        """Return when everything that is in the log now has been handled.

        Raises:
            SubscriptionError: it failed or stopped before.
            TimeoutError: *timeout* seconds are over.
        """
        await self.core.caught_up(timedelta(seconds=timeout))

    # Pausing.

    @property
    def is_paused(self) -> bool:
        """Whether it waits for `resume`."""
        return self.core.state is State.PAUSED

    @property
    def pause_duration_seconds(self) -> float:
        """How long it has been paused; 0: it is not."""
        return _since(self.paused_at)

    def pause(self, reason: PauseReason | None = None) -> bool:
        """Handle nothing more, after the event in hand; tell whether it runs."""
        if not self.core.running:
            return False
        self.core.pause()
        self.pause_reason = reason or PauseReason.MANUAL
        self.paused_at = self.paused_at or now()
        return True

    def resume(self) -> bool:
        """Go on; tell whether it was paused."""
        if not self.is_paused:
            return False
        self.core.resume()
        self.pause_reason = self.paused_at = None
        return True


def _since(at: datetime | None) -> float:
    return 0.0 if at is None else (datetime.now(UTC) - at).total_seconds()
