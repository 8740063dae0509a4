"""The door to snapshots: `from evsrc.snapshots import Snapshot, SnapshotStore`.

`Snapshot` is an aggregate's here, `evsrc.AggregateSnapshot`; that of a decider's state
is `evsrc.Snapshot`.
"""

from .core.errors import (
    SnapshotDeserializationError,
    SnapshotError,
    SnapshotNotFoundError,
    SnapshotSchemaVersionError,
)
from .facade.postgresql import PostgreSQLSnapshotStore
from .facade.snapshots import AggregateSnapshot as Snapshot
from .facade.snapshots import (
    InMemorySnapshotStore,
    SnapshotStore,
    SQLiteSnapshotStore,
)

__all__ = [
    "InMemorySnapshotStore",
    "PostgreSQLSnapshotStore",
    "SQLiteSnapshotStore",
    "Snapshot",
    "SnapshotDeserializationError",
    "SnapshotError",
    "SnapshotNotFoundError",
    "SnapshotSchemaVersionError",
    "SnapshotStore",
]
