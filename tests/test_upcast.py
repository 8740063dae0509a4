"""Events of older shapes are read as today's; what was stored never changes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest
from msgspec import Struct, field

from evsrc import (
    ANY,
    NewEvent,
    SerializationError,
    StreamName,
    UpcasterError,
    Write,
    chain,
    json_codec,
)


class SignedUp(Struct, frozen=True):
    first: str
    last: str


class Left(Struct, frozen=True, forbid_unknown_fields=True):
    pass


def split_name(body: dict[str, Any]) -> dict[str, Any]:
    first, _, last = body["name"].partition(" ")
    return {"first": first, "last": last}


def without_flag(body: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in body.items() if key != "legacy"}


UPCAST = chain(without_flag, split_name)
CODEC: Any = json_codec(
    {"signed-up": SignedUp, "left": Left},
    upcasters={"signed-up": UPCAST, "left": chain(without_flag)},
)
ANN = SignedUp("Ann", "Lee")


@pytest.mark.parametrize(
    "stored",
    [
        b'{"name":"Ann Lee","legacy":true}',
        b'{"$shape":1,"name":"Ann Lee","legacy":true}',
        b'{"name":"Ann Lee","$shape":2}',
        b'{"$shape":3,"first":"Ann","last":"Lee"}',
        b'{"first":"Ann", "$shape": 3, "last":"Lee"}',
    ],
)
def test_any_shape_is_read_as_todays(stored: bytes) -> None:
    """The first shape without its number, each with it, and wherever it stands."""
    assert CODEC.decode("signed-up", stored) == ANN
    assert CODEC.decoder("signed-up")(stored) == ANN


def test_todays_shape_is_stored_with_its_number() -> None:
    """What is written reads back, fields or none; other events have no number."""
    assert CODEC.name(ANN) == "signed-up"
    assert CODEC.encode(ANN) == b'{"$shape":3,"first":"Ann","last":"Lee"}'
    assert CODEC.encode(Left()) == b'{"$shape":2}'
    for event, name in ((ANN, "signed-up"), (Left(), "left")):
        assert CODEC.decode(name, CODEC.encode(event)) == event
    plain: Any = json_codec({"signed-up": SignedUp})
    assert plain.encode(ANN) == b'{"first":"Ann","last":"Lee"}'


@pytest.mark.parametrize(
    ("stored", "told"),
    [
        (b'{"legacy":true}', r"upcasting failed with KeyError: 'name'"),
        (b'{"$shape":4}', r"stored with shape 4, known are 1 to 3 - at `\$\.\$shape`"),
        (b'{"$shape":33,"first":"a"}', "stored with shape 33"),
        (b'{"$shape":true}', "stored with shape True"),
        (b'{"$shape":"2"}', "stored with shape '2'"),
        (b"[1]", "Expected `object`, got `array`"),
        (b'{"$shape":3,"first":1,"last":""}', r"at `\$\.first`"),
        (b"{", "truncated"),
    ],
)
def test_what_cannot_be_upcast_is_an_error(stored: bytes, told: str) -> None:
    """A failing step, a shape from the future, or damage: never another event."""
    with pytest.raises(SerializationError, match=told):
        CODEC.decode("signed-up", stored)


class Numbered(Struct, frozen=True):
    number: int = field(name="$shape")


class Row(Struct, frozen=True, array_like=True):
    n: int


WRONG: list[Callable[[], object]] = [
    chain,
    lambda: chain(split_name, None),  # type: ignore[arg-type]
    lambda: json_codec({"a": SignedUp}, upcasters={"b": UPCAST}),
    lambda: json_codec({"a": SignedUp}, upcasters={"a": split_name}),  # type: ignore[dict-item]
    lambda: json_codec({"a": Numbered}, upcasters={"a": UPCAST}),
    lambda: json_codec({"a": Row}, upcasters={"a": UPCAST}),
]


@pytest.mark.parametrize("make", WRONG)
def test_chains_are_checked_when_built(make: Callable[[], object]) -> None:
    """No steps, none that can be called, an unknown type, a class without room."""
    with pytest.raises(UpcasterError):
        make()


def test_a_step_must_give_a_body() -> None:
    """The step that forgot its return is named."""
    with pytest.raises(TypeError, match="forgetful, from shape 2, gave None"):
        chain(without_flag, forgetful)({"name": "x"})


def forgetful(body: dict[str, Any]) -> Any:
    body["name"] = ""


def test_a_chain_leaves_its_argument_alone() -> None:
    """A body that is upcast is upcast as a copy."""
    body = {"$shape": 1, "name": "Ann Lee"}
    assert UPCAST(body) == {"first": "Ann", "last": "Lee"}
    assert body == {"$shape": 1, "name": "Ann Lee"}


@pytest.mark.parametrize(
    "evsrc_back_end", ["sqlite", "postgresql", "postgresql-concurrent"]
)
async def test_stores_read_what_older_releases_wrote(open_store: Any) -> None:
    """A store with the old codec wrote it; one with upcasters reads it, and goes on."""

    class OldSignedUp(Struct, frozen=True):
        name: str
        legacy: bool = True

    stream, old = StreamName("user", "1"), json_codec({"signed-up": OldSignedUp})
    store = await open_store(old)
    first = NewEvent(OldSignedUp("Ann Lee"), uuid4())
    await store.append(Write(stream, [first], ANY))
    await store.close()
    async with await open_store(CODEC) as store:
        await store.append(Write(stream, [NewEvent(SignedUp("Bob", ""), uuid4())], 1))
        loaded = await store.load_events(stream)
        assert list(loaded.events) == [ANN, SignedUp("Bob", "")]
        page = await store.read_all()
        assert [recorded.event for recorded in page.events] == list(loaded.events)
