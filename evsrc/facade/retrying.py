"""Say when a failed event is tried again, as values and as policies of projections.

Nothing here retries: a subscription does, by what these say.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from math import inf
from typing import Final, Protocol

from ..core.errors import SubscriptionConfigError


def check_ranges(config: object, **ranges: tuple[float, float]) -> None:
    """Refuse a configuration if one of its values is out of its range.

    Raises:
        SubscriptionConfigError: it says which.
    """
    for name, (least, most) in ranges.items():
        value = getattr(config, name)
        if value is not None and not least <= value <= most:
            wanted = f"at least {least}" if most == inf else f"from {least} to {most}"
            raise SubscriptionConfigError(
                f"{name} must be {wanted}: {value!r} is out of its range"
            )


@dataclass(frozen=True)
class RetryConfig:
    """Growing pauses between attempts.

    Args:
        max_retries: how many more attempts follow the first.
        initial_delay: seconds before the first of them.
        max_delay: no pause is longer.
        exponential_base: how much longer each pause is than the one before it.
        jitter: the share of a pause that chance may add or take.

    Raises:
        SubscriptionConfigError: a value is out of its range.
    """

    max_retries: int = 5
    initial_delay: float = 1.0
    max_delay: float = 60.0
    exponential_base: float = 2.0
    jitter: float = 0.1

    def __post_init__(self) -> None:
        check_ranges(
            self,
            max_retries=(0, inf),
            initial_delay=(0, self.max_delay),
            exponential_base=(1, inf),
            jitter=(0, 1),
        )


@dataclass(frozen=True)
class CircuitBreakerConfig:
    """When failures are an outage, and how often an event is tried in one.

    Args:
        failure_threshold: this many events in a row that are given up.
        recovery_timeout: seconds before one of them is tried again.

    Raises:
        SubscriptionConfigError: a value is out of its range.
    """

    failure_threshold: int = 5
    recovery_timeout: float = 30.0

    def __post_init__(self) -> None:
        check_ranges(self, failure_threshold=(1, inf), recovery_timeout=(0, inf))


class RetryPolicy(Protocol):
    """When a projection's failed event is tried again; attempts count from 0."""

    @property
    def max_retries(self) -> int:
        """How many more attempts follow the first."""
        ...

    def get_backoff(self, attempt: int) -> float:
        """Give the seconds to wait after an attempt."""
        ...

    def should_retry(self, attempt: int, error: Exception) -> bool:
        """Tell whether another attempt is to follow this one."""
        ...


class ExponentialBackoffRetryPolicy:
    """Retry with growing pauses: by default 3 times, after 2, 4 and 8 seconds."""

    def __init__(self, config: RetryConfig | None = None) -> None:
        self.config = config or RetryConfig(max_retries=3, initial_delay=2.0)

    @property
    def max_retries(self) -> int:
        """How many more attempts follow the first."""
        return self.config.max_retries

    def get_backoff(self, attempt: int) -> float:
        """Give the seconds to wait after an attempt, the chance of `jitter` in them."""
        config = self.config
        grown = config.initial_delay * config.exponential_base ** min(attempt, 64)
        chance = 1 + config.jitter * random.uniform(-1, 1)  # noqa: S311
        return min(grown, config.max_delay) * chance

    def should_retry(self, attempt: int, error: Exception) -> bool:
        """Retry any error, while there are retries left."""
        del error  # all are alike
        return attempt < self.max_retries


class NoRetryPolicy:
    """Try once."""

    max_retries: Final = 0

    def get_backoff(self, attempt: int) -> float:
        """Give no pause."""
        del attempt
        return 0.0

    def should_retry(self, attempt: int, error: Exception) -> bool:
        """Retry nothing."""
        del attempt, error
        return False


@dataclass(frozen=True)
class FilteredRetryPolicy:
    """Retry by another policy, but only errors of some types."""

    base_policy: RetryPolicy
    retryable_exceptions: tuple[type[Exception], ...]

    @property
    def max_retries(self) -> int:
        """How many more attempts follow the first."""
        return self.base_policy.max_retries

    def get_backoff(self, attempt: int) -> float:
        """Give the seconds to wait after an attempt."""
        return self.base_policy.get_backoff(attempt)

    def should_retry(self, attempt: int, error: Exception) -> bool:
        """Retry what the other policy does, of these types."""
        fits = isinstance(error, self.retryable_exceptions)
        return fits and self.base_policy.should_retry(attempt, error)


DEFAULT_RETRY_POLICY: Final = ExponentialBackoffRetryPolicy()
