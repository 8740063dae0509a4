"""The door to subscriptions: `from evsrc.subscriptions import SubscriptionManager`."""

from .core.errors import (
    SubscriptionAlreadyExistsError,
    SubscriptionConfigError,
    SubscriptionError,
    SubscriptionStateError,
)
from .facade.config import (
    CheckpointStrategy,
    SubscriptionConfig,
    create_catch_up_config,
    create_live_only_config,
)
from .facade.dlq import DeadLetters
from .facade.failures import (
    ErrorCallback,
    ErrorCategory,
    ErrorClassification,
    ErrorClassifier,
    ErrorHandlingConfig,
    ErrorHandlingStrategy,
    ErrorInfo,
    ErrorSeverity,
    ErrorStats,
)
from .facade.filters import (
    EventFilter,
    get_subscribed_event_types,
    matches_event_type,
    matches_pattern,
)
from .facade.health import (
    HealthCheckConfig,
    HealthStatus,
    LivenessStatus,
    ManagerHealth,
    ReadinessStatus,
    SubscriptionHealth,
)
from .facade.manager import (
    ShutdownPhase,
    ShutdownResult,
    Subscribe,
    SubscriptionManager,
)
from .facade.retrying import CircuitBreakerConfig, RetryConfig
from .facade.subscribers import (
    BaseSubscriber,
    BatchAwareSubscriber,
    BatchSubscriber,
    FilteringSubscriber,
    Subscriber,
    SyncSubscriber,
    supports_batch_handling,
)
from .facade.subscription import (
    PauseReason,
    Subscription,
    SubscriptionState,
    SubscriptionStatus,
)

__all__ = [
    "BaseSubscriber",
    "BatchAwareSubscriber",
    "BatchSubscriber",
    "CheckpointStrategy",
    "CircuitBreakerConfig",
    "DeadLetters",
    "ErrorCallback",
    "ErrorCategory",
    "ErrorClassification",
    "ErrorClassifier",
    "ErrorHandlingConfig",
    "ErrorHandlingStrategy",
    "ErrorInfo",
    "ErrorSeverity",
    "ErrorStats",
    "EventFilter",
    "FilteringSubscriber",
    "HealthCheckConfig",
    "HealthStatus",
    "LivenessStatus",
    "ManagerHealth",
    "PauseReason",
    "ReadinessStatus",
    "RetryConfig",
    "ShutdownPhase",
    "ShutdownResult",
    "Subscribe",
    "Subscriber",
    "Subscription",
    "SubscriptionAlreadyExistsError",
    "SubscriptionConfig",
    "SubscriptionConfigError",
    "SubscriptionError",
    "SubscriptionHealth",
    "SubscriptionManager",
    "SubscriptionState",
    "SubscriptionStateError",
    "SubscriptionStatus",
    "SyncSubscriber",
    "create_catch_up_config",
    "create_live_only_config",
    "get_subscribed_event_types",
    "matches_event_type",
    "matches_pattern",
    "supports_batch_handling",
]
