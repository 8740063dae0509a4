"""What type checkers make of the public API; checked by mypy and basedpyright."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import Any, Literal, assert_type
from uuid import UUID

from msgspec import Struct
from pyrsistent import PMap

import evsrc
import evsrc.testing
from evsrc import (
    ALL,
    AggregateRepository,
    AggregateRoot,
    AggregateSnapshot,
    AppendCondition,
    Appended,
    Batched,
    Breaker,
    Chain,
    Codec,
    Conflict,
    DeadLetter,
    Decider,
    DecisionModel,
    Delivery,
    DLQRepository,
    DomainEvent,
    EventStoreRecord,
    Fence,
    HandlerProjection,
    InMemoryCheckpointRepository,
    InMemoryDLQRepository,
    InMemoryEventBus,
    InMemoryEventStore,
    InMemorySnapshotStore,
    Lease,
    Loaded,
    Page,
    PartitionStatus,
    Query,
    QueryDecider,
    RebuildProgress,
    Rebuilt,
    Recorded,
    SaveDeadLetter,
    SnapshotStore,
    StreamName,
    Transaction,
    Transactional,
    Upcaster,
    View,
    ViewProjection,
    Worker,
    WorkerStatus,
    Write,
    any_of,
    chain,
    compose,
    compose_map,
    fold,
    handles,
    inline,
    json_codec,
    load_view,
    memory_store,
    new_event,
    partition_of,
    project,
    query,
    rebuild,
    register_event,
    run,
    sqlite_store,
    subscribe,
    transact,
    work,
)
from evsrc.runtime.subscribe import Subscription
from evsrc.runtime.transact import Decided
from evsrc.subscriptions import (
    ErrorHandlingConfig,
    ErrorInfo,
    ManagerHealth,
    ShutdownResult,
    SubscriptionManager,
)
from evsrc.telemetry import traced, traced_subscribe, traced_transact
from evsrc.testing import (
    Chaos,
    Fail,
    Fault,
    Run,
    World,
    decider_laws,
    decider_machine,
    faulty,
    intercepted,
    simulate,
    simulations,
    specs_of,
)
from evsrc.testing.specs import Spec, ViewSpec


class Added(Struct, frozen=True):
    amount: int


class Removed(Struct, frozen=True):
    amount: int


Event = Added | Removed


def decide(total: int, command: str) -> Sequence[Event]:
    return [Added(len(command))] if total < 9 else [Removed(1)]


def evolve(total: int, event: Event) -> int:
    match event:
        case Added(amount):
            return total + amount
        case Removed(amount):
            return total - amount


COUNTER: Decider[int, str, Event] = Decider(decide, evolve, 0)
CODEC: Codec[Event] = json_codec({"added": Added, "removed": Removed})
STREAM = StreamName("counter", "1")


def misspelled() -> None:
    """A name that is not there is an error, although all are imported lazily."""
    print(evsrc.memory_stores)  # type: ignore[attr-defined] # pyright: ignore[reportAttributeAccessIssue]
    print(evsrc.testing.spec_of)  # type: ignore[attr-defined] # pyright: ignore[reportAttributeAccessIssue]


def pure() -> None:
    history: list[Event] = [Added(1), Removed(2)]
    assert_type(fold(COUNTER, history), int)
    assert_type(run(COUNTER, 0, ["a", "b"]), tuple[int, tuple[Event, ...]])
    view: View[str, Event] = View("", lambda text, event: text + str(event.amount))
    assert_type(fold(view, [Added(1)]), str)


async def functional() -> None:
    store: EventStoreRecord[Event] = memory_store(CODEC)
    durable = await sqlite_store("events.db", CODEC)
    assert_type(durable, EventStoreRecord[Event])
    outcome = await store.append(Write(STREAM, [new_event(Added(1))], 0))
    assert_type(outcome, Appended | Conflict)
    assert_type(await store.load_events(STREAM), Loaded[Event])
    assert_type(await store.read_all(), Page[Event])
    assert_type(await transact(store, COUNTER, STREAM, "x"), Decided[int, Event])
    assert_type(await query(store, COUNTER, STREAM), tuple[int, int])

    lease = await store.leases.acquire("x", "me", timedelta(seconds=1))
    assert_type(lease, Lease | None)
    letters = store.dead_letters
    assert_type(await letters.list("x", status="failed"), tuple[DeadLetter, ...])
    for letter in await letters.list():
        assert_type(await letters.update(letter, letter), bool)
        await store.append(also=[SaveDeadLetter(letter), Fence("x", 1)])

    async def handle(recorded: Recorded[Event]) -> None:
        assert_type(recorded.event, Event)

    async with subscribe(store, "x", handle) as subscription:
        await subscription.caught_up()
    async with work(store, "y", handle, owner="me", partitions=4) as worker:
        assert_type(worker, Worker[Event])
        status = worker.status()
        assert_type(status, WorkerStatus)
        assert_type(status.partitions, tuple[PartitionStatus, ...])
        assert_type(status.partitions[0].subscription.position, int)
        assert_type(partition_of(StreamName("y", "1"), 4), int)
        assert_type(await store.leases.list("y#"), tuple[Lease, ...])


async def delivering(store: EventStoreRecord[Event]) -> None:
    async def each(recorded: Recorded[Event]) -> None:
        assert_type(recorded.event, Event)

    async def several(batch: Sequence[Recorded[Event]]) -> None:
        assert_type(batch[0].event, Event)

    async def once(tx: Transaction[Event], page: Sequence[Recorded[Event]]) -> None:
        assert_type(await tx.append(), Appended | Conflict)
        assert_type(page[0].event, Event)

    assert_type(Batched(several), Batched[Event])
    assert_type(Transactional(once), Transactional[Event])
    waits: Delivery[Event] = Delivery(breaker=Breaker(failures=3))
    assert_type(waits.breaker, Breaker | None)
    assert_type(subscribe(store, "x", each, waits), Subscription[Event])
    assert_type(subscribe(store, "x", Batched(several), waits), Subscription[Event])
    assert_type(subscribe(store, "x", Transactional(once)), Subscription[Event])
    shared = work(store, "y", Batched(several), waits, owner="me", partitions=4)
    assert_type(shared, Worker[Event])


TAGGED: Codec[Event] = json_codec(
    {"added": Added, "removed": Removed}, tags={Added: lambda event: ["added"]}
)


class Known(Struct, frozen=True):
    count: int = 0
    last: str = ""


def count(tag: str) -> DecisionModel[int, Event]:
    return DecisionModel.handling(TAGGED, 0, {Added: lambda n, _: n + 1}, tags=[tag])


def last() -> DecisionModel[str, Event]:
    return DecisionModel.of(
        Query.of(types=["removed"]), "", lambda _, event: str(event.amount), newest=True
    )


def known(command: str) -> DecisionModel[Known, Event]:
    return compose(Known, count=count(command), last=last())


def decide_known(known: Known, command: str) -> Sequence[Event]:
    return [Added(len(command))] if known.count < 9 else [Removed(1)]


BOUND: QueryDecider[Known, str, Event] = QueryDecider(decide_known, known)


async def boundaries() -> None:
    store: EventStoreRecord[Event] = memory_store(TAGGED)
    assert_type(any_of(Query.of(tags=["x"]), ALL), Query | Literal["all"])
    assert_type(BOUND.query("x"), Query | Literal["all"])
    assert_type(compose_map({1: count("a")}), DecisionModel[PMap[int, int], Event])
    condition = AppendCondition(Query.of(types=["added"]), after=3, version=0)
    await store.append(Write(STREAM, [new_event(Added(1))], condition))
    assert_type(await transact(store, BOUND, STREAM, "x"), Decided[Known, Event])
    assert_type(await query(store, count("x")), tuple[int, int])
    page = await store.read_all(Query.of(tags=["x"]), backward=True, limit=1)
    for recorded in page.events:
        assert_type(recorded.tags, frozenset[str])
    given = specs_of(BOUND, codec=TAGGED)
    after = given(Added(1)).beside(Removed(1)).when("x").then(Added(1))
    assert_type(after.when("y").nothing().events, tuple[Event, ...])


def sentences() -> None:
    given = specs_of(COUNTER)
    assert_type(given(Added(1)), Spec[int, str, Event])
    given(Added(1)).when("x").then(Added(1)).state(2)
    given(Added(9)).when("x").rejected(ValueError, match="full")
    seen: View[int, Event] = View(0, lambda n, _: n + 1)
    assert_type(specs_of(seen)(Removed(1)), ViewSpec[int, Event])
    laws: Callable[[], None] = decider_laws(COUNTER, codec=CODEC, retryable=str)
    laws()
    decider_machine(COUNTER, invariants=[lambda total, events: total >= len(events)])
    steps: list[Upcaster] = [lambda body: {**body, "amount": 1}]
    assert_type(chain(*steps), Chain)
    json_codec({"added": Added}, upcasters={"added": chain(*steps)})


async def failing(store: EventStoreRecord[Event]) -> None:
    plan = [Fault("head", 2, Fail(OSError("no disk")))]
    assert_type(faulty(store, plan), EventStoreRecord[Event])

    async def around(port: str, call: Callable[[], Awaitable[Any]]) -> Any:
        return await call() if port == "head" else None

    assert_type(intercepted(store, around), EventStoreRecord[Event])

    async def scenario(world: World) -> None:
        await world.settle()

    found = simulate(scenario, seed=1, chaos=Chaos())
    assert_type(found, Run)
    assert_type(found.trace, list[str])
    assert_type(simulations(scenario, 10), dict[str, int])


def sentences_of_classes() -> None:
    given = specs_of(Task)
    given().when(lambda task: task.create("x")).nothing()


@register_event
class TaskCreated(DomainEvent):
    event_type: str = "TypedTaskCreated"
    aggregate_type: str = "Task"

    title: str
    assigned_to: UUID | None = None


class TaskState(Struct, frozen=True):
    title: str


class Task(AggregateRoot[TaskState]):
    aggregate_type = "Task"

    def _get_initial_state(self) -> TaskState:
        return TaskState("")

    def _apply(self, event: DomainEvent) -> None:
        if isinstance(event, TaskCreated):
            self._state = TaskState(event.title)

    @handles(TaskCreated)
    def create(self, title: str) -> None:
        self.apply_event(TaskCreated(aggregate_id=self.aggregate_id, title=title))


async def classes(id: UUID) -> None:
    event = TaskCreated(aggregate_id=id, title="x")
    assert_type(event.title, str)
    assert_type(event.with_metadata(a=1), TaskCreated)
    assert_type(TaskCreated.from_dict({}), TaskCreated)
    repo = AggregateRepository(
        event_store=InMemoryEventStore(),
        aggregate_factory=Task,
        aggregate_type="Task",
    )
    assert_type(repo, AggregateRepository[Task])
    assert_type(await repo.load(id), Task)
    assert_type((await repo.load(id)).state, TaskState | None)
    act: Callable[[Task], Any] = lambda task: task.create("x")  # noqa: E731
    assert_type(await repo.execute(id, act), Task)
    snapshots: SnapshotStore = InMemorySnapshotStore()
    kept = AggregateRepository(
        InMemoryEventStore(),
        Task,
        "Task",
        snapshot_store=snapshots,
        snapshot_threshold=2,
        snapshot_mode="background",
    )
    assert_type(kept, AggregateRepository[Task])
    assert_type(await kept.create_snapshot(await kept.load(id)), AggregateSnapshot)
    dlq: DLQRepository = InMemoryDLQRepository()
    store = InMemoryEventStore()
    await store.use(traced)
    manager = SubscriptionManager(
        store,
        InMemoryEventBus(),
        InMemoryCheckpointRepository(),
        dlq_repo=dlq,
        error_handling_config=ErrorHandlingConfig(),
        subscribe=traced_subscribe,
    )

    async def tell(info: ErrorInfo) -> None:
        assert_type(info.event_id, UUID)

    manager.on_error(tell)
    assert_type(await manager.health_check(), ManagerHealth)
    assert_type(await manager.run_until_shutdown(), ShutdownResult)
    assert_type(await manager.redrive(1), bool)


async def telemetry(store: EventStoreRecord[Event]) -> None:
    """What is traced has the types of what it stands for."""
    assert_type(traced(store), EventStoreRecord[Event])
    done = await traced_transact(store, COUNTER, STREAM, "x")
    assert_type(done, Decided[int, Event])


async def projections(
    store: EventStoreRecord[TaskCreated],
    counted: ViewProjection[int, TaskCreated],
    handled: HandlerProjection[TaskCreated],
) -> None:
    """A projection knows its state, a transaction its events."""
    assert_type(project(store, counted).state, int)
    assert_type(await load_view(store, counted), tuple[int, int])
    assert_type(await inline(store, counted, handled), EventStoreRecord[TaskCreated])
    told: Callable[[RebuildProgress], None] = lambda now: print(now.share)  # noqa: E731
    done = await rebuild(store, handled, replaces="a@1", on_progress=told)
    assert_type(done, Rebuilt)
    assert_type(await rebuild(store, counted, replaces=None), Rebuilt)
    async with store.transaction() as tx:
        assert_type(tx, Transaction[TaskCreated])
        assert_type(await tx.append(), Appended | Conflict)
