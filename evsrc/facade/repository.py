"""Load and save aggregates."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from typing import Any, Final, Generic, TypeVar
from uuid import UUID

from ..core.errors import (
    AggregateNotFoundError,
    AggregateTypeMismatchError,
    OptimisticLockError,
    SnapshotError,
)
from ..core.event import StreamName
from ..ports import Conflict, Loaded, Write
from ..ports import EventStore as Record
from ..runtime.transact import transact
from .aggregate import AggregateRoot
from .codec import enveloped
from .events import DomainEvent
from .snapshots import AggregateSnapshot, SnapshotStore
from .snapshotting import SnapshotMode, Snapshotting
from .stores import EventPublisher, EventStore, stream_of

AggT = TypeVar("AggT", bound=AggregateRoot[Any])

_log: Final = logging.getLogger("evsrc")


class AggregateRepository(Generic[AggT]):
    """Where aggregates of one type come from and go to.

    Args:
        event_store: where their events are.
        aggregate_factory: their class.
        aggregate_type: the category of their streams; the class must not name another.
        event_publisher: told about events once they are saved. What it raises is
            logged: the events are saved, and subscriptions read them from the log.
        snapshot_store: where snapshots of the aggregates are kept. A load then reads
            the snapshot and the events after it; one that is missing, damaged, of
            another `schema_version` or ahead of the events is as good as none.
        snapshot_threshold: a snapshot is taken when a save crosses a multiple of it.
        snapshot_mode: "sync": `save` returns after the snapshot is kept; "background":
            it does not wait (of each aggregate the newest snapshot waits, and 1000 in
            all); "manual": by `create_snapshot` only. What goes wrong with a snapshot
            is logged.

    Raises:
        AggregateTypeMismatchError: the class names another type.
        ValueError: a threshold below 1, or another mode.
    """

    def __init__(
        self,
        event_store: EventStore,
        aggregate_factory: type[AggT],
        aggregate_type: str,
        event_publisher: EventPublisher | None = None,
        snapshot_store: SnapshotStore | None = None,
        snapshot_threshold: int | None = None,
        snapshot_mode: SnapshotMode = "sync",
    ) -> None:
        if aggregate_factory.aggregate_type not in (aggregate_type, "Unknown"):
            raise AggregateTypeMismatchError(
                aggregate_type, aggregate_factory.aggregate_type
            )
        self.event_store: Final = event_store
        self.aggregate_type: Final = aggregate_type
        self.event_publisher: Final = event_publisher
        self.snapshot_store: Final = snapshot_store
        self.snapshot_threshold: Final = snapshot_threshold
        self.snapshot_mode: Final = snapshot_mode
        self.has_snapshot_support: Final = snapshot_store is not None
        self._factory = aggregate_factory
        self._snapshots: Snapshotting[AggT] = Snapshotting(
            snapshot_store,
            aggregate_factory,
            aggregate_type,
            snapshot_threshold,
            snapshot_mode,
        )

    @property
    def pending_snapshot_count(self) -> int:
        """How many snapshots of the mode "background" are not kept yet."""
        return self._snapshots.background.count

    def snapshot_miss_counts(self) -> dict[str, int]:
        """Tell how often no snapshot could be used, by the class of the error."""
        return dict(self._snapshots.misses)

    def create_new(self, aggregate_id: UUID) -> AggT:
        """Make an aggregate that has no events yet; nothing is stored."""
        return self._factory(aggregate_id)

    async def load(self, aggregate_id: UUID) -> AggT:
        """Give an aggregate in its current state.

        Raises:
            AggregateNotFoundError: it has no events.
        """
        aggregate = await self.load_or_create(aggregate_id)
        if aggregate.version == 0:
            raise AggregateNotFoundError(aggregate_id, self.aggregate_type)
        return aggregate

    async def get_or_raise(self, aggregate_id: UUID) -> AggT:
        """Do the same as `load`."""
        return await self.load(aggregate_id)

    async def load_or_create(self, aggregate_id: UUID) -> AggT:
        """Give an aggregate in its current state, or a new one if it has no events."""
        if self.snapshot_store is not None:
            found = await self._snapshots.load(aggregate_id, self._events)
            if found is not None:
                return found
        aggregate = self._factory(aggregate_id)
        loaded = await self._events(aggregate)
        aggregate.load_from_history(loaded.events)
        return aggregate

    async def _events(self, start: AggT) -> Loaded[DomainEvent]:
        stream = stream_of(start.aggregate_id, self.aggregate_type)
        return await (await self.event_store.core()).load_events(
            stream, after=start.version
        )

    async def save(self, aggregate: AggT) -> None:
        """Append the aggregate's pending events, in one piece, then tell the publisher.

        Raises:
            OptimisticLockError: somebody else saved in between; load it anew, or use
                `execute`, which does that.
            InvalidEventError, EventTypeNotFoundError: an event cannot be stored.
        """
        events = aggregate.uncommitted_events
        if not events:
            return
        before, end = aggregate.version - len(events), aggregate.version
        # taken now: the aggregate may go on while the events are on their way
        snapshot = self._snapshots.taken_if_due(aggregate, before)
        stream = stream_of(aggregate.aggregate_id, self.aggregate_type)
        record = await self.event_store.core()
        write = Write(stream, [enveloped(event) for event in events], before)
        outcome = await record.append(write)
        # another version than *end*: these ids were saved before, elsewhere
        actual = outcome.actual if isinstance(outcome, Conflict) else outcome.version
        if isinstance(outcome, Conflict) or actual != end:
            raise OptimisticLockError(aggregate.aggregate_id, before, actual)
        aggregate._mark_saved(len(events))  # noqa: SLF001 - of its base class
        await self._publish(events)
        await self._snapshots.keep(snapshot)

    async def create_snapshot(self, aggregate: AggT) -> AggregateSnapshot:
        """Keep a snapshot of an aggregate now, whatever the mode is.

        Raises:
            RuntimeError: the repository has no snapshot store.
            SnapshotError: the aggregate has events that are not saved, or is otherwise
                ahead of its stream; or its state would not read back as what it is.
            StoreError: the store could not.
        """
        if self.snapshot_store is None:
            raise RuntimeError("there is no snapshot_store to keep a snapshot in")
        snapshot = self._snapshots.taken(aggregate)
        saved = 0
        if not aggregate.has_uncommitted_events:
            saved = await self.get_version(aggregate.aggregate_id)
        if saved < snapshot.version:
            raise SnapshotError(
                aggregate.aggregate_id,
                self.aggregate_type,
                "its events are not all saved",
            )
        await self.snapshot_store.save_snapshot(snapshot)
        return snapshot

    async def await_pending_snapshots(self) -> int:
        """Wait for the snapshots of the mode "background"; tell how many there were."""
        return await self._snapshots.background.settled()

    async def execute(
        self, aggregate_id: UUID, act: Callable[[AggT], object], *, attempts: int = 3
    ) -> AggT:
        """Run *act* on the aggregate, save what it did, and give the aggregate then.

        *act* calls the aggregate's methods. If it lost a race it runs again, on the
        state of then (*attempts* times at most), so it must do nothing else. The
        aggregate need not exist yet.

        Raises:
            OptimisticLockError: the race was lost each time.
        """
        store, decider = await self._from_here(aggregate_id)
        decided = await transact(
            store,
            decider,
            stream_of(aggregate_id, self.aggregate_type),
            act,
            attempts=attempts,
            envelop=enveloped,
        )
        aggregate = self._factory.at(aggregate_id, decided.state)
        if decided.events:
            before = decided.version - len(decided.events)
            snapshot = self._snapshots.taken_if_due(aggregate, before)
            await self._publish(list(decided.events))
            await self._snapshots.keep(snapshot)
        return aggregate

    async def _from_here(self, aggregate_id: UUID) -> tuple[Record[DomainEvent], Any]:
        """Give store and decider; with snapshots they start from what these hold."""
        store = await self.event_store.core()
        decider = self._factory.decider(aggregate_id)
        if self.snapshot_store is None:
            return store, decider
        here = await self.load_or_create(aggregate_id)

        async def load_events(
            stream: StreamName, *, after: int = 0
        ) -> Loaded[DomainEvent]:
            return await store.load_events(stream, after=max(after, here.version))

        return (
            dataclasses.replace(store, load_events=load_events),
            dataclasses.replace(decider, initial=(here.state, here.version)),
        )

    async def exists(self, aggregate_id: UUID) -> bool:
        """Tell whether an aggregate has events, without reading them."""
        return await self.get_version(aggregate_id) > 0

    async def get_version(self, aggregate_id: UUID) -> int:
        """Give an aggregate's version without reading its events; 0: it has none."""
        return await self.event_store.get_stream_version(
            aggregate_id, self.aggregate_type
        )

    async def _publish(self, events: list[DomainEvent]) -> None:
        if self.event_publisher is None:
            return
        try:
            await self.event_publisher.publish(events)
        except Exception:  # noqa: BLE001 - saved is saved
            _log.exception("events are saved, but %r failed", self.event_publisher)
