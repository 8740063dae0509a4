"""Event sourcing with a functional, immutable core.

Everything public is here, except `evsrc.testing`. Nothing that needs a database driver
is imported before it is used.
"""

from typing import TYPE_CHECKING, Any

from .core.codec import (
    Codec,
    Opaque,
    dec_hook,
    enc_hook,
    json_codec,
    opaque_codec,
)
from .core.decider import (
    Decider,
    adapt,
    both,
    fold,
    many,
    run,
)
from .core.errors import (
    AggregateIdMismatchError,
    AggregateNotFoundError,
    AggregateTypeMismatchError,
    CheckpointError,
    CorruptionError,
    DuplicateEventError,
    DuplicateEventTypeError,
    DuplicateHandlerError,
    EmptyAppendError,
    EventTypeNotFoundError,
    EventVersionError,
    EvsrcError,
    HandlerSignatureError,
    InvalidEventError,
    InvalidExpectedVersionError,
    InvalidQueryError,
    InvalidStreamError,
    MissingExtraError,
    OptimisticLockError,
    ProjectionError,
    SchemaError,
    SerializationError,
    StoreBusyError,
    StoreClosedError,
    StoreError,
    StoreFullError,
    StoreUnavailableError,
    SubscriptionAlreadyExistsError,
    SubscriptionConfigError,
    SubscriptionError,
    SubscriptionStateError,
    UnhandledEventError,
)
from .core.event import (
    NO_METADATA,
    Metadata,
    NewEvent,
    Recorded,
    StreamName,
)
from .core.expectation import (
    ALL,
    ANY,
    NO_STREAM,
    STREAM_EXISTS,
    Query,
    QueryItem,
    satisfies,
)
from .core.policy import (
    Failure,
    Park,
    Retry,
    Skip,
    Stop,
    retry_then,
)
from .core.snapshot import (
    Snapshot,
    Snapshotting,
    every,
)
from .core.view import (
    View,
    merge,
)
from .facade.aggregate import (
    AggregateRoot,
    DeclarativeAggregate,
)
from .facade.bus import (
    EventBus,
    InMemoryEventBus,
)
from .facade.checkpoints import (
    CheckpointData,
    CheckpointRepository,
    InMemoryCheckpointRepository,
    LagMetrics,
    SQLiteCheckpointRepository,
)
from .facade.codec import (
    UnknownEvent,
)
from .facade.events import (
    DomainEvent,
    EventRegistry,
    default_registry,
    get_event_class,
    get_event_class_or_none,
    is_event_registered,
    list_registered_events,
    register_event,
)
from .facade.handlers import (
    get_handled_event_type,
    handles,
    is_event_handler,
)
from .facade.projections import (
    DeclarativeProjection,
    Projection,
)
from .facade.repository import (
    AggregateRepository,
)
from .facade.stores import (
    AppendResult,
    EventPublisher,
    EventStore,
    EventStream,
    ExpectedVersion,
    InMemoryEventStore,
    ReadDirection,
    ReadOptions,
    SQLiteEventStore,
    StoredEvent,
)
from .ports import (
    Appended,
    Checkpoint,
    Conflict,
    Loaded,
    Page,
    SaveCheckpoint,
    SaveSnapshot,
    Write,
)
from .ports import (
    EventStore as EventStoreRecord,
)
from .runtime.cache import (
    StateCache,
)
from .runtime.ids import (
    new_event,
    new_id,
)
from .runtime.project import (
    project,
)
from .runtime.subscribe import (
    Delivery,
    subscribe,
)
from .runtime.transact import (
    query,
    transact,
)
from .stores.memory import (
    memory_store,
)

if TYPE_CHECKING:
    from .stores.sqlite import sqlite_store

    __version__: str

EventSourceError = EvsrcError
"""The root error under the name that users of the guide know."""

__all__ = [
    "ALL",
    "ANY",
    "NO_METADATA",
    "NO_STREAM",
    "STREAM_EXISTS",
    "AggregateIdMismatchError",
    "AggregateNotFoundError",
    "AggregateRepository",
    "AggregateRoot",
    "AggregateTypeMismatchError",
    "AppendResult",
    "Appended",
    "Checkpoint",
    "CheckpointData",
    "CheckpointError",
    "CheckpointRepository",
    "Codec",
    "Conflict",
    "CorruptionError",
    "Decider",
    "DeclarativeAggregate",
    "DeclarativeProjection",
    "Delivery",
    "DomainEvent",
    "DuplicateEventError",
    "DuplicateEventTypeError",
    "DuplicateHandlerError",
    "EmptyAppendError",
    "EventBus",
    "EventPublisher",
    "EventRegistry",
    "EventSourceError",
    "EventStore",
    "EventStoreRecord",
    "EventStream",
    "EventTypeNotFoundError",
    "EventVersionError",
    "EvsrcError",
    "ExpectedVersion",
    "Failure",
    "HandlerSignatureError",
    "InMemoryCheckpointRepository",
    "InMemoryEventBus",
    "InMemoryEventStore",
    "InvalidEventError",
    "InvalidExpectedVersionError",
    "InvalidQueryError",
    "InvalidStreamError",
    "LagMetrics",
    "Loaded",
    "Metadata",
    "MissingExtraError",
    "NewEvent",
    "Opaque",
    "OptimisticLockError",
    "Page",
    "Park",
    "Projection",
    "ProjectionError",
    "Query",
    "QueryItem",
    "ReadDirection",
    "ReadOptions",
    "Recorded",
    "Retry",
    "SQLiteCheckpointRepository",
    "SQLiteEventStore",
    "SaveCheckpoint",
    "SaveSnapshot",
    "SchemaError",
    "SerializationError",
    "Skip",
    "Snapshot",
    "Snapshotting",
    "StateCache",
    "Stop",
    "StoreBusyError",
    "StoreClosedError",
    "StoreError",
    "StoreFullError",
    "StoreUnavailableError",
    "StoredEvent",
    "StreamName",
    "SubscriptionAlreadyExistsError",
    "SubscriptionConfigError",
    "SubscriptionError",
    "SubscriptionStateError",
    "UnhandledEventError",
    "UnknownEvent",
    "View",
    "Write",
    "__version__",
    "adapt",
    "both",
    "dec_hook",
    "default_registry",
    "enc_hook",
    "every",
    "fold",
    "get_event_class",
    "get_event_class_or_none",
    "get_handled_event_type",
    "handles",
    "is_event_handler",
    "is_event_registered",
    "json_codec",
    "list_registered_events",
    "many",
    "memory_store",
    "merge",
    "new_event",
    "new_id",
    "opaque_codec",
    "project",
    "query",
    "register_event",
    "retry_then",
    "run",
    "satisfies",
    "sqlite_store",
    "subscribe",
    "transact",
]


def __getattr__(name: str) -> Any:
    if name == "sqlite_store":  # loads the driver
        from .stores.sqlite import sqlite_store  # noqa: PLC0415

        return sqlite_store
    if name == "__version__":  # importlib.metadata is slow to import
        from importlib.metadata import version  # noqa: PLC0415

        return version("evsrc-py")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
