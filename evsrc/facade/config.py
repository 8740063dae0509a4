"""Say how a subscriber is run."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from enum import Enum
from math import inf
from typing import Literal
from uuid import UUID

from ..core.breaker import Breaker
from ..core.errors import SubscriptionConfigError
from ..runtime.delivery import CheckpointDue, after_event, after_page, after_time
from .events import DomainEvent
from .retrying import CircuitBreakerConfig, RetryConfig, check_ranges


class CheckpointStrategy(Enum):
    """When a subscription's position is saved."""

    EVERY_EVENT = "every_event"
    EVERY_BATCH = "every_batch"
    PERIODIC = "periodic"


@dataclass(frozen=True)
class SubscriptionConfig:
    """How a subscriber is run.

    Args:
        start_from: "checkpoint" (where it was, else the beginning), "beginning", "end",
            or after a position.
        batch_size: events read at once.
        checkpoint_strategy: when the position is saved.
        checkpoint_interval_seconds: how often, if periodic.
        processing_timeout: seconds an async handler may take for one call.
        event_types: classes to deliver; by default those that the subscriber names.
        aggregate_types: types of aggregates to deliver.
        tags: deliver the events that have all of these tags.
        tenant_id: deliver this tenant's events only.
        event_type_patterns: deliver events whose stored name fits one of these only;
            `*`, `?` and `[...]` as in file names.
        continue_on_error: once the retries are used up, put the event into the
            manager's dead letters and go on; without dead letters, or if False, stop
            with state ERROR. An event is never passed over unless it is kept somewhere
            (or the manager's `error_handling_config` says so in words).
        max_retries, initial_retry_delay, max_retry_delay, retry_exponential_base,
            retry_jitter: how a failed event is tried again (delays in seconds); a
            projection's `retry_policy` comes first.
        circuit_breaker_enabled: after so many events in a row that failed for good,
            take it for an outage: wait, and try one event from time to time. Nothing
            is passed meanwhile, and nothing more is put into the dead letters.
        circuit_breaker_failure_threshold: how many.
        circuit_breaker_recovery_timeout: seconds between two tries.

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
    circuit_breaker_enabled: bool = True
    circuit_breaker_failure_threshold: int = 5
    circuit_breaker_recovery_timeout: float = 30.0
    event_type_patterns: tuple[str, ...] | None = None
    tags: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        start = self.start_from
        named = start in ("beginning", "end", "checkpoint")
        if not named and (not isinstance(start, int) or start < 0):
            raise SubscriptionConfigError(
                f"start_from must be a position >= 0, or a named start, not {start!r}"
            )
        check_ranges(
            self,
            batch_size=(1, inf),
            checkpoint_interval_seconds=(0.001, inf),
            processing_timeout=(0.001, inf),
            max_retries=(0, inf),
            initial_retry_delay=(0, self.max_retry_delay),
            retry_exponential_base=(1, inf),
            retry_jitter=(0, 1),
            circuit_breaker_failure_threshold=(1, inf),
            circuit_breaker_recovery_timeout=(0, inf),
        )

    def get_retry_config(self) -> RetryConfig:
        """Give how a failed event is tried again."""
        return RetryConfig(
            self.max_retries,
            self.initial_retry_delay,
            self.max_retry_delay,
            self.retry_exponential_base,
            self.retry_jitter,
        )

    def get_circuit_breaker_config(self) -> CircuitBreakerConfig | None:
        """Give when failures are an outage; None: never."""
        if not self.circuit_breaker_enabled:
            return None
        return CircuitBreakerConfig(
            self.circuit_breaker_failure_threshold,
            self.circuit_breaker_recovery_timeout,
        )


def breaker_of(config: SubscriptionConfig) -> Breaker | None:
    """Give the core's breaker; its pauses are all of one length."""
    circuit = config.get_circuit_breaker_config()
    if circuit is None:
        return None
    pause = timedelta(seconds=circuit.recovery_timeout)
    return Breaker(circuit.failure_threshold, pause=pause, longest=pause)


def checkpoint_due(config: SubscriptionConfig) -> CheckpointDue:
    """Give the core's rule of when the position is saved."""
    named = {
        CheckpointStrategy.EVERY_BATCH: after_page,
        CheckpointStrategy.EVERY_EVENT: after_event,
    }
    every = timedelta(seconds=config.checkpoint_interval_seconds)
    return named.get(config.checkpoint_strategy) or after_time(every)


def create_catch_up_config(
    batch_size: int = 1000, checkpoint_every_batch: bool = True
) -> SubscriptionConfig:
    """Give a configuration for working through a long history."""
    kinds = CheckpointStrategy
    strategy = kinds.EVERY_BATCH if checkpoint_every_batch else kinds.PERIODIC
    return SubscriptionConfig(
        start_from="beginning", batch_size=batch_size, checkpoint_strategy=strategy
    )


def create_live_only_config() -> SubscriptionConfig:
    """Give a configuration that leaves history out."""
    return SubscriptionConfig(start_from="end")
