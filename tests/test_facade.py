"""The classes of the guide: events, aggregates, repositories, stores."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from msgspec.structs import replace

from evsrc import (
    AggregateIdMismatchError,
    AggregateNotFoundError,
    AggregateRepository,
    AggregateTypeMismatchError,
    AppendResult,
    DeclarativeAggregate,
    DomainEvent,
    DuplicateEventError,
    DuplicateHandlerError,
    EventRegistry,
    EventStore,
    EventStream,
    EventTypeNotFoundError,
    EventVersionError,
    ExpectedVersion,
    HandlerSignatureError,
    InMemoryEventStore,
    InvalidEventError,
    OptimisticLockError,
    PostgreSQLEventStore,
    ReadDirection,
    ReadOptions,
    SQLiteEventStore,
    StoreClosedError,
    UnhandledEventError,
    UnknownEvent,
    default_registry,
    fold,
    get_event_class,
    get_event_class_or_none,
    get_handled_event_type,
    handles,
    is_event_handler,
    is_event_registered,
    list_registered_events,
    register_event,
)
from tests.conftest import prefix_of
from tests.facade_domain import (
    REGISTRY,
    Account,
    Closed,
    DeclarativeAccount,
    Held,
    Opened,
    Paid,
    State,
    opened,
    paid,
)


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


@pytest.fixture
def repo(store: EventStore) -> AggregateRepository[Account]:
    return AggregateRepository(store, Account, "Account")


# Events and registry.


def test_events_are_frozen_and_keyword_only() -> None:
    """An event takes keywords and never changes."""
    event = opened()
    with pytest.raises(AttributeError):
        event.owner = "bob"  # type: ignore[misc]
    with pytest.raises(TypeError):
        Opened("ann")  # type: ignore[misc]
    with pytest.raises(TypeError, match="owner"):
        Opened(aggregate_id=uuid4())  # type: ignore[call-arg]


def test_event_types_are_named_after_their_class_or_as_declared() -> None:
    """A default that is not annotated becomes a field, not a hidden attribute."""
    assert opened().event_type == "Opened"
    closed = Closed(aggregate_id=uuid4())
    assert closed.event_type == "AccountClosed"
    assert closed.to_dict()["event_type"] == "AccountClosed"

    class Child(Opened):
        """A subclass has a name of its own."""

    assert Child(aggregate_id=uuid4(), owner="x").event_type == "Child"


def test_events_have_defaults_of_their_own() -> None:
    """Ids, times and versions are there without asking."""
    first, second = opened(), opened()
    assert first.event_id != second.event_id
    assert first.correlation_id != second.correlation_id
    assert (first.event_version, first.aggregate_version) == (1, 1)
    assert (first.tenant_id, first.actor_id, first.causation_id) == (None, None, None)
    assert first.metadata == {}
    assert abs(first.occurred_at - datetime.now(UTC)) < timedelta(seconds=5)
    assert hash(first) == hash(first.event_id)
    for bad in ({"aggregate_version": 0}, {"event_version": -1}):
        with pytest.raises(InvalidEventError, match="versions start at 1"):
            Closed(aggregate_id=uuid4(), **bad)  # type: ignore[arg-type]


def test_events_know_their_cause() -> None:
    """Causation and correlation are taken over; metadata is merged."""
    cause = opened()
    effect = (
        paid(uuid4(), 1).with_causation(cause).with_metadata(a=1).with_metadata(b=2)
    )
    assert effect.is_caused_by(cause)
    assert effect.is_correlated_with(cause)
    assert not cause.is_caused_by(effect)
    assert effect.metadata == {"a": 1, "b": 2}
    assert effect.with_aggregate_version(7).aggregate_version == 7
    assert (
        str(cause)
        == f"Opened(event_id={cause.event_id}, aggregate_id={cause.aggregate_id}, version=1)"
    )


def test_events_go_to_dicts_and_back() -> None:
    """`to_dict` gives JSON values; `from_dict` checks them."""
    event = paid(uuid4(), 5).with_metadata(x=1)
    values = event.to_dict()
    assert values["aggregate_id"] == str(event.aggregate_id)
    assert Paid.from_dict(values) == event
    with pytest.raises(
        InvalidEventError, match=r"Expected `int`, got `str` - at `\$.amount`"
    ):
        Paid.from_dict({**values, "amount": "much"})


def test_the_registry_knows_names_and_classes() -> None:
    """Names can be looked up, listed, removed; unknown ones are errors."""
    registry = EventRegistry()
    assert not list(registry)
    assert registry
    registry.register(Opened)
    register_event(event_type="payment", registry=registry)(Paid)
    assert registry.list_types() == ["Opened", "payment"] == list(registry)
    assert registry.list_classes() == [Opened, Paid]
    assert registry.get("payment") is registry.get_or_none("payment") is Paid
    assert registry.name_of(Paid) == "payment"
    assert "payment" in registry
    assert registry.contains("Opened")
    assert len(registry) == 2
    assert registry.unregister("payment")
    assert not registry.unregister("payment")
    with pytest.raises(
        EventTypeNotFoundError, match="'payment'.*known types: Opened"
    ) as caught:
        registry.get("payment")
    assert isinstance(caught.value, KeyError)
    assert caught.value.available_types == ["Opened"]
    with pytest.raises(EventTypeNotFoundError):
        registry.name_of(Paid)
    registry.clear()
    assert len(registry) == 0


def test_the_default_registry_has_functions() -> None:
    """`register_event` and its siblings work on one registry for everybody."""

    class Unique(DomainEvent):
        aggregate_type: str = "T"

    try:
        assert register_event(Unique) is Unique
        assert is_event_registered("Unique")
        assert get_event_class("Unique") is get_event_class_or_none("Unique") is Unique
        assert "Unique" in list_registered_events()
    finally:
        default_registry.unregister("Unique")
    assert get_event_class_or_none("Unique") is None


# Aggregates.


def test_an_aggregate_folds_as_it_records() -> None:
    """State, version and pending events follow each applied event."""
    account = Account(uuid4())
    assert (account.state, account.version, account.has_uncommitted_events) == (
        None,
        0,
        False,
    )
    account.open("ann")
    account.pay(5)
    assert account.state == State(owner="ann", balance=5)
    assert account.version == 2
    assert account.get_next_version() == 3
    pending = account.uncommitted_events
    pending.clear()
    assert len(account.uncommitted_events) == 2
    assert len(account.clear_uncommitted_events()) == 2
    assert not account.has_uncommitted_events
    assert account == Account(account.aggregate_id)
    assert len({account, Account(account.aggregate_id)}) == 1
    assert account != "account"
    assert "version=2" in repr(account)


def test_a_failing_fold_leaves_the_aggregate_as_it_was() -> None:
    """If `_apply` raises, neither state nor version nor pending events change."""
    account = Account(uuid4())
    account.open("ann")
    with pytest.raises(RuntimeError):
        account.pay(666)
    assert (account.version, account.state) == (1, State(owner="ann"))
    assert len(account.uncommitted_events) == 1
    account.pay(5)
    assert account.version == 2


def test_foreign_events_are_refused() -> None:
    """An event of another aggregate, type or version does not get in."""
    account = Account(uuid4())
    with pytest.raises(AggregateIdMismatchError, match="names aggregate"):
        account.apply_event(opened())
    with pytest.raises(AggregateTypeMismatchError, match="'Account', got 'Other'"):
        account.apply_event(
            Opened(aggregate_id=account.aggregate_id, aggregate_type="Other", owner="x")
        )
    with pytest.raises(
        EventVersionError, match="has version 5, 1 comes next"
    ) as caught:
        account.apply_event(opened(account.aggregate_id, 5))
    assert (caught.value.expected_version, caught.value.actual_version) == (1, 5)
    assert account.version == 0


def test_versions_can_be_left_to_the_aggregate() -> None:
    """With `validate_versions = False` a wrong number is mended, with a warning."""

    class Lenient(Account):
        validate_versions = False

    account = Lenient(uuid4())
    with pytest.warns(UserWarning, match="renumbered"):
        account.apply_event(opened(account.aggregate_id, 5))
    assert account.uncommitted_events[0].aggregate_version == account.version == 1


def test_history_is_folded_without_being_pending() -> None:
    """Loaded events are not saved again."""
    id = uuid4()
    account = Account(id)
    account.load_from_history([opened(id), paid(id, 3, 2)])
    assert (account.version, account.has_uncommitted_events) == (2, False)


def test_an_aggregate_is_a_decider() -> None:
    """Its class decides and folds like any decider; commands are functions of it."""
    id = uuid4()
    decider = Account.decider(id)
    events = [*decider.decide(decider.initial, lambda account: account.open("ann"))]
    state = fold(decider, events)
    events += decider.decide(state, lambda account: account.pay(5))
    assert fold(decider, events) == (State(owner="ann", balance=5), 2)
    with pytest.raises(ValueError, match="too little"):
        decider.decide(state, lambda account: account.pay(-5))


def test_declared_handlers_apply_events() -> None:
    """Each event goes to its method; one without is handled as the class asks."""
    account = DeclarativeAccount(uuid4())
    account.apply_event(opened(account.aggregate_id))
    account.apply_event(paid(account.aggregate_id, 5, 2))
    assert account.state == Held(5)
    with pytest.raises(
        UnhandledEventError, match="no handler for 'AccountClosed'.*Opened, Paid"
    ):
        account.apply_event(
            Closed(aggregate_id=account.aggregate_id, aggregate_version=3)
        )
    assert account.version == 2


@pytest.mark.parametrize(("handling", "logged"), [("ignore", 0), ("warn", 1)])
def test_unhandled_events_are_ignored_or_logged(
    handling: Any, logged: int, caplog: pytest.LogCaptureFixture
) -> None:
    """The class attribute decides."""
    kind = type(
        "Kind", (DeclarativeAccount,), {"unregistered_event_handling": handling}
    )
    account = kind(uuid4())
    account.apply_event(Closed(aggregate_id=account.aggregate_id))
    assert account.version == 1
    assert len(caplog.records) == logged


def test_handlers_are_checked_when_the_class_is_made() -> None:
    """Wrong signatures, duplicates and unknown settings do not wait for an event."""
    assert get_handled_event_type(DeclarativeAccount._opened) is Opened
    assert is_event_handler(DeclarativeAccount._opened)
    assert not is_event_handler(DeclarativeAccount._get_initial_state)

    async def asynchronous(self: Any, event: Opened) -> None: ...
    def crowded(self: Any, event: Opened, more: int) -> None: ...
    def plain(self: Any, event: Opened) -> None: ...

    for method, message in (
        (asynchronous, "must not be async"),
        (crowded, "must take"),
    ):
        with pytest.raises(HandlerSignatureError, match=message):
            type("Bad", (DeclarativeAggregate,), {"m": handles(Opened)(method)})
    twice = {"a": handles(Opened)(plain), "_opened": DeclarativeAccount._opened}
    with pytest.raises(DuplicateHandlerError, match="both handle Opened"):
        type("Bad", (DeclarativeAggregate,), twice)
    with pytest.raises(ValueError, match="use 'ignore', 'warn' or 'error'"):
        type("Bad", (DeclarativeAggregate,), {"unregistered_event_handling": "explode"})


# Repository.


async def test_aggregates_are_saved_and_loaded(
    repo: AggregateRepository[Account],
) -> None:
    """What was saved is loaded, and the saved object can be used on."""
    account = repo.create_new(uuid4())
    account.open("ann")
    await repo.save(account)
    account.pay(5)
    account.pay(6)
    await repo.save(account)
    await repo.save(account)
    loaded = await repo.load(account.aggregate_id)
    assert loaded.state == account.state == State(owner="ann", balance=11)
    assert loaded.version == await repo.get_version(account.aggregate_id) == 3
    assert await repo.exists(account.aggregate_id)
    assert (await repo.get_or_raise(account.aggregate_id)).version == 3


async def test_missing_aggregates(repo: AggregateRepository[Account]) -> None:
    """Loading one without events is an error, unless a new one will do."""
    id = uuid4()
    with pytest.raises(AggregateNotFoundError, match=f"Account {id} has no events"):
        await repo.load(id)
    assert (await repo.load_or_create(id)).version == 0
    assert not await repo.exists(id)
    assert await repo.get_version(id) == 0


async def test_a_lost_race_is_an_error_of_save(
    repo: AggregateRepository[Account],
) -> None:
    """The second of two savers is told the versions, and nothing is written."""
    first = repo.create_new(uuid4())
    first.open("ann")
    await repo.save(first)
    second = await repo.load(first.aggregate_id)
    first.pay(1)
    second.pay(2)
    await repo.save(first)
    with pytest.raises(OptimisticLockError) as caught:
        await repo.save(second)
    error = caught.value
    assert (error.aggregate_id, error.expected_version, error.actual_version) == (
        first.aggregate_id, 1, 2,
    )  # fmt: skip
    assert second.has_uncommitted_events
    assert await repo.get_version(first.aggregate_id) == 2


async def test_events_saved_before_are_not_saved_as_new(
    repo: AggregateRepository[Account],
) -> None:
    """An event that is in the stream already does not count a second time."""
    account = repo.create_new(uuid4())
    account.open("ann")
    (event,) = account.uncommitted_events
    await repo.save(account)
    other = await repo.load(account.aggregate_id)
    other.apply_event(event.with_aggregate_version(2))
    with pytest.raises(OptimisticLockError, match="expected version 1"):
        await repo.save(other)
    assert await repo.get_version(account.aggregate_id) == 1


async def test_execute_runs_again_on_fresh_state(
    repo: AggregateRepository[Account],
) -> None:
    """Twenty at once on one account: all of them count, none is lost."""
    id = uuid4()
    await repo.execute(id, lambda account: account.open("ann"))
    await asyncio.gather(
        *(repo.execute(id, lambda a: a.pay(1), attempts=50) for _ in range(20))
    )
    account = await repo.load(id)
    assert account.state == State(owner="ann", balance=20)
    with pytest.raises(ValueError, match="too little"):
        await repo.execute(id, lambda account: account.pay(-21))
    returned = await repo.execute(id, lambda account: account.pay(2))
    assert (returned.version, returned.state.balance) == (22, 22)  # type: ignore[union-attr]
    assert not returned.has_uncommitted_events


class Publisher:
    """Records what it is told, or fails."""

    def __init__(self, error: Exception | None = None) -> None:
        self.told: list[DomainEvent] = []
        self.error = error

    async def publish(self, events: list[DomainEvent]) -> None:
        if self.error is not None:
            raise self.error
        self.told += events


async def test_saved_events_are_published(store: EventStore) -> None:
    """The publisher is told after the append, by `save` and by `execute`."""
    publisher = Publisher()
    repo = AggregateRepository(store, Account, "Account", publisher)
    assert repo.event_publisher is publisher
    assert repo.event_store is store
    assert repo.aggregate_type == "Account"
    account = repo.create_new(uuid4())
    account.open("ann")
    await repo.save(account)
    await repo.execute(account.aggregate_id, lambda a: a.pay(1))
    assert [event.event_type for event in publisher.told] == ["Opened", "Paid"]


async def test_a_failing_publisher_does_not_fail_save(
    store: EventStore, caplog: pytest.LogCaptureFixture
) -> None:
    """What is saved is saved: the caller is not told that it failed."""
    repo = AggregateRepository(store, Account, "Account", Publisher(ConnectionError()))
    account = repo.create_new(uuid4())
    account.open("ann")
    await repo.save(account)
    assert not account.has_uncommitted_events
    assert await repo.get_version(account.aggregate_id) == 1
    assert "events are saved" in caplog.text


def test_a_repository_and_its_class_agree(store: EventStore) -> None:
    """Two names for one type of aggregate are refused."""
    with pytest.raises(
        AggregateTypeMismatchError, match="expected aggregate type 'Order'"
    ):
        AggregateRepository(store, Account, "Order")


# Stores.


async def test_events_come_back_as_they_were(store: EventStore) -> None:
    """Every field of an event survives, base fields included."""
    id, tenant = uuid4(), uuid4()
    given = Paid(
        aggregate_id=id, amount=5, tenant_id=tenant, actor_id="ann", causation_id=uuid4(),
        metadata={"a": [1, {"b": None}]}, event_version=3,
    )  # fmt: skip
    result = await store.append_events(id, "Account", [given], 0)
    assert result == AppendResult.successful(1, 1)
    stream = await store.get_events(id, "Account")
    assert stream == EventStream(id, "Account", [given], 1)
    assert stream.latest_event == given
    assert not stream.is_empty
    assert EventStream.empty(id, "Account").latest_event is None
    assert AppendResult.conflicted(4) == AppendResult(False, 4, 0, True)


async def test_the_stream_numbers_the_events(store: EventStore) -> None:
    """Whatever numbers the events carry, the stream's versions are what is read."""
    id = uuid4()
    for expected in (ExpectedVersion.ANY, ExpectedVersion.STREAM_EXISTS, 2):
        await store.append_events(id, "Account", [paid(id, 1)], expected)
    events = (await store.get_events(id, "Account")).events
    assert [event.aggregate_version for event in events] == [1, 2, 3]
    account = Account(id)
    account.load_from_history([opened(id), *events])
    assert account.version == 4


