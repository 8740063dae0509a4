"""Store domain events: their own fields as payload, the rest in the envelope."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeAlias

import msgspec

from ..core.codec import (
    Codec,
    Envelope,
    Shaped,
    checker,
    dec_hook,
    enc_hook,
    shaped,
)
from ..core.errors import InvalidEventError, SerializationError
from ..core.event import NO_TAGS, Metadata, NewEvent, checked_tags, without_tags
from .events import DomainEvent, EventRegistry

_ENVELOPE: Final = frozenset(
    {
        "event_id",
        "event_type",
        "aggregate_id",
        "aggregate_type",
        "aggregate_version",
        "tenant_id",
        "actor_id",
        "correlation_id",
        "causation_id",
        "metadata",
    }
)
_encode: Final = msgspec.json.Encoder(enc_hook=enc_hook).encode
_encode_text: Final = msgspec.json.Encoder().encode


def domain_codec(  # noqa: C901 - closures over one table
    registry: EventRegistry,
) -> Codec[DomainEvent]:
    """Make the codec of all events in *registry*, now and later."""
    kinds = _Kinds(registry)

    def name(event: DomainEvent) -> str:
        check, _, _ = kinds.of(type(event))
        return check(event)

    def encode(event: DomainEvent) -> bytes:
        _, fields, number = kinds.of(type(event))
        try:
            data = _encode({field: getattr(event, field) for field in fields})
        except ValueError as error:  # such as a lone surrogate
            raise InvalidEventError(event.event_type, str(error)) from error
        return data if number is None else number(data)

    def decode(type: str, _: bytes) -> DomainEvent:
        raise SerializationError(
            type, "a domain event is not complete without envelope"
        )

    def restore(type: str, data: bytes, envelope: Envelope) -> DomainEvent:
        decoder = kinds.decoder(type)
        if decoder is None:
            return unknown_event(type, data, envelope)
        decode_whole, today = decoder
        try:
            if today is not None:
                data = today(data)
            event: DomainEvent = decode_whole(_spliced(data, envelope))
        except (msgspec.DecodeError, ValueError, RecursionError) as error:
            raise SerializationError(type, str(error)) from error
        return event

    def tags(event: DomainEvent) -> frozenset[str]:
        cls = type(event)
        if cls.event_tags is DomainEvent.event_tags:  # as most events
            return NO_TAGS
        return checked_tags(registry.name_of(cls), event.event_tags())

    return Codec(name, encode, decode, restore, tags=tags, types=registry.types)


class UnknownEvent(DomainEvent):
    """An event whose stored name is not registered here, as it was stored.

    `event_type` is the stored name, `data` the stored payload.
    """

    data: bytes = b""


def unknown_event(type: str, data: bytes, envelope: Envelope) -> DomainEvent:
    """Show an event of an unregistered type; reading goes on."""
    known = _decode_unknown(_spliced(b"{}", envelope))
    return msgspec.structs.replace(known, event_type=type, data=data)


_decode_unknown: Final = msgspec.json.Decoder(UnknownEvent).decode


def _spliced(data: bytes, envelope: Envelope) -> bytes:
    """Join envelope, metadata and payload to the JSON of the whole event."""
    id, stream, version, meta = (
        envelope.id.hex().encode(),
        envelope.stream,
        envelope.version,
        without_tags(envelope.metadata) or b"{}",
    )
    correlation = (
        b"" if b'"correlation_id":' in meta else b'"correlation_id":"%b",' % id
    )
    head = b'{"event_id":"%b","aggregate_id":%b,"aggregate_type":%b,%b' % (
        id,
        _encode_text(stream.id),
        _encode_text(stream.category),
        correlation,
    )
    parts = [b'%b"aggregate_version":%d' % (head, version)]
    parts += [part[1:-1] for part in (meta, data) if part != b"{}"]
    return b",".join(parts) + b"}"


_Change: TypeAlias = Callable[[bytes], bytes] | None


class _Kinds:
    """What has to be known of every class, kept until the registry changes."""

    def __init__(self, registry: EventRegistry) -> None:
        self.registry = registry
        self.seen = -1
        self.classes: dict[
            type[DomainEvent], tuple[Callable[[Any], str], tuple[str, ...], _Change]
        ] = {}
        self.decoders: dict[str, tuple[Callable[[bytes], Any], _Change]] = {}

    def of(
        self, cls: type[DomainEvent]
    ) -> tuple[Callable[[Any], str], tuple[str, ...], _Change]:
        """Give a class's check, its own fields, and what numbers its shape."""
        self.refresh()
        found = self.classes.get(cls)
        if found is None:
            name = self.registry.name_of(cls)
            decode = msgspec.json.Decoder(cls, dec_hook=dec_hook).decode
            check = checker(cls, _encode, decode, name, free=("metadata",))
            fields = tuple(f for f in cls.__struct_fields__ if f not in _ENVELOPE)
            shape = self.shape(name, cls)
            number = None if shape is None else shape.number
            found = self.classes[cls] = check, fields, number
        return found

    def decoder(self, name: str) -> tuple[Callable[[bytes], Any], _Change] | None:
        """Give what decodes a whole event, and what makes its own bytes today's."""
        self.refresh()
        found = self.decoders.get(name)
        if found is None:
            cls = self.registry.get_or_none(name)
            if cls is None:
                return None
            decode = msgspec.json.Decoder(cls, dec_hook=dec_hook).decode
            shape = self.shape(name, cls)
            found = decode, None if shape is None else shape.today
            self.decoders[name] = found
        return found

    def shape(self, name: str, cls: type[DomainEvent]) -> Shaped | None:
        steps = self.registry.upcasters_of(cls)
        return None if steps is None else shaped(name, {name: cls}, steps)

    def refresh(self) -> None:
        if self.seen != self.registry.changes:
            self.classes.clear()
            self.decoders.clear()
            self.seen = self.registry.changes


def enveloped(event: DomainEvent, _: Metadata | None = None) -> NewEvent[DomainEvent]:
    """Give the event as the core appends it, with its own id and metadata."""
    metadata = Metadata(
        correlation_id=str(event.correlation_id),
        causation_id=None if event.causation_id is None else str(event.causation_id),
        actor_id=event.actor_id,
        tenant_id=None if event.tenant_id is None else str(event.tenant_id),
        extra=event.metadata,
    )
    return NewEvent(event, event.event_id, metadata)
