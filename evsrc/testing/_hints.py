"""Resolve the annotations of a class, type variables and constraints included."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterable, Mapping
from types import UnionType
from typing import (
    Annotated,
    Any,
    Final,
    Generic,
    NewType,
    NotRequired,
    Required,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

import msgspec
from msgspec import Meta

_WRAPPERS: Final = (Annotated, Final, Required, NotRequired)
CONSTRAINTS: Final = (
    *("gt", "ge", "lt", "le", "multiple_of"),
    *("min_length", "max_length", "pattern", "tz"),
)


def unwrapped(hint: Any) -> tuple[Any, Any]:
    """Take one layer off a hint; give it and what was inside, None if it has none.

    Layers are NewType, `type` aliases, Annotated, Final, Required and NotRequired.
    """
    if isinstance(hint, NewType):
        return hint, hint.__supertype__
    if get_origin(hint) in _WRAPPERS:
        return hint, get_args(hint)[0]
    # `type X = ...` of Python 3.12, plain or parametrised
    alias = get_origin(hint) if hasattr(get_origin(hint), "__value__") else hint
    if hasattr(alias, "__value__") and not isinstance(alias, type):
        arguments = dict(zip(alias.__type_params__, get_args(hint), strict=False))
        return hint, substituted(alias.__value__, arguments)
    return hint, None


def constraints_of(hint: Any) -> dict[str, Any]:
    """Give what the `msgspec.Meta`s right around a type demand."""
    if get_origin(hint) is not Annotated:
        return {}
    return {
        name: value
        for meta in get_args(hint)[1:]
        if isinstance(meta, Meta)
        for name in CONSTRAINTS
        if (value := getattr(meta, name)) is not None
    }


def is_union(hint: Any) -> bool:
    """Tell whether a hint is a union."""
    return get_origin(hint) in (Union, UnionType)


def is_record(hint: Any) -> bool:
    """Tell whether a hint is of a class with named fields, each with a type."""
    cls: Any = get_origin(hint) or hint
    return isinstance(cls, type) and (
        issubclass(cls, msgspec.Struct)
        or dataclasses.is_dataclass(cls)
        or is_typeddict(cls)
        or (issubclass(cls, tuple) and hasattr(cls, "_fields"))
        or hasattr(cls, "__attrs_attrs__")
    )


def field_hints(record: Any) -> dict[str, Any]:
    """Give the hints of a record's fields, in order, with its type arguments put in."""
    cls: Any = get_origin(record) or record
    names = getattr(cls, "__struct_fields__", None) or getattr(cls, "_fields", None)
    hints = _resolved(record)
    if names is None and dataclasses.is_dataclass(cls):
        names = [field.name for field in dataclasses.fields(cls) if field.init]
    return {name: hints[name] for name in names or hints}


def _resolved(record: Any) -> dict[str, Any]:
    cls: Any = get_origin(record) or record
    parameters: Iterable[Any] = getattr(cls, "__parameters__", ())
    arguments = dict(zip(parameters, get_args(record), strict=False))
    found: dict[str, Any] = {}
    bases = getattr(cls, "__orig_bases__", None) or cls.__bases__
    for base in reversed(bases):
        origin = get_origin(base) or base
        if origin not in (Generic, object, msgspec.Struct) and is_record(base):
            found |= _resolved(substituted(base, arguments))
    everything = get_type_hints(cls, include_extras=True)
    for name in inspect.get_annotations(cls):
        found[name] = substituted(everything[name], arguments)
    # a TypedDict does not keep its bases, but has all annotations
    return found if found or not everything else everything


def substituted(hint: Any, arguments: Mapping[Any, Any]) -> Any:
    """Put the arguments for type variables into a hint; without one, its bound."""
    if isinstance(hint, TypeVar):
        free: Any = hint.__bound__ or (
            Union[hint.__constraints__] if hint.__constraints__ else Any  # noqa: UP007
        )
        return arguments.get(hint, free)
    parameters: tuple[Any, ...] = getattr(hint, "__parameters__", ())
    if not parameters or isinstance(hint, type):
        return hint
    return hint[tuple(substituted(p, arguments) for p in parameters)]
