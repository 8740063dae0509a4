"""Event sourcing with a functional, immutable core.

Every public name is here, except the testing kit (`evsrc.testing`). Each is imported
when it is first asked for, so that a functional domain does not pay for the classes,
nor anything in memory for a database driver.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import ports
    from .core.boundary import DecisionModel as DecisionModel
    from .core.boundary import QueryDecider as QueryDecider
    from .core.boundary import compose as compose
    from .core.boundary import compose_map as compose_map
    from .core.breaker import Breaker as Breaker
    from .core.codec import Codec as Codec
    from .core.codec import Opaque as Opaque
    from .core.codec import dec_hook as dec_hook
    from .core.codec import enc_hook as enc_hook
    from .core.codec import json_codec as json_codec
    from .core.codec import opaque_codec as opaque_codec
    from .core.decider import Decider as Decider
    from .core.decider import adapt as adapt
    from .core.decider import both as both
    from .core.decider import fold as fold
    from .core.decider import many as many
    from .core.decider import run as run
    from .core.errors import AggregateIdMismatchError as AggregateIdMismatchError
    from .core.errors import AggregateNotFoundError as AggregateNotFoundError
    from .core.errors import AggregateTypeMismatchError as AggregateTypeMismatchError
    from .core.errors import AppendOutcomeUnknownError as AppendOutcomeUnknownError
    from .core.errors import CheckpointAheadError as CheckpointAheadError
    from .core.errors import CheckpointError as CheckpointError
    from .core.errors import CorruptionError as CorruptionError
    from .core.errors import DuplicateEventError as DuplicateEventError
    from .core.errors import DuplicateEventTypeError as DuplicateEventTypeError
    from .core.errors import DuplicateHandlerError as DuplicateHandlerError
    from .core.errors import EmptyAppendError as EmptyAppendError
    from .core.errors import EventTypeNotFoundError as EventTypeNotFoundError
    from .core.errors import EventVersionError as EventVersionError
    from .core.errors import EvsrcError as EvsrcError
    from .core.errors import HandlerSignatureError as HandlerSignatureError
    from .core.errors import InvalidEventError as InvalidEventError
    from .core.errors import InvalidExpectedVersionError as InvalidExpectedVersionError
    from .core.errors import InvalidQueryError as InvalidQueryError
    from .core.errors import InvalidStreamError as InvalidStreamError
    from .core.errors import LeaseLostError as LeaseLostError
    from .core.errors import MissingExtraError as MissingExtraError
    from .core.errors import OptimisticLockError as OptimisticLockError
    from .core.errors import ProjectionError as ProjectionError
    from .core.errors import ProjectionRetiredError as ProjectionRetiredError
    from .core.errors import RebuildError as RebuildError
    from .core.errors import SchemaError as SchemaError
    from .core.errors import SerializationError as SerializationError
    from .core.errors import (
        SnapshotDeserializationError as SnapshotDeserializationError,
    )
    from .core.errors import SnapshotError as SnapshotError
    from .core.errors import SnapshotNotFoundError as SnapshotNotFoundError
    from .core.errors import SnapshotSchemaVersionError as SnapshotSchemaVersionError
    from .core.errors import StoreBusyError as StoreBusyError
    from .core.errors import StoreClosedError as StoreClosedError
    from .core.errors import StoreError as StoreError
    from .core.errors import StoreFullError as StoreFullError
    from .core.errors import StoreUnavailableError as StoreUnavailableError
    from .core.errors import (
        SubscriptionAlreadyExistsError as SubscriptionAlreadyExistsError,
    )
    from .core.errors import SubscriptionConfigError as SubscriptionConfigError
    from .core.errors import SubscriptionError as SubscriptionError
    from .core.errors import SubscriptionStateError as SubscriptionStateError
    from .core.errors import TransactionError as TransactionError
    from .core.errors import UnhandledEventError as UnhandledEventError
    from .core.errors import UpcasterError as UpcasterError
    from .core.event import NO_METADATA as NO_METADATA
    from .core.event import Metadata as Metadata
    from .core.event import NewEvent as NewEvent
    from .core.event import Recorded as Recorded
    from .core.event import StreamName as StreamName
    from .core.expectation import ALL as ALL
    from .core.expectation import ANY as ANY
    from .core.expectation import NO_STREAM as NO_STREAM
    from .core.expectation import STREAM_EXISTS as STREAM_EXISTS
    from .core.expectation import AppendCondition as AppendCondition
    from .core.expectation import Query as Query
    from .core.expectation import QueryItem as QueryItem
    from .core.expectation import any_of as any_of
    from .core.expectation import satisfies as satisfies
    from .core.partition import partition_of as partition_of
    from .core.policy import ErrorClass as ErrorClass
    from .core.policy import Failure as Failure
    from .core.policy import Park as Park
    from .core.policy import Retry as Retry
    from .core.policy import Skip as Skip
    from .core.policy import Stop as Stop
    from .core.policy import by_class as by_class
    from .core.policy import class_of as class_of
    from .core.policy import for_errors as for_errors
    from .core.policy import retry_then as retry_then
    from .core.snapshot import Snapshot as Snapshot
    from .core.snapshot import Snapshotting as Snapshotting
    from .core.snapshot import every as every
    from .core.snapshot import json_snapshots as json_snapshots
    from .core.upcast import Chain as Chain
    from .core.upcast import Upcaster as Upcaster
    from .core.upcast import chain as chain
    from .core.view import View as View
    from .core.view import merge as merge
    from .facade.aggregate import AggregateRoot as AggregateRoot
    from .facade.aggregate import DeclarativeAggregate as DeclarativeAggregate
    from .facade.bus import EventBus as EventBus
    from .facade.bus import InMemoryEventBus as InMemoryEventBus
    from .facade.checkpoints import CheckpointData as CheckpointData
    from .facade.checkpoints import CheckpointRepository as CheckpointRepository
    from .facade.checkpoints import (
        InMemoryCheckpointRepository as InMemoryCheckpointRepository,
    )
    from .facade.checkpoints import LagMetrics as LagMetrics
    from .facade.checkpoints import (
        SQLiteCheckpointRepository as SQLiteCheckpointRepository,
    )
    from .facade.codec import UnknownEvent as UnknownEvent
    from .facade.database import DatabaseProjection as DatabaseProjection
    from .facade.dlq import DLQEntry as DLQEntry
    from .facade.dlq import DLQRepository as DLQRepository
    from .facade.dlq import DLQStats as DLQStats
    from .facade.dlq import InMemoryDLQRepository as InMemoryDLQRepository
    from .facade.dlq import ProjectionFailureCount as ProjectionFailureCount
    from .facade.dlq import SQLiteDLQRepository as SQLiteDLQRepository
    from .facade.events import DomainEvent as DomainEvent
    from .facade.events import EventRegistry as EventRegistry
    from .facade.events import default_registry as default_registry
    from .facade.events import get_event_class as get_event_class
    from .facade.events import get_event_class_or_none as get_event_class_or_none
    from .facade.events import is_event_registered as is_event_registered
    from .facade.events import list_registered_events as list_registered_events
    from .facade.events import register_event as register_event
    from .facade.handlers import get_handled_event_type as get_handled_event_type
    from .facade.handlers import handles as handles
    from .facade.handlers import is_event_handler as is_event_handler
    from .facade.postgresql import (
        PostgreSQLCheckpointRepository as PostgreSQLCheckpointRepository,
    )
    from .facade.postgresql import PostgreSQLDLQRepository as PostgreSQLDLQRepository
    from .facade.postgresql import PostgreSQLEventStore as PostgreSQLEventStore
    from .facade.postgresql import PostgreSQLSnapshotStore as PostgreSQLSnapshotStore
    from .facade.projections import (
        CheckpointTrackingProjection as CheckpointTrackingProjection,
    )
    from .facade.projections import DeclarativeProjection as DeclarativeProjection
    from .facade.projections import Projection as Projection
    from .facade.repository import AggregateRepository as AggregateRepository
    from .facade.snapshots import AggregateSnapshot as AggregateSnapshot
    from .facade.snapshots import InMemorySnapshotStore as InMemorySnapshotStore
    from .facade.snapshots import SnapshotStore as SnapshotStore
    from .facade.snapshots import SQLiteSnapshotStore as SQLiteSnapshotStore
    from .facade.stores import AppendResult as AppendResult
    from .facade.stores import EventPublisher as EventPublisher
    from .facade.stores import EventStore as EventStore
    from .facade.stores import EventStream as EventStream
    from .facade.stores import ExpectedVersion as ExpectedVersion
    from .facade.stores import InMemoryEventStore as InMemoryEventStore
    from .facade.stores import ReadDirection as ReadDirection
    from .facade.stores import ReadOptions as ReadOptions
    from .facade.stores import SQLiteEventStore as SQLiteEventStore
    from .facade.stores import StoredEvent as StoredEvent
    from .ports import RETIRED as RETIRED
    from .ports import Appended as Appended
    from .ports import Checkpoint as Checkpoint
    from .ports import Conflict as Conflict
    from .ports import DeadLetter as DeadLetter
    from .ports import Fence as Fence
    from .ports import Lease as Lease
    from .ports import Loaded as Loaded
    from .ports import Page as Page
    from .ports import SaveCheckpoint as SaveCheckpoint
    from .ports import SaveDeadLetter as SaveDeadLetter
    from .ports import SaveSnapshot as SaveSnapshot
    from .ports import Transaction as Transaction
    from .ports import Write as Write
    from .runtime.cache import StateCache as StateCache
    from .runtime.delivery import Batched as Batched
    from .runtime.delivery import Delivery as Delivery
    from .runtime.delivery import Parked as Parked
    from .runtime.delivery import Progress as Progress
    from .runtime.delivery import State as State
    from .runtime.delivery import Transactional as Transactional
    from .runtime.delivery import after_event as after_event
    from .runtime.delivery import after_page as after_page
    from .runtime.delivery import after_time as after_time
    from .runtime.ids import new_event as new_event
    from .runtime.ids import new_id as new_id
    from .runtime.inline import inline as inline
    from .runtime.letters import Inspected as Inspected
    from .runtime.letters import Redriven as Redriven
    from .runtime.project import load_view as load_view
    from .runtime.project import project as project
    from .runtime.project import wait_for_checkpoint as wait_for_checkpoint
    from .runtime.projection import HandlerProjection as HandlerProjection
    from .runtime.projection import ProjectionDefinition as ProjectionDefinition
    from .runtime.projection import ProjectionTransaction as ProjectionTransaction
    from .runtime.projection import ViewProjection as ViewProjection
    from .runtime.rebuild import RebuildProgress as RebuildProgress
    from .runtime.rebuild import Rebuilt as Rebuilt
    from .runtime.rebuild import cancel_rebuild as cancel_rebuild
    from .runtime.rebuild import rebuild as rebuild
    from .runtime.signals import run_until_signal as run_until_signal
    from .runtime.status import Status as Status
    from .runtime.subscribe import subscribe as subscribe
    from .runtime.transact import query as query
    from .runtime.transact import transact as transact
    from .runtime.worker_status import PartitionStatus as PartitionStatus
    from .runtime.worker_status import WorkerStatus as WorkerStatus
    from .runtime.workers import Worker as Worker
    from .runtime.workers import work as work
    from .stores.memory import memory_store as memory_store
    from .stores.postgresql import PostgreSQLStore as PostgreSQLStore
    from .stores.postgresql import migration_sql as migration_sql
    from .stores.postgresql import postgresql_store as postgresql_store
    from .stores.sqlite import SQLiteConnection as SQLiteConnection
    from .stores.sqlite import sqlite_store as sqlite_store

    __version__: str
    EventSourceError = EvsrcError
    EventStoreRecord = ports.EventStore

# Which module each name is in.
_NAMES = """
core.boundary: DecisionModel QueryDecider compose compose_map
core.breaker: Breaker
core.codec: Codec Opaque dec_hook enc_hook json_codec opaque_codec
core.decider: Decider adapt both fold many run
core.errors: AggregateIdMismatchError AggregateNotFoundError AggregateTypeMismatchError
    AppendOutcomeUnknownError CheckpointAheadError CheckpointError CorruptionError
    DuplicateEventError DuplicateEventTypeError DuplicateHandlerError EmptyAppendError
    EventSourceError EventTypeNotFoundError EventVersionError EvsrcError
    HandlerSignatureError InvalidEventError InvalidExpectedVersionError
    InvalidQueryError InvalidStreamError LeaseLostError MissingExtraError
    OptimisticLockError ProjectionError ProjectionRetiredError RebuildError SchemaError
    SerializationError SnapshotDeserializationError SnapshotError SnapshotNotFoundError
    SnapshotSchemaVersionError StoreBusyError StoreClosedError StoreError StoreFullError
    StoreUnavailableError SubscriptionAlreadyExistsError SubscriptionConfigError
    SubscriptionError SubscriptionStateError TransactionError UnhandledEventError
    UpcasterError
