"""Write an aggregate as a class; underneath it is a decider like any other."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import (
    Any,
    Final,
    Generic,
    Self,
    TypeAlias,
    TypeVar,
    cast,
    get_args,
    get_origin,
)
from uuid import UUID

import msgspec

from ..core.codec import dec_hook, enc_hook
from ..core.decider import Decider
from ..core.errors import (
    AggregateIdMismatchError,
    AggregateTypeMismatchError,
    EventVersionError,
)
from .events import DomainEvent
from .handlers import Declarative

TState = TypeVar("TState")

_VALUE: Final = "value"  # the key of a state that is not an object

Folded: TypeAlias = tuple[Any, int]
"""An aggregate's state and version: the state of its decider."""


class AggregateRoot(ABC, Generic[TState]):
    """A consistency boundary: decides in its methods, evolves in `_apply`.

    State may be any immutable value (pydantic, msgspec, a frozen dataclass ...). A
    state that `_apply` changes in place cannot be restored when it raises.

    Class attributes:
        aggregate_type: the category of its streams.
        schema_version: raise it when the meaning of the state changes: snapshots of
            another version are not used.
        validate_versions: refuse an event whose version is not the next one.

    Args:
        aggregate_id: which one.
    """

    aggregate_type: str = "Unknown"
    schema_version: int = 1
    validate_versions: bool = True

    def __init__(self, aggregate_id: UUID) -> None:
        self._aggregate_id = aggregate_id
        self._version = 0
        self._state: TState | None = None
        self._uncommitted: list[DomainEvent] = []
        self._cleared = False  # the state may hold what was never saved

    @property
    def aggregate_id(self) -> UUID:
        """Which aggregate this is."""
        return self._aggregate_id

    @property
    def version(self) -> int:
        """How many events it has, those not saved yet included."""
        return self._version

    @property
    def state(self) -> TState | None:
        """The current state; None before the first event."""
        return self._state

    @property
    def uncommitted_events(self) -> list[DomainEvent]:
        """The events that are not saved yet (a copy)."""
        return list(self._uncommitted)

    @property
    def has_uncommitted_events(self) -> bool:
        """Whether there is something to save."""
        return bool(self._uncommitted)

    def get_next_version(self) -> int:
        """Give the version of the next event."""
        return self._version + 1

    def apply_event(self, event: DomainEvent, is_new: bool = True) -> None:
        """Fold an event in, and if it is new, keep it to be saved.

        All or nothing: if `_apply` raises, state, version and pending events stay as
        they were.

        Raises:
            AggregateIdMismatchError: the event names another aggregate.
            AggregateTypeMismatchError: the event names another type of aggregate.
            EventVersionError: its version is not the next one; with
                `validate_versions = False` it is renumbered, with a warning.
        """
        if is_new:
            event = self._checked(event)
        version, state = self._version, self._state
        self._version = version + 1
        try:
            self._apply(event)
        except BaseException:
            self._version, self._state = version, state
            raise
        if is_new:
            self._uncommitted.append(event)

    def _raise_event(self, event: DomainEvent) -> None:
        self.apply_event(event)

    def _checked(self, event: DomainEvent) -> DomainEvent:
        if event.aggregate_id != self._aggregate_id:
            raise AggregateIdMismatchError(
                type(event), event.aggregate_id, type(self), self._aggregate_id
            )
        if self.aggregate_type not in (event.aggregate_type, "Unknown"):
            raise AggregateTypeMismatchError(self.aggregate_type, event.aggregate_type)
        following = self._version + 1
        if event.aggregate_version == following:
            return event
        error = EventVersionError(
            following, event.aggregate_version, event.event_id, self._aggregate_id
        )
        if self.validate_versions:
            raise error
        warnings.warn(f"{error}; it is renumbered", stacklevel=3)
        return event.with_aggregate_version(following)

    def load_from_history(self, events: Iterable[DomainEvent]) -> None:
        """Fold saved events in, in order."""
        for event in events:
            self.apply_event(event, is_new=False)

    def mark_events_as_committed(self) -> None:
        """Forget the pending events: they are saved."""
        self._uncommitted.clear()

    def _mark_saved(self, count: int) -> None:
        """Forget the first *count* pending events; others came meanwhile."""
        later = self._uncommitted[count:]
        self.mark_events_as_committed()
        self._uncommitted.extend(later)

    def clear_uncommitted_events(self) -> list[DomainEvent]:
        """Forget the pending events, and give them.

        A repository takes no snapshot of the aggregate then, until it is loaded anew.
        """
        self._cleared = self._cleared or bool(self._uncommitted)
        pending, self._uncommitted = self._uncommitted, []
        return pending

    @abstractmethod
    def _apply(self, event: DomainEvent) -> None:
        """Set `self._state` to the state after *event*."""

    @abstractmethod
    def _get_initial_state(self) -> TState:
        """Give the state to start from."""

    # Snapshots: to be overridden if the state cannot be shown as JSON values, or if
    # the aggregate keeps anything beside it.

    def _serialize_state(self) -> dict[str, Any]:
        """Give the state as JSON values; {} before the first event."""
        if self._state is None:
            return {}
        plain: Any = msgspec.to_builtins(self._state, str_keys=True, enc_hook=enc_hook)
        if isinstance(plain, dict):
            return cast("dict[str, Any]", plain)
        return {_VALUE: plain}

    def _restore_from_snapshot(self, state_dict: dict[str, Any], version: int) -> None:
        """Take over a state as `_serialize_state` gave it.

        Raises:
            TypeError: the class does not say what its state is.
            ValidationError: it is no such state.
        """
        kind = self._get_state_type()
        if kind is None:
            raise TypeError(
                f"{type(self).__name__} does not name the type of its state: derive "
                "from AggregateRoot[State], or override _restore_from_snapshot"
            )
        plain = (
            state_dict.get(_VALUE, state_dict) if len(state_dict) == 1 else state_dict
        )
        self._state = msgspec.convert(plain, kind, str_keys=True, dec_hook=dec_hook)
        self._version = version

    @classmethod
    def _get_state_type(cls) -> Any:
        """Give the type of the state, as in `AggregateRoot[State]`; None: not named."""
        for base in cls.__mro__:
            for generic in base.__dict__.get("__orig_bases__", ()):
                origin, arguments = get_origin(generic), get_args(generic)
                if isinstance(origin, type) and issubclass(origin, AggregateRoot):
                    return None if isinstance(arguments[0], TypeVar) else arguments[0]
        return None

    @classmethod
    def decider(
        cls, aggregate_id: UUID
    ) -> Decider[Folded, Callable[[Self], object], DomainEvent]:
        """Give the class as a decider: state and version, commands are functions of it.

        `decider.decide(decider.initial, lambda task: task.create("x"))` gives events.
        """

        def decide(
            state: Folded, act: Callable[[Self], object]
        ) -> Sequence[DomainEvent]:
            aggregate = cls.at(aggregate_id, state)
            act(aggregate)
            return aggregate.uncommitted_events

        def evolve(state: Folded, event: DomainEvent) -> Folded:
            aggregate = cls.at(aggregate_id, state)
            aggregate.apply_event(event, is_new=False)
            return aggregate.state, aggregate.version

        return Decider(decide, evolve, (None, 0))

    @classmethod
    def at(cls, aggregate_id: UUID, state: Folded) -> Self:
        """Give the aggregate in a state of its decider."""
        aggregate = cls(aggregate_id)
        aggregate._state, aggregate._version = state
        return aggregate

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, AggregateRoot):
            return NotImplemented
        return bool(self._aggregate_id == other.aggregate_id)

    def __hash__(self) -> int:
        return hash(self._aggregate_id)

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(id={self._aggregate_id}, version={self._version}, "
            f"uncommitted={len(self._uncommitted)})"
        )


class DeclarativeAggregate(Declarative, AggregateRoot[TState], ABC):
    """An aggregate whose events are applied by methods marked with `@handles`.

    Class attributes:
        unregistered_event_handling: what to do about an event without a handler:
            "ignore" (the default), "warn" or "error" (UnhandledEventError).
    """

    def _apply(self, event: DomainEvent) -> None:
        found = self._handlers.get(type(event))
        if found is None:
            self._unhandled(event)
        else:
            getattr(self, found[0])(event)
