"""Keep events that could not be handled, for class-based users to look at and retry."""

# ruff: noqa: D102 - what a table does is documented by `DLQRepository`
from __future__ import annotations

import traceback
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal, Protocol, TypeAlias, runtime_checkable
from uuid import UUID

import msgspec
from msgspec import Struct

from ..core.codec import enc_hook, storable
from ..stores.rows import micros, time_of
from .tables import Execute, Memory, SQLiteConnection, on_connection

DLQStatus: TypeAlias = Literal["failed", "retrying", "resolved"]


class DLQEntry(Struct, frozen=True, kw_only=True):
    """An event that a projection could not handle, with the reason.

    `retry_count` is how often it was tried again, `event_data` its fields as JSON
    values.
    """

    id: int
    event_id: UUID
    projection_name: str
    event_type: str
    event_data: dict[str, Any]
    error_message: str
    error_stacktrace: str | None = None
    retry_count: int = 0
    first_failed_at: datetime
    last_failed_at: datetime
    status: DLQStatus = "failed"
    resolved_at: datetime | None = None
    resolved_by: str | None = None


class DLQStats(Struct, frozen=True):
    """How many events wait to be dealt with, of how many projections, since when."""

    total_failed: int
    total_retrying: int
    affected_projections: int
    oldest_failure: datetime | None


class ProjectionFailureCount(Struct, frozen=True):
    """How many events of one projection wait to be dealt with."""

    projection_name: str
    failure_count: int
    oldest_failure: datetime
    most_recent_failure: datetime


class DeadLetters(Protocol):
    """Where events go that a subscriber cannot handle."""

    async def add_failed_event(
        self,
        event_id: UUID,
        projection_name: str,
        event_type: str,
        event_data: dict[str, Any],
        error: Exception,
        retry_count: int = 0,
    ) -> None:
        """Keep an event with its error; again: "failed", with the first time kept."""
        ...


@runtime_checkable
class DLQRepository(DeadLetters, Protocol):
    """Where failed events are kept.

    Event and projection are the key: one that fails again is the same entry.
    """

    async def get_failed_events(
        self,
        projection_name: str | None = None,
        status: DLQStatus | None = "failed",
        limit: int = 100,
    ) -> list[DLQEntry]:
        """Give entries of one projection (None: all) in one status (None: any).

        Those that failed first are first.
        """
        ...

    async def get_failed_event_by_id(self, dlq_id: int) -> DLQEntry | None:
        """Give the entry of an id, or None."""
        ...

    async def mark_resolved(self, dlq_id: int, resolved_by: str | UUID) -> bool:
        """Note who has dealt with an entry; tell whether it was open until now."""
        ...

    async def mark_retrying(self, dlq_id: int) -> bool:
        """Take an entry to try it again; tell whether nobody else had taken it."""
        ...

    async def get_failure_stats(self) -> DLQStats:
        """Count what is not resolved."""
        ...

    async def get_projection_failure_counts(self) -> list[ProjectionFailureCount]:
        """Count what is not resolved by projection, the most first."""
        ...

    async def delete_resolved_events(self, older_than_days: int = 30) -> int:
        """Forget what was resolved that many days ago or before; tell how many."""
        ...


CREATE: Final = """
CREATE TABLE IF NOT EXISTS evsrc_projection_failure (
  id               INTEGER PRIMARY KEY AUTOINCREMENT,
  event_id         TEXT    NOT NULL,
  projection_name  TEXT    NOT NULL,
  event_type       TEXT    NOT NULL,
  event_data       TEXT    NOT NULL,
  error_message    TEXT    NOT NULL,
  error_stacktrace TEXT,
  retry_count      BIGINT  NOT NULL,
  first_failed_at  BIGINT  NOT NULL,
  last_failed_at   BIGINT  NOT NULL,
  status           TEXT    NOT NULL,
  resolved_at      BIGINT,
  resolved_by      TEXT,
  UNIQUE (event_id, projection_name)
)"""
_ADD: Final = """
INSERT INTO evsrc_projection_failure
  (event_id, projection_name, event_type, event_data, error_message, error_stacktrace,
   retry_count, first_failed_at, last_failed_at, status)
VALUES
  (:event_id, :projection_name, :event_type, :event_data, :message, :stacktrace,
   :retry_count, :now, :now, 'failed')
ON CONFLICT (event_id, projection_name) DO UPDATE SET
  event_type = excluded.event_type, event_data = excluded.event_data,
  error_message = excluded.error_message,
  error_stacktrace = excluded.error_stacktrace,
  retry_count = excluded.retry_count, last_failed_at = excluded.last_failed_at,
  status = 'failed', resolved_at = NULL, resolved_by = NULL"""
_LIST: Final = """
SELECT id, event_id, projection_name, event_type, event_data, error_message,
       error_stacktrace, retry_count, first_failed_at, last_failed_at, status,
       resolved_at, resolved_by
  FROM evsrc_projection_failure
 WHERE (CAST(:id AS BIGINT) IS NULL OR id = :id)
   AND (CAST(:projection_name AS TEXT) IS NULL OR projection_name = :projection_name)
   AND (CAST(:status AS TEXT) IS NULL OR status = :status)
 ORDER BY first_failed_at, id LIMIT :limit"""
_RESOLVE: Final = """
UPDATE evsrc_projection_failure
   SET status = 'resolved', resolved_at = :now, resolved_by = :resolved_by
 WHERE id = :id AND status <> 'resolved'"""
