"""Draw values of the types that have no fields and no items, within constraints.

Every other number, text and id is one of a few: two that meet are where bugs are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from typing import Any, Final, TypeAlias, TypeVar
from uuid import UUID

import msgspec
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

T = TypeVar("T")

Limits: TypeAlias = Mapping[str, Any]
"""What the `msgspec.Meta`s around a type demand: `ge`, `max_length` and so on."""

MOST: Final = 4
"""How many items more than it must a collection has, at most."""

_INTS: Final = (-(2**63), 2**63 - 1)
_FEW, _SOME = 4, 100
_LARGEST_FACTOR: Final = 2**30
_FLOAT_BITS: Final = 53
_characters: Final = st.characters(codec="utf-8")
_zones: Final = st.sampled_from([UTC, timezone(timedelta(hours=5, minutes=30))])
_first, _last = datetime(1900, 1, 1), datetime(2200, 1, 1)  # noqa: DTZ001 - as Hypothesis asks


def _or_one_of(few: Sequence[T], drawn: SearchStrategy[T]) -> SearchStrategy[T]:
    return st.sampled_from(few) | drawn if few else drawn


def integers(limits: Limits) -> SearchStrategy[int]:
    """Draw integers of 64 bits."""
    lows = [math.ceil(limits["ge"])] if "ge" in limits else []
    lows += [math.floor(limits["gt"]) + 1] if "gt" in limits else []
    highs = [math.floor(limits["le"])] if "le" in limits else []
    highs += [math.ceil(limits["lt"]) - 1] if "lt" in limits else []
    low, high = max(lows, default=_INTS[0]), min(highs, default=_INTS[1])
    step = limits.get("multiple_of", 1)
    if step != 1:
        factors = st.integers(math.ceil(low / step), high // step)
        return factors.map(lambda n: n * step)
    few, some = ([n for n in range(most) if low <= n <= high] for most in (_FEW, _SOME))
    # small ones twice: most of what is decided about numbers shows with these
    wide = _or_one_of(few, _or_one_of(some, st.integers(low, high)))
    return _or_one_of(few, wide)


def floats(limits: Limits) -> SearchStrategy[float]:
    """Draw finite floats."""
    low, high = limits.get("ge", limits.get("gt")), limits.get("le", limits.get("lt"))
    if "multiple_of" in limits:
        return _multiples(limits["multiple_of"], limits)
    return st.floats(
        low,
        high,
        exclude_min="gt" in limits,
        exclude_max="lt" in limits,
        allow_nan=False,
        allow_infinity=False,
    )


def _multiples(step: float, limits: Limits) -> SearchStrategy[float]:
    """Draw floats that are exact multiples of *step*: most products are rounded."""
    numerator = Fraction(step).numerator
    odd = numerator // (numerator & -numerator)
    factors: list[int] = [0]
    for exponent in range(_FLOAT_BITS):
        for factor in range(1, min(2**_FLOAT_BITS // odd, 2 * MOST) + 1):
            factors += [factor << exponent, -(factor << exponent)]
    fit = [f * step for f in sorted(set(factors), key=abs) if _within(f * step, limits)]
    exact = 2**_FLOAT_BITS // odd >= _LARGEST_FACTOR
    if not exact:
        return st.sampled_from(fit)
    low = math.ceil(limits.get("ge", limits.get("gt", -_LARGEST_FACTOR * step)) / step)
    high = math.floor(limits.get("le", limits.get("lt", _LARGEST_FACTOR * step)) / step)
    drawn = st.integers(low, high).map(lambda n: n * step)
    return drawn.filter(lambda value: _within(value, limits))


def _within(value: float, limits: Limits) -> bool:
    low, high = limits.get("gt", -math.inf), limits.get("lt", math.inf)
    least, most = limits.get("ge", value), limits.get("le", value)
    return bool(low < value < high and least <= value <= most)


def texts(limits: Limits) -> SearchStrategy[str]:
    """Draw texts that are valid Unicode."""
    low, high = limits.get("min_length", 0), limits.get("max_length")
    if "pattern" not in limits:
        short = [c for c in "abc" if low <= 1 and (high is None or high >= 1)]
        return _or_one_of(short, st.text(_characters, min_size=low, max_size=high))
    matching = st.from_regex(limits["pattern"], alphabet=_characters)
    return matching.filter(
        lambda text: len(text) >= low and (high is None or len(text) <= high)
    )


def binaries(limits: Limits) -> SearchStrategy[bytes]:
    """Draw bytes."""
    return st.binary(
        min_size=limits.get("min_length", 0), max_size=limits.get("max_length")
    )


def json_scalars() -> SearchStrategy[Any]:
    """Draw what JSON can hold and has no items."""
    return st.none() | st.booleans() | integers({}) | floats({}) | texts({})


def json_values() -> SearchStrategy[Any]:
    """Draw anything that JSON can hold."""
    return st.recursive(
        json_scalars(),
        lambda inner: (
            st.lists(inner, max_size=MOST)
            | st.dictionaries(texts({}), inner, max_size=MOST)
        ),
        max_leaves=2 * MOST,
    )


SCALARS: Final[dict[Any, Callable[[Limits], SearchStrategy[Any]]]] = {
    None: lambda _: st.none(),
    type(None): lambda _: st.none(),
    msgspec.UnsetType: lambda _: st.just(msgspec.UNSET),
    bool: lambda _: st.booleans(),
    int: integers,
    float: floats,
    str: texts,
    bytes: binaries,
    bytearray: lambda limits: binaries(limits).map(bytearray),
    memoryview: lambda limits: binaries(limits).map(memoryview),
    datetime: lambda limits: st.datetimes(
        _first, _last, timezones=st.none() if limits.get("tz") is False else _zones
    ),
    time: lambda limits: st.times(timezones=_zones if limits.get("tz") else st.none()),
    date: lambda _: st.dates(_first.date(), _last.date()),
    timedelta: lambda _: st.timedeltas(timedelta(days=-9999), timedelta(days=9999)),
    UUID: lambda _: _or_one_of([UUID(int=n) for n in range(1, 4)], st.uuids()),
    Decimal: lambda _: st.decimals(allow_nan=False, allow_infinity=False),
    msgspec.Raw: lambda _: json_values().map(msgspec.json.encode).map(msgspec.Raw),
    Any: lambda _: json_values(),
}
"""For each type what draws it."""
