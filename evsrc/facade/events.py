"""Declare events as classes, and register them under the names they are stored by."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from functools import partial
from types import MappingProxyType
from typing import Any, Final, Self, TypeVar, dataclass_transform, overload
from uuid import UUID

import msgspec
from msgspec import Struct, StructMeta, structs

from ..core.codec import dec_hook, enc_hook, shaped
from ..core.errors import (
    DuplicateEventTypeError,
    EventTypeNotFoundError,
    InvalidEventError,
)
from ..core.upcast import Chain
from ..runtime.ids import new_id


class EventMeta(StructMeta):
    """Make every event class frozen and keyword-only, and every default a field.

    An un-annotated `event_type = "X"` would be a class attribute to Python and
    invisible to msgspec: read as "X", stored as something else. Here it becomes the
        field's default.
    """

    def __new__(  # noqa: D102 - as every metaclass
        mcls,
        name: str,
        bases: tuple[type, ...],
        namespace: dict[str, Any],
        **config: Any,
    ) -> Any:
        annotations: dict[str, Any] = namespace.setdefault("__annotations__", {})
        inherited = {f for b in bases for f in getattr(b, "__struct_fields__", ())}
        for field in inherited & namespace.keys() - annotations.keys():
            annotations[field] = "Any" if field not in _TEXT else "str"
        if "event_type" in inherited and "event_type" not in annotations:
            annotations["event_type"] = "str"
            namespace["event_type"] = name
        config = {"frozen": True, "kw_only": True, **config}
        return super().__new__(mcls, name, bases, namespace, **config)


_TEXT: Final = frozenset({"event_type", "aggregate_type"})


@dataclass_transform(
    kw_only_default=True, frozen_default=True, field_specifiers=(msgspec.field,)
)
class _EventRoot(Struct, metaclass=EventMeta, frozen=True):
    """Tell type checkers how the classes below are constructed."""


def _now() -> datetime:
    return datetime.now(UTC)


class DomainEvent(_EventRoot):
    """A fact about one aggregate.

    Subclasses add their own fields; `event_type` is the class name unless they say
    otherwise. Field types are checked when the event is appended, with the path of the
    field. What the log owns (id, version, type, correlation ...) is stored once, in the
    envelope, and shown here again when the event is read.
    """

    event_id: UUID = msgspec.field(default_factory=new_id)
    event_type: str
    event_version: int = 1
    occurred_at: datetime = msgspec.field(default_factory=_now)
    aggregate_id: UUID
    aggregate_type: str
    aggregate_version: int = 1
    tenant_id: UUID | None = None
    actor_id: str | None = None
    correlation_id: UUID = msgspec.field(default_factory=new_id)
    causation_id: UUID | None = None
    metadata: dict[str, Any] = msgspec.field(default_factory=dict[str, Any])

    def __post_init__(self) -> None:
        if self.aggregate_version < 1 or self.event_version < 1:
            raise InvalidEventError(
                self.event_type,
                f"versions start at 1, got aggregate_version {self.aggregate_version} "
                f"and event_version {self.event_version}",
            )

    def event_tags(self) -> Iterable[str]:
        """Give the event's tags, by which a `Query` finds it; none unless overridden.

        They are stored with the event, so a later version of this method changes
        nothing about events that are recorded.
        """
        return ()

    def with_causation(self, causing_event: DomainEvent) -> Self:
        """Give the event as caused by another one, in that one's conversation."""
        return structs.replace(
            self,
            causation_id=causing_event.event_id,
            correlation_id=causing_event.correlation_id,
        )

    def with_metadata(self, **extra: Any) -> Self:
        """Give the event with more metadata."""
        return structs.replace(self, metadata={**self.metadata, **extra})

    def with_aggregate_version(self, version: int) -> Self:
        """Give the event with another version."""
        return structs.replace(self, aggregate_version=version)

    def is_caused_by(self, event: DomainEvent) -> bool:
        """Tell whether *event* is the direct cause."""
        return self.causation_id == event.event_id

    def is_correlated_with(self, event: DomainEvent) -> bool:
        """Tell whether both belong to one conversation."""
        return self.correlation_id == event.correlation_id

    def to_dict(self) -> dict[str, Any]:
        """Give the event as JSON values."""
        values: dict[str, Any] = msgspec.to_builtins(self, enc_hook=enc_hook)
        return values

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Build the event from JSON values.

        Raises:
            InvalidEventError: a field is missing or of another type.
        """
        try:
            return msgspec.convert(values, cls, dec_hook=dec_hook)
        except msgspec.ValidationError as error:
            raise InvalidEventError(cls.__name__, str(error)) from error

    def __hash__(self) -> int:
        return hash(self.event_id)

    def __str__(self) -> str:
        return (
            f"{self.event_type}(event_id={self.event_id}, "
            f"aggregate_id={self.aggregate_id}, version={self.aggregate_version})"
        )


EventT = TypeVar("EventT", bound=DomainEvent)


def declared_name(event_class: type[DomainEvent]) -> str:
    """Give the name that an event class declares for itself."""
    fields = zip(
        reversed(event_class.__struct_fields__),
        reversed(event_class.__struct_defaults__),
        strict=False,
    )
    name = dict(fields).get("event_type")
    return name if isinstance(name, str) and name else event_class.__name__


class EventRegistry:
    """Stored names and the classes they stand for. Safe to use from several threads."""

    def __init__(self) -> None:
        self._classes: dict[str, type[DomainEvent]] = {}
        self._names: dict[type[DomainEvent], str] = {}
        self._chains: dict[type[DomainEvent], Chain] = {}
        self._lock = threading.RLock()
        self.changes = 0

    def register(
        self,
        event_class: type[EventT],
        event_type: str | None = None,
        *,
        formerly: Iterable[str] = (),
        upcasters: Chain | None = None,
    ) -> type[EventT]:
        """Make *event_class* known as *event_type* (by default the name it declares).

        Args:
            event_class: the class.
            event_type: the name that its events are stored by.
            formerly: names that its events were stored by in the past. They are read,
                and delivered to whoever names the class; nothing is written with them.
            upcasters: how to read events of older shapes, under whatever name: the
                class had other fields then. New ones are stored with the number of the
                shape, so let all who read have a new step before anybody writes.

        Raises:
            DuplicateEventTypeError: another class has one of the names.
            UpcasterError: *upcasters* is not a `chain(...)`.
            TypeError: *formerly* is one str.
        """
        name = event_type or declared_name(event_class)
        if isinstance(formerly, str):  # its characters would be taken for names
            raise TypeError(f"formerly are several names: [{formerly!r}]")
        names = (name, *formerly)
        with self._lock:
            for each in names:
                existing = self._classes.get(each)
                if existing is not None and existing is not event_class:
                    raise DuplicateEventTypeError(each, existing, event_class)
            if upcasters is not None:
                shaped(name, {name: event_class}, upcasters)  # it is refused here
                self._chains[event_class] = upcasters
            self._classes.update(dict.fromkeys(names, event_class))
            self._names.setdefault(event_class, name)
            self.changes += 1
        return event_class

    def get(self, event_type: str) -> type[DomainEvent]:
        """Give the class of a name.

        Raises:
            EventTypeNotFoundError: there is none.
        """
        found = self._classes.get(event_type)
        if found is None:
            raise EventTypeNotFoundError(event_type, self._classes)
        return found

    def name_of(self, event_class: type[DomainEvent]) -> str:
        """Give the name that events of a class are stored by.

        Raises:
            EventTypeNotFoundError: the class is not registered.
        """
        found = self._names.get(event_class)
        if found is None:
            raise EventTypeNotFoundError(event_class.__qualname__, self._classes)
        return found

    def names_of(self, event_class: type[DomainEvent]) -> list[str]:
        """Give all names of a class: the one its events are stored by, then the others.

        Raises:
            EventTypeNotFoundError: the class is not registered.
        """
        first = self.name_of(event_class)
        named = [n for n, cls in self._classes.items() if cls is event_class]
        return sorted(named, key=lambda name: name != first)

    def upcasters_of(self, event_class: type[DomainEvent]) -> Chain | None:
        """Give how events of a class are read that have an older shape; None: as is."""
        return self._chains.get(event_class)

    @property
    def types(self) -> Mapping[str, type[DomainEvent]]:
        """The class of each name, as they are at any time."""
        return MappingProxyType(self._classes)

    def get_or_none(self, event_type: str) -> type[DomainEvent] | None:
        """Give the class of a name, or None."""
        return self._classes.get(event_type)

    def contains(self, event_type: str) -> bool:
        """Tell whether a name is known."""
        return event_type in self._classes

    def list_types(self) -> list[str]:
        """Give the names, sorted."""
        return sorted(self._classes)

    def list_classes(self) -> list[type[DomainEvent]]:
        """Give the classes, in the order of their names."""
        return [self._classes[name] for name in self.list_types()]

    def unregister(self, event_type: str) -> bool:
        """Forget a name; tell whether it was known."""
        with self._lock:
            event_class = self._classes.pop(event_type, None)
            if event_class is None:
                return False
            if self._names.get(event_class) == event_type:
                del self._names[event_class]
            if event_class not in self._classes.values():
                self._chains.pop(event_class, None)
            self.changes += 1
            return True

    def clear(self) -> None:
        """Forget all names."""
        with self._lock:
            self._classes.clear()
            self._names.clear()
            self._chains.clear()
            self.changes += 1

    def __len__(self) -> int:
        return len(self._classes)

    def __bool__(self) -> bool:
        return True  # an empty registry is a registry

    def __contains__(self, event_type: object) -> bool:
        return event_type in self._classes

    def __iter__(self) -> Iterator[str]:
        return iter(self.list_types())


default_registry: Final = EventRegistry()


@overload
def register_event(event_class: type[EventT], /) -> type[EventT]: ...
@overload
def register_event(
    event_class: None = None,
    /,
    *,
    event_type: str | None = None,
    registry: EventRegistry | None = None,
    formerly: Iterable[str] = (),
    upcasters: Chain | None = None,
) -> Callable[[type[EventT]], type[EventT]]: ...
def register_event(
    event_class: type[EventT] | None = None,
    /,
    *,
    event_type: str | None = None,
    registry: EventRegistry | None = None,
    formerly: Iterable[str] = (),
    upcasters: Chain | None = None,
) -> type[EventT] | Callable[[type[EventT]], type[EventT]]:
    """Register an event class; plain, or with a stored name or registry of its own.

    Args:
        event_class: the class.
        event_type: the name that its events are stored by; by default its own.
        registry: where; by default the one that stores use by default.
        formerly: names that they were stored by in the past.
        upcasters: how to read those of older shapes; see `EventRegistry.register`.

    Raises:
        DuplicateEventTypeError: another class has one of the names.
        UpcasterError: *upcasters* is not a `chain(...)`.
    """
    register = partial(
        (registry or default_registry).register,
        event_type=event_type,
        formerly=formerly,
        upcasters=upcasters,
    )
    return register if event_class is None else register(event_class)


get_event_class = default_registry.get
get_event_class_or_none = default_registry.get_or_none
is_event_registered = default_registry.contains
list_registered_events = default_registry.list_types
