"""Tell handlers in this process about saved events.

The log is the source of delivery; a bus shortens the wait. Each handler has a queue of
its own, worked off in order; `publish` waits a moment for those that keep up.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from abc import ABC, abstractmethod
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from itertools import chain
from typing import Any, Final, Protocol, TypeAlias, runtime_checkable

from .events import DomainEvent

_log: Final = logging.getLogger("evsrc")
_PATIENCE: Final = timedelta(milliseconds=100)
_STATS: Final = (
    "events_published",
    "handlers_invoked",
    "handler_errors",
    "background_tasks_created",
    "background_tasks_completed",
)

Settle: TypeAlias = Callable[[timedelta], Awaitable[None]]
"""Wait for readers of the log that are about to see what was just saved."""


@runtime_checkable
class HandlesEvents(Protocol):
    """An object with a `handle` method, sync or async."""

    def handle(self, event: Any) -> Any:
        """Handle one event."""
        ...


class Subscribes(HandlesEvents, Protocol):
    """A handler that says which event classes it wants."""

    def subscribed_to(self) -> Sequence[type[DomainEvent]]:
        """Give the event classes."""
        ...


EventHandlerLike: TypeAlias = HandlesEvents | Callable[[Any], Any]


class EventBus(ABC):
    """What every bus can do."""

    @abstractmethod
    async def publish(
        self, events: Sequence[DomainEvent], background: bool = False
    ) -> None:
        """Tell the handlers about *events*; in the background: without any waiting."""

    @abstractmethod
    def subscribe(
        self, event_type: type[DomainEvent], handler: EventHandlerLike
    ) -> None:
        """Give events of exactly this class to *handler*."""

    @abstractmethod
    def unsubscribe(
        self, event_type: type[DomainEvent], handler: EventHandlerLike
    ) -> bool:
        """Undo `subscribe`; tell whether there was something to undo."""

    def subscribe_all(self, subscriber: Subscribes) -> None:
        """Subscribe an object to the classes that it names itself."""
        for event_type in subscriber.subscribed_to():
            self.subscribe(event_type, subscriber)

    @abstractmethod
    def subscribe_to_all_events(self, handler: EventHandlerLike) -> None:
        """Give every event to *handler*."""

    @abstractmethod
    def unsubscribe_from_all_events(self, handler: EventHandlerLike) -> bool:
        """Undo `subscribe_to_all_events`; tell whether there was something to undo."""


class _Outlet:
    """One handler, its queue, and the task that works it off."""

    def __init__(self, handler: EventHandlerLike) -> None:
        self.handler = handler
        self.call: Callable[[Any], Any] = (
            handler.handle if isinstance(handler, HandlesEvents) else handler
        )
        self.queue: deque[DomainEvent] = deque()
        self.task: asyncio.Task[None] | None = None
        self.slow = False


class InMemoryEventBus(EventBus):
    """A bus inside one process.

    A handler that raises is logged and counted; it disturbs neither the publisher nor
    other handlers. One that takes long goes on in the background, in order, and nobody
    waits for it until it has caught up.
    """

    def __init__(self) -> None:
        self._by_type: defaultdict[type[DomainEvent], list[_Outlet]] = defaultdict(list)
        self._wildcards: list[_Outlet] = []
        self._settle: list[Settle] = []
        self._stats: dict[str, int] = dict.fromkeys(_STATS, 0)

    async def publish(
        self, events: Sequence[DomainEvent], background: bool = False
    ) -> None:
        """Tell the handlers; return once those that keep up have handled the events."""
        touched: dict[int, _Outlet] = {}
        for event in events:
            self._stats["events_published"] += 1
            for outlet in (*self._by_type.get(type(event), ()), *self._wildcards):
                outlet.queue.append(event)
                touched[id(outlet)] = outlet
        waits: dict[asyncio.Task[None], _Outlet] = {}
        for outlet in touched.values():
            if outlet.task is None:
                self._stats["background_tasks_created"] += 1
                outlet.task = asyncio.create_task(self._work_off(outlet))
            if outlet.task is not asyncio.current_task() and not outlet.slow:
                waits[outlet.task] = outlet
        if background:
            return
        if waits:
            _, late = await asyncio.wait(waits, timeout=_PATIENCE.total_seconds())
            for task in late:
                waits[task].slow = True
        for settle in tuple(self._settle):
            await settle(_PATIENCE)

    async def _work_off(self, outlet: _Outlet) -> None:
        try:
            while outlet.queue:
                event = outlet.queue.popleft()
                self._stats["handlers_invoked"] += 1
                try:
                    result = outlet.call(event)
                    if inspect.isawaitable(result):
                        await result
                except Exception:  # noqa: BLE001 - it is the handler's
                    self._stats["handler_errors"] += 1
                    _log.exception("handler %r failed for %s", outlet.handler, event)
        finally:
            outlet.task, outlet.slow = None, False
            self._stats["background_tasks_completed"] += 1

    def subscribe(
        self, event_type: type[DomainEvent], handler: EventHandlerLike
    ) -> None:
        """Give events of exactly this class to *handler*."""
        self._by_type[event_type].append(self._outlet(handler))

    def unsubscribe(
        self, event_type: type[DomainEvent], handler: EventHandlerLike
    ) -> bool:
        """Undo `subscribe`; tell whether there was something to undo."""
        return _remove(self._by_type[event_type], handler)

    def subscribe_to_all_events(self, handler: EventHandlerLike) -> None:
        """Give every event to *handler*."""
        self._wildcards.append(self._outlet(handler))

    def unsubscribe_from_all_events(self, handler: EventHandlerLike) -> bool:
        """Undo `subscribe_to_all_events`; tell whether there was something to undo."""
        return _remove(self._wildcards, handler)

    def _outlets(self) -> list[_Outlet]:
        return [*self._wildcards, *chain.from_iterable(self._by_type.values())]

    def _outlet(self, handler: EventHandlerLike) -> _Outlet:
        """Give the one queue of a handler, so that it sees events in order."""
        known = (outlet for outlet in self._outlets() if outlet.handler == handler)
        return next(known, _Outlet(handler))

    def clear_subscribers(self) -> None:
        """Forget all handlers."""
        self._by_type.clear()
        self._wildcards.clear()

    def get_subscriber_count(self, event_type: type[DomainEvent] | None = None) -> int:
        """Tell how many subscriptions there are, to one class or to any."""
        if event_type is not None:
            return len(self._by_type.get(event_type, ()))
        return sum(map(len, self._by_type.values()))

    def get_wildcard_subscriber_count(self) -> int:
        """Tell how many handlers get every event."""
        return len(self._wildcards)

    def get_stats(self) -> dict[str, int]:
        """Give counts of what happened so far."""
        return dict(self._stats)

    def get_background_task_count(self) -> int:
        """Tell how many handlers are at work now."""
        stats = self._stats
        return stats["background_tasks_created"] - stats["background_tasks_completed"]

    async def shutdown(self, timeout: float = 30.0) -> None:
        """Wait up to *timeout* seconds for handlers at work, then cancel them."""
        tasks = {o.task for o in self._outlets() if o.task is not None}
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=timeout)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    def attach(self, settle: Settle) -> None:
        """Have `publish` wait, briefly, for readers of the log."""
        self._settle.append(settle)

    def detach(self, settle: Settle) -> None:
        """Undo `attach`."""
        if settle in self._settle:
            self._settle.remove(settle)


def _remove(outlets: list[_Outlet], handler: EventHandlerLike) -> bool:
    for outlet in outlets:
        if outlet.handler == handler:
            outlets.remove(outlet)
            return True
    return False
