"""Show values as the Python that makes them, and what differs between two of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Mapping, Sequence
from enum import Enum
from functools import partial
from types import FunctionType
from typing import Any, Final

import msgspec

from ..facade.events import DomainEvent

CHANCE: Final = frozenset(
    {"event_id", "occurred_at", "correlation_id", "aggregate_version"}
)
"""What a domain event gets by itself, and no test should have to know."""

_ENVELOPE: Final = frozenset(DomainEvent.__struct_fields__) - {"aggregate_id"}


class Call(msgspec.Struct, frozen=True):
    """A command for an aggregate class: one of its methods, and the arguments."""

    method: str
    arguments: Mapping[str, Any]

    def __call__(self, aggregate: Any) -> Any:
        """Call the method of *aggregate*."""
        return getattr(aggregate, self.method)(**self.arguments)


def fields_of(value: Any) -> dict[str, Any] | None:
    """Give the fields of a struct, dataclass or named tuple; None of anything else."""
    names: Iterable[str] | None = getattr(value, "__struct_fields__", None)
    if isinstance(value, type):
        return None
    if names is None and dataclasses.is_dataclass(value):
        names = [field.name for field in dataclasses.fields(value) if field.init]
    if names is None and isinstance(value, tuple):
        names = getattr(value, "_fields", None)
    return None if names is None else {name: getattr(value, name) for name in names}


def source(value: Any) -> str:  # noqa: PLR0911 - one kind of value after the other
    """Give *value* as an expression to be pasted into a test.

    >>> source((1, {"a": frozenset([2])}))
    "(1, {'a': frozenset({2})})"
    """
    if isinstance(value, Call):
        named = (f"{name}={source(each)}" for name, each in value.arguments.items())
        return f"lambda it: it.{value.method}({', '.join(named)})"
    fields = fields_of(value)
    if fields is not None:
        shown = _asked(value, fields)
        inner = ", ".join(f"{name}={source(each)}" for name, each in shown.items())
        return f"{type(value).__qualname__.rpartition('.')[2]}({inner})"
    match value:
        case Enum():
            return f"{type(value).__name__}.{value.name}"
        case FunctionType():
            return value.__name__
        case dict():
            pairs = (f"{source(k)}: {source(v)}" for k, v in value.items())
            return "{" + ", ".join(pairs) + "}"
        case list() if type(value) is list:
            return f"[{', '.join(map(source, value))}]"
        case tuple() if type(value) is tuple:
            comma = "," if len(value) == 1 else ""
            return f"({', '.join(map(source, value))}{comma})"
        case _:
            return repr(value)


def _asked(value: Any, fields: dict[str, Any]) -> dict[str, Any]:
    """Leave out what a domain event has without being told."""
    if not isinstance(value, DomainEvent):
        return fields
    defaults = {
        f.name: f.default
        for f in msgspec.structs.fields(type(value))
        if f.name in fields
    }
    return {
        name: each
        for name, each in fields.items()
        if name not in CHANCE
        and (name not in _ENVELOPE or name == "metadata" or each != defaults[name])
        and (name != "metadata" or each)
    }


def differences(expected: Any, got: Any, ignoring: Collection[str] = ()) -> list[str]:
    """Give a line for each place where two values differ; none if they are equal.

    The fields *ignoring* of domain events may differ.
    """
    return list(_differences(expected, got, "", frozenset(ignoring)))


def same(expected: Any, got: Any, ignoring: Collection[str] = ()) -> bool:
    """Tell whether there is no difference."""
    return bool(expected == got) or not differences(expected, got, ignoring)


def _differences(
    expected: Any, got: Any, path: str, ignoring: frozenset[str]
) -> Iterable[str]:
    if type(expected) is not type(got):
        if expected != got or fields_of(expected) is not None:
            yield _line(path, expected, got)
        return
    fields, others = fields_of(expected), fields_of(got)
    go_on = partial(_differences, ignoring=ignoring)
    if fields is not None and others is not None:
        free = ignoring if isinstance(expected, DomainEvent) else frozenset[str]()
        for name in (name for name in fields if name not in free):
            yield from go_on(fields[name], others[name], f"{path}.{name}")
    elif isinstance(expected, Mapping):
        yield from _of_mappings(expected, got, path, ignoring)
    elif isinstance(expected, Sequence) and not isinstance(expected, (str, bytes)):
        for n, (one, other) in enumerate(zip(expected, got, strict=False)):
            yield from go_on(one, other, f"{path}[{n}]")
        if len(expected) != len(got):
            yield f"{path or 'length'}: expected {len(expected)} items, got {len(got)}"
    elif expected != got:
        yield _line(path, expected, got)


def _of_mappings(
    expected: Mapping[Any, Any],
    got: Mapping[Any, Any],
    path: str,
    ignoring: frozenset[str],
) -> Iterable[str]:
    for key in [*expected, *(key for key in got if key not in expected)]:
        place = f"{path}[{source(key)}]"
        if key not in got:
            yield f"{place}: expected {source(expected[key])}, got none"
        elif key not in expected:
            yield f"{place}: expected none, got {source(got[key])}"
        else:
            yield from _differences(expected[key], got[key], place, ignoring)


def _line(path: str, expected: Any, got: Any) -> str:
    return f"{path or 'value'}: expected {source(expected)}, got {source(got)}"
