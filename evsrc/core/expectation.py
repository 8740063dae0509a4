"""State what must be true of the log for an append to be accepted. No I/O here."""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from typing import Final, Literal, TypeAlias

from msgspec import Struct

from .errors import InvalidExpectedVersionError, InvalidQueryError


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

Expected: TypeAlias = int | Expect
"""A version (the number of events in the stream), or one of the named expectations."""


def check_expected(expected: object) -> None:
    """Refuse what is not an expected version.

    Raises:
        InvalidExpectedVersionError: not an int from 0 up, and not an `Expect`.
    """
    if isinstance(expected, Expect):
        return
    if isinstance(expected, bool) or not isinstance(expected, int) or expected < 0:
        raise InvalidExpectedVersionError(expected)


def satisfies(expected: Expected, actual: int) -> bool:
    """Tell whether a stream at version *actual* is what the caller *expected*.

    >>> satisfies(2, 2), satisfies(2, 3), satisfies(NO_STREAM, 0), satisfies(ANY, 7)
    (True, False, True, True)
    """
    if isinstance(expected, int):
        return expected == actual
    if expected is NO_STREAM:
        return actual == 0
    return expected is ANY or actual > 0


class QueryItem(Struct, frozen=True):
    """Events of these categories (any, if none is named) and of these types (likewise).

    Raises:
        InvalidQueryError: neither categories nor types; ask for `ALL` instead.
    """

    categories: frozenset[str] = frozenset()
    types: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        if not self.categories and not self.types:
            raise InvalidQueryError("a query item restricts nothing; use ALL")


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
    def of(cls, *, categories: Iterable[str] = (), types: Iterable[str] = ()) -> Query:
        """Make the query of one item.

        >>> matches(Query.of(types=["paid"]), "order", "paid")
        True
        """
        return cls((QueryItem(frozenset(categories), frozenset(types)),))


ALL: Final = "all"
AnyQuery: TypeAlias = Query | Literal["all"]
"""A query, or `ALL`: every event there is."""


def matches(query: AnyQuery, category: str, type: str) -> bool:
    """Tell whether an event of this category and type is asked for."""
    if not isinstance(query, Query):
        return True
    return any(
        (not item.categories or category in item.categories)
        and (not item.types or type in item.types)
        for item in query.items
    )
