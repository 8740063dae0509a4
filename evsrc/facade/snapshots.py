"""Keep snapshots of aggregates, for class-based users.

A snapshot may be dropped at any time: it only saves reading events.
"""

# ruff: noqa: D102 - what a table does is documented by `SnapshotStore`
from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, Final, Self
from uuid import UUID
from zlib import crc32

import msgspec
from msgspec import Struct

from ..core.errors import SnapshotDeserializationError, StoreClosedError
from ..stores.rows import micros, time_of
from .tables import Execute, Memory, Rows, SQLiteConnection, on_connection


class AggregateSnapshot(Struct, frozen=True):
    """An aggregate's state after *version* events; `evsrc.snapshots.Snapshot`.

    The state is in JSON values, the schema version that of the class that made it.
    """

    aggregate_id: UUID
    aggregate_type: str
    version: int
    state: dict[str, Any]
    schema_version: int
    created_at: datetime


class SnapshotStore(ABC):
    """Where snapshots are kept: one of each aggregate, the last that was saved."""

    @abstractmethod
    async def save_snapshot(self, snapshot: AggregateSnapshot) -> None:
        """Keep a snapshot instead of the aggregate's earlier one."""

    @abstractmethod
    async def get_snapshot(
        self, aggregate_id: UUID, aggregate_type: str
    ) -> AggregateSnapshot | None:
        """Give an aggregate's snapshot, or None.

        Raises:
            SnapshotDeserializationError: what was stored has changed.
        """

    @abstractmethod
    async def delete_snapshot(self, aggregate_id: UUID, aggregate_type: str) -> bool:
        """Forget an aggregate's snapshot; tell whether there was one."""

    @abstractmethod
    async def snapshot_exists(self, aggregate_id: UUID, aggregate_type: str) -> bool:
        """Tell whether there is a snapshot of an aggregate."""

    @abstractmethod
    async def delete_snapshots_by_type(
        self, aggregate_type: str, schema_version_below: int | None = None
    ) -> int:
        """Forget a type's snapshots (of a lower schema version); tell how many."""


CREATE: Final = """
CREATE TABLE IF NOT EXISTS evsrc_aggregate_snapshot (
  aggregate_id   TEXT   NOT NULL,
  aggregate_type TEXT   NOT NULL,
  version        BIGINT NOT NULL,
  state          TEXT   NOT NULL,
  schema_version BIGINT NOT NULL,
  created_at     BIGINT NOT NULL,
  crc            BIGINT NOT NULL,
  PRIMARY KEY (aggregate_id, aggregate_type)
)"""
_SAVE: Final = """
INSERT INTO evsrc_aggregate_snapshot
  (aggregate_id, aggregate_type, version, state, schema_version, created_at, crc)
VALUES
  (:aggregate_id, :aggregate_type, :version, :state, :schema_version, :created_at, :crc)
ON CONFLICT (aggregate_id, aggregate_type) DO UPDATE SET
  version = excluded.version, state = excluded.state,
  schema_version = excluded.schema_version, created_at = excluded.created_at,
  crc = excluded.crc"""
_GET: Final = """
SELECT aggregate_id, aggregate_type, version, state, schema_version, created_at, crc
  FROM evsrc_aggregate_snapshot
 WHERE aggregate_id = :aggregate_id AND aggregate_type = :aggregate_type"""
_DELETE: Final = """
DELETE FROM evsrc_aggregate_snapshot
 WHERE aggregate_id = :aggregate_id AND aggregate_type = :aggregate_type"""
_DELETE_TYPE: Final = """
DELETE FROM evsrc_aggregate_snapshot
 WHERE aggregate_type = :aggregate_type
   AND (CAST(:below AS BIGINT) IS NULL OR schema_version < :below)"""
_ALL: Final = "SELECT version FROM evsrc_aggregate_snapshot"
_CLEAR: Final = "DELETE FROM evsrc_aggregate_snapshot"


