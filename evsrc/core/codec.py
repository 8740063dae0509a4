"""Turn events into a stored name and bytes, and back. No I/O here.

Stored names are literals that never change; class names may. Decoding goes by a table
of declared types only: nothing in the data can name a class to import.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from keyword import iskeyword
from typing import (
    Any,
    Final,
    Generic,
    Literal,
    NamedTuple,
    Protocol,
    TypeAlias,
    TypeVar,
    cast,
    get_args,
    get_origin,
)
from unicodedata import normalize

import msgspec
from msgspec import Struct, structs
from pyrsistent import PMap, PSet, PVector, pmap, pset, pvector

from .errors import (
    DuplicateEventTypeError,
    EventTypeNotFoundError,
    InvalidEventError,
    SerializationError,
    UpcasterError,
)
from .event import NO_TAGS, E, StreamName, checked_tags
from .upcast import SHAPE, Body, Chain

EnvT = TypeVar("EnvT", covariant=True)
K = TypeVar("K")
Hook: TypeAlias = Callable[[Any], Any]
DecodeHook: TypeAlias = Callable[[type, Any], Any]
Decode: TypeAlias = Callable[[bytes], Any]
Tags: TypeAlias = Mapping[type, Callable[[Any], Iterable[str]]]
"""For each class of events that has tags: its tags as a function of the event."""


class Opaque(Struct, frozen=True):
    """An event whose stored name this process does not know, as it was stored."""

    type: str
    data: bytes


class Envelope(Struct, frozen=True, gc=False):
    """What the log knows about one stored event beside its own bytes."""

    id: bytes
    stream: StreamName
    version: int
    metadata: bytes | None


class Restore(Protocol[EnvT]):
    """Build an event that carries facts of its envelope in its own fields."""

    def __call__(self, type: str, data: bytes, envelope: Envelope) -> EnvT:
        """Decode *data*, the event stored under the name *type*."""
        ...


@dataclass(frozen=True)
class Codec(Generic[E]):
    """How events of one domain are named, checked, written and read.

    Args:
        name: an event's stored name, once its fields were checked.
            Raises EventTypeNotFoundError or InvalidEventError.
        encode: a checked event as bytes.
        decode: stored name and bytes to the event. Raises SerializationError.
        restore: given for events that repeat their envelope (the facade's); used
            instead of `decode`, and it must agree with it.
        decoder: a faster `decode` for one stored name, or None for that name; it may
            raise anything, `decode` then says what is wrong.
        tags: an event's tags, checked (see `tagging`); None: no event has any.
        types: the class of each stored name, as far as they are known; a class may have
            several, such as one that it was renamed from.
    """

    name: Callable[[E], str]
    encode: Callable[[E], bytes]
    decode: Callable[[str, bytes], E]
    restore: Restore[E] | None = None
    decoder: Callable[[str], Callable[[bytes], E] | None] | None = None
    tags: Callable[[E], frozenset[str]] | None = None
    types: Mapping[str, type] = field(default_factory=dict[str, type])

    def decode_all(
        self, kinds: Sequence[K], names: Mapping[K, str], data: Sequence[bytes]
    ) -> list[E]:
        """Decode many events; *names* tells the stored name of each kind.

        Raises:
            SerializationError: one cannot be read.
        """
        decoders = {kind: self._decoder_of(names[kind]) for kind in set(kinds)}
        try:
            if len(decoders) == 1:
                (decoder,) = decoders.values()
                return list(map(decoder, data))
            return [
                decoders[kind](each) for kind, each in zip(kinds, data, strict=True)
            ]
        except Exception:  # noqa: BLE001 - `decode` says which, and why
            return [self.decode(names[k], d) for k, d in zip(kinds, data, strict=True)]

    def _decoder_of(self, name: str) -> Callable[[bytes], E]:
        fast = None if self.decoder is None else self.decoder(name)
        return partial(self.decode, name) if fast is None else fast


def enc_hook(value: Any) -> Any:
    """Show msgspec a pyrsistent collection or a pydantic model as plain data.

    >>> enc_hook(pvector([1, 2]))
    [1, 2]
    """
    kind: type[Any] = type(value)  # pyright: ignore[reportUnknownVariableType]
    if kind is PMap:
        return dict(value)
    if issubclass(kind, (PVector, PSet)):
        return list(value)
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    raise NotImplementedError(f"cannot encode {kind.__qualname__}")


def dec_hook(type: type, value: Any) -> Any:
    """Build a pyrsistent collection or a pydantic model from plain data.

    >>> dec_hook(PMap[int, bool], {"1": True})
    pmap({1: True})
    """
    origin: Any = get_origin(type) or type
    arguments: tuple[Any, ...] = get_args(type)
    if origin is PMap:
        return pmap(_convert(value, dict, arguments))
    if origin is PVector:
        return pvector(_convert(value, list, arguments))
    if origin is PSet:
        return pset(_convert(value, list, arguments))
    if hasattr(origin, "model_validate"):
        return origin.model_validate(value)
    raise NotImplementedError(f"cannot decode {type}")


def _convert(value: Any, container: Any, arguments: tuple[Any, ...]) -> Any:
    wanted = container[arguments] if arguments else container
    try:
        return msgspec.convert(value, wanted, str_keys=True, dec_hook=dec_hook)
    except msgspec.ValidationError as error:
        raise ValueError(str(error)) from error  # msgspec adds the outer path


_IMMEDIATE: Final = (
    msgspec.inspect.StrType,
    msgspec.inspect.IntType,
    msgspec.inspect.BoolType,
    msgspec.inspect.UUIDType,
    msgspec.inspect.NoneType,
    msgspec.inspect.DateTimeType,
    msgspec.inspect.DateType,
    msgspec.inspect.DecimalType,
)


def checker(
    event_type: type[Any],
    encode: Callable[[Any], bytes],
    decode: Callable[[bytes], Any],
    name: str,
    *,
    free: Collection[str] = (),
) -> Callable[[Any], str]:
    """Make the check that every event of one class passes before it is appended.

    It gives the stored name of an event that passes.

    msgspec does not validate in constructors, so a value is accepted only if what would
    be stored reads back as an equal value. For classes of plain fields the answer
    depends on the fields' types alone, and is remembered per combination of them.

    Args:
        event_type: the class.
        encode: the class's encoder.
        decode: its decoder.
        name: its stored name, for the message.
        free: fields that hold any JSON value and need not read back equal.

    Raises:
        InvalidEventError: from the check, with the path of the field.
    """
    seen: set[tuple[type, ...]] = set()
    plain = _only_plain_fields(event_type, free)

    def judge(event: Any) -> str:
        try:
            back = decode(encode(event))
        except Exception as error:
            raise InvalidEventError(name, str(error)) from error
        if back != event:
            difference = _difference(event, back, free)
            if difference is not None:
                raise InvalidEventError(name, difference)
        if plain:
            seen.add(tuple(map(type, structs.astuple(event))))
        return name

    if not plain:
        return judge
    # spelled out for the class: a loop over the fields would take twice as long
    kinds = "".join(f"type(event.{f})," for f in event_type.__struct_fields__)
    check: Callable[[Any], str] = eval(  # noqa: S307 - identifiers of a class, no data
        f"lambda event: name if ({kinds}) in seen else judge(event)",
        {"name": name, "seen": seen, "judge": judge},
    )
    return check


def _only_plain_fields(event_type: type[Any], free: Collection[str]) -> bool:
    info = msgspec.inspect.type_info(event_type)
    return isinstance(info, msgspec.inspect.StructType) and all(
        _is_ordinary(each.name) and (each.name in free or _is_plain(each.type))
        for each in info.fields
    )


def _is_ordinary(field: str) -> bool:
    """Tell whether the source text `event.field` would mean this field."""
    return not iskeyword(field) and normalize("NFKC", field) == field


def _is_plain(kind: msgspec.inspect.Type) -> bool:
    if isinstance(kind, msgspec.inspect.UnionType):
        return all(_is_plain(part) for part in kind.types)
    if not isinstance(kind, _IMMEDIATE):
        return False
    constraints = ("gt", "ge", "lt", "le", "multiple_of", "min_length", "max_length")
    return all(getattr(kind, c, None) is None for c in (*constraints, "pattern", "tz"))


def _difference(event: Any, back: Any, free: Collection[str]) -> str | None:
    for name in event.__struct_fields__:
        given, read = getattr(event, name), getattr(back, name)
        if given != read and name not in free:
            return f"{given!r} would read back as {read!r} - at `$.{name}`"
    return None


_NO_UPCASTERS: Final[Mapping[str, Chain]] = {}


def json_codec(  # noqa: C901 - three closures over one table
    types: Mapping[str, type[E]],
    *,
    upcasters: Mapping[str, Chain] = _NO_UPCASTERS,
    unknown: Literal["opaque", "error"] = "opaque",
    enc_hook: Hook = enc_hook,
    dec_hook: DecodeHook = dec_hook,
    tags: Tags | None = None,
) -> Codec[E]:
    """Make a codec that stores frozen msgspec structs as JSON.

    Args:
        types: stored name to class; the names never change, the classes may be renamed.
        upcasters: for stored names whose shape has changed, how to read the older ones.
            Their events are stored with the number of the shape, under `$shape`. A
            body of a shape that is not known yet is a SerializationError, so let all
            who read have the new step before anybody writes with it.
        unknown: a stored name that is not in *types* is read as an `Opaque`, or is an
            EventTypeNotFoundError.
        enc_hook: value to plain data, for types that msgspec does not know; the default
            covers pyrsistent collections and pydantic models.
        dec_hook: the way back.
        tags: for classes of events that have tags, their tags as a function of the
            event; they are stored with the event and can be asked for by a `Query`.

    Raises:
        DuplicateEventTypeError: one class under two names (it could not be read back as
            what it was written).
        UpcasterError: an upcaster's name is not in *types*, or its class cannot carry
            the number of the shape: it is array_like, or has a field of that name.
        EventTypeNotFoundError: tags for a class that is not in *types*.
    """
    encode = msgspec.json.Encoder(enc_hook=enc_hook).encode
    plain: dict[str, Decode] = {
        name: msgspec.json.Decoder(cls, dec_hook=dec_hook).decode
        for name, cls in types.items()
    }
    shapes = {name: shaped(name, types, steps) for name, steps in upcasters.items()}
    decoders = plain | {
        name: _after(shape.today, plain[name]) for name, shape in shapes.items()
    }
    names = _names_of(types)
    known = {
        cls: checker(cls, encode, plain[name], name) for cls, name in names.items()
    }
    headed = {cls: shapes[name].number for cls, name in names.items() if name in shapes}

    def name_of(event: E) -> str:
        try:
            check = known[type(event)]
        except KeyError:
            if isinstance(event, Opaque):
                return event.type
            raise EventTypeNotFoundError(type(event).__qualname__, types) from None
        return check(event)

    def encode_event(event: E) -> bytes:
        if isinstance(event, Opaque):
            return event.data
        try:
            data = encode(event)
        except ValueError as error:  # such as a lone surrogate
            raise InvalidEventError(names[type(event)], str(error)) from error
        if headed and (number := headed.get(type(event))) is not None:
            return number(data)
        return data

    def decode_event(type: str, data: bytes) -> E:
        decoder = decoders.get(type)
        if decoder is None:
            if unknown == "error":
                raise EventTypeNotFoundError(type, types)
            return Opaque(type, data)  # type: ignore[return-value]  # documented above
        try:
            event: E = decoder(data)
        except (msgspec.DecodeError, ValueError, RecursionError) as error:
            raise SerializationError(type, str(error)) from error
        return event

    tags_of = None if tags is None else tagging(tags, names)
    return Codec(
        name_of, encode_event, decode_event, None, decoders.get, tags_of, types
    )


def tagging(tags: Tags, names: Mapping[type, str]) -> Callable[[Any], frozenset[str]]:
    """Make the function that gives an event's tags, checked.

    Raises:
        EventTypeNotFoundError: tags for a class without a name.
    """
    for cls in tags:
        if cls not in names:
            raise EventTypeNotFoundError(cls.__qualname__, names.values())

    def tags_of(event: Any) -> frozenset[str]:
        cls: type[Any] = type(event)  # pyright: ignore[reportUnknownVariableType]
        own = tags.get(cls)
        return NO_TAGS if own is None else checked_tags(names[cls], own(event))

    return tags_of


class Shaped(NamedTuple):
    """What a chain of upcasters does to the stored bytes of one event."""

    number: Callable[[bytes], bytes]
    """Put the number of today's shape into what is to be stored."""
    today: Callable[[bytes], bytes]
    """Turn what was stored into today's shape, without the number."""


def shaped(name: str, types: Mapping[str, type[Any]], steps: Chain) -> Shaped:
    """Make what *steps* do to events that are stored under *name*.

    Raises:
        UpcasterError: they do not fit to the class of that name, or there is none.
    """
    if name not in types:
        known = ", ".join(types) or "none"
        raise UpcasterError(f"upcasters for {name!r}, which is no type: {known}")
    if not isinstance(steps, Chain):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise UpcasterError(f"upcasters for {name!r} must be a chain(...): {steps!r}")
    cls = types[name]
    if cls.__struct_config__.array_like or SHAPE in cls.__struct_encode_fields__:
        raise UpcasterError(
            f"{cls.__qualname__} cannot carry {SHAPE!r}, the number of its shape"
        )
    head = b'{"%b":%d' % (SHAPE.encode(), steps.shape)
    start = len(head)

    def number(data: bytes) -> bytes:
        return head + (b"}" if data == b"{}" else b"," + data[1:])

    def today(data: bytes) -> bytes:
        if data[:start] == head and (following := data[start : start + 1]) in b",}":
            rest = data[start + 1 :]
            return b"{" + rest if following == b"," else b"{}"
        body = msgspec.json.decode(data)
        if not isinstance(body, dict):
            return data  # whoever decodes it says what is wrong with it
        try:
            return msgspec.json.encode(steps(cast("Body", body)))
        except Exception as error:
            raise ValueError(
                f"upcasting failed with {type(error).__name__}: {error}"
            ) from error

    return Shaped(number, today)


def _after(today: Callable[[bytes], bytes], decode: Decode) -> Decode:
    return lambda data: decode(today(data))


def _names_of(types: Mapping[str, type[E]]) -> dict[type, str]:
    names: dict[type, str] = {}
    for name, cls in types.items():
        if cls in names:
            raise DuplicateEventTypeError(f"{names[cls]} and {name}", cls, cls)
        names[cls] = name
    return names


def value_codec() -> Codec[Any]:
    """Make the codec of stores that keep values as they are.

    Any immutable value is an event; its name is its msgspec tag, else its class name.
    Structs are checked as `json_codec` would check them.
    """
    encode = msgspec.json.Encoder(enc_hook=enc_hook).encode
    checks: dict[type, Callable[[Any], str]] = {}

    def learn(cls: type) -> Callable[[Any], str]:
        config = getattr(cls, "__struct_config__", None)
        tag = getattr(config, "tag", None)
        name = tag if isinstance(tag, str) else cls.__name__
        check: Callable[[Any], str] = lambda _: name  # noqa: E731
        if config is not None:
            decode: Decode = msgspec.json.Decoder(cls, dec_hook=dec_hook).decode
            check = checker(cls, encode, decode, name)
        checks[cls] = check
        return check

    def name_of(event: Any) -> str:
        if isinstance(event, Opaque):
            return event.type
        cls: type[Any] = type(event)  # pyright: ignore[reportUnknownVariableType]
        return (checks.get(cls) or learn(cls))(event)

    show = msgspec.json.Encoder(enc_hook=_shown).encode

    def encode_event(event: Any) -> bytes:
        return event.data if isinstance(event, Opaque) else show(event)

    def refuse(*_: object) -> Any:
        raise NotImplementedError("values are kept as they are")

    return Codec(name_of, encode_event, refuse)


def _shown(value: Any) -> Any:
    try:
        return enc_hook(value)
    except NotImplementedError:
        return repr(value)  # any value is an event here, and a payload is only shown


def storable(text: str) -> str:
    r"""Escape what a database would refuse in a text: NUL and lone surrogates.

    >>> storable("a\0b\ud800")
    'a\\x00b\\ud800'
    """
    return text.encode(errors="backslashreplace").decode().replace("\0", "\\x00")


def opaque_codec() -> Codec[Opaque]:
    """Make the codec that leaves stored bytes alone, for tools over any log."""
    return Codec(lambda e: e.type, lambda e: e.data, Opaque)


__all__ = [
    "Codec",
    "Envelope",
    "Opaque",
    "Restore",
    "Tags",
    "dec_hook",
    "enc_hook",
    "json_codec",
    "opaque_codec",
    "storable",
    "tagging",
    "value_codec",
]
