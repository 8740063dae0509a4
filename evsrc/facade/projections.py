"""Write read models as classes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from .checkpoints import CheckpointRepository
from .events import DomainEvent
from .handlers import HandlerTable, Unregistered, check_unregistered


class Projection(ABC):
    """A read model that handles events and can be built anew."""

    @abstractmethod
    async def handle(self, event: DomainEvent) -> None:
        """Change the read model by one event."""

    @abstractmethod
    async def reset(self) -> None:
        """Empty the read model."""


class DeclarativeProjection(Projection):
    """A read model whose events are handled by methods marked with `@handles`.

    Handlers are async and take `(self, event)` or `(self, conn, event)`; `conn` is None
    here. One event is handled once a call: trying again is the subscription's business,
    which knows the policy and the log.

    Class attributes:
        unregistered_event_handling: what to do about an event without a handler:
            "ignore" (the default), "warn" or "error" (UnhandledEventError).

    Args:
        checkpoint_repo: notes each handled event under the class's name; None: nobody
            does (a subscription keeps its own position).
    """

    unregistered_event_handling: Unregistered = "ignore"
    _handlers: ClassVar[HandlerTable]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        check_unregistered(cls, cls.unregistered_event_handling)
        cls._handlers = HandlerTable(cls, is_async=True, most=2)

    def __init__(self, checkpoint_repo: CheckpointRepository | None = None) -> None:
        self._checkpoint_repo = checkpoint_repo

    @property
    def projection_name(self) -> str:
        """The name that its checkpoint is kept under."""
        return type(self).__name__

    def subscribed_to(self) -> list[type[DomainEvent]]:
        """Give the event classes that have a handler."""
        return list(self._handlers.handlers)

    async def handle(self, event: DomainEvent) -> None:
        """Give the event to its handler, then note it in the checkpoint."""
        found = self._handlers.handlers.get(type(event))
        if found is None:
            self._handlers.missing(event, self.unregistered_event_handling)
        else:
            name, count = found
            arguments = (event,) if count == 1 else (None, event)
            await getattr(self, name)(*arguments)
        if self._checkpoint_repo is not None:
            await self._checkpoint_repo.update_checkpoint(
                self.projection_name, event.event_id, event.event_type
            )

    async def get_checkpoint(self) -> str | None:
        """Give the id of the last handled event, if a checkpoint is kept."""
        if self._checkpoint_repo is None:
            return None
        found = await self._checkpoint_repo.get_checkpoint(self.projection_name)
        return None if found is None else str(found)

    async def reset(self) -> None:
        """Empty the read model and forget the checkpoint."""
        if self._checkpoint_repo is not None:
            await self._checkpoint_repo.reset_checkpoint(self.projection_name)
        await self._truncate_read_models()

    async def _truncate_read_models(self) -> None:
        """Empty the read model; override it in read models that can be reset."""
