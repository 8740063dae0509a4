"""Draw values of any type with Hypothesis.

`values(Order)` gives only valid orders: such as msgspec accepts, constraints included,
and reads back equal. (`hypothesis.strategies.from_type` knows nothing of `Meta`.)
"""

from __future__ import annotations

import inspect
import typing
from collections import abc
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from enum import Enum
from typing import (
    Any,
    Final,
    Literal,
    NotRequired,
    Required,
    TypeAlias,
    TypeVar,
    cast,
    get_args,
    get_origin,
    is_typeddict,
)

import msgspec
from hypothesis import reject
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from pyrsistent import PMap, PSet, PVector, pmap, pset, pvector

from ..core.codec import dec_hook, enc_hook
from ..facade.events import DomainEvent
from ._hints import constraints_of, field_hints, is_record, is_union, unwrapped
from ._scalars import MOST, SCALARS, Limits, integers, json_scalars

T = TypeVar("T")

Overrides: TypeAlias = Mapping[Any, SearchStrategy[Any]]
"""What to draw instead: for a type, or for (class, field name)."""

_RECURSION: Final = 3  # how often a class may occur inside itself
_DEEPEST: Final = 30  # a class that needs more to come to an end is taken to have none

_LISTS: Final = {
    *(list, abc.Sequence, abc.MutableSequence, abc.Collection),
    *(typing.List, typing.Sequence, typing.MutableSequence, typing.Collection),  # noqa: UP006
}
_SETS: Final = {
    *(set, abc.Set, abc.MutableSet),
    *(typing.Set, typing.AbstractSet, typing.MutableSet),  # noqa: UP006
}
_DICTS: Final = {
    *(dict, abc.Mapping, abc.MutableMapping),
    *(typing.Dict, typing.Mapping, typing.MutableMapping),  # noqa: UP006
}
_COLLECTIONS: Final[dict[Any, Callable[[Any], Any]]] = {
    **dict.fromkeys(_LISTS, list),
    **dict.fromkeys(_SETS, set),
    frozenset: frozenset,
    typing.FrozenSet: frozenset,  # noqa: UP006
    tuple: tuple,
    typing.Tuple: tuple,  # noqa: UP006
    PVector: pvector,
    PSet: pset,
}


def values(type: Any, overrides: Overrides | None = None) -> SearchStrategy[Any]:
    """Draw valid values of any type that msgspec reads from JSON.

    Valid is what reads back equal: `msgspec.Meta` is obeyed, floats are finite, texts
    are Unicode. Where the type leaves it open, datetimes are aware and of the years
    1900 to 2200, and integers have 64 bits. A class that refuses values in its
    `__post_init__` is asked again; say in *overrides* what it wants if it refuses most.
    Untagged unions of structs, which nothing reads, are drawn too: commands are not
    stored.

    Args:
        type: a struct, dataclass, TypedDict, NamedTuple, a union, collection, generic
            or recursive type, or anything inside of these; the pyrsistent collections.
            A `DomainEvent` keeps its type, event_version and empty metadata.
        overrides: what to draw instead for a type (also a NewType or an alias), or for
            one field: `{Money: prices, (Order, "note"): st.none()}`. A field of a class
            is one of its subclasses, too.

    Raises:
        TypeError: nothing is known about a type inside, a value would have no end, or
            an override names a field that is not there.
    """
    wanted = dict(overrides or {})
    _check_overrides(wanted)
    for depth in range(_RECURSION, _DEEPEST):
        found = _Builder(wanted).draw(type, depth)
        if found is not None:
            return found
    raise TypeError(f"a value of {type!r} would have no end")


def _check_overrides(overrides: Overrides) -> None:
    for key in overrides:
        if isinstance(key, tuple):
            owner, field = cast("tuple[Any, str]", key)
            known: Iterable[str] = (
                field_hints(owner)
                if is_record(owner)
                else inspect.signature(owner).parameters
            )
            if field not in known:
                raise TypeError(
                    f"{owner.__qualname__} has no {field!r}, only {', '.join(known)}"
                )


