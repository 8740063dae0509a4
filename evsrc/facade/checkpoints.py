"""Keep what projections and subscriptions have handled, for class-based users."""

# ruff: noqa: D102 - what a table does is documented by `CheckpointRepository`
from __future__ import annotations

from datetime import UTC, datetime
from typing import Final, Protocol
from uuid import UUID

from msgspec import Struct

from ..ports import START
from ..stores.rows import micros, time_of
from .tables import Execute, Memory, SQLiteConnection, on_connection


class CheckpointData(Struct, frozen=True):
    """How far one projection or subscription is."""

    projection_name: str
    last_event_id: UUID | None = None
    last_event_type: str | None = None
    last_processed_at: datetime | None = None
    events_processed: int = 0
    global_position: int | None = None


class LagMetrics(Struct, frozen=True):
    """How long ago a projection handled its last event."""

    projection_name: str
    last_event_id: str | None
    lag_seconds: float = 0.0
    events_processed: int = 0
    last_processed_at: str | None = None


class CheckpointRepository(Protocol):
    """Where checkpoints are kept."""

    async def get_checkpoint(self, projection_name: str) -> UUID | None:
        """Give the id of the last handled event."""
        ...

    async def update_checkpoint(
        self, projection_name: str, event_id: UUID, event_type: str
    ) -> None:
        """Note one more handled event."""
        ...

    async def reset_checkpoint(self, projection_name: str) -> None:
        """Forget a checkpoint."""
        ...

    async def get_position(self, subscription_id: str) -> int | None:
        """Give a subscription's position in the log."""
        ...

    async def save_position(
        self, subscription_id: str, position: int, event_id: UUID, event_type: str
    ) -> None:
        """Note a subscription's position, and the event there."""
        ...

    async def get_all_checkpoints(self) -> list[CheckpointData]:
        """Give all checkpoints, by name."""
        ...

    async def get_lag_metrics(self, projection_name: str) -> LagMetrics | None:
        """Tell how long ago the last event was handled; None: never."""
        ...


CREATE: Final = """
CREATE TABLE IF NOT EXISTS evsrc_projection_checkpoint (
  name             TEXT PRIMARY KEY,
  last_event_id    TEXT,
  last_event_type  TEXT,
  processed_at     BIGINT,
  events_processed BIGINT NOT NULL,
  position         BIGINT
)"""
_NOTE: Final = """
INSERT INTO evsrc_projection_checkpoint AS kept
  (name, last_event_id, last_event_type, processed_at, events_processed, position)
VALUES (:name, :event_id, :event_type, :now, 1, :position)
ON CONFLICT (name) DO UPDATE SET
  last_event_id = excluded.last_event_id,
  last_event_type = excluded.last_event_type,
  processed_at = excluded.processed_at,
  events_processed = kept.events_processed + 1,
  position = coalesce(excluded.position, kept.position)"""
_ONLY_NEW: Final = """
WHERE coalesce(kept.position, 0) = 0"""
_MOVE: Final = """
UPDATE evsrc_projection_checkpoint
   SET last_event_id = :event_id, last_event_type = :event_type, processed_at = :now,
       events_processed = events_processed + 1, position = :position
 WHERE name = :name AND coalesce(position, 0) = :after"""
_SELECT: Final = """
SELECT name, last_event_id, last_event_type, processed_at, events_processed, position
  FROM evsrc_projection_checkpoint
 WHERE name = :name
    OR (CAST(:name AS TEXT) IS NULL AND name NOT LIKE '%#letter/%')"""
# a name with "#letter/" only notes which dead letter was handled
_FORGET: Final = "DELETE FROM evsrc_projection_checkpoint WHERE name = :name"
_CLEAR: Final = "DELETE FROM evsrc_projection_checkpoint"


class SQLCheckpointRepository(CheckpointRepository):
    """Checkpoints in a table of a database; *execute* runs the statements."""

    def __init__(self, execute: Execute) -> None:
        self._execute = execute

    async def get_checkpoint(self, projection_name: str) -> UUID | None:
        found = await self._select(projection_name)
        return found[0].last_event_id if found else None

    async def get_position(self, subscription_id: str) -> int | None:
        found = await self._select(subscription_id)
        return found[0].global_position if found else None

    async def update_checkpoint(
        self, projection_name: str, event_id: UUID, event_type: str
    ) -> None:
        await self.move_position(projection_name, None, None, event_id, event_type)

    async def save_position(
        self, subscription_id: str, position: int, event_id: UUID, event_type: str
    ) -> None:
        await self.move_position(subscription_id, position, None, event_id, event_type)

    async def move_position(
        self,
        name: str,
        position: int | None,
        after: int | None,
        event_id: UUID | None,
        event_type: str | None,
    ) -> bool:
        """Move a position that is at *after* (0: not there); tell whether it was.

        Of two who move it from the same place, one does. After None: wherever it is.
        """
        values = {
            "name": name,
            "event_id": None if event_id is None else str(event_id),
            "event_type": event_type,
            "now": micros(datetime.now(UTC)),
            "position": position,
        }
        statement = _NOTE
        if after == START:
            statement += _ONLY_NEW
        elif after is not None:
            statement, values["after"] = _MOVE, after
        return (await self._execute(statement, values)).changed > 0

    async def reset_checkpoint(self, projection_name: str) -> None:
        await self._execute(_FORGET, {"name": projection_name})

    async def get_all_checkpoints(self) -> list[CheckpointData]:
        return sorted(await self._select(None), key=lambda data: data.projection_name)

    async def get_lag_metrics(self, projection_name: str) -> LagMetrics | None:
        for data in await self._select(projection_name):
            if at := data.last_processed_at:
                return LagMetrics(
                    projection_name,
                    None if data.last_event_id is None else str(data.last_event_id),
                    max(0.0, (datetime.now(UTC) - at).total_seconds()),
                    data.events_processed,
                    at.isoformat(),
                )
        return None

    async def _select(self, name: str | None) -> list[CheckpointData]:
        return [
            CheckpointData(
                name,
                None if event_id is None else UUID(event_id),
                event_type,
                None if at is None else time_of(at),
                *counts,
            )
            for name, event_id, event_type, at, *counts in (
                await self._execute(_SELECT, {"name": name})
            ).rows
        ]


class InMemoryCheckpointRepository(SQLCheckpointRepository):
    """Checkpoints that live as long as the process."""

    def __init__(self) -> None:
        super().__init__(Memory(CREATE))

    async def clear(self) -> None:
        """Forget all checkpoints."""
        await self._execute(_CLEAR, {})


class SQLiteCheckpointRepository(SQLCheckpointRepository):
    """Checkpoints in a table of an SQLite database that the caller has opened.

    Inside a transaction of the caller they become part of it; otherwise each is
    committed at once.

    Args:
        connection: the caller's; it stays the caller's to close.
    """

    def __init__(self, connection: SQLiteConnection) -> None:
        super().__init__(on_connection(connection, CREATE))
