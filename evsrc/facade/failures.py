"""Say what a failure is, what is done about it, and who is told of it."""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from math import inf
from typing import Any, Final, TypeAlias
from uuid import UUID

import msgspec
from msgspec import Struct

from ..core.errors import EvsrcError
from ..core.policy import ErrorClass, Park, Skip, Stop, class_of
from .retrying import check_ranges


class ErrorCategory(Enum):
    """Where an error comes from."""

    TRANSIENT = "transient"
    PERMANENT = "permanent"
    INFRASTRUCTURE = "infrastructure"
    APPLICATION = "application"


class ErrorSeverity(Enum):
    """How bad an error is."""

    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"
    CRITICAL = "critical"


class ErrorClassification(Struct, frozen=True):
    """What is thought of an error."""

    category: ErrorCategory
    severity: ErrorSeverity
    retryable: bool
    description: str = ""


_BY_CLASS: Final = {
    ErrorClass.TRANSIENT: ErrorClassification(
        ErrorCategory.TRANSIENT, ErrorSeverity.MEDIUM, True, "may pass by itself"
    ),
    ErrorClass.UNDECODABLE: ErrorClassification(
        ErrorCategory.PERMANENT, ErrorSeverity.HIGH, False, "data that cannot be read"
    ),
}
_OURS: Final = ErrorClassification(
    ErrorCategory.INFRASTRUCTURE, ErrorSeverity.HIGH, False, "the store refuses"
)
_APPLICATION: Final = ErrorClassification(
    ErrorCategory.APPLICATION, ErrorSeverity.MEDIUM, False, "the handler's own"
)
_MEMORY: Final = ErrorClassification(
    ErrorCategory.INFRASTRUCTURE, ErrorSeverity.CRITICAL, False, "out of memory"
)


class ErrorClassifier:
    """Classifies errors: by your rules, the latest first, else by their type."""

    def __init__(self) -> None:
        self._rules: list[tuple[Callable[[Exception], bool], ErrorClassification]] = []

    def register_classification(
        self, exception_type: type[Exception], classification: ErrorClassification
    ) -> None:
        """Classify errors of a type, and of those derived from it."""
        self._rules.insert(0, (lambda e: isinstance(e, exception_type), classification))

    def register_pattern_rule(
        self, pattern: str, classification: ErrorClassification
    ) -> None:
        """Classify errors whose text holds *pattern*, in any case."""
        wanted = pattern.lower()
        self._rules.insert(0, (lambda e: wanted in str(e).lower(), classification))

    def classify(self, error: Exception) -> ErrorClassification:
        """Give what is thought of an error."""
        own = (given for matches, given in self._rules if matches(error))
        ours = _OURS if isinstance(error, EvsrcError) else _APPLICATION
        if isinstance(error, MemoryError):
            ours = _MEMORY
        return next(own, _BY_CLASS.get(class_of(error), ours))


class ErrorHandlingStrategy(Enum):
    """What to do with an event that fails.

    STOP: at once. RETRY_THEN_DLQ: when the retries are used up, put it into the dead
    letters; DLQ_ONLY: without any retry. Without dead letters both stop.
    RETRY_THEN_CONTINUE, CONTINUE: leave it out for good; nothing keeps it.
    """

    STOP = "stop"
    CONTINUE = "continue"
    RETRY_THEN_CONTINUE = "retry_then_continue"
    RETRY_THEN_DLQ = "retry_then_dlq"
    DLQ_ONLY = "dlq_only"


@dataclass(frozen=True)
class ErrorHandlingConfig:
    """What a manager does about failures, for all its subscriptions.

    A subscription with `continue_on_error=False` stops in any case.

    Args:
        strategy: what to do with an event that fails.
        max_recent_errors: how many errors each subscription remembers.
        max_errors_before_stop: at this many failed attempts a subscription stops
            (while its circuit is open it waits instead); None: at no number.
        dlq_enabled: whether events may go to the dead letters; if not, where they would
            the subscription stops.
        classifier: says what an error is. One that is given also says which errors are
            tried again (`retryable`); by default all are.

    Raises:
        SubscriptionConfigError: a number is less than 1.
    """

    strategy: ErrorHandlingStrategy = ErrorHandlingStrategy.RETRY_THEN_DLQ
    max_recent_errors: int = 100
    max_errors_before_stop: int | None = None
    dlq_enabled: bool = True
    classifier: ErrorClassifier | None = None

    def __post_init__(self) -> None:
        check_ranges(self, max_recent_errors=(1, inf), max_errors_before_stop=(1, inf))

    @property
    def retries(self) -> bool:
        """Whether the strategy tries again at all."""
        return self.strategy in (
            ErrorHandlingStrategy.RETRY_THEN_CONTINUE,
            ErrorHandlingStrategy.RETRY_THEN_DLQ,
        )

    def last(self, *, dead_letters: bool) -> Skip | Park | Stop:
        """Give what is done in the end, with or without dead letters."""
        match self.strategy:
            case ErrorHandlingStrategy.STOP:
                return Stop()
            case (
                ErrorHandlingStrategy.CONTINUE
                | ErrorHandlingStrategy.RETRY_THEN_CONTINUE
            ):
                return Skip()
            case ErrorHandlingStrategy.RETRY_THEN_DLQ | ErrorHandlingStrategy.DLQ_ONLY:
                return Park() if dead_letters and self.dlq_enabled else Stop()


class ErrorInfo(Struct, frozen=True, kw_only=True):
    """One failed attempt; `retry_count` is how many failed before it."""

    event_id: UUID
    event_type: str
    position: int
    error_type: str
    error_message: str
    error_stacktrace: str
    classification: ErrorClassification
    timestamp: datetime
    subscription_name: str
    retry_count: int


class ErrorStats(Struct):
    """What has failed so far; `retried_errors` are attempts after the first."""

    total_errors: int = 0
    transient_errors: int = 0
    permanent_errors: int = 0
    retried_errors: int = 0
    dlq_count: int = 0
    errors_by_type: dict[str, int] = msgspec.field(default_factory=Counter[str])
    errors_by_category: dict[str, int] = msgspec.field(default_factory=Counter[str])
    first_error_at: datetime | None = None
    last_error_at: datetime | None = None

    def record_error(self, info: ErrorInfo) -> None:
        """Count one more."""
        category = info.classification.category
        self.total_errors += 1
        self.transient_errors += category is ErrorCategory.TRANSIENT
        self.permanent_errors += category is ErrorCategory.PERMANENT
        self.retried_errors += info.retry_count > 0
        self.errors_by_type[info.error_type] += 1
        self.errors_by_category[category.value] += 1
        self.first_error_at = self.first_error_at or info.timestamp
        self.last_error_at = info.timestamp

    def to_dict(self) -> dict[str, Any]:
        """Give it as JSON values."""
        values: dict[str, Any] = msgspec.to_builtins(self)
        return values


ErrorCallback: TypeAlias = Callable[[ErrorInfo], Awaitable[None] | None]


def stacktrace_of(error: Exception) -> str:
    """Give an error's trace as text."""
    return "".join(traceback.TracebackException.from_exception(error).format())


def now() -> datetime:
    """Give the time, in UTC."""
    return datetime.now(UTC)
