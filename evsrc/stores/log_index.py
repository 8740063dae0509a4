"""Find the events of a query in a log that is held in memory, without scanning it.

Every event is in one list for each of its tags, and in one without, divided by category
and type; each list is sorted, because the log is.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from heapq import merge
from operator import attrgetter
from typing import Generic, TypeAlias

from ..core.event import E, Recorded
from ..core.expectation import AnyQuery, Query, QueryItem

_position = attrgetter("position")
_Kinds: TypeAlias = dict[tuple[str, str], list[Recorded[E]]]


class LogIndex(Generic[E]):
    """An index over *log*, which only ever grows; it grows with it when it is asked."""

    def __init__(self, log: list[Recorded[E]]) -> None:
        self.log = log
        self.sorted = 0  # how much of the log is in the index
        self.kinds: defaultdict[str | None, _Kinds[E]] = defaultdict(dict)

    def after(self, query: AnyQuery, after: int, limit: int) -> tuple[Recorded[E], ...]:
        """Give the first *limit* events of *query* after a position."""
        if not isinstance(query, Query):
            return tuple(self.log[after : after + max(limit, 0)])
        runs = [
            _forward(events, after, item)
            for item in query.items
            for events in self._candidates(item, after)
        ]
        return _first(merge(*runs, key=_position), limit)

    def before(
        self, query: AnyQuery, last: int, limit: int, *, after: int = 0
    ) -> tuple[Recorded[E], ...]:
        """Give the last *limit* events of *query* from *last* to *after*."""
        if not isinstance(query, Query):
            first = max(after, last - max(limit, 0))
            return tuple(reversed(self.log[first:last]))
        runs = [
            _backward(events, last, after, item)
            for item in query.items
            for events in self._candidates(item, after)
        ]
        return _first(merge(*runs, key=_position, reverse=True), limit)

    def last(self, query: AnyQuery, after: int) -> int | None:
        """Give the position of the last event of *query* after a position."""
        found = self.before(query, len(self.log), 1, after=after)
        return found[0].position if found else None

    def _candidates(self, item: QueryItem, after: int) -> list[list[Recorded[E]]]:
        """Give the lists in which all events of *item* are, the shortest there are."""
        self._grow()
        found = [self._lists(tag, item) for tag in item.tags or (None,)]
        if len(found) == 1:
            return found[0]
        return min(found, key=lambda lists: sum(_count(each, after) for each in lists))

    def _lists(self, tag: str | None, item: QueryItem) -> list[list[Recorded[E]]]:
        return [
            events
            for (category, type), events in self.kinds.get(tag, {}).items()
            if (not item.types or type in item.types)
            and (not item.categories or category in item.categories)
        ]

    def _grow(self) -> None:
        for recorded in self.log[self.sorted :]:
            kind = recorded.stream.category, recorded.type
            for tag in (None, *recorded.tags):
                self.kinds[tag].setdefault(kind, []).append(recorded)
        self.sorted = len(self.log)


def _count(events: Sequence[Recorded[E]], after: int) -> int:
    return len(events) - bisect_right(events, after, key=_position)


def _forward(
    events: Sequence[Recorded[E]], after: int, item: QueryItem
) -> Iterator[Recorded[E]]:
    start = bisect_right(events, after, key=_position)
    return _of(item, (events[at] for at in range(start, len(events))))


def _backward(
    events: Sequence[Recorded[E]], last: int, after: int, item: QueryItem
) -> Iterator[Recorded[E]]:
    start = bisect_right(events, after, key=_position)
    end = bisect_right(events, last, key=_position)
    return _of(item, (events[at] for at in range(end - 1, start - 1, -1)))


def _of(item: QueryItem, events: Iterator[Recorded[E]]) -> Iterator[Recorded[E]]:
    """Leave out what lacks a tag; a list has the events of one tag alone."""
    if len(item.tags) < 2:  # noqa: PLR2004 - the one that the list is of
        return events
    return (recorded for recorded in events if item.tags <= recorded.tags)


def _first(events: Iterable[Recorded[E]], limit: int) -> tuple[Recorded[E], ...]:
    """Give the first *limit* of sorted events, each of them once."""
    found: dict[int, Recorded[E]] = {}
    if limit > 0:
        for recorded in events:
            found[recorded.position] = recorded
            if len(found) == limit:
                break
    return tuple(found.values())
