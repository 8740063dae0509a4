"""Show queries and conditions as the database's functions take them. No I/O here."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec
from asyncpg.pgproto import pgproto

from ...core.event import NO_TAGS
from ...core.expectation import AnyQuery, AppendCondition, Query, matches
from ..commits import EncodedWrite, Job
from .checks import tag_key

_encode: Final = msgspec.json.Encoder().encode


def items_of(query: AnyQuery) -> list[dict[str, Any]] | None:
    """Give the items of a query; None: everything is asked for."""
    if not isinstance(query, Query):
        return None
    return [
        {
            "categories": list(item.categories),
            "types": list(item.types),
            "tags": [tag_key(tag).hex() for tag in item.tags],
        }
        for item in query.items
    ]


def asked(query: AnyQuery, *, backward: bool = False) -> tuple[Any, ...]:
    """Give a query as `evsrc_positions` takes it: tags and types, or items as JSON."""
    if not isinstance(query, Query):
        return None, None, None
    if backward or any(len(i.tags) != 1 or i.categories for i in query.items):
        return None, None, _json(items_of(query))
    pairs = [
        (key, type)
        for item in query.items
        for key in tag_keys(item.tags)
        for type in item.types or (None,)
    ]
    return [key for key, _ in pairs], [type for _, type in pairs], None


def tag_keys(tags: Iterable[str]) -> list[pgproto.UUID]:
    """Give what tags are indexed by, as the driver takes it soonest."""
    return [pgproto.UUID(tag_key(tag)) for tag in tags]


def scans(query: AnyQuery) -> bool:
    """Tell whether some of *query* is not in the index of tags."""
    return isinstance(query, Query) and not all(item.tags for item in query.items)


def packed_conditions(jobs: Sequence[Job]) -> str | None:
    """Give the conditions of a flight as JSON; None: it has none.

    What earlier jobs of the flight are about to append is not in the log yet; which of
    it stands against a condition is told by its number.
    """
    flight = [(job, write) for job in jobs for write in job.writes]
    if not any(isinstance(write.expected, AppendCondition) for _, write in flight):
        return None
    earlier = _Events()
    conditions: dict[str, dict[str, Any]] = {}  # by the number of the write
    job, number, waiting = None, 0, list[tuple[int, EncodedWrite]]()
    for w, (of, write) in enumerate(flight, 1):
        if of is not job:  # a job does not stand against itself
            for first, done in waiting:
                earlier.add(first, done)
            job, waiting = of, []
        if isinstance(write.expected, AppendCondition):
            query = write.expected.query
            conditions[str(w)] = {
                "after": write.expected.after,
                "items": items_of(query),
                "rivals": earlier.matching(query),
            }
        waiting.append((number + 1, write))
        number += len(write.ids)
    return _json(conditions)


class _Events:
    """The events of earlier jobs, by tag: numbers of those that may match are few."""

    def __init__(self) -> None:
        self.facts: dict[int, tuple[str, str, frozenset[str]]] = {}
        self.tagged: defaultdict[str, list[int]] = defaultdict(list)

    def add(self, first: int, write: EncodedWrite) -> None:
        tags = write.tags or [NO_TAGS] * len(write.ids)
        for number, (type, own) in enumerate(
            zip(write.types, tags, strict=True), first
        ):
            self.facts[number] = write.stream.category, type, own
            for tag in own:
                self.tagged[tag].append(number)

    def matching(self, query: AnyQuery) -> list[int]:
        numbers: Iterable[int] = self.facts
        if isinstance(query, Query) and not scans(query):
            numbers = sorted(
                {
                    number
                    for item in query.items
                    for number in self.tagged.get(next(iter(item.tags)), ())
                }
            )
        return [number for number in numbers if matches(query, *self.facts[number])]


def _json(value: object) -> str:
    return _encode(value).decode()