async def test_expected_versions_are_judged(store: EventStore) -> None:
    """Each of the guide's expected versions accepts what it names."""
    id = uuid4()
    with pytest.raises(OptimisticLockError):
        await store.append_events(
            id, "Account", [paid(id, 1)], ExpectedVersion.STREAM_EXISTS
        )
    await store.append_events(id, "Account", [paid(id, 1)], ExpectedVersion.NO_STREAM)
    for expected in (ExpectedVersion.NO_STREAM, 2):
        with pytest.raises(OptimisticLockError, match="now at version 1"):
            await store.append_events(id, "Account", [paid(id, 1)], expected)
    nothing = await store.append_events(id, "Account", [], 7)
    assert nothing == AppendResult.successful(1)


async def test_repetitions_are_harmless_and_thefts_are_not(store: EventStore) -> None:
    """The same events again: success. An id in another place: an error."""
    id, other = uuid4(), uuid4()
    events = [paid(id, 1), paid(id, 2)]
    first = await store.append_events(id, "Account", events, 0)
    for expected in (0, ExpectedVersion.ANY):
        assert await store.append_events(id, "Account", events, expected) == first
    stolen = Paid(aggregate_id=other, amount=1, event_id=events[0].event_id)
    with pytest.raises(DuplicateEventError):
        await store.append_events(other, "Account", [stolen], 0)
    with pytest.raises(AggregateIdMismatchError):
        await store.append_events(other, "Account", [paid(id, 1)], 0)
    with pytest.raises(AggregateTypeMismatchError):
        await store.append_events(id, "Order", [paid(id, 1)], 0)
    assert await store.get_global_position() == 2
    assert await store.event_exists(events[0].event_id)
    assert not await store.event_exists(uuid4())


