"""Say, as data, what to do when an event could not be handled. No I/O here.

A policy is a pure function of one failed attempt; the functions below make policies,
and policies of policies.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from enum import StrEnum
from typing import TypeAlias

from msgspec import DecodeError, Struct

from .errors import (
    AppendOutcomeUnknownError,
    EventTypeNotFoundError,
    SerializationError,
    StoreBusyError,
    StoreFullError,
    StoreUnavailableError,
)


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


class ErrorClass(StrEnum):
    """What can be expected of another attempt.

    TRANSIENT: it may succeed. PERMANENT: it will fail again. UNDECODABLE: the event's
    data does not fit this process's classes; another version of it may handle it.
    """

    TRANSIENT = "transient"
    PERMANENT = "permanent"
    UNDECODABLE = "undecodable"


_UNDECODABLE = (SerializationError, EventTypeNotFoundError, DecodeError)
_TRANSIENT = (
    OSError,  # also what is refused, reset, or timed out
    StoreBusyError,
    StoreFullError,
    StoreUnavailableError,
    AppendOutcomeUnknownError,
)


def class_of(error: Exception) -> ErrorClass:
    """Tell the class of an error by its type; what is not known is permanent.

    >>> class_of(ConnectionResetError())
    <ErrorClass.TRANSIENT: 'transient'>
    >>> class_of(KeyError("customer"))
    <ErrorClass.PERMANENT: 'permanent'>
    """
    if isinstance(error, _UNDECODABLE):
        return ErrorClass.UNDECODABLE
    if isinstance(error, _TRANSIENT):
        return ErrorClass.TRANSIENT
    return ErrorClass.PERMANENT


def by_class(
    *,
    transient: FailurePolicy,
    permanent: FailurePolicy,
    undecodable: FailurePolicy,
    class_of: Callable[[Exception], ErrorClass] = class_of,
) -> FailurePolicy:
    """Let the class of the error choose the policy.

    >>> policy = by_class(
    ...     transient=retry_then(Stop(), jitter=0),
    ...     permanent=retry_then(Park(), retries=0),
    ...     undecodable=retry_then(Stop(), retries=0),
    ... )
    >>> policy(Failure(KeyError("customer"), attempt=1))
    Park()
    """
    policies = {
        ErrorClass.TRANSIENT: transient,
        ErrorClass.PERMANENT: permanent,
        ErrorClass.UNDECODABLE: undecodable,
    }
    return lambda failure: policies[class_of(failure.error)](failure)


def for_errors(
    errors: type[Exception] | tuple[type[Exception], ...],
    policy: FailurePolicy,
    *,
    otherwise: FailurePolicy,
) -> FailurePolicy:
    """Use *policy* for these types of errors, and *otherwise* for all others.

    >>> policy = for_errors(
    ...     KeyError,
    ...     retry_then(Park(), retries=0),
    ...     otherwise=retry_then(Stop(), retries=0),
    ... )
    >>> policy(Failure(KeyError(), attempt=1)), policy(Failure(OSError(), attempt=1))
    (Park(), Stop())
    """
    return lambda failure: (
        policy(failure) if isinstance(failure.error, errors) else otherwise(failure)
    )
