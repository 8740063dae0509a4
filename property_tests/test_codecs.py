"""Codecs over generated struct classes: what is accepted reads back equal."""

from __future__ import annotations

import json
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Any, Literal
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyrsistent import PMap, PSet, PVector, pmap, pset, pvector

from evsrc import InvalidEventError, Opaque, SerializationError, json_codec
from evsrc.core.codec import Envelope
from evsrc.core.event import StreamName
from evsrc.facade.codec import domain_codec
from evsrc.facade.events import default_registry
from tests.facade_domain import REGISTRY


class Colour(Enum):
    """An enum field."""

    RED = "red"
    BLUE = "blue"


class Inner(msgspec.Struct, frozen=True):
    """A nested struct."""

    n: int
    text: str | None = None


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
integers = st.integers(-(2**63), 2**64 - 1)
moments = st.datetimes(
    datetime(1900, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC)
)
floats = st.floats(allow_nan=False, allow_infinity=False)
inners = st.builds(Inner, integers, st.none() | texts)

KINDS: list[tuple[Any, st.SearchStrategy[Any]]] = [
    (int, integers),
    (str, texts),
    (bool, st.booleans()),
    (float, floats),
    (bytes, st.binary(max_size=20)),
    (UUID, st.uuids()),
    (Decimal, st.decimals(allow_nan=False, allow_infinity=False)),
    (datetime, moments),
    (date, st.dates()),
    (timedelta, st.timedeltas(timedelta(days=-999), timedelta(days=999))),
    (Colour, st.sampled_from(Colour)),
    (Literal["a", 1], st.sampled_from(["a", 1])),
    (Inner, inners),
    (int | None, st.none() | integers),
    (str | int, texts | integers),
    (tuple[int, ...], st.lists(integers, max_size=4).map(tuple)),
    (tuple[Inner, ...], st.lists(inners, max_size=3).map(tuple)),
    (frozenset[str], st.frozensets(texts, max_size=3)),
    (dict[str, int], st.dictionaries(texts, integers, max_size=3)),
    (PMap[str, int], st.dictionaries(texts, integers, max_size=3).map(pmap)),
    (PVector[int], st.lists(integers, max_size=3).map(pvector)),
    (PSet[str], st.lists(texts, max_size=3).map(pset)),
]
WRONG: list[Any] = [object(), "text", 7, None, 1.5, b"raw", ("a", None), {"x": 1}]


@st.composite
def events(draw: st.DrawFn) -> tuple[type[Any], Any]:
    """Give a new struct class and a value of it."""
    kinds = draw(st.lists(st.sampled_from(KINDS), min_size=1, max_size=6))
    fields = [(f"f{n}", kind) for n, (kind, _) in enumerate(kinds)]
    cls = msgspec.defstruct("Generated", fields, frozen=True)
    return cls, cls(*(draw(values) for _, values in kinds))


@given(events())
def test_values_read_back_equal(made: tuple[type[Any], Any]) -> None:
    """Every valid value of every class is accepted and comes back as it was."""
    cls, event = made
    codec: Any = json_codec({"generated": cls})
    for _ in range(2):
        assert codec.name(event) == "generated"
    back = codec.decode("generated", codec.encode(event))
    assert back == event
    assert type(back) is cls


@given(events(), st.data())
def test_accepted_means_it_reads_back_equal(
    made: tuple[type[Any], Any], data: st.DataObject
) -> None:
    """A value with a foreign thing in one field is refused, or reads back equal."""
    cls, event = made
    codec: Any = json_codec({"generated": cls})
    codec.name(event)
    field = data.draw(st.sampled_from(cls.__struct_fields__))
    other = msgspec.structs.replace(event, **{field: data.draw(st.sampled_from(WRONG))})
    try:
        codec.name(other)
    except InvalidEventError as error:
        assert "$" in str(error) or "encode" in str(error)
    else:
        assert codec.decode("generated", codec.encode(other)) == other


@given(st.binary(max_size=60) | texts.map(str.encode))
def test_hostile_bytes_are_errors_or_opaque(data: bytes) -> None:
    """Decoding anything raises our error, or gives an event; never anything else."""
    codec: Any = json_codec({"inner": Inner})
    assert codec.decode("unknown", data) == Opaque("unknown", data)
    with suppress(SerializationError):
        assert isinstance(codec.decode("inner", data), Inner)


@pytest.mark.parametrize("depth", [100, 100_000])
def test_deep_payloads_do_not_kill(depth: int) -> None:
    """A payload nested without end is an error, not the end of the process."""
    codec: Any = json_codec({"any": msgspec.defstruct("Any", [("x", Any)])})
    data = b'{"x":' + b"[" * depth + b"]" * depth + b"}"
    if depth > 1000:
        with pytest.raises(SerializationError, match="recursion"):
            codec.decode("any", data)
    else:
        assert codec.decode("any", data) is not None


GOLDEN = sorted((Path(__file__).parent / "data").glob("*.json"))


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_released_events_still_decode(path: Path) -> None:
    """One stored example of every event ever released: its type, bytes and fields."""
    for example in json.loads(path.read_text()):
        codec = domain_codec(
            REGISTRY if example["registry"] == "test" else default_registry
        )
        assert codec.restore is not None
        stored = example["envelope"]
        envelope = Envelope(
            bytes.fromhex(stored["id"]),
            StreamName(stored["category"], stored["stream_id"]),
            stored["version"],
            None if stored["meta"] is None else json.dumps(stored["meta"]).encode(),
        )
        data = json.dumps(example["data"]).encode()
        event = codec.restore(example["type"], data, envelope)
        assert event.to_dict() == example["event"]