async def filled(store: EventStore, count: int = 5) -> UUID:
    id = uuid4()
    events = [paid(id, n) for n in range(count)]
    await store.append_events(id, "Account", events, 0)
    return id


async def test_streams_are_read_in_parts(store: EventStore) -> None:
    """After a version, forward or backward, limited, within times."""
    id = await filled(store)

    async def read(**options: Any) -> list[int]:
        stream = store.read_stream(f"{id}:Account", ReadOptions(**options))
        return [stored.stream_position async for stored in stream]

    assert await read() == [1, 2, 3, 4, 5]
    assert await read(from_position=3) == [4, 5]
    assert await read(limit=2) == [1, 2]
    assert await read(limit=0) == []
    assert await read(direction=ReadDirection.BACKWARD) == [5, 4, 3, 2, 1]
    assert await read(direction=ReadDirection.BACKWARD, from_position=-1, limit=2) == [
        5,
        4,
    ]
    assert await read(direction=ReadDirection.BACKWARD, from_position=3) == [2, 1]
    now = datetime.now(UTC)
    assert await read(from_timestamp=now + timedelta(hours=1)) == []
    assert await read(to_timestamp=now + timedelta(hours=1)) == [1, 2, 3, 4, 5]
    assert await read(tenant_id=uuid4()) == []
    with pytest.raises(ValueError, match="not 'aggregate_id:type'"):
        [stored async for stored in store.read_stream("nonsense")]
    for bad in ({"limit": -1}, {"from_position": -2}):
        with pytest.raises(ValueError, match="must be >="):
            ReadOptions(**bad)


