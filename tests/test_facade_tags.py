"""Tags on event classes: declared by a method, stored, asked for, never in the way."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from evsrc import (
    DecisionModel,
    DomainEvent,
    EventRegistry,
    EventStore,
    InMemoryCheckpointRepository,
    InMemoryEventBus,
    InMemoryEventStore,
    InvalidEventError,
    PostgreSQLEventStore,
    Query,
    SQLiteEventStore,
    query,
)
from evsrc.facade.codec import domain_codec
from evsrc.subscriptions import SubscriptionConfig, SubscriptionManager
from tests.conftest import prefix_of

REGISTRY = EventRegistry()


@REGISTRY.register
class Stored(DomainEvent, forbid_unknown_fields=True):
    """So many of a thing were put on a shelf; nothing unknown is read into it."""

    aggregate_type: str = "Shelf"
    sku: str
    count: int = 1

    def event_tags(self) -> Iterable[str]:
        yield f"sku:{self.sku}"
        yield f"shelf:{self.aggregate_id}"


@REGISTRY.register
class Swept(DomainEvent):
    """A shelf was cleaned; it has no tags."""

    aggregate_type: str = "Shelf"


@REGISTRY.register
class Labelled(DomainEvent):
    """Has the tags that it is given."""

    aggregate_type: str = "Shelf"
    labels: Any

    def event_tags(self) -> Iterable[str]:
        return self.labels  # type: ignore[no-any-return]


@pytest.fixture(params=["memory", "sqlite", "postgresql"])
async def store(
    request: pytest.FixtureRequest, tmp_path: Path
) -> AsyncIterator[EventStore]:
    made: EventStore
    match request.param:
        case "memory":
            made = InMemoryEventStore(event_registry=REGISTRY)
        case "sqlite":
            made = SQLiteEventStore(str(tmp_path / "events.db"), REGISTRY)
        case _:
            url = request.getfixturevalue("shared_database")
            made = PostgreSQLEventStore(url, REGISTRY, prefix=prefix_of(tmp_path))
    async with made:
        yield made


async def put(store: EventStore, id: UUID, *events: DomainEvent) -> None:
    version = await store.get_stream_version(id, "Shelf")
    await store.append_events(id, "Shelf", events, version)


def test_an_event_has_no_tags_unless_its_class_gives_some() -> None:
    """The method is there, and nothing has to be overridden."""
    id = uuid4()
    assert list(Swept(aggregate_id=id).event_tags()) == []
    stored = Stored(aggregate_id=id, sku="nut")
    assert list(stored.event_tags()) == ["sku:nut", f"shelf:{id}"]


async def test_events_with_tags_come_back_as_they_were(store: EventStore) -> None:
    """Neither their fields nor their metadata know of the tags."""
    id = uuid4()
    events = [
        Stored(aggregate_id=id, sku="nut", metadata={"$tags": ["fake"], "b": {}}),
        Stored(aggregate_id=id, sku="bolt", aggregate_version=2, actor_id="ann"),
        Swept(aggregate_id=id, aggregate_version=3, metadata={"$tags": ["fake"]}),
    ]
    await put(store, id, *events)
    assert (await store.get_events(id, "Shelf")).events == events
    log = [stored.event async for stored in store.read_all()]
    assert log == events
    assert [event.to_dict() for event in log] == [event.to_dict() for event in events]
    page = await (await store.core()).read_all()
    assert [r.metadata.extra for r in page.events] == [e.metadata for e in events]
    assert [sorted(r.tags) for r in page.events] == [
        sorted(event.event_tags()) for event in events
    ]


async def test_events_are_read_by_tag(store: EventStore) -> None:
    """Over all aggregates, through the record of the core."""
    one, other = uuid4(), uuid4()
    for id in (one, other):
        await put(store, id, Stored(aggregate_id=id, sku="nut"), Swept(aggregate_id=id))
        await put(store, id, Stored(aggregate_id=id, sku="bolt", count=5))
    record = await store.core()
    nuts = await record.read_all(Query.of(tags=["sku:nut"]))
    assert [r.event.aggregate_id for r in nuts.events] == [one, other]
    both = await record.read_all(Query.of(tags=["sku:bolt", f"shelf:{other}"]))
    assert [r.event.aggregate_id for r in both.events] == [other]


async def test_a_model_handles_event_classes(store: EventStore) -> None:
    """Under every name that the registry has for them by then."""
    registry = store.event_registry
    bolts: DecisionModel[int, DomainEvent] = DecisionModel.handling(
        domain_codec(registry),
        0,
        {Stored: lambda count, event: count + event.count},
        tags=["sku:bolt"],
    )
    assert bolts.query == Query.of(types=["Stored"], tags=["sku:bolt"])
    id = uuid4()
    await put(store, id, Stored(aggregate_id=id, sku="bolt", count=5))
    await put(store, id, Stored(aggregate_id=id, sku="nut"), Swept(aggregate_id=id))
    assert await query(await store.core(), bolts) == (
        5,
        await store.get_global_position(),
    )


def test_the_codec_knows_what_the_registry_knows() -> None:
    """Also what is registered later, also a class with two names; it cannot change it."""
    registry = EventRegistry()
    types = domain_codec(registry).types
    assert types == {}
    registry.register(Stored)
    registry.register(Stored, "Shelved")
    assert types == {"Stored": Stored, "Shelved": Stored} == registry.types
    with pytest.raises(TypeError):
        registry.types["x"] = Swept  # type: ignore[index]


@pytest.mark.parametrize(
    ("labels", "told"),
    [("ab", "tags are several"), ([1], "tag 1 is not a str"), (["a\0"], "holds a NUL")],
)
async def test_bad_tags_are_refused(store: EventStore, labels: Any, told: str) -> None:
    """With the event's name; nothing is written."""
    id = uuid4()
    bad = Labelled(aggregate_id=id, labels=labels)
    with pytest.raises(InvalidEventError, match=f"'Labelled': .*{told}"):
        await put(store, id, Swept(aggregate_id=id), bad)
    assert await store.get_global_position() == 0


async def test_a_subscription_asks_for_tags(store: EventStore) -> None:
    """For events that have all of them, together with what else it asks for."""
    id = uuid4()
    await put(
        store,
        id,
        Stored(aggregate_id=id, sku="nut"),
        Stored(aggregate_id=id, sku="bolt"),
        Labelled(aggregate_id=id, labels=["sku:nut"]),
        Swept(aggregate_id=id),
    )
    wanted: dict[str, dict[str, Any]] = {
        "nuts": {"tags": ("sku:nut",)},
        "nuts here": {"tags": ("sku:nut", f"shelf:{id}")},
        "labels": {"tags": ("sku:nut",), "event_types": (Labelled,)},
        "all": {},
    }
    manager = SubscriptionManager(
        store, InMemoryEventBus(), InMemoryCheckpointRepository()
    )
    seen: dict[str, list[str]] = {name: [] for name in wanted}

    class Seen:
        def __init__(self, name: str) -> None:
            self.name = name

        async def handle(self, event: DomainEvent) -> None:
            seen[self.name].append(event.event_type)

    for name, config in wanted.items():
        await manager.subscribe(Seen(name), SubscriptionConfig(**config), name)
    await manager.start()
    for subscription in manager.subscriptions:
        await subscription.caught_up()
        assert subscription.last_processed_position == 4
    await manager.stop()
    assert seen == {
        "nuts": ["Stored", "Labelled"],
        "nuts here": ["Stored"],
        "labels": ["Labelled"],
        "all": ["Stored", "Stored", "Labelled", "Swept"],
    }
