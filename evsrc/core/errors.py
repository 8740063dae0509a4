"""Name everything evsrc can refuse, in one tree under one root.

Each class says what was claimed, where, and what is true. Where class-based users
know an error as a builtin one, the builtin stays a second base.

    EvsrcError
    ├── OptimisticLockError            lost the race more often than allowed
    ├── InvalidStreamError             (ValueError) a stream name that cannot be stored
    ├── InvalidExpectedVersionError    (ValueError) neither a version nor a named one
    ├── InvalidQueryError              (ValueError) a query that would mean nothing
    ├── EmptyAppendError               (ValueError) a write without events
    ├── DuplicateEventError            an event id that is already used elsewhere
    ├── SerializationError             an event that does not read or write
    │   └── InvalidEventError          (ValueError) an event whose fields do not fit
    ├── EventTypeNotFoundError         (KeyError) no class is known for a stored name
    ├── DuplicateEventTypeError        (ValueError) two classes claim one stored name
    ├── StoreError
    │   ├── StoreClosedError           used after close
    │   ├── StoreBusyError             another process held the file for too long
    │   ├── StoreFullError             no space left
    │   ├── StoreUnavailableError      cannot be opened, read or written
    │   ├── AppendOutcomeUnknownError  sent, but the answer never came
    │   ├── TransactionError           used in a way that it cannot be
    │   ├── SchemaError                a newer, older or foreign database
    │   └── CorruptionError            stored bytes changed or are missing
    ├── CheckpointError                a checkpoint is not where the caller said
    ├── LeaseLostError                 somebody else has the lease by now
    ├── SnapshotError                  an aggregate's snapshot cannot be made or used
    │   ├── SnapshotNotFoundError
    │   ├── SnapshotSchemaVersionError
    │   └── SnapshotDeserializationError
    ├── SubscriptionError
    │   ├── CheckpointAheadError       the log ends before what was handled already
    │   ├── SubscriptionConfigError    (ValueError)
    │   ├── SubscriptionStateError
    │   ├── ProjectionRetiredError     a rebuild has put another one in its place
    │   └── SubscriptionAlreadyExistsError
    ├── AggregateNotFoundError
    ├── AggregateTypeMismatchError
    ├── AggregateIdMismatchError
    ├── EventVersionError
    ├── UnhandledEventError
    ├── HandlerSignatureError          (ValueError)
    ├── DuplicateHandlerError          (ValueError)
    ├── ProjectionError
    ├── RebuildError                   a projection cannot be rebuilt like that
    └── MissingExtraError              (ImportError) an optional part is not installed

No I/O here.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


class EvsrcError(Exception):
    """The root of everything this library raises itself."""


class OptimisticLockError(EvsrcError):
    """The stream moved on each time a decision was about to be recorded.

    Args:
        stream: the stream (or, from the facade, the aggregate's id).
        expected_version: the version the last attempt was based on.
        actual_version: the version the stream really had.
        attempts: how many times the decision was made.
    """

    def __init__(
        self,
        stream: object,
        expected_version: object,
        actual_version: int,
        *,
        attempts: int = 1,
    ) -> None:
        times = "once" if attempts == 1 else f"{attempts} times"
        super().__init__(
            f"stream '{stream}' moved under us {times}: expected version "
            f"{expected_version}, now at version {actual_version}"
        )
        self.stream = stream
        self.aggregate_id: Any = getattr(stream, "id", stream)
        self.expected_version = expected_version
        self.actual_version = actual_version
        self.attempts = attempts


class InvalidStreamError(EvsrcError, ValueError):
    """A stream's category or id cannot be stored."""


class InvalidExpectedVersionError(EvsrcError, ValueError):
    """An expected version is neither a number from 0 up nor a named one."""

    def __init__(self, expected: object) -> None:
        super().__init__(
            f"expected version {expected!r} means nothing: use an int >= 0, "
            "NO_STREAM, STREAM_EXISTS or ANY"
        )
        self.expected = expected


class InvalidQueryError(EvsrcError, ValueError):
    """A query without items, or an item without any restriction."""


class EmptyAppendError(EvsrcError, ValueError):
    """An append without events: nothing would be recorded."""


class DuplicateEventError(EvsrcError):
    """An event id is already recorded in another place, or only partly."""

    def __init__(self, event_id: object, stream: object) -> None:
        super().__init__(
            f"event id {event_id} appended to '{stream}' is already used for another "
            "place in the log; ids are unique for ever"
        )
        self.event_id = event_id
        self.stream = stream


class SerializationError(EvsrcError):
    """An event cannot be written, or a stored one cannot be read."""

    def __init__(self, event_type: str, message: str) -> None:
        super().__init__(f"event {event_type!r}: {message}")
        self.event_type = event_type


class InvalidEventError(SerializationError, ValueError):
    """An event's fields do not fit the types it declares."""


class EventTypeNotFoundError(EvsrcError, KeyError):
    """No event class is known under a name."""

    def __init__(self, event_type: str, available_types: Iterable[str] = ()) -> None:
        self.event_type = event_type
        self.available_types = sorted(available_types)
        known = ", ".join(self.available_types) or "none"
        super().__init__(
            f"event type {event_type!r} is not registered; known types: {known}"
        )

    def __str__(self) -> str:  # KeyError would show the repr
        return str(self.args[0])


class DuplicateEventTypeError(EvsrcError, ValueError):
    """Two event classes claim one stored name."""

    def __init__(self, event_type: str, existing_class: type, new_class: type) -> None:
        super().__init__(
            f"event type {event_type!r} already belongs to "
            f"{existing_class.__module__}.{existing_class.__qualname__}; "
            f"{new_class.__module__}.{new_class.__qualname__} needs a name of its own"
        )
        self.event_type = event_type
        self.existing_class = existing_class
        self.new_class = new_class


class StoreError(EvsrcError):
    """A store could not do what it was asked; nothing was written."""


class StoreClosedError(StoreError):
    """A store was used after it was closed."""

    def __init__(self, store: str) -> None:
        super().__init__(f"store {store!r} is closed")


class StoreBusyError(StoreError):
    """Another process kept the database locked for longer than we may wait."""


class StoreFullError(StoreError):
    """There is no space left for the database; free some and append again."""


class StoreUnavailableError(StoreError):
    """The database cannot be opened, read or written."""


class AppendOutcomeUnknownError(StoreError):
    """An append was sent and its answer never came: it is there wholly, or not at all.

    Appending the same events with the same ids again is safe either way.
    """

    def __init__(self, store: str) -> None:
        super().__init__(
            f"the connection to {store} was lost before an append was acknowledged; it "
            "may be there: append the same events, with the same ids, again"
        )


class TransactionError(StoreError):
    """A transaction is over, has failed, or is waited for inside itself."""


class SchemaError(StoreError):
    """The database belongs to something else, or to a newer evsrc."""


class CorruptionError(StoreError):
    """Stored bytes are not what was written; restore from a backup."""


class CheckpointError(EvsrcError):
    """A checkpoint is not where the caller said it is; nothing was written."""

    def __init__(self, name: str, expected: int, actual: int) -> None:
        super().__init__(
            f"checkpoint {name!r} was expected at {expected}, it is at {actual}: "
            "another worker moved it"
        )
        self.name = name
        self.expected = expected
        self.actual = actual


class LeaseLostError(EvsrcError):
    """A worker's lease is somebody else's by now, or released; nothing was written."""

    def __init__(self, name: str, token: int, actual: int | None) -> None:
        now = "nobody has it" if actual is None else f"token {actual} is valid"
        super().__init__(f"lease {name!r} with token {token} is lost: {now}")
        self.name = name
        self.token = token
        self.actual = actual


class SnapshotError(EvsrcError):
    """A snapshot of an aggregate cannot be made, or cannot be used."""

    def __init__(self, aggregate_id: object, aggregate_type: str, problem: str) -> None:
        super().__init__(f"snapshot of {aggregate_type} {aggregate_id}: {problem}")
        self.aggregate_id = aggregate_id
        self.aggregate_type = aggregate_type


class SnapshotNotFoundError(SnapshotError):
    """There is no snapshot."""

    def __init__(self, aggregate_id: object, aggregate_type: str) -> None:
        super().__init__(aggregate_id, aggregate_type, "there is none")


class SnapshotSchemaVersionError(SnapshotError):
    """A snapshot was made by a class with another `schema_version`."""

    def __init__(
        self, aggregate_id: object, aggregate_type: str, expected: int, actual: int
    ) -> None:
        problem = f"its schema version is {actual}, the class has {expected}"
        super().__init__(aggregate_id, aggregate_type, problem)
        self.expected = expected
        self.actual = actual


class SnapshotDeserializationError(SnapshotError):
    """A snapshot's bytes changed, or its state cannot be read as the class's state."""


class SubscriptionError(EvsrcError):
    """A subscription stopped, or cannot do what was asked."""


class CheckpointAheadError(SubscriptionError):
    """A checkpoint is beyond the end of the log: what comes next would be skipped.

    The log has lost its end (it was restored from an older copy), or the checkpoint is
    of another log. Rebuild what the subscription made, or move its checkpoint.
    """

    def __init__(self, name: str, position: int, head: int) -> None:
        super().__init__(
            f"subscription {name!r} has handled the log up to {position}, but it ends "
            f"at {head}: the log was restored from an older copy, or is another one"
        )
        self.name = name
        self.position = position
        self.head = head


class ProjectionRetiredError(SubscriptionError):
    """A rebuild has replaced this version of a projection; nothing runs it any more."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"projection {name!r} is retired: a rebuild has put another version in its "
            "place"
        )
        self.name = name


class SubscriptionConfigError(SubscriptionError, ValueError):
    """A subscription's configuration contradicts itself."""


class SubscriptionStateError(SubscriptionError):
    """A subscription cannot do this in the state it is in."""


class SubscriptionAlreadyExistsError(SubscriptionError):
    """A subscription of this name is there already."""

    def __init__(self, name: str) -> None:
        super().__init__(f"subscription {name!r} already exists")
        self.name = name


class AggregateNotFoundError(EvsrcError):
    """No event was ever recorded for an aggregate."""

    def __init__(self, aggregate_id: object, aggregate_type: str | None = None) -> None:
        super().__init__(
            f"{aggregate_type or 'aggregate'} {aggregate_id} has no events"
        )
        self.aggregate_id = aggregate_id
        self.aggregate_type = aggregate_type


class AggregateTypeMismatchError(EvsrcError):
    """An aggregate or event of one type was given where another is kept."""

    def __init__(self, expected: str, actual: str) -> None:
        super().__init__(f"expected aggregate type {expected!r}, got {actual!r}")
        self.expected = expected
        self.actual = actual


class AggregateIdMismatchError(EvsrcError):
    """An event names another aggregate than the one that it is applied to."""

    def __init__(
        self,
        event_class: type,
        event_aggregate_id: object,
        aggregate_class: type | str,
        aggregate_id: object,
    ) -> None:
        owner = getattr(aggregate_class, "__name__", aggregate_class)
        super().__init__(
            f"{event_class.__name__} names aggregate {event_aggregate_id}, "
            f"but was given to {owner} {aggregate_id}"
        )
        self.event_class = event_class
        self.event_aggregate_id = event_aggregate_id
        self.aggregate_class = aggregate_class
        self.aggregate_id = aggregate_id


class EventVersionError(EvsrcError):
    """An event's version does not follow the aggregate's."""

    def __init__(
        self,
        expected_version: int,
        actual_version: int,
        event_id: object,
        aggregate_id: object,
    ) -> None:
        super().__init__(
            f"event {event_id} of aggregate {aggregate_id} has version "
            f"{actual_version}, {expected_version} comes next"
        )
        self.expected_version = expected_version
        self.actual_version = actual_version
        self.event_id = event_id
        self.aggregate_id = aggregate_id


class UnhandledEventError(EvsrcError):
    """No handler is declared for an event, and the class asked to be told."""

    def __init__(
        self,
        event_type: str,
        event_id: object,
        handler_class: str,
        available_handlers: Iterable[str],
    ) -> None:
        self.available_handlers = sorted(available_handlers)
        handled = ", ".join(self.available_handlers) or "nothing"
        super().__init__(
            f"{handler_class} has no handler for {event_type!r} (event {event_id}); "
            f"it handles {handled}"
        )
        self.event_type = event_type
        self.event_id = event_id
        self.handler_class = handler_class


class HandlerSignatureError(EvsrcError, ValueError):
    """A method marked with @handles cannot be called as a handler."""

    def __init__(self, owner: str, handler: str, problem: str) -> None:
        super().__init__(f"handler {owner}.{handler} {problem}")
        self.owner = owner
        self.handler = handler


class DuplicateHandlerError(EvsrcError, ValueError):
    """Two methods of one class handle the same event."""

    def __init__(self, owner: str, event_type: str, first: str, second: str) -> None:
        super().__init__(
            f"{owner}.{first} and {owner}.{second} both handle {event_type}; keep one"
        )


class ProjectionError(EvsrcError):
    """A projection could not handle an event."""

    def __init__(self, projection_name: str, event_id: object, message: str) -> None:
        super().__init__(f"projection {projection_name!r}, event {event_id}: {message}")
        self.projection_name = projection_name
        self.event_id = event_id


class RebuildError(EvsrcError):
    """A rebuild cannot begin, swap, or be cancelled; nothing has changed."""

    def __init__(self, name: str, problem: str) -> None:
        super().__init__(f"rebuild of {name!r}: {problem}")
        self.name = name


class MissingExtraError(EvsrcError, ImportError):
    """An optional part was used without the extra that it needs."""

    def __init__(self, part: str, extra: str) -> None:
        super().__init__(
            f"{part} needs the extra {extra!r}: pip install 'evsrc-py[{extra}]'"
        )
        self.part = part
        self.extra = extra
