"""Judge how subscriptions are, for people and for orchestrators."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum
from typing import Any

import msgspec
from msgspec import Struct

from ..runtime.delivery import State
from .failures import now
from .retrying import check_ranges
from .subscription import Subscription, SubscriptionState


class HealthStatus(Enum):
    """How well something is: DEGRADED works, but somebody should look at it."""

    HEALTHY = "healthy"
    DEGRADED = "degraded"
    UNHEALTHY = "unhealthy"


_WORSE = list(HealthStatus)


@dataclass(frozen=True)
class HealthCheckConfig:
    """From where on a subscription is degraded or unhealthy.

    Args:
        max_error_rate_per_minute: failed attempts within the last minute, above which
            it is degraded.
        max_errors_warning, max_errors_critical: failed attempts since it was started.
        max_lag_events_warning, max_lag_events_critical: positions behind the log.
        circuit_open_is_unhealthy: if not, an open circuit is degraded only.
        max_dlq_events_warning, max_dlq_events_critical: events put into dead letters.

    Raises:
        SubscriptionConfigError: a warning comes after what it warns of.
    """

    max_error_rate_per_minute: float = 10.0
    max_errors_warning: int = 10
    max_errors_critical: int = 100
    max_lag_events_warning: int = 1000
    max_lag_events_critical: int = 10000
    circuit_open_is_unhealthy: bool = True
    max_dlq_events_warning: int = 10
    max_dlq_events_critical: int = 100

    def __post_init__(self) -> None:
        for name in ("errors", "lag_events", "dlq_events"):
            most = getattr(self, f"max_{name}_critical")
            check_ranges(self, **{f"max_{name}_warning": (0, most)})


class _Shown(Struct, frozen=True):
    def to_dict(self) -> dict[str, Any]:
        """Give it as JSON values."""
        values: dict[str, Any] = msgspec.to_builtins(self)
        return values


class SubscriptionHealth(_Shown, frozen=True, kw_only=True):
    """How one subscription is; `error_rate` is failed attempts in the last minute."""

    name: str
    status: str
    state: str
    events_processed: int
    events_failed: int
    lag_events: int
    error_rate: float
    last_error: str | None
    uptime_seconds: float


class ManagerHealth(_Shown, frozen=True, kw_only=True):
    """How all subscriptions of a manager are; its status is the worst of theirs."""

    status: str
    running: bool
    subscription_count: int
    healthy_count: int
    degraded_count: int
    unhealthy_count: int
    total_events_processed: int
    total_events_failed: int
    total_lag_events: int
    uptime_seconds: float
    timestamp: datetime
    subscriptions: list[SubscriptionHealth]


class ReadinessStatus(_Shown, frozen=True):
    """Whether what the subscriptions build can be used, and why not."""

    ready: bool
    reason: str
    details: dict[str, Any]
    timestamp: datetime


class LivenessStatus(_Shown, frozen=True):
    """Whether the process does its work, or hangs and should be started again."""

    alive: bool
    reason: str
    details: dict[str, Any]
    timestamp: datetime


def health_of(
    subscription: Subscription, config: HealthCheckConfig
) -> SubscriptionHealth:
    """Judge one subscription."""
    since, told = now() - timedelta(minutes=1), subscription.get_status()
    rate = float(sum(e.timestamp >= since for e in subscription.recent_errors))
    return SubscriptionHealth(
        name=told.name,
        status=max(_findings(subscription, config, rate), key=_WORSE.index).value,
        state=told.state,
        events_processed=told.events_processed,
        events_failed=told.events_failed,
        lag_events=told.lag_events,
        error_rate=rate,
        last_error=told.error,
        uptime_seconds=told.uptime_seconds,
    )


def _findings(
    subscription: Subscription, config: HealthCheckConfig, rate: float
) -> list[HealthStatus]:
    found = [HealthStatus.HEALTHY]
    for name, value in (
        ("errors", subscription.events_failed),
        ("lag_events", subscription.lag),
        ("dlq_events", subscription.events_dlq),
    ):
        if value > getattr(config, f"max_{name}_critical"):
            found.append(HealthStatus.UNHEALTHY)
        elif value > getattr(config, f"max_{name}_warning"):
            found.append(HealthStatus.DEGRADED)
    if rate > config.max_error_rate_per_minute or subscription.is_paused:
        found.append(HealthStatus.DEGRADED)
    if subscription.state is SubscriptionState.ERROR:
        is_open = subscription.core.state is State.CIRCUIT_OPEN
        mild = is_open and not config.circuit_open_is_unhealthy
        found.append(HealthStatus.DEGRADED if mild else HealthStatus.UNHEALTHY)
    return found


def manager_health(
    subscriptions: Sequence[Subscription],
    config: HealthCheckConfig,
    *,
    running: bool,
    uptime_seconds: float,
) -> ManagerHealth:
    """Judge all subscriptions of a manager."""
    judged = [health_of(subscription, config) for subscription in subscriptions]
    statuses = [HealthStatus(health.status) for health in judged]
    worst = max(statuses, key=_WORSE.index, default=HealthStatus.HEALTHY)
    return ManagerHealth(
        status=worst.value,
        running=running,
        subscription_count=len(judged),
        healthy_count=statuses.count(HealthStatus.HEALTHY),
        degraded_count=statuses.count(HealthStatus.DEGRADED),
        unhealthy_count=statuses.count(HealthStatus.UNHEALTHY),
        total_events_processed=sum(health.events_processed for health in judged),
        total_events_failed=sum(health.events_failed for health in judged),
        total_lag_events=sum(health.lag_events for health in judged),
        uptime_seconds=uptime_seconds,
        timestamp=now(),
        subscriptions=judged,
    )


def readiness(
    subscriptions: Sequence[Subscription], *, running: bool
) -> ReadinessStatus:
    """Tell whether all run and have caught up with the log once."""
    details = {s.name: s.state.value for s in subscriptions}
    behind = [s.name for s in subscriptions if not s.core.ready or s.is_terminal]
    reason = "all have caught up"
    if behind:
        reason = f"not caught up, or ended: {', '.join(behind)}"
    if not running:
        reason = "the manager does not run"
    return ReadinessStatus(running and not behind, reason, details, now())


def liveness(subscriptions: Sequence[Subscription]) -> LivenessStatus:
    """Tell whether no handler hangs; one that failed or waits is alive."""
    details = {s.name: s.state.value for s in subscriptions}
    stuck = [s.name for s in subscriptions if s.is_running and not s.core.alive]
    reason = f"handlers hang: {', '.join(stuck)}" if stuck else "no handler hangs"
    return LivenessStatus(not stuck, reason, details, now())