async def test_the_log_is_read_in_parts(store: EventStore) -> None:
    """Positions go on over all streams; where an event is, is said with it."""
    ids = [await filled(store, 2) for _ in range(3)]
    stored = [s async for s in store.read_all()]
    assert [s.global_position for s in stored] == [1, 2, 3, 4, 5, 6]
    first = stored[0]
    assert first.stream_id == f"{ids[0]}:Account"
    assert (first.aggregate_id, first.aggregate_type, first.event_type) == (
        ids[0],
        "Account",
        "Paid",
    )
    assert first.event_id == first.event.event_id
    part = store.read_all(ReadOptions(from_position=2, limit=3))
    assert [s.global_position async for s in part] == [3, 4, 5]
    with pytest.raises(ValueError, match="forward only"):
        [s async for s in store.read_all(ReadOptions(direction=ReadDirection.BACKWARD))]
    by_type = await store.get_events_by_type("Account")
    assert [event.aggregate_id for event in by_type] == [
        id for id in ids for _ in range(2)
    ]
    assert await store.get_events_by_type("Order") == []
    assert await store.get_events_by_type("Account", tenant_id=uuid4()) == []
    later = datetime.now(UTC) + timedelta(hours=1)
    assert await store.get_events_by_type("Account", from_timestamp=later) == []


