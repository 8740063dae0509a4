"""Write read models as classes."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from typing import Any, Final

from msgspec import structs

from .checkpoints import CheckpointRepository
from .dlq import DLQRepository
from .events import DomainEvent
from .handlers import Declarative
from .retrying import RetryPolicy

_log: Final = logging.getLogger("evsrc")


class Projection(ABC):
    """A read model that handles events and can be built anew."""

    @abstractmethod
    async def handle(self, event: DomainEvent) -> None:
        """Change the read model by one event."""

    @abstractmethod
    async def reset(self) -> None:
        """Empty the read model."""


class SyncProjection(ABC):
    """A read model whose methods are not async."""

    @abstractmethod
    def handle(self, event: DomainEvent) -> None:
        """Change the read model by one event."""

    @abstractmethod
    def reset(self) -> None:
        """Empty the read model."""


class CheckpointTrackingProjection(Projection):
    """A read model that notes what it has handled.

    One event is handled once a call: trying again is the subscription's business, which
    takes the policy and the dead letters from here.

    Args:
        checkpoint_repo: notes each handled event under the class's name; None: nobody
            does (a subscription keeps its own position). What it cannot note is logged:
            the event was handled all the same.
        dlq_repo: where events go that cannot be handled; by default the manager's.
        retry_policy: when a failed event is tried again; by default as the
            subscription's configuration says.
    """

    def __init__(
        self,
        checkpoint_repo: CheckpointRepository | None = None,
        dlq_repo: DLQRepository | None = None,
        retry_policy: RetryPolicy | None = None,
    ) -> None:
        self._checkpoint_repo = checkpoint_repo
        self.dlq_repo = dlq_repo
        self.retry_policy = retry_policy

    @property
    def projection_name(self) -> str:
        """The name that its checkpoint is kept under."""
        return type(self).__name__

    @abstractmethod
    def subscribed_to(self) -> list[type[DomainEvent]]:
        """Give the event classes that it wants."""

    @abstractmethod
    async def _process_event(self, event: DomainEvent) -> None:
        """Change the read model by one event."""

    async def handle(self, event: DomainEvent) -> None:
        """Change the read model by one event, then note it in the checkpoint."""
        await self._process_event(event)
        if self._checkpoint_repo is None:
            return
        try:
            await self._checkpoint_repo.update_checkpoint(
                self.projection_name, event.event_id, event.event_type
            )
        except Exception as error:  # noqa: BLE001 - to raise would handle it again
            _log.warning(
                "checkpoint of projection %r not noted: %s",
                self.projection_name,
                type(error).__qualname__,
            )

    async def get_checkpoint(self) -> str | None:
        """Give the id of the last handled event, if a checkpoint is kept."""
        if self._checkpoint_repo is None:
            return None
        found = await self._checkpoint_repo.get_checkpoint(self.projection_name)
        return None if found is None else str(found)

    async def get_lag_metrics(self) -> dict[str, Any] | None:
        """Tell how long ago the last event was handled, if a checkpoint is kept."""
        if self._checkpoint_repo is None:
            return None
        lag = await self._checkpoint_repo.get_lag_metrics(self.projection_name)
        return None if lag is None else structs.asdict(lag)

    async def reset(self) -> None:
        """Empty the read model and forget the checkpoint."""
        if self._checkpoint_repo is not None:
            await self._checkpoint_repo.reset_checkpoint(self.projection_name)
        await self._truncate_read_models()

    async def _truncate_read_models(self) -> None:
        """Empty the read model; override it in read models that can be reset."""


class DeclarativeProjection(Declarative, CheckpointTrackingProjection):
    """A read model whose events are handled by methods marked with `@handles`.

    Handlers are async and take `(self, event)` or `(self, conn, event)`; `conn` is None
    here, see `DatabaseProjection`.

    Class attributes:
        unregistered_event_handling: what to do about an event without a handler:
            "ignore" (the default), "warn" or "error" (UnhandledEventError).

    Args:
        checkpoint_repo, dlq_repo, retry_policy: as in `CheckpointTrackingProjection`.
    """

    _projects = True

    def subscribed_to(self) -> list[type[DomainEvent]]:
        """Give the event classes that have a handler."""
        return list(self._handlers)

    async def _process_event(self, event: DomainEvent) -> None:
        await self._dispatch(None, event)

    async def _dispatch(self, connection: Any, event: DomainEvent) -> None:
        """Give the event to its handler."""
        found = self._handlers.get(type(event))
        if found is None:
            self._unhandled(event)
            return
        name, count = found
        arguments = (event,) if count == 1 else (connection, event)
        await getattr(self, name)(*arguments)
