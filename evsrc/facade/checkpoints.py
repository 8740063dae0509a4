"""Keep what projections and subscriptions have handled, for class-based users."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, Protocol
from uuid import UUID

from msgspec import Struct, structs

from ..ports import START
from ..stores.rows import micros, time_of
from .tables import Execute, on_connection

if TYPE_CHECKING:
    import aiosqlite


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


class _Reports:
    """What every repository can tell from its checkpoints."""

    async def get_all_checkpoints(self) -> list[CheckpointData]:
        raise NotImplementedError  # pragma: no cover - both repositories have their own

    async def get_lag_metrics(self, projection_name: str) -> LagMetrics | None:
        """Tell how long ago the last event was handled; None: never."""
        for data in await self.get_all_checkpoints():
            if data.projection_name == projection_name and data.last_processed_at:
                at = data.last_processed_at
                return LagMetrics(
                    projection_name,
                    None if data.last_event_id is None else str(data.last_event_id),
                    max(0.0, (datetime.now(UTC) - at).total_seconds()),
                    data.events_processed,
                    at.isoformat(),
                )
        return None


class InMemoryCheckpointRepository(_Reports):
    """Checkpoints that live as long as the process."""

    def __init__(self) -> None:
        self._data: dict[str, CheckpointData] = {}

    def _get(self, name: str) -> CheckpointData:
        return self._data.get(name, CheckpointData(name))

    async def get_checkpoint(self, projection_name: str) -> UUID | None:
        """Give the id of the last handled event."""
        return self._get(projection_name).last_event_id

    async def update_checkpoint(
        self, projection_name: str, event_id: UUID, event_type: str
    ) -> None:
        """Note one more handled event."""
        self._note(projection_name, event_id, event_type, None)

    async def get_position(self, subscription_id: str) -> int | None:
        """Give a subscription's position in the log."""
        return self._get(subscription_id).global_position

    async def save_position(
        self, subscription_id: str, position: int, event_id: UUID, event_type: str
    ) -> None:
        """Note a subscription's position, and the event there."""
        self._note(subscription_id, event_id, event_type, position)

    def _note(
        self, name: str, event_id: UUID, event_type: str, position: int | None
    ) -> None:
        known = self._get(name)
        self._data[name] = structs.replace(
            known,
            last_event_id=event_id,
            last_event_type=event_type,
            last_processed_at=datetime.now(UTC),
            events_processed=known.events_processed + 1,
            global_position=known.global_position if position is None else position,
        )

    async def reset_checkpoint(self, projection_name: str) -> None:
        """Forget a checkpoint."""
        self._data.pop(projection_name, None)

    async def get_all_checkpoints(self) -> list[CheckpointData]:
        """Give all checkpoints, by name."""
        return [self._data[name] for name in sorted(self._data)]

    async def clear(self) -> None:
        """Forget all checkpoints."""
        self._data.clear()


CREATE: Final = """
CREATE TABLE IF NOT EXISTS evsrc_projection_checkpoint (
  name             TEXT PRIMARY KEY,
  last_event_id    TEXT,
  last_event_type  TEXT,
  processed_at     INTEGER,
  events_processed INTEGER NOT NULL,
  position         INTEGER
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
    OR (CAST(:name AS TEXT) IS NULL AND name NOT LIKE '%#letter/%')
 ORDER BY name"""  # a name with "#letter/" only notes which dead letter was handled
_FORGET: Final = "DELETE FROM evsrc_projection_checkpoint WHERE name = :name"


class SQLCheckpointRepository(_Reports):
    """Checkpoints in a table of a database.

    Args:
        execute: runs the statements.
    """

    def __init__(self, execute: Execute) -> None:
        self._execute = execute

    async def get_checkpoint(self, projection_name: str) -> UUID | None:
        """Give the id of the last handled event."""
        found = await self._find(projection_name)
        return None if found is None else found.last_event_id

    async def update_checkpoint(
        self, projection_name: str, event_id: UUID, event_type: str
    ) -> None:
        """Note one more handled event."""
        await self._note(projection_name, event_id, event_type, None)

    async def get_position(self, subscription_id: str) -> int | None:
        """Give a subscription's position in the log."""
        found = await self._find(subscription_id)
        return None if found is None else found.global_position

    async def save_position(
        self, subscription_id: str, position: int, event_id: UUID, event_type: str
    ) -> None:
        """Note a subscription's position, and the event there."""
        await self._note(subscription_id, event_id, event_type, position)

    async def move_position(
        self,
        subscription_id: str,
        position: int,
        after: int | None,
        event_id: UUID | None,
        event_type: str | None,
    ) -> bool:
        """Move a position that is at *after* (0: not there); tell whether it was.

        Of two who move it from the same place, one does. None: wherever it is.
        """
        values: dict[str, object] = {
            "name": subscription_id,
            "event_id": None if event_id is None else str(event_id),
            "event_type": event_type,
            "now": micros(datetime.now(UTC)),
            "position": position,
        }
        if after is None:
            return (await self._execute(_NOTE, values)).changed > 0
        if after == START:
            done = await self._execute(_NOTE + _ONLY_NEW, values)
        else:
            done = await self._execute(_MOVE, {**values, "after": after})
        return done.changed > 0

    async def _note(
        self, name: str, event_id: UUID, event_type: str, position: int | None
    ) -> None:
        values = {
            "name": name,
            "event_id": str(event_id),
            "event_type": event_type,
            "now": micros(datetime.now(UTC)),
            "position": position,
        }
        await self._execute(_NOTE, values)

    async def reset_checkpoint(self, projection_name: str) -> None:
        """Forget a checkpoint."""
        await self._execute(_FORGET, {"name": projection_name})

    async def _find(self, name: str) -> CheckpointData | None:
        found = await self._select(name)
        return found[0] if found else None

    async def get_all_checkpoints(self) -> list[CheckpointData]:
        """Give all checkpoints, by name."""
        return await self._select(None)

    async def _select(self, name: str | None) -> list[CheckpointData]:
        return [
            CheckpointData(
                name,
                None if event_id is None else UUID(event_id),
                event_type,
                None if at is None else time_of(at),
                processed,
                position,
            )
            for name, event_id, event_type, at, processed, position in (
                await self._execute(_SELECT, {"name": name})
            ).rows
        ]


class SQLiteCheckpointRepository(SQLCheckpointRepository):
    """Checkpoints in a table of an SQLite database that the caller has opened.

    Inside a transaction of the caller they become part of it; otherwise each is
    committed at once.

    Args:
        connection: the caller's; it stays the caller's to close.
    """

    def __init__(self, connection: aiosqlite.Connection) -> None:
        super().__init__(on_connection(connection, CREATE))
