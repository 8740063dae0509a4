"""Build events for tests, and compare what a store holds with what it should.

A failed assertion shows both sides, line by line: `-` is missing, `+` is too much.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from difflib import ndiff
from typing import Any, Final
from uuid import NAMESPACE_OID, uuid5

from msgspec.structs import replace

from ..core.codec import Codec, value_codec
from ..core.event import (
    NO_METADATA,
    NO_TAGS,
    E,
    Metadata,
    NewEvent,
    Recorded,
    StreamName,
)
from ..core.expectation import ALL, ANY, AnyQuery, Expected
from ..ports import START, Appended, EventStore, Write
from ..runtime.ids import new_event

_SOMEWHERE: Final = StreamName("test", "1")
_SOMETIME: Final = datetime(2026, 1, 1, tzinfo=UTC)


def new_events(*events: E, metadata: Metadata = NO_METADATA) -> list[NewEvent[E]]:
    """Give each event an id of its own, ready to be appended.

    >>> [new.event for new in new_events("lit", "out")]
    ['lit', 'out']
    """
    return [new_event(event, metadata) for event in events]


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
    name, tags = known_as.name, known_as.tags
    moment = round((at - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds() * 1e6)
    versions: Counter[StreamName] = Counter()
    log: list[Recorded[Any]] = []
    for n, event in enumerate(events, 1):
        if not isinstance(event, Recorded):
            known = NO_TAGS if tags is None else tags(event)
            given = event, name(event), stream, 0, 0, 0, metadata, moment, known
            event = Recorded(*given)  # noqa: PLW2901
        versions[event.stream] += 1
        version = versions[event.stream]
        log.append(replace(event, version=version, position=n, _id=n))
    return tuple(log)


def recorded_events(
    stream: StreamName,
    *events: E,
    version: int = 0,
    position: int = START,
    metadata: Metadata = NO_METADATA,
    at: datetime = _SOMETIME,
) -> list[Recorded[E]]:
    """Give events as a log would hold them, to feed handlers and views without a store.

    Args:
        stream: of all of them.
        events: in order.
        version: the stream's version before the first.
        position: the log's last position before the first.
        metadata: of each.
        at: when all of them were recorded; with a zone.

    The same call gives equal values, ids included.

    >>> lamp = StreamName("lamp", "1")
    >>> [(r.event, r.version, r.position) for r in recorded_events(lamp, "lit", "out")]
    [('lit', 1, 1), ('out', 2, 2)]
    """
    log = recorded(*events, stream=stream, metadata=metadata, at=at)
    return [
        replace(
            each,
            version=version + n,
            position=position + n,
            _id=uuid5(NAMESPACE_OID, f"{stream}/{version + n}"),
        )
        for n, each in enumerate(log, 1)
    ]


async def record(
    store: EventStore[E], stream: StreamName, *events: E, expected: Expected = ANY
) -> Appended:
    """Append events in the preparation of a test; a conflict fails it."""
    outcome = await store.append(Write(stream, new_events(*events), expected))
    assert isinstance(outcome, Appended), f"the test's own append failed: {outcome}"
    return outcome


async def assert_stream(
    store: EventStore[E], stream: StreamName, expected: Sequence[E], *, after: int = 0
) -> None:
    """Fail unless *stream* holds exactly these events after version *after*."""
    loaded = await store.load_events(stream, after=after)
    found = [repr(event) for event in loaded.events]
    _compare(f"stream '{stream}'", found, [repr(event) for event in expected])


async def assert_log(
    store: EventStore[E],
    expected: Sequence[tuple[StreamName, E]],
    *,
    query: AnyQuery = ALL,
    after: int = START,
) -> None:
    """Fail unless the log holds exactly these events, as pairs with their streams."""
    found: list[str] = []
    while True:
        page = await store.read_all(query, after=after)
        found += [f"'{r.stream}' {r.event!r}" for r in page.events]
        if page.reached >= page.head:
            break
        after = page.reached
    _compare("the log", found, [f"'{stream}' {event!r}" for stream, event in expected])


def _compare(what: str, found: Sequence[str], expected: Sequence[str]) -> None:
    if found == expected:
        return
    lines = [line for line in ndiff(expected, found) if not line.startswith("?")]
    shown = "\n  ".join(lines)
    raise AssertionError(
        f"{what} has {len(found)} events, {len(expected)} were expected "
        f"(- missing, + too much):\n  {shown}"
    )