def _size(limits: Limits) -> dict[str, Any]:
    low = limits.get("min_length", 0)
    most = min(limits.get("max_length", low + MOST), low + MOST)
    return {"min_size": low, "max_size": most}


def _hashable(hint: Any) -> bool:
    try:
        hash(hint)
    except TypeError:
        return False
    return True


class _Builder:
    """Makes strategies; None means: no value comes to an end that soon."""

    def __init__(self, overrides: Overrides) -> None:
        self.overrides = overrides
        self.made: dict[tuple[Hashable, int], SearchStrategy[Any] | None] = {}
        self.path: list[str] = []

    def draw(  # noqa: PLR0911 - one kind of type after the other
        self, hint: Any, depth: int, limits: Limits | None = None
    ) -> SearchStrategy[Any] | None:
        if _hashable(hint) and hint in self.overrides:
            return self.overrides[hint]
        limits = limits or {}
        layer, inner = unwrapped(hint)
        if inner is not None:
            return self.draw(inner, depth, {**constraints_of(layer), **limits})
        if is_union(hint):
            return self.union(get_args(hint), depth)
        if is_record(hint):
            return self.memoised(hint, depth)
        origin = get_origin(hint) or hint
        if origin is Literal:
            return st.sampled_from(get_args(hint))
        if isinstance(origin, type) and issubclass(origin, Enum):
            return st.sampled_from(list(origin))
        if _hashable(origin) and origin in SCALARS:
            return SCALARS[origin](limits)
        if origin in _COLLECTIONS:
            return self.collection(origin, get_args(hint), depth, limits)
        if origin in _DICTS or origin is PMap:
            return self.mapping(origin, get_args(hint), depth, limits)
        where = f" for {'.'.join(self.path)}" if self.path else ""
        raise TypeError(
            f"nothing is known to draw{where}: add {hint!r} to the overrides"
        )

    def union(self, members: Sequence[Any], depth: int) -> SearchStrategy[Any] | None:
        # what is nothing comes first, so that examples shrink to it
        absent = (type(None), msgspec.UnsetType)
        ordered = sorted(members, key=lambda member: member not in absent)
        drawn = [self.draw(member, depth) for member in ordered]
        possible = [each for each in drawn if each is not None]
        return st.one_of(possible) if possible else None

    def collection(
        self, origin: Any, items: Sequence[Any], depth: int, limits: Limits
    ) -> SearchStrategy[Any] | None:
        make = _COLLECTIONS[origin]
        if make is tuple and items[1:] != (...,) and items:
            parts = [self.draw(item, depth) for item in items]
            possible = [part for part in parts if part is not None]
            return st.tuples(*possible) if len(possible) == len(parts) else None
        item: Any = items[0] if items else Any
        unique = make in (set, frozenset, pset)
        drawn = json_scalars() if unique and item is Any else self.draw(item, depth)
        if drawn is None:
            return None if limits.get("min_length") else st.builds(make)
        return st.lists(drawn, unique=unique, **_size(limits)).map(make)

    def mapping(
        self, origin: Any, items: Sequence[Any], depth: int, limits: Limits
    ) -> SearchStrategy[Any] | None:
        key, value = items or (str, Any)
        make: Callable[[Any], Any] = pmap if origin is PMap else dict
        drawn = self.draw(value, depth)
        if drawn is None:
            return None if limits.get("min_length") else st.builds(make)
        keys = self.keys(key, depth)
        return st.dictionaries(keys, drawn, **_size(limits)).map(make)

    def keys(self, hint: Any, depth: int) -> SearchStrategy[Any]:
        """Draw keys of a JSON object: texts, which a union may read as another type."""
        if hint is Any:
            hint = str
        drawn = self.draw(hint, depth)
        assert drawn is not None
        if hint is str:
            return drawn
        mapping: Any = dict  # a type that is computed, which a type checker cannot read
        decode = msgspec.json.Decoder(mapping[hint, None], dec_hook=dec_hook).decode
        encode = msgspec.json.Encoder(enc_hook=enc_hook).encode

        def reads_back(key: Any) -> bool:
            try:
                return key in decode(encode({key: None}))
            except msgspec.ValidationError:  # read as another type of the union
                return False

        return drawn.filter(reads_back)

    def memoised(self, hint: Any, depth: int) -> SearchStrategy[Any] | None:
        if _recursive(hint):
            depth -= 1
            if depth < 0:
                return None
        if not _hashable(hint):
            return self.record(hint, depth)
        if (hint, depth) not in self.made:
            self.made[hint, depth] = self.record(hint, depth)
        return self.made[hint, depth]

    def record(self, hint: Any, depth: int) -> SearchStrategy[Any] | None:
        cls: Any = get_origin(hint) or hint
        self.path.append(cls.__name__)
        fields = {
            name: self.field(cls, name, inner, depth)
            for name, inner in field_hints(hint).items()
        }
        self.path.pop()
        if is_typeddict(cls):
            return _typed_dicts(hint, fields)
        possible = {name: drawn for name, drawn in fields.items() if drawn is not None}
        if len(possible) < len(fields):
            return None
        return st.builds(_maker(cls), **possible)

    def field(
        self, cls: Any, name: str, hint: Any, depth: int
    ) -> SearchStrategy[Any] | None:
        for owner in cls.__mro__:
            if (owner, name) in self.overrides:
                return self.overrides[owner, name]
        if issubclass(cls, DomainEvent):
            own = _of_domain_event(cls, name)
            if own is not None:
                return own
        self.path.append(name)
        drawn = self.draw(hint, depth)
        self.path.pop()
        return drawn


