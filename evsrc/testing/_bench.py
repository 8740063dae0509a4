"""What the checks of stores are made of: events, and what is asked again and again."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Iterable
from datetime import UTC, datetime, timedelta
from inspect import iscoroutinefunction
from typing import Any, Final, TypeAlias, TypeVar
from uuid import uuid4

from msgspec import Struct

from ..core.codec import Codec, json_codec
from ..core.event import NewEvent, Recorded, StreamName
from ..core.expectation import ALL, ANY, AnyQuery, Expected
from ..ports import START, Appended, Conflict, DeadLetter, EventStore, Write


class Fact(Struct, frozen=True):
    """An event of the suite."""

    n: int
    text: str = ""


class Note(Struct, frozen=True):
    """Another event of the suite."""

    text: str


class Tagged(Struct, frozen=True):
    """An event of the suite that has tags."""

    n: int
    tags: tuple[str, ...] = ()


class Marked(Struct, frozen=True):
    """Another one."""

    n: int
    tags: tuple[str, ...] = ()


CODEC: Final[Codec[Any]] = json_codec(
    {"fact": Fact, "note": Note, "tagged": Tagged, "marked": Marked},
    tags={Tagged: lambda event: event.tags, Marked: lambda event: event.tags},
)
"""The codec that stores under test are made with."""

Store: TypeAlias = EventStore[Any]
Check: TypeAlias = Callable[[Store], Awaitable[None]]
T = TypeVar("T")
X = TypeVar("X", bound=Exception)

A: Final = StreamName("suite", "a")
B: Final = StreamName("suite", "b")
ELSEWHERE: Final = StreamName("elsewhere", "a")
SOON: Final = timedelta(seconds=5)
NOW: Final = datetime(2026, 5, 4, 3, 2, 1, 654321, tzinfo=UTC)
HOSTILE: Final = (
    *("it's", '"; DROP TABLE x; --', "%", "_", " ", "\n"),
    *("日本\U0001f680", "a:b|c&d"),
)
"""Names that are data: quotes, wildcards, unicode, and what looks like SQL."""


def new(*events: Any) -> list[NewEvent[Any]]:
    """Give events with ids; a number stands for the `Fact` of it."""
    facts = [Fact(each) if isinstance(each, int) else each for each in events]
    return [NewEvent(each, uuid4()) for each in facts]


def letter(n: int) -> DeadLetter:
    """Make a dead letter; a higher *n* failed later."""
    return DeadLetter(
        subscription="reader",
        event_id=uuid4(),
        type="fact",
        data=b'{"n":%d}\xff\x00' % n,
        error="ValueError: no",
        stacktrace="line 1",
        attempts=n,
        first_failed_at=NOW + timedelta(seconds=n),
        last_failed_at=NOW + timedelta(seconds=n, microseconds=1),
        stream=A,
        position=n,
    )


async def refuses(error: type[X], call: Awaitable[Any]) -> X:
    """Check that *call* raises *error*; give what it raised."""
    try:
        outcome = await call
    except error as raised:
        return raised
    raise AssertionError(f"expected {error.__name__}, got {outcome}")


def some(value: T | None) -> T:
    """Check that there is something; give it."""
    assert value is not None
    return value


async def accepted(call: Awaitable[Appended | Conflict]) -> Appended:
    """Check that an append is recorded; give its outcome."""
    outcome = await call
    assert isinstance(outcome, Appended), f"refused: {outcome}"
    return outcome


async def put(
    store: Store, *events: Any, to: StreamName = A, expected: Expected = ANY
) -> Appended:
    """Append events, which are accepted."""
    return await accepted(store.append(Write(to, new(*events), expected)))


def numbers_of(events: Iterable[Recorded[Any]]) -> list[int]:
    """Give the numbers of recorded events."""
    return [recorded.event.n for recorded in events]


async def numbers_in(store: Store, stream: StreamName) -> list[int]:
    """Give the numbers of the events of a stream."""
    return [event.n for event in (await store.load_events(stream)).events]


async def log_of(
    store: Store, query: AnyQuery = ALL, *, page: int = 1000, backward: bool = False
) -> list[Recorded[Any]]:
    """Read what *query* finds, in pages, to the end (or the beginning)."""
    events: list[Recorded[Any]] = []
    place = START
    while True:
        read = await store.read_all(query, after=place, limit=page, backward=backward)
        events += read.events
        if (read.reached == START) if backward else (read.reached >= read.head):
            return events
        on = read.reached < place if backward and place else read.reached > place
        assert on, "a page before the end makes progress"
        place = read.reached


async def is_empty(store: Store) -> None:
    """Check that nothing was written."""
    assert (await store.head(), await log_of(store)) == (START, []), "it was written"


async def last_of(store: Store, query: AnyQuery) -> tuple[int, int]:
    """Give the position of the last event of *query*, and the head at that time."""
    page = await store.read_all(query, backward=True, limit=1)
    head = page.head
    while not page.events and page.reached != START:
        page = await store.read_all(query, backward=True, limit=1, after=page.reached)
    return (page.events[0].position if page.events else START), head


def checks_of(module: str, kind: str) -> tuple[Callable[[Any], Awaitable[None]], ...]:
    """Give a module's checks of one *kind* of record, in their order.

    They are its coroutine functions that take one, as their annotation says.
    """
    return tuple(
        each
        for each in vars(sys.modules[module]).values()
        if iscoroutinefunction(each)
        and each.__module__ == module
        and [*each.__annotations__.values()] == [kind, "None"]
    )
