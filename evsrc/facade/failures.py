"""Say what a failure is, what is done about it, and who is told of it."""

from __future__ import annotations

import inspect
import logging
import traceback
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from typing import Any, Final, TypeAlias
from uuid import UUID

import msgspec
from msgspec import Struct

from ..core.errors import EvsrcError, SubscriptionConfigError
from ..core.policy import ErrorClass, Park, Skip, Stop, class_of

_log: Final = logging.getLogger("evsrc")


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


_TRANSIENT: Final = ErrorClassification(
    ErrorCategory.TRANSIENT, ErrorSeverity.MEDIUM, True, "may pass by itself"
)
_UNDECODABLE: Final = ErrorClassification(
    ErrorCategory.PERMANENT, ErrorSeverity.HIGH, False, "data that cannot be read"
)
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
        for matches, classification in self._rules:
            if matches(error):
                return classification
        match class_of(error):
            case ErrorClass.TRANSIENT:
                return _TRANSIENT
            case ErrorClass.UNDECODABLE:
                return _UNDECODABLE
            case ErrorClass.PERMANENT:
                if isinstance(error, MemoryError):
                    return _MEMORY
                return _OURS if isinstance(error, EvsrcError) else _APPLICATION


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
        for name in ("max_recent_errors", "max_errors_before_stop"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise SubscriptionConfigError(f"{name} is at least 1, not {value!r}")

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
        by_type, by_category = self.errors_by_type, self.errors_by_category
        by_type[info.error_type] = by_type.get(info.error_type, 0) + 1
        by_category[category.value] = by_category.get(category.value, 0) + 1
        self.first_error_at = self.first_error_at or info.timestamp
        self.last_error_at = info.timestamp

    def to_dict(self) -> dict[str, Any]:
        """Give it as JSON values."""
        values: dict[str, Any] = msgspec.to_builtins(self)
        return values


ErrorCallback: TypeAlias = Callable[[ErrorInfo], Awaitable[None] | None]


class Callbacks:
    """Who is told of failed attempts; who raises is logged, and changes nothing."""

    def __init__(self) -> None:
        self._called: list[tuple[Callable[[ErrorInfo], bool], ErrorCallback]] = []

    def add(self, wants: Callable[[ErrorInfo], bool], callback: ErrorCallback) -> None:
        """Have *callback* told of the errors that it *wants*."""
        self._called.append((wants, callback))

    async def tell(self, info: ErrorInfo) -> None:
        """Tell everybody who wants to know."""
        for wants, callback in self._called:
            if wants(info):
                try:
                    done = callback(info)
                    if inspect.isawaitable(done):
                        await done
                except Exception as error:  # noqa: BLE001 - it is not the handler's
                    name = type(error).__qualname__
                    _log.warning("an error callback raised %s", name)


def stacktrace_of(error: Exception) -> str:
    """Give an error's trace as text."""
    return "".join(traceback.TracebackException.from_exception(error).format())


def now() -> datetime:
    """Give the time, in UTC."""
    return datetime.now(UTC)
