"""Event sourcing with a functional, immutable core.

Every public name is here, except the testing kit (`evsrc.testing`). Each is imported
when it is first asked for, so that a functional domain does not pay for the classes,
nor anything in memory for a database driver.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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
    from .core.errors import (
        EvsrcError as EventSourceError,
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
        json_snapshots,
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
    from .runtime.delivery import (
        Delivery,
        Parked,
        Progress,
    )
    from .runtime.ids import (
        new_event,
        new_id,
    )
    from .runtime.project import (
        project,
    )
    from .runtime.subscribe import (
        subscribe,
    )
    from .runtime.transact import (
        query,
        transact,
    )
    from .stores.memory import (
        memory_store,
    )
    from .stores.sqlite import (
        sqlite_store,
    )

    __version__: str

_HOMES = {
    "Codec": "core.codec",
    "Opaque": "core.codec",
    "dec_hook": "core.codec",
    "enc_hook": "core.codec",
    "json_codec": "core.codec",
    "opaque_codec": "core.codec",
    "Decider": "core.decider",
    "adapt": "core.decider",
    "both": "core.decider",
    "fold": "core.decider",
    "many": "core.decider",
    "run": "core.decider",
    "AggregateIdMismatchError": "core.errors",
    "AggregateNotFoundError": "core.errors",
    "AggregateTypeMismatchError": "core.errors",
    "CheckpointError": "core.errors",
    "CorruptionError": "core.errors",
    "DuplicateEventError": "core.errors",
    "DuplicateEventTypeError": "core.errors",
    "DuplicateHandlerError": "core.errors",
    "EmptyAppendError": "core.errors",
    "EventTypeNotFoundError": "core.errors",
    "EventVersionError": "core.errors",
    "EvsrcError": "core.errors",
    "HandlerSignatureError": "core.errors",
    "InvalidEventError": "core.errors",
    "InvalidExpectedVersionError": "core.errors",
    "InvalidQueryError": "core.errors",
    "InvalidStreamError": "core.errors",
    "MissingExtraError": "core.errors",
    "OptimisticLockError": "core.errors",
    "ProjectionError": "core.errors",
    "SchemaError": "core.errors",
    "SerializationError": "core.errors",
    "StoreBusyError": "core.errors",
    "StoreClosedError": "core.errors",
    "StoreError": "core.errors",
    "StoreFullError": "core.errors",
    "StoreUnavailableError": "core.errors",
    "SubscriptionAlreadyExistsError": "core.errors",
    "SubscriptionConfigError": "core.errors",
    "SubscriptionError": "core.errors",
    "SubscriptionStateError": "core.errors",
    "UnhandledEventError": "core.errors",
    "Metadata": "core.event",
    "NO_METADATA": "core.event",
    "NewEvent": "core.event",
    "Recorded": "core.event",
    "StreamName": "core.event",
    "ALL": "core.expectation",
    "ANY": "core.expectation",
    "NO_STREAM": "core.expectation",
    "Query": "core.expectation",
    "QueryItem": "core.expectation",
    "STREAM_EXISTS": "core.expectation",
    "satisfies": "core.expectation",
    "Failure": "core.policy",
    "Park": "core.policy",
    "Retry": "core.policy",
    "Skip": "core.policy",
    "Stop": "core.policy",
    "retry_then": "core.policy",
    "Snapshot": "core.snapshot",
    "Snapshotting": "core.snapshot",
    "every": "core.snapshot",
    "json_snapshots": "core.snapshot",
    "View": "core.view",
    "merge": "core.view",
    "AggregateRoot": "facade.aggregate",
    "DeclarativeAggregate": "facade.aggregate",
    "EventBus": "facade.bus",
    "InMemoryEventBus": "facade.bus",
    "CheckpointData": "facade.checkpoints",
    "CheckpointRepository": "facade.checkpoints",
    "InMemoryCheckpointRepository": "facade.checkpoints",
    "LagMetrics": "facade.checkpoints",
    "SQLiteCheckpointRepository": "facade.checkpoints",
    "UnknownEvent": "facade.codec",
    "DomainEvent": "facade.events",
    "EventRegistry": "facade.events",
    "default_registry": "facade.events",
    "get_event_class": "facade.events",
    "get_event_class_or_none": "facade.events",
    "is_event_registered": "facade.events",
    "list_registered_events": "facade.events",
    "register_event": "facade.events",
    "get_handled_event_type": "facade.handlers",
    "handles": "facade.handlers",
    "is_event_handler": "facade.handlers",
    "DeclarativeProjection": "facade.projections",
    "Projection": "facade.projections",
    "AggregateRepository": "facade.repository",
    "AppendResult": "facade.stores",
    "EventPublisher": "facade.stores",
    "EventStore": "facade.stores",
    "EventStream": "facade.stores",
    "ExpectedVersion": "facade.stores",
    "InMemoryEventStore": "facade.stores",
    "ReadDirection": "facade.stores",
    "ReadOptions": "facade.stores",
    "SQLiteEventStore": "facade.stores",
    "StoredEvent": "facade.stores",
    "Appended": "ports",
    "Checkpoint": "ports",
    "Conflict": "ports",
    "EventStoreRecord": "ports",
    "Loaded": "ports",
    "Page": "ports",
    "SaveCheckpoint": "ports",
    "SaveSnapshot": "ports",
    "Write": "ports",
    "StateCache": "runtime.cache",
    "Delivery": "runtime.delivery",
    "Parked": "runtime.delivery",
    "Progress": "runtime.delivery",
    "new_event": "runtime.ids",
    "new_id": "runtime.ids",
    "project": "runtime.project",
    "subscribe": "runtime.subscribe",
    "query": "runtime.transact",
    "transact": "runtime.transact",
    "memory_store": "stores.memory",
    "sqlite_store": "stores.sqlite",
}
_RENAMED = {"EventSourceError": "EvsrcError", "EventStoreRecord": "EventStore"}

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
    "Parked",
    "Progress",
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
    "json_snapshots",
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
    if name == "__version__":
        from importlib.metadata import version  # noqa: PLC0415 - slow to import

        return version("evsrc-py")
    source = _RENAMED.get(name, name)
    home = _HOMES.get(name, "core.errors" if source == "EvsrcError" else None)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{home}", __name__), source)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
