"""Say, as data, what to do when an event could not be handled. No I/O here."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import TypeAlias

from msgspec import Struct


class Failure(Struct, frozen=True):
    """One failed attempt: the error, and how many attempts there were (from 1)."""

    error: Exception
    attempt: int


class Retry(Struct, frozen=True):
    """Try again after *delay*, longer or shorter by up to *jitter* of it."""

    delay: timedelta
    jitter: float = 0.0


class Skip(Struct, frozen=True):
    """Count the failure and go on without the event: it is lost to this reader."""


class Park(Struct, frozen=True):
    """Put the event aside, with its error, and go on."""


class Stop(Struct, frozen=True):
    """Stop the subscription before the event; nothing passes it."""


Outcome: TypeAlias = Retry | Skip | Park | Stop
FailurePolicy: TypeAlias = Callable[[Failure], Outcome]


def retry_then(
    last: Skip | Park | Stop,
    *,
    retries: int = 3,
    delay: timedelta = timedelta(milliseconds=100),
    factor: float = 2.0,
    longest: timedelta = timedelta(seconds=30),
    jitter: float = 0.1,
) -> FailurePolicy:
    """Retry with growing pauses, then do *last*.

    Args:
        last: what to do when the retries are used up.
        retries: how many more attempts follow the first.
        delay: the pause before the first retry.
        factor: how much longer each pause is than the one before it.
        longest: no pause is longer.
        jitter: the share of a pause that chance may add or take.

    >>> policy = retry_then(Stop(), retries=1, jitter=0)
    >>> policy(Failure(ValueError(), attempt=1)).delay
    datetime.timedelta(microseconds=100000)
    >>> policy(Failure(ValueError(), attempt=2))
    Stop()
    """

    def policy(failure: Failure) -> Outcome:
        if failure.attempt > retries:
            return last
        growth = factor ** min(failure.attempt - 1, 64)
        seconds = min(delay.total_seconds() * growth, longest.total_seconds())
        return Retry(timedelta(seconds=seconds), jitter)

    return policy
