"""The door to subscriptions: `from evsrc.subscriptions import SubscriptionManager`."""

from .core.errors import (
    SubscriptionAlreadyExistsError,
    SubscriptionConfigError,
    SubscriptionError,
    SubscriptionStateError,
)
from .facade.manager import (
    CheckpointStrategy,
    DeadLetters,
    Subscription,
    SubscriptionConfig,
    SubscriptionManager,
    SubscriptionState,
    SubscriptionStatus,
    create_catch_up_config,
    create_live_only_config,
)

__all__ = [
    "CheckpointStrategy",
    "DeadLetters",
    "Subscription",
    "SubscriptionAlreadyExistsError",
    "SubscriptionConfig",
    "SubscriptionConfigError",
    "SubscriptionError",
    "SubscriptionManager",
    "SubscriptionState",
    "SubscriptionStateError",
    "SubscriptionStatus",
    "create_catch_up_config",
    "create_live_only_config",
]