def _typed_dicts(
    hint: Any, fields: Mapping[str, SearchStrategy[Any] | None]
) -> SearchStrategy[Any] | None:
    cls: Any = get_origin(hint) or hint
    required: dict[str, Any] = {}
    optional: dict[str, Any] = {}
    for name, inner in field_hints(hint).items():
        # the class itself does not see through annotations that are texts
        wrapper, needed = get_origin(inner), name in cls.__required_keys__
        if wrapper in (Required, NotRequired):
            needed = wrapper is Required
        drawn = fields[name]
        if drawn is not None:
            (required if needed else optional)[name] = drawn
        elif needed:
            return None
    return st.fixed_dictionaries(required, optional=optional)


def _maker(cls: Any) -> Callable[..., Any]:
    """Give what makes an instance of its fields, or asks for others."""
    names = {field.name: field.alias for field in getattr(cls, "__attrs_attrs__", ())}
    if not names and not hasattr(cls, "__post_init__"):
        return cls  # type: ignore[no-any-return]  # which Hypothesis shows as it is

    def make(**fields: Any) -> Any:
        try:
            return cls(**{names.get(name, name): v for name, v in fields.items()})
        except ValueError:
            reject()

    make.__name__ = cls.__name__
    return make


def _of_domain_event(cls: type[DomainEvent], name: str) -> SearchStrategy[Any] | None:
    """Draw what an event's envelope needs and no type says."""
    match name:
        case "event_type" | "aggregate_type" | "event_version":
            defaults = {f.name: f.default for f in msgspec.structs.fields(cls)}
            known = defaults[name] is not msgspec.NODEFAULT
            return st.just(defaults[name]) if known else None
        case "aggregate_version":
            return integers({"ge": 1, "lt": 2**31})
        case "metadata":
            return st.builds(dict)
        case _:
            return None


def _recursive(hint: Any) -> bool:
    cls = get_origin(hint) or hint
    seen: set[Any] = set()
    left = [hint]
    while left:
        for inner in field_hints(left.pop()).values():
            for found in _records_in(inner):
                origin = get_origin(found) or found
                if origin is cls:
                    return True
                if origin not in seen:
                    seen.add(origin)
                    left.append(found)
    return False


def _records_in(hint: Any) -> Iterable[Any]:
    layer, inner = unwrapped(hint)
    if inner is not None:
        yield from _records_in(inner)
    elif is_record(layer):
        yield layer
        # what it is made of is seen in its fields
    else:
        for argument in get_args(hint):
            yield from _records_in(argument)
