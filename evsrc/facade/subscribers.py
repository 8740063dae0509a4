"""What can be subscribed, and base classes for it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from .events import DomainEvent


class Chooses(Protocol):
    """Says which events it wants."""

    def subscribed_to(self) -> list[type[DomainEvent]]:
        """Give the event classes that it wants."""
        ...


class Subscriber(Chooses, Protocol):
    """Handles one event at a time."""

    async def handle(self, event: DomainEvent) -> None:
        """Handle one event."""
        ...


class SyncSubscriber(Chooses, Protocol):
    """Handles one event at a time, in a method that is not async."""

    def handle(self, event: DomainEvent) -> None:
        """Handle one event."""
        ...


@runtime_checkable
class HandlesBatches(Protocol):
    """An object with a `handle_batch` method, sync or async."""

    def handle_batch(self, events: Sequence[Any]) -> Any:
        """Handle several events."""
        ...


class BatchSubscriber(Chooses, HandlesBatches, Protocol):
    """Handles several events at once, in the log's order."""


def supports_batch_handling(subscriber: object) -> bool:
    """Tell whether a subscriber is given several events at once."""
    return isinstance(subscriber, HandlesBatches)


class BaseSubscriber(ABC):
    """A subscriber that knows which events it can handle."""

    @abstractmethod
    def subscribed_to(self) -> list[type[DomainEvent]]:
        """Give the event classes that it wants."""

    @abstractmethod
    async def handle(self, event: DomainEvent) -> None:
        """Handle one event."""

    def can_handle(self, event: DomainEvent) -> bool:
        """Tell whether an event is of exactly one of its classes."""
        return type(event) in self.subscribed_to()


class BatchAwareSubscriber(BaseSubscriber):
    """A subscriber that is given the events of a page together.

    A batch that fails is halved until the event that fails is alone.
    """

    async def handle_batch(self, events: Sequence[DomainEvent]) -> None:
        """Handle several events; by default one after the other."""
        for event in events:
            await self.handle(event)


class FilteringSubscriber(BaseSubscriber):
    """A subscriber that looks at each event before it handles it."""

    def should_handle(self, event: DomainEvent) -> bool:
        """Tell whether to handle an event; by default those of its classes."""
        return self.can_handle(event)

    async def handle(self, event: DomainEvent) -> None:
        """Handle an event that it should."""
        if self.should_handle(event):
            await self._process_event(event)

    @abstractmethod
    async def _process_event(self, event: DomainEvent) -> None:
        """Handle an event that was let through."""