async def test_events_of_an_aggregate_are_read(store: EventStore) -> None:
    """After a version, within times, and without naming the type."""
    id = await filled(store)
    later = datetime.now(UTC) + timedelta(hours=1)
    assert len((await store.get_events(id, "Account", from_version=3)).events) == 2
    assert (await store.get_events(id, "Account", from_version=3)).version == 5
    assert (await store.get_events(id, "Account", from_timestamp=later)).events == []
    assert len((await store.get_events(id, "Account", to_timestamp=later)).events) == 5
    assert (await store.get_events(id)).aggregate_type == "Account"
    assert (await store.get_events(uuid4())).is_empty
    assert await store.get_stream_version(id, "Account") == 5


async def test_times_are_compared_whatever_their_zone(store: EventStore) -> None:
    """Events of several zones, asked for in others: what counts is the moment."""
    noon, id = datetime(2024, 1, 1, 12, tzinfo=UTC), uuid4()
    east, west = timezone(timedelta(hours=9)), timezone(timedelta(hours=-11))

    def at(hour: int, zone: timezone) -> datetime:
        return (noon + timedelta(hours=hour)).astimezone(zone)

    zones = [UTC, east, west, UTC]
    events = [
        replace(paid(id, n), occurred_at=at(n, zone)) for n, zone in enumerate(zones)
    ]
    await store.append_events(id, "Account", events, 0)
    for zone in (UTC, east, west):
        found = await store.get_events(
            id, "Account", from_timestamp=at(1, zone), to_timestamp=at(2, zone)
        )
        assert [event.amount for event in found.events] == [1, 2]  # type: ignore[attr-defined]
        assert [event.occurred_at for event in found.events] == [at(1, UTC), at(2, UTC)]


