"""Events of older shapes are read as today's; what was stored never changes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest
from msgspec import Struct, field

from evsrc import (
    ANY,
    DomainEvent,
    DuplicateEventTypeError,
    EventRegistry,
    EventStore,
    InMemoryCheckpointRepository,
    InMemoryEventBus,
    NewEvent,
    PostgreSQLEventStore,
    SerializationError,
    SQLiteEventStore,
    StreamName,
    UpcasterError,
    Write,
    chain,
    json_codec,
    register_event,
)
from evsrc.core.codec import Envelope
from evsrc.facade.codec import domain_codec
from evsrc.subscriptions import SubscriptionConfig, SubscriptionManager


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


# Events as classes.


class TaskMade(DomainEvent):
    """As an older release had it."""

    aggregate_type: str = "Task"
    text: str


class TaskCreated(DomainEvent):
    """Today's: the class is called otherwise, and so is its field."""

    aggregate_type: str = "Task"
    title: str
    words: int


def title_was_text(body: dict[str, Any]) -> dict[str, Any]:
    return {**without_text(body), "title": body["text"]}


def without_text(body: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in body.items() if key != "text"}


def count_words(body: dict[str, Any]) -> dict[str, Any]:
    return {**body, "words": len(body["title"].split())}


STEPS = chain(title_was_text, count_words)


def todays_registry() -> EventRegistry:
    registry = EventRegistry()
    registry.register(TaskCreated, formerly=["TaskMade"], upcasters=STEPS)
    return registry


def store_of(kind: str, request: pytest.FixtureRequest, registry: Any) -> EventStore:
    if kind == "postgresql":
        dsn = request.getfixturevalue("evsrc_postgres_database")
        return PostgreSQLEventStore(dsn, registry)
    path = request.getfixturevalue("tmp_path") / "events.db"
    return SQLiteEventStore(str(path), registry)


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
async def test_a_class_reads_what_it_was_once_called_and_had(
    kind: str, request: pytest.FixtureRequest
) -> None:
    """By id and live, beside new events, which are stored under today's name alone."""
    before = EventRegistry()
    before.register(TaskMade)
    id = uuid4()
    async with store_of(kind, request, before) as store:
        old = TaskMade(aggregate_id=id, text="write the docs")
        await store.append_events(id, "Task", [old], 0)
    async with store_of(kind, request, todays_registry()) as store:
        new = TaskCreated(aggregate_id=id, title="read them", words=2)
        await store.append_events(id, "Task", [new], 1)
        read = (await store.get_events(id, "Task")).events
        assert [type(event) for event in read] == [TaskCreated, TaskCreated]
        assert [(e.title, e.words) for e in read] == [  # type: ignore[attr-defined]
            ("write the docs", 3),
            ("read them", 2),
        ]
        assert [event.event_type for event in read] == ["TaskCreated"] * 2
        assert read[0].event_id == old.event_id
        page = await (await store.core()).read_all()
        assert [r.type for r in page.events] == ["TaskMade", "TaskCreated"]
        assert await delivered(store) == ["write the docs", "read them"]
        assert await delivered(store, event_type_patterns=("TaskCr*",)) == [
            "write the docs",
            "read them",
        ]
        assert await delivered(store, event_type_patterns=("*Made",)) == [
            "write the docs"
        ]


async def delivered(store: EventStore, **chosen: Any) -> list[str]:
    """Give the titles that somebody gets who asks for the class."""
    titles: list[str] = []

    class Reader:
        def subscribed_to(self) -> list[type[DomainEvent]]:
            return [TaskCreated]

        async def handle(self, event: Any) -> None:
            titles.append(event.title)

    manager = SubscriptionManager(
        store, InMemoryEventBus(), InMemoryCheckpointRepository()
    )
    await manager.subscribe(Reader(), SubscriptionConfig(**chosen))
    async with manager:
        return titles


async def test_a_class_that_cannot_read_an_older_event_says_so() -> None:
    """A step that fails is named by its error; nothing else is read instead."""
    registry = todays_registry()
    codec, stream = domain_codec(registry), StreamName("Task", str(uuid4()))
    envelope = Envelope(uuid4().bytes, stream, 1, None)
    assert codec.restore is not None
    with pytest.raises(SerializationError, match="upcasting failed with KeyError"):
        codec.restore("TaskMade", b'{"words":1}', envelope)
    with pytest.raises(SerializationError, match="stored with shape 9"):
        codec.restore("TaskCreated", b'{"$shape":9}', envelope)
    event = codec.restore("TaskMade", b'{"$shape":2,"title":"a b"}', envelope)
    assert isinstance(event, TaskCreated)
    assert event.words == 2
    stored = codec.encode(event)
    assert stored.startswith(b'{"$shape":3,')
    assert codec.restore("TaskCreated", stored, envelope) == event


def test_a_registry_refuses_names_and_steps_that_cannot_be() -> None:
    """Then nothing is registered; without its names, a class has no steps either."""
    registry = EventRegistry()
    with pytest.raises(UpcasterError, match="must be a chain"):
        registry.register(TaskCreated, upcasters=count_words)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"several names: \['TaskMade'\]"):
        register_event(registry=registry, formerly="TaskMade")(TaskCreated)
    registry.register(TaskMade)
    with pytest.raises(DuplicateEventTypeError, match="TaskMade"):
        registry.register(TaskCreated, formerly=["TaskMade"], upcasters=STEPS)
    assert registry.types == {"TaskMade": TaskMade}
    assert registry.upcasters_of(TaskCreated) is None
    registry.unregister("TaskMade")
    register_event(registry=registry, formerly=["TaskMade"], upcasters=STEPS)(
        TaskCreated
    )
    registry.register(TaskCreated)
    assert registry.names_of(TaskCreated) == ["TaskCreated", "TaskMade"]
    assert registry.upcasters_of(TaskCreated) is STEPS
    registry.unregister("TaskCreated")
    registry.unregister("TaskMade")
    assert registry.upcasters_of(TaskCreated) is None