core.event: NO_METADATA Metadata NewEvent Recorded StreamName
core.expectation: ALL ANY NO_STREAM STREAM_EXISTS AppendCondition Query QueryItem any_of
    satisfies
core.partition: partition_of
core.policy: ErrorClass Failure Park Retry Skip Stop by_class class_of for_errors
    retry_then
core.snapshot: Snapshot Snapshotting every json_snapshots
core.upcast: Chain Upcaster chain
core.view: View merge
facade.aggregate: AggregateRoot DeclarativeAggregate
facade.bus: EventBus InMemoryEventBus
facade.checkpoints: CheckpointData CheckpointRepository InMemoryCheckpointRepository
    LagMetrics SQLiteCheckpointRepository
facade.codec: UnknownEvent
facade.database: DatabaseProjection
facade.dlq: DLQEntry DLQRepository DLQStats InMemoryDLQRepository ProjectionFailureCount
    SQLiteDLQRepository
facade.events: DomainEvent EventRegistry default_registry get_event_class
    get_event_class_or_none is_event_registered list_registered_events register_event
facade.handlers: get_handled_event_type handles is_event_handler
facade.postgresql: PostgreSQLCheckpointRepository PostgreSQLDLQRepository
    PostgreSQLEventStore PostgreSQLSnapshotStore
