"""Keep a list of tasks, with classes.

An aggregate that decides, a repository that loads and saves it, a projection that a
subscription keeps up to date.
"""

import asyncio
from uuid import UUID, uuid4

from msgspec import Struct
from msgspec.structs import replace

from evsrc import (
    AggregateRepository,
    DeclarativeAggregate,
    DomainEvent,
    InMemoryCheckpointRepository,
    InMemoryEventBus,
    SQLiteEventStore,
    register_event,
)
from evsrc.projections import DeclarativeProjection, handles
from evsrc.subscriptions import SubscriptionConfig, SubscriptionManager


@register_event
class TaskCreated(DomainEvent):
    event_type: str = "TaskCreated"
    aggregate_type: str = "Task"
    title: str


@register_event
class TaskReassigned(DomainEvent):
    event_type: str = "TaskReassigned"
    aggregate_type: str = "Task"
    to: str


@register_event
class TaskCompleted(DomainEvent):
    event_type: str = "TaskCompleted"
    aggregate_type: str = "Task"


class TaskState(Struct, frozen=True):
    title: str
    assigned_to: str | None = None
    done: bool = False


class Task(DeclarativeAggregate[TaskState]):
    """Something to be done by somebody."""

    aggregate_type = "Task"

    def _get_initial_state(self) -> TaskState:
        return TaskState("")

    @handles(TaskCreated)
    def _created(self, event: TaskCreated) -> None:
        self._state = TaskState(event.title)

    @handles(TaskReassigned)
    def _reassigned(self, event: TaskReassigned) -> None:
        self._state = replace(self._open(), assigned_to=event.to)

    @handles(TaskCompleted)
    def _completed(self, _: TaskCompleted) -> None:
        self._state = replace(self._open(), done=True)

    def create(self, title: str) -> None:
        """Say what is to be done."""
        if self.state is not None:
            raise ValueError(f"task {self.state.title!r} exists already")
        self._record(TaskCreated, title=title)

    def reassign(self, to: str) -> None:
        """Have somebody else do it."""
        if self._open().assigned_to != to:
            self._record(TaskReassigned, to=to)

    def complete(self) -> None:
        """Say that it is done."""
        self._open()
        self._record(TaskCompleted)

    def _open(self) -> TaskState:
        if self.state is None:
            raise ValueError("there is no such task")
        if self.state.done:
            raise ValueError(f"task {self.state.title!r} is done already")
        return self.state

    def _record(self, event_class: type[DomainEvent], **fields: str) -> None:
        event = event_class(
            aggregate_id=self.aggregate_id,
            aggregate_version=self.get_next_version(),
            **fields,  # type: ignore[arg-type]  # the fields of one of the classes above
        )
        self.apply_event(event)


class TaskList(DeclarativeProjection):
    """The open tasks of everybody."""

    def __init__(self) -> None:
        super().__init__()
        self.titles: dict[UUID, str] = {}
        self.owners: dict[UUID, str] = {}

    @handles(TaskCreated)
    async def _created(self, event: TaskCreated) -> None:
        self.titles[event.aggregate_id] = event.title

    @handles(TaskReassigned)
    async def _reassigned(self, event: TaskReassigned) -> None:
        self.owners[event.aggregate_id] = event.to

    @handles(TaskCompleted)
    async def _completed(self, event: TaskCompleted) -> None:
        self.titles.pop(event.aggregate_id)
        self.owners.pop(event.aggregate_id, None)

    async def _truncate_read_models(self) -> None:
        self.titles.clear()
        self.owners.clear()

    def show(self) -> None:
        """Print the list."""
        print("open tasks:")
        for id, title in self.titles.items():
            print(f"  {title}: {self.owners.get(id, 'nobody')}")


async def main() -> None:
    """Work through three tasks, and show the list now and then."""
    async with SQLiteEventStore(":memory:") as store:
        bus, task_list = InMemoryEventBus(), TaskList()
        tasks = AggregateRepository(store, Task, "Task", event_publisher=bus)
        manager = SubscriptionManager(store, bus, InMemoryCheckpointRepository())
        await manager.subscribe(task_list, SubscriptionConfig(start_from="beginning"))

        ids = [uuid4() for _ in range(3)]
        for id, title in zip(ids, ("plan", "build", "celebrate"), strict=True):
            task = tasks.create_new(id)
            task.create(title)
            await tasks.save(task)

        async with manager:  # catches up with what is there, then follows
            task_list.show()
            await tasks.execute(ids[0], lambda task: task.complete())
            await tasks.execute(ids[1], lambda task: task.reassign("ann"))
            task_list.show()
            try:
                await tasks.execute(ids[0], lambda task: task.reassign("bob"))
            except ValueError as refused:
                print(refused)


if __name__ == "__main__":
    asyncio.run(main())