async def test_what_is_read_is_what_the_class_declares(store: EventStore) -> None:
    """A text that looks like an id stays a text; a subclass changes nothing above it."""

    class Billed(DomainEvent):
        aggregate_type: str = "Account"
        invoice_id: str
        paid_by: UUID

    class BilledTwice(Billed):
        other_id: str = "2024-01-01T00:00:00Z"

    registry = store.event_registry
    registry.register(Billed)
    registry.register(BilledTwice)
    try:
        id, payer = uuid4(), uuid4()
        given: dict[str, Any] = {"invoice_id": str(payer), "paid_by": payer}
        events = [
            cls(aggregate_id=id, **given) for cls in (Billed, BilledTwice, Billed)
        ]
        await store.append_events(id, "Account", events, 0)
        read = (await store.get_events(id, "Account")).events
    finally:
        registry.unregister("Billed")
        registry.unregister("BilledTwice")
    assert [type(event) for event in read] == [Billed, BilledTwice, Billed]
    assert [event.event_type for event in read] == ["Billed", "BilledTwice", "Billed"]
    for event in read:
        assert (event.invoice_id, event.paid_by) == (str(payer), payer)  # type: ignore[attr-defined]
    assert read[1].other_id == "2024-01-01T00:00:00Z"  # type: ignore[attr-defined]


