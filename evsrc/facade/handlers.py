"""Find the methods of a class that handle events, once, and check their signatures."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from typing import Any, ClassVar, Final, Literal, TypeAlias, TypeVar, get_args

from ..core.errors import (
    DuplicateHandlerError,
    HandlerSignatureError,
    UnhandledEventError,
)
from .events import DomainEvent

F = TypeVar("F", bound=Callable[..., Any])
Unregistered: TypeAlias = Literal["ignore", "warn", "error"]

_MARK: Final = "_handles_event_type"
_log: Final = logging.getLogger("evsrc")


def handles(event_type: type[DomainEvent]) -> Callable[[F], F]:
    """Mark a method as the handler of one event class."""

    def mark(method: F) -> F:
        setattr(method, _MARK, event_type)
        return method

    return mark


def get_handled_event_type(method: Callable[..., Any]) -> type[DomainEvent] | None:
    """Give the event class that a method is marked to handle."""
    found: type[DomainEvent] | None = getattr(method, _MARK, None)
    return found


def is_event_handler(method: Callable[..., Any]) -> bool:
    """Tell whether a method is marked with @handles."""
    return get_handled_event_type(method) is not None


class Declarative:
    """Finds a class's methods that are marked with `@handles`, when it is made.

    Raises:
        HandlerSignatureError: a handler is sync where async is wanted (or the reverse),
            or takes another number of arguments.
        DuplicateHandlerError: two handlers for one event.
        ValueError: `unregistered_event_handling` means nothing.
    """

    unregistered_event_handling: Unregistered = "ignore"
    _projects: ClassVar[bool] = False  # handlers are async, and may take a connection
    _handlers: ClassVar[dict[type[DomainEvent], tuple[str, int]]]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if cls.unregistered_event_handling not in get_args(Unregistered):
            raise ValueError(
                f"{cls.__name__}.unregistered_event_handling is "
                f"{cls.unregistered_event_handling!r}; use 'ignore', 'warn' or 'error'"
            )
        cls._handlers = {}
        for name in dir(cls):
            method = inspect.getattr_static(cls, name)
            event_type = get_handled_event_type(method)
            if event_type is None:
                continue
            count = _checked(cls, name, method, projects=cls._projects)
            if event_type in cls._handlers:
                first = cls._handlers[event_type][0]
                raise DuplicateHandlerError(
                    cls.__name__, event_type.__name__, first, name
                )
            cls._handlers[event_type] = name, count

    def _unhandled(self, event: DomainEvent) -> None:
        """Do what the class wants done about an event that it does not handle."""
        if self.unregistered_event_handling == "ignore":
            return
        error = UnhandledEventError(
            event.event_type,
            event.event_id,
            type(self).__name__,
            [handled.__name__ for handled in self._handlers],
        )
        if self.unregistered_event_handling == "error":
            raise error
        _log.warning("%s", error)


def _checked(owner: type, name: str, method: Any, *, projects: bool) -> int:
    """Give how many arguments a handler takes."""
    if inspect.iscoroutinefunction(method) is not projects:
        problem = "must be async" if projects else "must not be async"
        raise HandlerSignatureError(owner.__name__, name, problem)
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = inspect.signature(method).parameters.values()
    count = len([p for p in parameters if p.kind in kinds]) - 1
    if not 1 <= count <= 1 + projects:
        wanted = "(self, event)" + " or (self, conn, event)" * projects
        raise HandlerSignatureError(owner.__name__, name, f"must take {wanted}")
    return count