_RETRY: Final = """
UPDATE evsrc_projection_failure SET status = 'retrying'
 WHERE id = :id AND status = 'failed'"""
_STATS: Final = """
SELECT count(CASE WHEN status = 'failed' THEN 1 END),
       count(CASE WHEN status = 'retrying' THEN 1 END),
       count(DISTINCT projection_name), min(first_failed_at)
  FROM evsrc_projection_failure WHERE status <> 'resolved'"""
_COUNTS: Final = """
SELECT projection_name, count(*), min(first_failed_at), max(last_failed_at)
  FROM evsrc_projection_failure WHERE status <> 'resolved'
 GROUP BY projection_name"""
_DELETE: Final = """
DELETE FROM evsrc_projection_failure
 WHERE status = 'resolved' AND resolved_at <= :before"""
_CLEAR: Final = "DELETE FROM evsrc_projection_failure"


class SQLDLQRepository(DLQRepository):
    """Failed events in a table of a database."""

    def __init__(self, execute: Execute) -> None:
        self._execute = execute

    async def add_failed_event(
        self,
        event_id: UUID,
        projection_name: str,
        event_type: str,
        event_data: dict[str, Any],
        error: Exception,
        retry_count: int = 0,
    ) -> None:
        message, stacktrace = _described(error)
        values = {
            "event_id": str(event_id),
            "projection_name": projection_name,
            "event_type": event_type,
            "event_data": _encode(event_data).decode(),
            "message": message,
            "stacktrace": stacktrace,
            "retry_count": retry_count,
            "now": micros(datetime.now(UTC)),
        }
        await self._execute(_ADD, values)

    async def get_failed_events(
        self,
        projection_name: str | None = None,
        status: DLQStatus | None = "failed",
        limit: int = 100,
    ) -> list[DLQEntry]:
        return await self._list(
            id=None, projection_name=projection_name, status=status, limit=limit
        )

    async def get_failed_event_by_id(self, dlq_id: int) -> DLQEntry | None:
        found = await self._list(id=dlq_id, projection_name=None, status=None, limit=1)
        return found[0] if found else None

    async def _list(self, **values: object) -> list[DLQEntry]:
        return list(map(_entry, (await self._execute(_LIST, values)).rows))

    async def mark_resolved(self, dlq_id: int, resolved_by: str | UUID) -> bool:
        by, at = storable(str(resolved_by)), micros(datetime.now(UTC))
        values = {"id": dlq_id, "now": at, "resolved_by": by}
        return (await self._execute(_RESOLVE, values)).changed > 0

    async def mark_retrying(self, dlq_id: int) -> bool:
        return (await self._execute(_RETRY, {"id": dlq_id})).changed > 0

    async def get_failure_stats(self) -> DLQStats:
        (row,) = (await self._execute(_STATS, {})).rows
        failed, retrying, projections, at = row
        oldest = None if at is None else time_of(at)
        return DLQStats(failed, retrying, projections, oldest)

    async def get_projection_failure_counts(self) -> list[ProjectionFailureCount]:
        rows = (await self._execute(_COUNTS, {})).rows
        return [
            ProjectionFailureCount(name, failures, time_of(oldest), time_of(newest))
            for name, failures, oldest, newest in sorted(
                rows, key=lambda row: (-row[1], row[0])
            )
        ]

    async def delete_resolved_events(self, older_than_days: int = 30) -> int:
        if older_than_days < 0:
            raise ValueError(f"older_than_days is at least 0, not {older_than_days!r}")
        before = micros(datetime.now(UTC) - timedelta(days=older_than_days))
        return (await self._execute(_DELETE, {"before": before})).changed


class InMemoryDLQRepository(SQLDLQRepository):
    """Failed events that are kept as long as the process lives."""

    def __init__(self) -> None:
        super().__init__(Memory(CREATE))

    async def clear(self) -> None:
        """Forget all entries."""
        await self._execute(_CLEAR, {})


class SQLiteDLQRepository(SQLDLQRepository):
    """Failed events in a table of an SQLite database that the caller has opened.

    Inside a transaction of the caller they become part of it; otherwise each is
    committed at once.

    Args:
        connection: the caller's; it stays the caller's to close.
    """

    def __init__(self, connection: SQLiteConnection) -> None:
        super().__init__(on_connection(connection, CREATE))


def _entry(row: Iterable[Any]) -> DLQEntry:
    fields = dict(zip(DLQEntry.__struct_fields__, row, strict=True))
    for name in ("first_failed_at", "last_failed_at", "resolved_at"):
        fields[name] = None if fields[name] is None else time_of(fields[name])
    fields["event_id"] = UUID(fields["event_id"])
    fields["event_data"] = _decode(fields["event_data"])
    return DLQEntry(**fields)


def _described(error: Exception) -> tuple[str, str]:
    """Give an error's message and trace, also of one that cannot say it itself."""
    told = traceback.TracebackException.from_exception(error)
    return storable(str(told) or repr(error)), storable("".join(told.format()))


def _as_json(value: Any) -> Any:
    try:
        return enc_hook(value)
    except NotImplementedError:
        return repr(value)  # whatever is in it, the event is kept


_encode: Final = msgspec.json.Encoder(enc_hook=_as_json).encode
_decode: Final = msgspec.json.Decoder(dict[str, Any]).decode