async def test_unregistered_types_are_shown(tmp_path: Path) -> None:
    """A process that does not know a type reads it as an UnknownEvent, and goes on."""
    path = str(tmp_path / "events.db")
    async with SQLiteEventStore(path, REGISTRY) as store:
        id = await filled(store, 1)
    async with SQLiteEventStore(path, EventRegistry()) as store:
        (event,) = (await store.get_events(id, "Account")).events
    assert isinstance(event, UnknownEvent)
    assert (event.event_type, event.aggregate_id, event.aggregate_version) == (
        "Paid",
        id,
        1,
    )
    assert b'"amount":0' in event.data


async def test_a_store_opens_by_itself_and_closes_once(tmp_path: Path) -> None:
    """`initialize` is optional; after `close` the store says that it is closed."""
    store = SQLiteEventStore(str(tmp_path / "events.db"), REGISTRY, busy_timeout=100)
    assert not store.is_connected
    assert (store.wal_mode, store.busy_timeout) == (True, 100)
    assert store.event_registry is REGISTRY
    assert await store.get_global_position() == 0
    assert store.is_connected
    await store.initialize()
    await store.close()
    await store.close()
    assert not store.is_connected
    with pytest.raises(StoreClosedError):
        await store.get_global_position()
    with pytest.raises(ValueError, match="use WAL"):
        SQLiteEventStore(":memory:", wal_mode=False)


async def test_the_memory_store_can_be_looked_at_and_cleared() -> None:
    """Its extra methods give everything, and forget it."""
    store = InMemoryEventStore(event_registry=REGISTRY)
    id = await filled(store, 3)
    assert await store.get_event_count() == len(await store.get_all_events()) == 3
    assert await store.get_aggregate_ids() == {id}
    await store.clear()
    assert await store.get_event_count() == 0
