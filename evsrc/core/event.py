"""Describe events before and after they are recorded.

A `NewEvent` is what a caller appends, a `Recorded` what the log gives back. No I/O
here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Generic, TypeVar
from uuid import UUID

import msgspec
from msgspec import Struct

from .errors import InvalidEventError, InvalidStreamError

E = TypeVar("E")

_LONGEST_CATEGORY: Final = 255
_LONGEST_ID: Final = 1024
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class StreamName(Struct, frozen=True, order=True, gc=False):
    """The name of one stream: what kind of thing, and which one.

    Args:
        category: the kind, such as `Task`; 1 to 255 characters.
        id: which one; 1 to 1,024 characters.

    Raises:
        InvalidStreamError: a part is empty, too long, not text, or holds a NUL or a
            lone surrogate (no database stores those).

    >>> str(StreamName("Task", "7f3"))
    'Task-7f3'
    """

    category: str
    id: str

    def __post_init__(self) -> None:
        category, id = self.category, self.id
        if not (
            type(category) is type(id) is str
            and 0 < len(category) <= _LONGEST_CATEGORY
            and 0 < len(id) <= _LONGEST_ID
            and category.isascii()
            and id.isascii()
            and "\0" not in category
            and "\0" not in id
        ):
            _check_part("category", category, _LONGEST_CATEGORY)
            _check_part("id", id, _LONGEST_ID)

    def __str__(self) -> str:
        return f"{self.category}-{self.id}"


def _check_part(part: str, text: object, longest: int) -> None:
    if not isinstance(text, str):
        raise InvalidStreamError(f"stream {part} must be a str, got {text!r}")
    if not text:
        raise InvalidStreamError(f"stream {part} is empty")
    if len(text) > longest:
        raise InvalidStreamError(
            f"stream {part} has {len(text)} characters, {longest} are allowed"
        )
    if "\0" in text:
        raise InvalidStreamError(f"stream {part} {text!r} holds a NUL")
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise InvalidStreamError(
                f"stream {part} {text!r} is not valid Unicode"
            ) from error


class Metadata(Struct, frozen=True, omit_defaults=True, rename={"extra": "metadata"}):
    """What is known about an event beside the fact itself.

    Args:
        correlation_id: the conversation that the event belongs to.
        causation_id: the event or command that caused it.
        actor_id: who asked for it.
        tenant_id: for whom it was recorded.
        extra: anything else, as JSON values.
    """

    correlation_id: str | None = None
    causation_id: str | None = None
    actor_id: str | None = None
    tenant_id: str | None = None
    extra: Mapping[str, Any] = {}


NO_METADATA: Final = Metadata()
_decode_metadata: Final = msgspec.json.Decoder(Metadata).decode

NO_TAGS: Final[frozenset[str]] = frozenset()
_LONGEST_TAG: Final = 65_536


class _Tags(Struct, frozen=True):
    tags: frozenset[str] = msgspec.field(name="$tags", default=NO_TAGS)


_decode_tags: Final = msgspec.json.Decoder(_Tags).decode


def with_tags(metadata: bytes | None, tags: frozenset[str]) -> bytes | None:
    """Put *tags* into stored metadata, where nothing but `Recorded.tags` sees them.

    >>> with_tags(b'{"actor_id":"ann"}', frozenset({"vip"}))
    b'{"actor_id":"ann","$tags":["vip"]}'
    """
    if not tags:
        return metadata
    own = msgspec.json.encode({"$tags": sorted(tags)})
    return own if metadata is None else metadata[:-1] + b"," + own[1:]


def stored_tags(metadata: bytes | None) -> frozenset[str]:
    """Give the tags in stored metadata.

    >>> sorted(stored_tags(b'{"$tags":["vip","eu"]}'))
    ['eu', 'vip']
    """
    if metadata is None or b'"$tags":' not in metadata:
        return NO_TAGS
    return _decode_tags(metadata).tags


def checked_tags(type: str, tags: Iterable[str]) -> frozenset[str]:
    """Give an event's tags as a set.

    Raises:
        InvalidEventError: one is not text, is longer than 65,536 bytes in UTF-8, or
            holds a NUL or a lone surrogate (no database stores those).
    """
    if isinstance(tags, str):  # its characters would be taken for tags
        raise InvalidEventError(type, f"tags are several, not the text {tags!r}")
    found = frozenset(tags)
    for tag in found:
        problem = _problem_of(tag)
        if problem is not None:
            raise InvalidEventError(type, f"tag {tag!r:.200} {problem}")
    return found


def _problem_of(tag: object) -> str | None:
    if not isinstance(tag, str):
        return "is not a str"
    if "\0" in tag:
        return "holds a NUL"
    try:
        size = len(tag) if tag.isascii() else len(tag.encode())
    except UnicodeEncodeError:
        return "is not valid Unicode"
    if size > _LONGEST_TAG:
        return f"has {size} bytes, {_LONGEST_TAG} are allowed"
    return None


class NewEvent(Struct, Generic[E], frozen=True, gc=False):
    """An event that is about to be recorded.

    Args:
        event: the fact, an immutable value that the store's codec knows.
        id: unique for ever; appending the same ids again is a harmless repetition.
        metadata: what is known about it beside the fact.
    """

    event: E
    _id: UUID | int
    metadata: Metadata = NO_METADATA

    @property
    def id(self) -> UUID:
        """The event's unique id."""
        return _uuid(self._id)

    @property
    def number(self) -> int:
        """The id as a number of 128 bits."""
        id = self._id
        return id if isinstance(id, int) else id.int


def _uuid(id: UUID | int) -> UUID:
    return UUID(int=id) if isinstance(id, int) else id


class Recorded(Struct, Generic[E], frozen=True, gc=False):
    """An event as the log holds it.

    `version` counts from 1 inside the stream; `position` is where the whole log has it.
    Ids, metadata, tags and times are kept as they were stored and converted when asked
    for.
    """

    event: E
    type: str
    stream: StreamName
    version: int
    position: int
    _id: UUID | bytes | int
    _metadata: Metadata | bytes | None
    _at: int
    _tags: frozenset[str] = NO_TAGS

    @property
    def id(self) -> UUID:
        """The event's unique id."""
        id = self._id
        return UUID(bytes=id) if isinstance(id, bytes) else _uuid(id)

    @property
    def metadata(self) -> Metadata:
        """What was known about the event beside the fact."""
        match self._metadata:
            case None:
                return NO_METADATA
            case bytes(stored):
                return _decode_metadata(stored)
            case metadata:
                return metadata

    @property
    def tags(self) -> frozenset[str]:
        """What the event was tagged with when it was recorded."""
        stored = self._metadata
        if isinstance(stored, bytes):
            return stored_tags(stored)
        return self._tags

    @property
    def recorded_at(self) -> datetime:
        """When the store recorded the event, in UTC, to the microsecond."""
        return _EPOCH + timedelta(microseconds=self._at)
