"""Say when a repository keeps a snapshot of an aggregate, and whether one may be used.

What goes wrong with a snapshot is logged and counted; it fails no save and no load.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any, Final, Generic, Literal, TypeAlias, TypeVar, cast, get_args
from uuid import UUID

from ..core.errors import (
    SnapshotDeserializationError,
    SnapshotError,
    SnapshotNotFoundError,
    SnapshotSchemaVersionError,
)
from ..core.snapshot import SnapshotPolicy, every
from ..ports import Loaded
from .aggregate import AggregateRoot
from .snapshots import AggregateSnapshot, SnapshotStore

AggT = TypeVar("AggT", bound=AggregateRoot[Any])
SnapshotMode: TypeAlias = Literal["sync", "background", "manual"]

_log: Final = logging.getLogger("evsrc")
_MOST_WAITING: Final = 1000


class Snapshotting(Generic[AggT]):
    """The snapshots of one repository's aggregates, as `AggregateRepository` says."""

    def __init__(
        self,
        store: SnapshotStore | None,
        factory: type[AggT],
        aggregate_type: str,
        threshold: int | None,
        mode: SnapshotMode,
    ) -> None:
        self._store = store
        self.misses: Counter[str] = Counter()
        self.background = Background(self._save)
        self._factory = factory
        self._type = aggregate_type
        self._mode = mode
        if threshold is not None and threshold < 1:
            raise ValueError(f"snapshot_threshold is at least 1, not {threshold!r}")
        if mode not in get_args(SnapshotMode):
            raise ValueError(
                f"snapshot_mode is 'sync', 'background' or 'manual', not {mode!r}"
            )
        self._due: SnapshotPolicy | None = None
        if store is not None and threshold is not None and mode != "manual":
            self._due = every(threshold)

    # Taking.

    def taken(self, aggregate: AggT) -> AggregateSnapshot:
        """Give the aggregate's state of this moment as a snapshot.

        Raises:
            SnapshotError: the state would not read back as what it is.
        """
        id, kind = aggregate.aggregate_id, cast("Any", type(aggregate.state))
        if aggregate.version == 0:
            raise SnapshotError(id, self._type, "it has no events")
        if aggregate._cleared:  # noqa: SLF001 - of its base class
            problem = "some of its events were cleared: were they saved? load it anew"
            raise SnapshotError(id, self._type, problem)
        state = aggregate._serialize_state()  # noqa: SLF001 - the hook of its class
        snapshot = AggregateSnapshot(
            id,
            self._type,
            aggregate.version,
            state,
            self._factory.schema_version,
            datetime.now(UTC),
        )
        back = self._restored(snapshot, id)
        if kind.__eq__ is object.__eq__:  # it cannot be compared
            same = back._serialize_state() == state  # noqa: SLF001
        else:
            same = bool(back.state == aggregate.state)
        if not same:
            problem = f"{aggregate.state!r} would read back as {back.state!r}"
            raise SnapshotError(id, self._type, problem)
        return snapshot

    def taken_if_due(self, aggregate: AggT, before: int) -> AggregateSnapshot | None:
        """Give a snapshot if the events since version *before* make one due."""
        if self._due is None or not self._due(before, aggregate.version):
            return None
        try:
            return self.taken(aggregate)
        except Exception:  # noqa: BLE001 - no save fails for it
            _log.exception("no snapshot of %s %s", self._type, aggregate.aggregate_id)
            return None

    async def keep(self, snapshot: AggregateSnapshot | None) -> None:
        """Save a snapshot that was due, as the mode says."""
        if snapshot is None:
            return
        if self._mode == "background":
            self.background.put(snapshot)
        else:
            await self._save(snapshot)

    async def _save(self, snapshot: AggregateSnapshot) -> None:
        try:
            if self._store is not None:
                await self._store.save_snapshot(snapshot)
        except Exception:  # noqa: BLE001 - no save fails for it
            _log.exception(
                "the snapshot of %s %s was not saved", self._type, snapshot.aggregate_id
            )

    # Using.

    async def load(
        self, aggregate_id: UUID, events: Callable[[AggT], Awaitable[Loaded[Any]]]
    ) -> AggT | None:
        """Give the aggregate from its snapshot and the events after that.

        None: there is no snapshot to use, the events alone will tell. *events* gives
        what came after an aggregate's version.
        """
        start = await self._start(aggregate_id)
        if start is None:
            return None
        loaded, version = await events(start), start.version
        problem = f"its version is {version}, the stream's {loaded.version}"
        if loaded.version >= version:
            try:
                start.load_from_history(loaded.events)
            except Exception as error:  # noqa: BLE001 - perhaps not without it
                problem = f"the events after it do not fit: {error!r}"
            else:
                return start
        self._missed(SnapshotError(aggregate_id, self._type, problem))
        return None

    async def _start(self, aggregate_id: UUID) -> AggT | None:
        """Give the aggregate as its snapshot has it."""
        if self._store is None:
            return None
        try:
            snapshot = await self._store.get_snapshot(aggregate_id, self._type)
            if snapshot is not None:
                return self._restored(snapshot, aggregate_id)
        except SnapshotError as error:
            self._missed(error)
        except Exception as error:  # noqa: BLE001 - the events are there
            self._missed(SnapshotError(aggregate_id, self._type, repr(error)))
        else:
            self._missed(SnapshotNotFoundError(aggregate_id, self._type))
        return None

    def _missed(self, error: SnapshotError) -> None:
        """Count (and, unless there is just none yet, log) one that is of no use."""
        self.misses[type(error).__name__] += 1
        if not isinstance(error, SnapshotNotFoundError):
            _log.warning("%s; all events are replayed", error)

    def _restored(self, snapshot: AggregateSnapshot, id: UUID) -> AggT:
        schema = self._factory.schema_version
        kept = snapshot.aggregate_id, snapshot.aggregate_type
        if kept != (id, self._type) or snapshot.version < 1:
            problem = f"it is of {kept[1]} {kept[0]} at version {snapshot.version}"
            raise SnapshotDeserializationError(id, self._type, problem)
        if snapshot.schema_version != schema:
            raise SnapshotSchemaVersionError(
                id, self._type, schema, snapshot.schema_version
            )
        aggregate = self._factory(id)
        try:
            aggregate._restore_from_snapshot(snapshot.state, snapshot.version)  # noqa: SLF001
        except Exception as error:
            raise SnapshotDeserializationError(id, self._type, str(error)) from error
        if aggregate.version != snapshot.version:
            problem = f"restored at version {aggregate.version}, not {snapshot.version}"
            raise SnapshotDeserializationError(id, self._type, problem)
        return aggregate


