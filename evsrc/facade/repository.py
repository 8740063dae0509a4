"""Load and save aggregates."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Final, Generic, TypeVar
from uuid import UUID

from ..core.errors import (
    AggregateNotFoundError,
    AggregateTypeMismatchError,
    OptimisticLockError,
)
from ..ports import Conflict, Write
from ..runtime.transact import transact
from .aggregate import AggregateRoot
from .codec import enveloped
from .events import DomainEvent
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

    Raises:
        AggregateTypeMismatchError: the class names another type.
    """

    def __init__(
        self,
        event_store: EventStore,
        aggregate_factory: type[AggT],
        aggregate_type: str,
        event_publisher: EventPublisher | None = None,
    ) -> None:
        if aggregate_factory.aggregate_type not in (aggregate_type, "Unknown"):
            raise AggregateTypeMismatchError(
                aggregate_type, aggregate_factory.aggregate_type
            )
        self._store = event_store
        self._factory = aggregate_factory
        self._type = aggregate_type
        self._publisher = event_publisher

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
        record = await self._store.core()
        loaded = await record.load_events(stream_of(aggregate_id, self._type))
        aggregate = self._factory(aggregate_id)
        aggregate.load_from_history(loaded.events)
        return aggregate

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
        expected = aggregate.version - len(events)
        stream = stream_of(aggregate.aggregate_id, self._type)
        record = await self._store.core()
        write = Write(stream, [enveloped(event) for event in events], expected)
        outcome = await record.append(write)
        if isinstance(outcome, Conflict):
            raise OptimisticLockError(aggregate.aggregate_id, expected, outcome.actual)
        if (
            outcome.version != aggregate.version
        ):  # these ids were saved before, elsewhere
            raise OptimisticLockError(aggregate.aggregate_id, expected, outcome.version)
        aggregate.mark_events_as_committed()
        await self._publish(events)

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
        decided = await transact(
            await self._store.core(),
            self._factory.decider(aggregate_id),
            stream_of(aggregate_id, self._type),
            act,
            attempts=attempts,
            envelop=enveloped,
        )
        if decided.events:
            await self._publish(list(decided.events))
        return self._factory.at(aggregate_id, decided.state)

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
