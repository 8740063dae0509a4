"""State what must be true of the log for an append to be accepted. No I/O here."""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from enum import Enum
from typing import Any, Final, Literal, TypeAlias

from msgspec import Struct

from .errors import InvalidExpectedVersionError, InvalidQueryError
from .event import NO_TAGS, Recorded


class Expect(Enum):
    """The expected versions that are not a number."""

    ANY = "any version"
    NO_STREAM = "no stream"
    STREAM_EXISTS = "a stream that exists"

    def __str__(self) -> str:
        return self.value


ANY: Final = Expect.ANY
NO_STREAM: Final = Expect.NO_STREAM
STREAM_EXISTS: Final = Expect.STREAM_EXISTS

Version: TypeAlias = int | Expect
"""A version (the number of events in the stream), or one of the named expectations."""


def check_expected(expected: object) -> None:
    """Refuse what is neither an expected version nor an `AppendCondition`.

    Raises:
        InvalidExpectedVersionError: not an int from 0 up, nor one of those.
    """
    if isinstance(expected, (Expect, AppendCondition)):
        return
    if isinstance(expected, bool) or not isinstance(expected, int) or expected < 0:
        raise InvalidExpectedVersionError(expected)


def satisfies(expected: Expected, actual: int) -> bool:
    """Tell whether a stream at version *actual* is what the caller *expected*.

    Of an `AppendCondition` this judges the version alone, not the query.

    >>> satisfies(2, 2), satisfies(2, 3), satisfies(NO_STREAM, 0), satisfies(ANY, 7)
    (True, False, True, True)
    """
    if isinstance(expected, AppendCondition):
        expected = expected.version
    if isinstance(expected, int):
        return expected == actual
    if expected is NO_STREAM:
        return actual == 0
    return expected is ANY or actual > 0


def _is_unicode(name: str) -> bool:
    """Tell whether a text can be encoded: it has no lone surrogate."""
    try:
        return name.isascii() or bool(name.encode())
    except UnicodeEncodeError:
        return False


class QueryItem(Struct, frozen=True):
    """Events that fit in all of three ways; what is empty restricts nothing.

    Args:
        categories: their stream's category is one of these.
        types: their type is one of these.
        tags: they have every one of these tags.

    Raises:
        InvalidQueryError: nothing is restricted; ask for `ALL` instead.
    """

    categories: frozenset[str] = frozenset()
    types: frozenset[str] = frozenset()
    tags: frozenset[str] = NO_TAGS

    def __post_init__(self) -> None:
        if not self.categories and not self.types and not self.tags:
            raise InvalidQueryError("a query item restricts nothing; use ALL")
        for field in self.__struct_fields__:
            names: frozenset[Any] = getattr(self, field)
            if type(names) is not frozenset or set(map(type, names)) - {str}:
                raise InvalidQueryError(
                    f"a query item's {field} are a frozenset of str, not {names!r}"
                )
            for name in names:
                if "\0" in name or not _is_unicode(name):
                    raise InvalidQueryError(
                        f"a query item's {field} hold {name!r:.200}, which no store has"
                    )


class Query(Struct, frozen=True):
    """Events that match at least one item.

    Raises:
        InvalidQueryError: no items; ask for `ALL` if all are meant.
    """

    items: tuple[QueryItem, ...]

    def __post_init__(self) -> None:
        if not self.items:
            raise InvalidQueryError("a query without items matches nothing; use ALL")

    @classmethod
    def of(
        cls,
        *,
        categories: Iterable[str] = (),
        types: Iterable[str] = (),
        tags: Iterable[str] = (),
    ) -> Query:
        """Make the query of one item.

        >>> matches(Query.of(types=["paid"]), "order", "paid")
        True
        """
        given = {"categories": categories, "types": types, "tags": tags}
        for field, names in given.items():
            if isinstance(names, str):  # its characters would be taken for names
                raise InvalidQueryError(f"{field} are several, not the text {names!r}")
        return cls((QueryItem(*map(frozenset, given.values())),))


ALL: Final = "all"
AnyQuery: TypeAlias = Query | Literal["all"]
"""A query, or `ALL`: every event there is."""


def any_of(*queries: AnyQuery) -> AnyQuery:
    """Give the query for what at least one of *queries* asks for.

    Raises:
        InvalidQueryError: there are none.

    >>> any_of(Query.of(types=["paid"]), Query.of(tags=["vip"]), ALL)
    'all'
    """
    items: dict[QueryItem, None] = {}
    for query in queries:
        if not isinstance(query, Query):
            return ALL
        items |= dict.fromkeys(query.items)
    return Query(tuple(items))


def matches(
    query: AnyQuery, category: str, type: str, tags: AbstractSet[str] = NO_TAGS
) -> bool:
    """Tell whether an event of this category and type, with these tags, is asked for.

    >>> matches(Query.of(types=["paid"], tags=["a", "b"]), "order", "paid", {"a"})
    False
    """
    if not isinstance(query, Query):
        return True
    return any(
        item.tags <= tags
        and (not item.categories or category in item.categories)
        and (not item.types or type in item.types)
        for item in query.items
    )


def asks_for(query: AnyQuery, recorded: Recorded[Any]) -> bool:
    """Tell whether *query* asks for a recorded event."""
    if not isinstance(query, Query):
        return True
    return matches(query, recorded.stream.category, recorded.type, recorded.tags)


class AppendCondition(Struct, frozen=True):
    """Refuse the append if an event that *query* asks for came after *after*.

    It goes where an expected version goes. Events of the same append do not count. The
    contract is that of dynamic consistency boundaries (https://dcb.events).

    Args:
        query: which events would have changed the decision.
        after: the position up to which the caller knew the log, such as `Page.head`;
            START: any such event in the whole log refuses it.
        version: what the stream's version must be beside that.

    Raises:
        InvalidQueryError: *query* is none, or *after* is no position.
        InvalidExpectedVersionError: *version* is no version.
    """

    query: AnyQuery
    after: int = 0
    version: Version = ANY

    def __post_init__(self) -> None:
        if not isinstance(self.query, Query) and self.query != ALL:
            raise InvalidQueryError(f"a condition needs a query, not {self.query!r}")
        if type(self.after) is not int or not 0 <= self.after < 2**63:
            raise InvalidQueryError(f"`after` is a position, not {self.after!r}")
        if isinstance(self.version, AppendCondition):
            raise InvalidExpectedVersionError(self.version)
        check_expected(self.version)

    def __str__(self) -> str:
        return f"nothing of {self.query} after position {self.after}"


Expected: TypeAlias = Version | AppendCondition
"""What must be true for a write: a version, or a condition over the whole log."""