class SQLSnapshotStore(SnapshotStore):
    """Snapshots in a table of a database."""

    _execute: Execute

    async def save_snapshot(self, snapshot: AggregateSnapshot) -> None:
        await self._execute(_SAVE, _packed(snapshot))

    async def get_snapshot(
        self, aggregate_id: UUID, aggregate_type: str
    ) -> AggregateSnapshot | None:
        found = (await self._execute(_GET, _key(aggregate_id, aggregate_type))).rows
        return _unpacked(*found[0]) if found else None

    async def delete_snapshot(self, aggregate_id: UUID, aggregate_type: str) -> bool:
        key = _key(aggregate_id, aggregate_type)
        return (await self._execute(_DELETE, key)).changed > 0

    async def snapshot_exists(self, aggregate_id: UUID, aggregate_type: str) -> bool:
        key = _key(aggregate_id, aggregate_type)
        return bool((await self._execute(_GET, key)).rows)

    async def delete_snapshots_by_type(
        self, aggregate_type: str, schema_version_below: int | None = None
    ) -> int:
        values = {"aggregate_type": aggregate_type, "below": schema_version_below}
        return (await self._execute(_DELETE_TYPE, values)).changed


class InMemorySnapshotStore(SQLSnapshotStore):
    """Snapshots that are kept as long as the process lives."""

    def __init__(self) -> None:
        self._memory = self._execute = Memory(CREATE)

    @property
    def snapshot_count(self) -> int:
        """How many snapshots there are."""
        return len(self._memory.run(_ALL, {}).rows)

    async def clear(self) -> None:
        """Forget all snapshots."""
        await self._execute(_CLEAR, {})


class SQLiteSnapshotStore(SQLSnapshotStore):
    """Snapshots in an SQLite file, or with ":memory:" as long as the store is open.

    It opens by itself; close it, or use `async with`. Its errors are `StoreError`s.

    Args:
        database_path: the file; its directory must exist. A file of its own is best: in
            that of the events it is a second writer.
    """

    def __init__(self, database_path: str) -> None:
        self.database_path = database_path
        self._opening = asyncio.Lock()
        self._connection: SQLiteConnection | None = None
        self._closed = False

    async def _execute(self, statement: str, values: Mapping[str, object]) -> Rows:
        from ..stores.sqlite.connect import reported  # noqa: PLC0415 - loads the driver

        run = on_connection(await self._opened(), CREATE)
        try:
            return await run(statement, values)
        except Exception as error:
            raise reported(error, self.database_path) from error

    async def _opened(self) -> SQLiteConnection:
        from ..stores.sqlite.connect import connect  # noqa: PLC0415 - loads the driver

        async with self._opening:
            if self._closed:
                raise StoreClosedError(self.database_path)
            if self._connection is None:
                self._connection = await connect(self.database_path)
            return self._connection

    async def close(self) -> None:
        """Close the store; what was saved stays."""
        async with self._opening:
            self._closed = True
            if self._connection is not None:
                await self._connection.close()
                self._connection = None

    async def __aenter__(self) -> Self:
        await self._opened()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder(dict[str, Any]).decode


def _key(aggregate_id: UUID, aggregate_type: str) -> dict[str, object]:
    return {"aggregate_id": str(aggregate_id), "aggregate_type": aggregate_type}


def _packed(snapshot: AggregateSnapshot) -> dict[str, object]:
    """Give the row of a snapshot."""
    row: dict[str, object] = {
        **_key(snapshot.aggregate_id, snapshot.aggregate_type),
        "version": snapshot.version,
        "state": _encode(snapshot.state).decode(),
        "schema_version": snapshot.schema_version,
        "created_at": micros(snapshot.created_at),
    }
    return {**row, "crc": _crc(row.values())}


def _unpacked(*row: Any) -> AggregateSnapshot:
    """Give the snapshot of a row, if its checksum holds."""
    id, type, version, state, schema_version, created_at, crc = row
    if crc != _crc(row[:-1]):
        raise SnapshotDeserializationError(id, type, "its checksum does not hold")
    return AggregateSnapshot(
        UUID(id), type, version, _decode(state), schema_version, time_of(created_at)
    )


def _crc(row: Iterable[object]) -> int:
    return crc32(_encode(list(row)))
