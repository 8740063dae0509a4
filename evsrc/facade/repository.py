"""Load and save aggregates."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from typing import Any, Final, Generic, TypeVar, get_args
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
        self._store = event_store
        self._factory = aggregate_factory
        self._type = aggregate_type
        self._publisher = event_publisher
        if snapshot_threshold is not None and snapshot_threshold < 1:
            raise ValueError(
                f"snapshot_threshold is at least 1, not {snapshot_threshold!r}"
            )
        if snapshot_mode not in get_args(SnapshotMode):
            raise ValueError(
                "snapshot_mode is 'sync', 'background' or 'manual', "
                f"not {snapshot_mode!r}"
            )
        self._threshold = snapshot_threshold
        self._mode: SnapshotMode = snapshot_mode
        self._snapshots: Snapshotting[AggT] | None = None
        if snapshot_store is not None:
            self._snapshots = Snapshotting(
                snapshot_store,
                aggregate_factory,
                aggregate_type,
                snapshot_threshold,
                snapshot_mode,
            )

    @property
    def aggregate_type(self) -> str:
        """The category of the aggregates' streams."""
        return self._type

    @property
    def event_store(self) -> EventStore:
        """Where the aggregates' events are."""
        return self._store

    @property
    def event_publisher(self) -> EventPublisher | None:
        """Who is told about saved events."""
        return self._publisher

    @property
    def snapshot_store(self) -> SnapshotStore | None:
        """Where snapshots are kept."""
        return None if self._snapshots is None else self._snapshots.store

    @property
    def snapshot_threshold(self) -> int | None:
        """A snapshot is taken when a save crosses a multiple of this."""
        return self._threshold

    @property
    def snapshot_mode(self) -> SnapshotMode:
        """Whether a save waits for its snapshot, or none is taken by itself."""
        return self._mode

    @property
    def has_snapshot_support(self) -> bool:
        """Whether there is a snapshot store."""
        return self._snapshots is not None

    @property
    def pending_snapshot_count(self) -> int:
        """How many snapshots of the mode "background" are not kept yet."""
        return 0 if self._snapshots is None else self._snapshots.background.count

    def snapshot_miss_counts(self) -> dict[str, int]:
        """Tell how often no snapshot could be used, by the class of the error."""
        return {} if self._snapshots is None else dict(self._snapshots.misses)

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
            raise AggregateNotFoundError(aggregate_id, self._type)
        return aggregate

    async def get_or_raise(self, aggregate_id: UUID) -> AggT:
        """Do the same as `load`."""
        return await self.load(aggregate_id)

    async def load_or_create(self, aggregate_id: UUID) -> AggT:
        """Give an aggregate in its current state, or a new one if it has no events."""
        if self._snapshots is not None:
            found = await self._snapshots.load(aggregate_id, self._events)
            if found is not None:
                return found
        aggregate = self._factory(aggregate_id)
        loaded = await self._events(aggregate)
        aggregate.load_from_history(loaded.events)
        return aggregate

    async def _events(self, start: AggT) -> Loaded[DomainEvent]:
        stream = stream_of(start.aggregate_id, self._type)
        return await (await self._store.core()).load_events(stream, after=start.version)

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
        snapshot = self._snapshot_if_due(aggregate, before)
        stream = stream_of(aggregate.aggregate_id, self._type)
        record = await self._store.core()
        write = Write(stream, [enveloped(event) for event in events], before)
        outcome = await record.append(write)
        if isinstance(outcome, Conflict):
            raise OptimisticLockError(aggregate.aggregate_id, before, outcome.actual)
        if outcome.version != end:  # these ids were saved before, elsewhere
            raise OptimisticLockError(aggregate.aggregate_id, before, outcome.version)
        aggregate._mark_saved(len(events))  # noqa: SLF001 - of its base class
        await self._publish(events)
        await self._keep(snapshot)

    def _snapshot_if_due(
        self, aggregate: AggT, before: int
    ) -> AggregateSnapshot | None:
        if self._snapshots is None:
            return None
        return self._snapshots.taken_if_due(aggregate, before)

    async def _keep(self, snapshot: AggregateSnapshot | None) -> None:
        if self._snapshots is not None:
            await self._snapshots.keep(snapshot)

    async def create_snapshot(self, aggregate: AggT) -> AggregateSnapshot:
        """Keep a snapshot of an aggregate now, whatever the mode is.

        Raises:
            RuntimeError: the repository has no snapshot store.
            SnapshotError: the aggregate has events that are not saved, or is otherwise
                ahead of its stream; or its state would not read back as what it is.
            StoreError: the store could not.
        """
        if self._snapshots is None:
            raise RuntimeError("there is no snapshot_store to keep a snapshot in")
        snapshot = self._snapshots.taken(aggregate)
        saved = 0
        if not aggregate.has_uncommitted_events:
            saved = await self.get_version(aggregate.aggregate_id)
        if saved < snapshot.version:
            raise SnapshotError(
                aggregate.aggregate_id, self._type, "its events are not all saved"
            )
        await self._snapshots.store.save_snapshot(snapshot)
        return snapshot

    async def await_pending_snapshots(self) -> int:
        """Wait for the snapshots of the mode "background"; tell how many there were."""
        return (
            0 if self._snapshots is None else await self._snapshots.background.settled()
        )

    async def execute(
        self, aggregate_id: UUID, act: Callable[[AggT], object], *, attempts: int = 3
    ) -> AggT:
        """Run *act* on the aggregate and save what it did; again if it lost a race.

        Args:
            aggregate_id: which aggregate; it need not exist yet.
            act: calls the aggregate's methods; it may run several times, each time on
                the state of then, and must do nothing else.
            attempts: how often at most.

        Returns:
            the aggregate after it.

        Raises:
            OptimisticLockError: the race was lost each time.
        """
        store, decider = await self._store.core(), self._factory.decider(aggregate_id)
        if self._snapshots is not None:
            store, decider = await self._from_here(aggregate_id)
        decided = await transact(
            store,
            decider,
            stream_of(aggregate_id, self._type),
            act,
            attempts=attempts,
            envelop=enveloped,
        )
        aggregate = self._factory.at(aggregate_id, decided.state)
        if decided.events:
            before = decided.version - len(decided.events)
            snapshot = self._snapshot_if_due(aggregate, before)
            await self._publish(list(decided.events))
            await self._keep(snapshot)
        return aggregate

    async def _from_here(self, aggregate_id: UUID) -> tuple[Record[DomainEvent], Any]:
        """Give store and decider that start from the loaded aggregate."""
        store, here = await self._store.core(), await self.load_or_create(aggregate_id)

        async def load_events(
            stream: StreamName, *, after: int = 0
        ) -> Loaded[DomainEvent]:
            return await store.load_events(stream, after=max(after, here.version))

        start = here.state, here.version
        decider = self._factory.decider(aggregate_id)
        return (
            dataclasses.replace(store, load_events=load_events),
            dataclasses.replace(decider, initial=start),
        )

    async def exists(self, aggregate_id: UUID) -> bool:
        """Tell whether an aggregate has events, without reading them."""
        return await self.get_version(aggregate_id) > 0

    async def get_version(self, aggregate_id: UUID) -> int:
        """Give an aggregate's version without reading its events; 0: it has none."""
        return await self._store.get_stream_version(aggregate_id, self._type)

    async def _publish(self, events: list[DomainEvent]) -> None:
        if self._publisher is None:
            return
        try:
            await self._publisher.publish(events)
        except Exception:  # noqa: BLE001 - saved is saved
            _log.exception("events are saved, but %r failed", self._publisher)
