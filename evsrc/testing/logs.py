"""Give events as a log would hold them; no store, no event loop."""

# values and types of any shape are looked at, which strict typing cannot follow
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final, cast

from msgspec.structs import replace

from ..core.codec import Codec, value_codec
from ..core.event import NO_METADATA, NO_TAGS, Metadata, Recorded, StreamName

_SOMETIME: Final = datetime(2000, 1, 1, tzinfo=UTC)
_SOMEWHERE: Final = StreamName("test", "1")


def _no_tags(_event: object) -> frozenset[str]:
    return NO_TAGS


def recorded(
    *events: Any,
    stream: StreamName = _SOMEWHERE,
    metadata: Metadata = NO_METADATA,
    at: datetime = _SOMETIME,
    codec: Codec[Any] | None = None,
) -> tuple[Recorded[Any], ...]:
    """Give events as a log would hold them, for views and handlers of recorded events.

    What is recorded already keeps its stream, metadata and time; it is numbered anew:
    `recorded(*recorded(a, stream=one), *recorded(b, stream=other))` is one log.

    Args:
        events: events, or recorded ones.
        stream: of those that are not recorded yet.
        metadata: likewise.
        at: likewise; when they were recorded, aware.
        codec: tells their stored names and tags; by default there are no tags, and the
            name is the tag or the name of the class.

    >>> [each.version for each in recorded("a", "b")]
    [1, 2]
    """
    known_as: Codec[Any] = codec or value_codec()
    name, tags = known_as.name, known_as.tags or _no_tags
    moment = round((at - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds() * 1e6)
    versions: dict[StreamName, int] = {}
    log: list[Recorded[Any]] = []
    for position, event in enumerate(events, 1):
        known = isinstance(event, Recorded)
        where = cast("Recorded[Any]", event).stream if known else stream
        version = versions[where] = versions.get(where, 0) + 1
        log.append(
            replace(event, version=version, position=position, _id=position)
            if known
            else Recorded(
                *(event, name(event), where, version, position),
                *(position, metadata, moment, tags(event)),
            )
        )
    return tuple(log)
