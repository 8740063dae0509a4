"""Find the methods of a class that handle events, once, and check their signatures."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterable
from typing import Any, Final, Literal, TypeAlias, TypeVar

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


class HandlerTable:
    """The handlers of one class: event class to method name and parameter count.

    Raises:
        HandlerSignatureError: a handler is sync where async is wanted (or the reverse),
            or takes another number of arguments.
        DuplicateHandlerError: two handlers for one event.
    """

    def __init__(self, owner: type, *, is_async: bool, most: int) -> None:
        self.owner = owner
        self.handlers: dict[type[DomainEvent], tuple[str, int]] = {}
        for name in dir(owner):
            method = inspect.getattr_static(owner, name)
            event_type = get_handled_event_type(method)
            if event_type is None:
                continue
            count = _checked(owner, name, method, is_async=is_async, most=most)
            if event_type in self.handlers:
                first = self.handlers[event_type][0]
                raise DuplicateHandlerError(
                    owner.__name__, event_type.__name__, first, name
                )
            self.handlers[event_type] = name, count

    def missing(self, event: DomainEvent, what_then: Unregistered) -> None:
        """Do what the class wants done about an event that it does not handle."""
        if what_then == "ignore":
            return
        error = UnhandledEventError(
            event.event_type,
            event.event_id,
            self.owner.__name__,
            [handled.__name__ for handled in self.handlers],
        )
        if what_then == "error":
            raise error
        _log.warning("%s", error)


def check_unregistered(owner: type, what_then: str) -> None:
    """Refuse a class whose `unregistered_event_handling` means nothing."""
    if what_then not in ("ignore", "warn", "error"):
        raise ValueError(
            f"{owner.__name__}.unregistered_event_handling is {what_then!r}; "
            "use 'ignore', 'warn' or 'error'"
        )


def _checked(owner: type, name: str, method: Any, *, is_async: bool, most: int) -> int:
    if inspect.iscoroutinefunction(method) is not is_async:
        problem = "must be async" if is_async else "must not be async"
        raise HandlerSignatureError(owner.__name__, name, problem)
    parameters: Iterable[inspect.Parameter] = inspect.signature(
        method
    ).parameters.values()
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    count = len([p for p in parameters if p.kind in kinds]) - 1
    if not 1 <= count <= most:
        wanted = (
            "(self, event)" if most == 1 else "(self, event) or (self, conn, event)"
        )
        raise HandlerSignatureError(owner.__name__, name, f"must take {wanted}")
    return count