class Background:
    """Snapshots on their way to the store, one after the other.

    At most one waits of each aggregate (the newest), and *most* of them in all (the one
    that has waited longest gives way).
    """

    def __init__(
        self,
        save: Callable[[AggregateSnapshot], Awaitable[None]],
        most: int = _MOST_WAITING,
    ) -> None:
        self._save = save
        self._most = most
        self._waiting: dict[UUID, AggregateSnapshot] = {}
        self._saving = 0
        self._task: asyncio.Task[None] | None = None

    @property
    def count(self) -> int:
        """How many wait or are being saved."""
        return len(self._waiting) + self._saving

    def put(self, snapshot: AggregateSnapshot) -> None:
        """Have a snapshot saved soon."""
        id = snapshot.aggregate_id
        if id not in self._waiting and len(self._waiting) >= self._most:
            del self._waiting[next(iter(self._waiting))]
        self._waiting[id] = snapshot
        self._go_on()

    def _go_on(self) -> None:
        if self._waiting and (self._task is None or self._task.done()):
            self._task = asyncio.create_task(self._run(), name="evsrc:snapshots")

    async def _run(self) -> None:
        while self._waiting:
            snapshot = self._waiting.pop(next(iter(self._waiting)))
            self._saving = 1
            try:
                await self._save(snapshot)
            finally:
                self._saving = 0

    async def settled(self) -> int:
        """Wait until nothing waits; tell how many did."""
        count = self.count
        self._go_on()
        if self._task is not None:
            await asyncio.wait([self._task])
        return count
