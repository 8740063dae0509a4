"""Find the positions of what a query asks for, and what stands against a condition.

Everything here runs on a connection's own thread. An index over the tags' hashes gives
candidates; whether an event really has a tag is told by the event itself.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from heapq import merge
from typing import Final, NamedTuple

from ...core.errors import CorruptionError
from ...core.event import stored_tags
from ...core.expectation import AnyQuery, Query, QueryItem, matches
from .checks import tag_key
from .sql import sql

KeyOf = Callable[[str], int]
"""Gives the key of a category's or type's name; -1: the log has no such name."""

_COUNTED: Final = 1000  # to find out which of several tags is the rarest


class _Tagged(NamedTuple):
    """An item with tags, in keys."""

    tags: Sequence[int]
    types: Sequence[int]  # none: all that the tag has
    categories: str | None


class Asked:
    """A query in the keys of one database."""

    def __init__(self, query: Query, key_of: KeyOf) -> None:
        def keys(names: Iterable[str]) -> list[int] | None:
            return [key_of(name) for name in names] or None

        def tagged(item: QueryItem) -> _Tagged:
            categories = keys(item.categories)
            return _Tagged(
                [tag_key(tag) for tag in item.tags],
                keys(item.types) or (),
                None if categories is None else json.dumps(categories),
            )

        self.tagged = [tagged(item) for item in query.items if item.tags]
        rest = [item for item in query.items if not item.tags]
        self.untagged = json.dumps([[keys(i.categories), keys(i.types)] for i in rest])
        self.scans = bool(rest)

    def positions(
        self,
        db: sqlite3.Connection,
        after: int,
        last: int,
        limit: int,
        *,
        backward: bool,
    ) -> list[int]:
        """Give the first *limit* candidates from *after* to *last*, each once.

        *backward*: the last ones, in falling order.
        """
        way = "backward" if backward else "forward"
        runs = [
            [row[0] for row in db.execute(sql(f"tagged_{way}"), (*run, limit))]
            for item in self.tagged
            for run in _runs(db, item, after, last)
        ]
        if self.scans:
            bounds = after, last, self.untagged, limit
            runs.append([row[0] for row in db.execute(sql(f"untagged_{way}"), bounds)])
        return list(_distinct(merge(*runs, reverse=backward), limit))


def _runs(
    db: sqlite3.Connection, item: _Tagged, after: int, last: int
) -> Iterator[tuple[int, int, int, int, str, str | None]]:
    """Give what to search for, type by type: the rarest tag first, then the others."""
    tag = item.tags[0]
    types = item.types or [row[0] for row in db.execute(sql("tag_types"), (tag,))]
    for type in types:
        rarest, others = tag, [other for other in item.tags if other != tag]
        if others:
            counts = {
                each: db.execute(
                    sql("tag_count"), (each, type, after, last, _COUNTED)
                ).fetchone()
                for each in item.tags
            }
            rarest = min(item.tags, key=lambda each: counts[each][0])
            others = [other for other in item.tags if other != rarest]
        yield rarest, type, after, last, json.dumps(others), item.categories


def _distinct(positions: Iterable[int], limit: int) -> Iterator[int]:
    before = -1
    for position in positions:
        if position != before:
            if limit <= 0:
                return
            limit -= 1
            yield position
        before = position


def last_match(
    db: sqlite3.Connection, query: AnyQuery, key_of: KeyOf, after: int, head: int
) -> int | None:
    """Give the position of the last event of *query* between two positions, or None."""
    if not isinstance(query, Query):
        return head if head > after else None
    if head <= after:
        return None
    asked = Asked(query, key_of)
    while found := asked.positions(db, after, head, 1, backward=True):
        facts = db.execute(sql("facts"), found).fetchone()
        if facts is None:
            raise CorruptionError("the index of tags has events that are not there")
        category, type, meta = facts
        if matches(query, category, type, stored_tags(meta)):
            return found[0]
        head = found[0] - 1
    return None