facade.projections: CheckpointTrackingProjection DeclarativeProjection Projection
facade.repository: AggregateRepository
facade.snapshots: AggregateSnapshot InMemorySnapshotStore SQLiteSnapshotStore
    SnapshotStore
facade.stores: AppendResult EventPublisher EventStore EventStream ExpectedVersion
    InMemoryEventStore ReadDirection ReadOptions SQLiteEventStore StoredEvent
ports: RETIRED Appended Checkpoint Conflict DeadLetter EventStoreRecord Fence Lease
    Loaded Page SaveCheckpoint SaveDeadLetter SaveSnapshot Transaction Write
runtime.cache: StateCache
runtime.delivery: Batched Delivery Parked Progress State Transactional after_event
    after_page after_time
runtime.ids: new_event new_id
runtime.inline: inline
runtime.letters: Inspected Redriven
runtime.project: load_view project wait_for_checkpoint
runtime.projection: HandlerProjection ProjectionDefinition ProjectionTransaction
    ViewProjection
runtime.rebuild: RebuildProgress Rebuilt cancel_rebuild rebuild
runtime.signals: run_until_signal
runtime.status: Status
runtime.subscribe: subscribe
runtime.transact: query transact
runtime.worker_status: PartitionStatus WorkerStatus
runtime.workers: Worker work
stores.memory: memory_store
stores.postgresql: PostgreSQLStore migration_sql postgresql_store
stores.sqlite: SQLiteConnection sqlite_store
"""
_RENAMED = {"EventSourceError": "EvsrcError", "EventStoreRecord": "EventStore"}
_HOMES: dict[str, str] = {}
_home = ""
for _word in _NAMES.split():
    if _word.endswith(":"):
        _home = _word[:-1]
    else:
        _HOMES[_word] = _home

if not TYPE_CHECKING:  # type checkers would take any name for one of ours
    __all__ = [*sorted(_HOMES), "__version__"]  # noqa: PLE0604 - strings, all of them

    def __getattr__(name: str) -> Any:
        if name == "__version__":
            from importlib.metadata import version  # noqa: PLC0415 - slow to import

            return version("evsrc-py")
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        home = import_module(f".{_HOMES[name]}", __name__)
        value = globals()[name] = getattr(home, _RENAMED.get(name, name))
        return value

    def __dir__() -> list[str]:
        return __all__
