"""The door to projections: `from evsrc.projections import DeclarativeProjection`."""

from .facade.database import DatabaseProjection
from .facade.handlers import get_handled_event_type, handles, is_event_handler
from .facade.projections import (
    CheckpointTrackingProjection,
    DeclarativeProjection,
    Projection,
    SyncProjection,
)
from .facade.retrying import (
    DEFAULT_RETRY_POLICY,
    ExponentialBackoffRetryPolicy,
    FilteredRetryPolicy,
    NoRetryPolicy,
    RetryConfig,
    RetryPolicy,
)

__all__ = [
    "DEFAULT_RETRY_POLICY",
    "CheckpointTrackingProjection",
    "DatabaseProjection",
    "DeclarativeProjection",
    "ExponentialBackoffRetryPolicy",
    "FilteredRetryPolicy",
    "NoRetryPolicy",
    "Projection",
    "RetryConfig",
    "RetryPolicy",
    "SyncProjection",
    "get_handled_event_type",
    "handles",
    "is_event_handler",
]
