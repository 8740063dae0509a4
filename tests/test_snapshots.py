"""Snapshots of aggregates: when one is taken, when one is used, and that none lies."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID, uuid4

import pytest
from msgspec import Struct
from msgspec.structs import replace
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine

from evsrc import (
    AggregateRepository,
    AggregateRoot,
    DomainEvent,
    EventStore,
    InMemoryEventStore,
    InMemorySnapshotStore,
    OptimisticLockError,
    PostgreSQLSnapshotStore,
    SnapshotDeserializationError,
    SnapshotError,
    SnapshotStore,
    SQLiteSnapshotStore,
    StoreClosedError,
    StoreUnavailableError,
)
from evsrc.facade.snapshotting import Background
from evsrc.snapshots import Snapshot
from tests.facade_domain import REGISTRY, Account, DeclarativeAccount, Paid, paid

T = TypeVar("T")


@pytest.fixture(params=["memory", "sqlite", "postgresql"])
async def kept(
    request: pytest.FixtureRequest, tmp_path: Path
) -> AsyncIterator[SnapshotStore]:
    if request.param == "memory":
        yield InMemorySnapshotStore()
        return
    if request.param == "postgresql":
        url = request.getfixturevalue("evsrc_postgres_database")
        engine = create_async_engine(url.replace("://", "+asyncpg://", 1))
        yield PostgreSQLSnapshotStore(async_sessionmaker(engine))
        await engine.dispose()
        return
    async with SQLiteSnapshotStore(str(tmp_path / "snapshots.db")) as opened:
        yield opened


@pytest.fixture
async def events() -> AsyncIterator[EventStore]:
    async with InMemoryEventStore(event_registry=REGISTRY) as store:
        yield store


def snapshot(id: UUID | None = None, **other: Any) -> Snapshot:
    values: dict[str, Any] = {
        "aggregate_id": id or uuid4(),
        "aggregate_type": "Account",
        "version": 3,
        "state": {"owner": "é\0", "balance": 5, "more": [1, None, {"a": 1.5}]},
        "schema_version": 1,
        "created_at": datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC),
        **other,
    }
    return Snapshot(**values)


def repository(
    events: EventStore,
    kept: SnapshotStore | None,
    threshold: int | None = 3,
    **other: Any,
) -> AggregateRepository[Account]:
    return AggregateRepository(
        events,
        Counting,
        "Account",
        snapshot_store=kept,
        snapshot_threshold=threshold,
        **other,
    )


class Counting(Account):
    """An account that counts the events it folds."""

    folded = 0

    def _apply(self, event: DomainEvent) -> None:
        type(self).folded += 1
        super()._apply(event)


async def folded_by_load(repo: AggregateRepository[Account], id: UUID) -> int:
    before = Counting.folded
    await repo.load(id)
    return Counting.folded - before


async def account(repo: AggregateRepository[Account], *amounts: int) -> Account:
    """Save an account, all at once."""
    made = repo.create_new(uuid4())
    made.open("ann")
    for amount in amounts:
        made.pay(amount)
    await repo.save(made)
    return made


async def version_of(kept: SnapshotStore, id: UUID) -> int | None:
    found = await kept.get_snapshot(id, "Account")
    return None if found is None else found.version


class Blocked(InMemorySnapshotStore):
    """A store that saves only when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.opened = asyncio.Event()
        self.saves = 0

    async def save_snapshot(self, snapshot: Snapshot) -> None:
        await self.opened.wait()
        self.saves += 1
        await super().save_snapshot(snapshot)


class Broken(InMemorySnapshotStore):
    """A store that can do nothing."""

    async def save_snapshot(self, snapshot: Snapshot) -> None:
        raise OSError("no disk")

    async def get_snapshot(self, *_: object) -> Snapshot | None:
        raise OSError("no disk")


# Stores.


async def test_a_snapshot_comes_back_as_it_was_saved(kept: SnapshotStore) -> None:
    """Every field, and the last one of an aggregate only."""
    first = snapshot()
    id = first.aggregate_id
    assert await kept.get_snapshot(id, "Account") is None
    assert not await kept.snapshot_exists(id, "Account")
    await kept.save_snapshot(first)
    assert await kept.get_snapshot(id, "Account") == first
    second = snapshot(id, version=9, state={}, schema_version=2)
    await kept.save_snapshot(second)
    other = snapshot(id, aggregate_type="Order")
    await kept.save_snapshot(other)
    assert await kept.get_snapshot(id, "Account") == second
    assert await kept.get_snapshot(id, "Order") == other
    assert await kept.snapshot_exists(id, "Account")
    assert await kept.delete_snapshot(id, "Account")
    assert not await kept.delete_snapshot(id, "Account")
    assert await kept.get_snapshot(id, "Account") is None
    assert await kept.snapshot_exists(id, "Order")


async def test_what_is_kept_is_a_copy(kept: SnapshotStore) -> None:
    """Changing the dict that was given, or one that was read, changes nothing."""
    given = snapshot(state={"list": [1]})
    await kept.save_snapshot(given)
    given.state["list"].append(2)
    for _ in range(2):
        found = await kept.get_snapshot(given.aggregate_id, "Account")
        assert found is not None
        assert found.state == {"list": [1]}
        found.state["list"].append(3)


async def test_snapshots_of_a_type_are_forgotten(kept: SnapshotStore) -> None:
    """All of them, or those of lower schema versions."""
    for schema in (1, 2, 2, 3):
        await kept.save_snapshot(snapshot(schema_version=schema))
    order = snapshot(aggregate_type="Order")
    await kept.save_snapshot(order)
    assert await kept.delete_snapshots_by_type("Account", schema_version_below=1) == 0
    assert await kept.delete_snapshots_by_type("Account", schema_version_below=3) == 3
    assert await kept.delete_snapshots_by_type("Account") == 1
    assert await kept.snapshot_exists(order.aggregate_id, "Order")


async def test_the_one_in_memory_can_be_counted_and_cleared() -> None:
    """For tests."""
    kept = InMemorySnapshotStore()
    await kept.save_snapshot(snapshot())
    assert kept.snapshot_count == 1
    await kept.clear()
    assert kept.snapshot_count == 0


async def test_an_sqlite_file_keeps_snapshots(tmp_path: Path) -> None:
    """They are there when it is opened again; a closed store says that it is closed."""
    path, given = str(tmp_path / "snapshots.db"), snapshot()
    id = given.aggregate_id
    first = SQLiteSnapshotStore(path)
    await asyncio.gather(*(first.save_snapshot(given) for _ in range(5)))
    await first.close()
    await first.close()
    with pytest.raises(StoreClosedError, match="closed"):
        await first.get_snapshot(id, "Account")
    async with SQLiteSnapshotStore(path) as again:
        assert await again.get_snapshot(id, "Account") == given
    async with SQLiteSnapshotStore(":memory:") as fleeting:
        await fleeting.save_snapshot(given)
        assert await fleeting.get_snapshot(id, "Account") == given


async def test_a_file_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    """A missing directory is said to be missing, at the first use."""
    kept = SQLiteSnapshotStore(str(tmp_path / "missing" / "snapshots.db"))
    with pytest.raises(StoreUnavailableError, match="missing"):
        await kept.get_snapshot(uuid4(), "Account")
    await kept.close()


def test_a_forgotten_store_does_not_keep_the_process(tmp_path: Path) -> None:
    """A script that never closes its store ends all the same."""
    script = (
        "import asyncio, uuid, evsrc\n"
        f"kept = evsrc.SQLiteSnapshotStore({str(tmp_path / 's.db')!r})\n"
        "print(asyncio.run(kept.snapshot_exists(uuid.uuid4(), 'x')))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True, text=True, timeout=30, check=True,
    )  # fmt: skip
    assert done.stdout == "False\n"


@pytest.mark.parametrize("field", ["version", "state", "schema_version", "created_at"])
async def test_a_changed_row_is_noticed(
    field: str, tmp_path: Path, events: EventStore
) -> None:
    """The store says so; the repository reads the events instead."""
    path = tmp_path / "snapshots.db"
    async with SQLiteSnapshotStore(str(path)) as kept:
        repo = repository(events, kept)
        made = await account(repo, 1, 2)
        with closing(sqlite3.connect(path)) as db:
            value = "'{\"balance\":99}'" if field == "state" else f"{field} + 1"
            db.execute(f"UPDATE evsrc_aggregate_snapshot SET {field} = {value}")
            db.commit()
        with pytest.raises(SnapshotDeserializationError, match="checksum"):
            await kept.get_snapshot(made.aggregate_id, "Account")
        assert (await repo.load(made.aggregate_id)).state == made.state
        assert repo.snapshot_miss_counts() == {"SnapshotDeserializationError": 1}


# The repository's options.


def test_a_repository_tells_its_options(events: EventStore) -> None:
    """Each is a property; without a store there is no support."""
    plain = AggregateRepository(events, Account, "Account")
    assert plain.snapshot_store is None
    assert plain.snapshot_threshold is None
    assert plain.snapshot_mode == "sync"
    assert not plain.has_snapshot_support
    assert plain.pending_snapshot_count == 0
    assert plain.snapshot_miss_counts() == {}
    kept = InMemorySnapshotStore()
    repo = repository(events, kept, 7, snapshot_mode="background")
    assert repo.snapshot_store is kept
    assert (repo.snapshot_threshold, repo.snapshot_mode) == (7, "background")
    assert repo.has_snapshot_support
    with pytest.raises(ValueError, match="at least 1"):
        repository(events, kept, 0)
    with pytest.raises(ValueError, match="'manual', not 'never'"):
        repository(events, kept, snapshot_mode="never")


async def test_a_threshold_is_crossed_not_met(
    events: EventStore, kept: SnapshotStore
) -> None:
    """A save of many events that jumps over a multiple takes a snapshot as well."""
    repo = repository(events, kept)
    made = await account(repo, 1)
    id = made.aggregate_id
    assert await version_of(kept, id) is None
    made.pay(1)
    made.pay(1)
    await repo.save(made)
    assert await version_of(kept, id) == 4
    made.pay(1)
    await repo.save(made)
    assert await version_of(kept, id) == 4
    for _ in range(6):
        made.pay(1)
    await repo.save(made)
    assert await version_of(kept, id) == 11
    await repo.save(made)
    assert await version_of(kept, id) == 11


async def test_without_a_threshold_none_is_taken(
    events: EventStore, kept: SnapshotStore
) -> None:
    """Nor in the mode "manual"; `create_snapshot` takes one in any mode."""
    for options in ({"threshold": None}, {"threshold": 1, "snapshot_mode": "manual"}):
        repo = repository(events, kept, **options)
        made = await account(repo, 1, 2)
        assert await version_of(kept, made.aggregate_id) is None
        created = await repo.create_snapshot(made)
        assert isinstance(created, Snapshot)
        assert await kept.get_snapshot(made.aggregate_id, "Account") == created
        assert (created.version, created.schema_version) == (3, 1)
        assert created.state == {"owner": "ann", "balance": 3}
        assert datetime.now(UTC) - created.created_at < timedelta(minutes=1)


async def test_a_load_starts_from_the_snapshot(
    events: EventStore, kept: SnapshotStore
) -> None:
    """Only the events after it are folded; the state is the same."""
    repo = repository(events, kept)
    made = await account(repo, 1, 2)
    id = made.aggregate_id
    assert await folded_by_load(repo, id) == 0
    made.pay(4)
    await repo.save(made)
    assert await folded_by_load(repo, id) == 1
    assert await folded_by_load(repository(events, None), id) == 4
    found = await repo.load(id)
    assert (found.state, found.version) == (made.state, 4)
    found.pay(5)
    await repo.save(found)
    assert (await repository(events, None).load(id)).state == found.state
    assert repo.snapshot_miss_counts() == {}


async def test_execute_starts_from_and_takes_snapshots(
    events: EventStore, kept: SnapshotStore
) -> None:
    """It reads the tail only, and a save of it counts like any other."""
    repo = repository(events, kept)
    id, runs = uuid4(), 0

    def pay(found: Account) -> None:
        nonlocal runs
        runs += 1
        found.pay(1)

    await repo.execute(id, lambda new: new.open("ann"))
    await repo.execute(id, pay)
    assert await version_of(kept, id) is None
    await repo.execute(id, pay)
    assert await version_of(kept, id) == 3
    before = Counting.folded
    found = await repo.execute(id, pay)
    assert Counting.folded - before == 2, "decided once, folded once"
    assert (found.version, runs) == (4, 3)
    assert found.state == (await repository(events, None).load(id)).state
    with pytest.raises(ValueError, match="too little"):
        await repo.execute(id, lambda found: found.pay(-99))
    rival = repository(events, None)
    raced = False

    def race(found: Account) -> None:
        nonlocal raced
        if not raced:
            raced = True
            asyncio.get_running_loop().create_task(lose())
        found.pay(1)

    async def lose() -> None:
        await rival.execute(id, lambda found: found.pay(100))

    await asyncio.gather(*(repo.execute(id, race) for _ in range(3)))
    assert (await repo.load(id)).state == (await rival.load(id)).state


# Modes.


async def test_sync_waits_for_the_store(events: EventStore) -> None:
    """A save returns when its snapshot is kept."""
    kept = Blocked()
    repo = repository(events, kept, 1)
    saving = asyncio.create_task(account(repo))
    done, _ = await asyncio.wait([saving], timeout=0.05)
    assert not done
    kept.opened.set()
    made = await saving
    assert await version_of(kept, made.aggregate_id) == 1


async def test_background_does_not_wait_for_the_store(events: EventStore) -> None:
    """One is being saved, of each aggregate the newest waits."""
    kept = Blocked()
    repo = repository(events, kept, 1, snapshot_mode="background")
    assert await repo.await_pending_snapshots() == 0
    one = await account(repo)
    await asyncio.sleep(0)  # it is being saved
    two = await account(repo)
    for _ in range(5):
        for made in (one, two):
            made.pay(1)
            await repo.save(made)
    assert repo.pending_snapshot_count == 3
    kept.opened.set()
    assert await repo.await_pending_snapshots() == 3
    assert repo.pending_snapshot_count == 0
    assert kept.saves == 3
    for made in (one, two):
        assert await version_of(kept, made.aggregate_id) == 6
    one.pay(1)
    await repo.save(one)
    assert await repo.await_pending_snapshots() == 1
    assert await version_of(kept, one.aggregate_id) == 7


async def test_background_is_bounded() -> None:
    """Beyond the bound the one that has waited longest gives way."""
    opened, saved = asyncio.Event(), list[int]()

    async def save(given: Snapshot) -> None:
        await opened.wait()
        saved.append(given.version)

    background = Background(save, most=3)
    for version in range(1, 8):
        background.put(snapshot(version=version))
        await asyncio.sleep(0)
    assert background.count == 4
    opened.set()
    assert await background.settled() == 4
    assert saved == [1, 5, 6, 7]


async def test_a_blocked_store_holds_a_bounded_number(events: EventStore) -> None:
    """However many aggregates are saved, 1000 snapshots wait."""
    kept = Blocked()
    repo = repository(events, kept, 1, snapshot_mode="background")
    for _ in range(1050):
        await account(repo)
        await asyncio.sleep(0)
    assert repo.pending_snapshot_count == 1001
    kept.opened.set()
    assert await repo.await_pending_snapshots() == 1001


async def test_cancelled_waiting_cancels_no_snapshot(events: EventStore) -> None:
    """Whoever waits may give up; the snapshots go on."""
    kept = Blocked()
    repo = repository(events, kept, 1, snapshot_mode="background")
    made = await account(repo)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(repo.await_pending_snapshots(), 0.01)
    kept.opened.set()
    await repo.await_pending_snapshots()
    assert await version_of(kept, made.aggregate_id) == 1


@pytest.mark.parametrize("mode", ["sync", "background"])
async def test_a_snapshot_holds_nothing_uncommitted(
    mode: str, events: EventStore
) -> None:
    """It is the state as it was at the save, however the aggregate goes on."""
    kept = Blocked()
    repo = repository(events, kept, 2, snapshot_mode=mode)
    made = repo.create_new(uuid4())
    id = made.aggregate_id
    made.open("ann")
    made.pay(2)
    saving = asyncio.create_task(repo.save(made))
    await asyncio.sleep(0.01)
    made.pay(100)
    kept.opened.set()
    await saving
    await repo.await_pending_snapshots()
    found = await kept.get_snapshot(id, "Account")
    assert found is not None
    assert (found.version, found.state["balance"]) == (2, 2)
    rival = await repo.load(id)
    rival.pay(5)
    await repo.save(rival)
    truth = await repo.load(id)
    assert truth.state is not None
    assert truth.state.balance == 7
    with pytest.raises(OptimisticLockError):
        await repo.save(made)


async def test_cleared_events_are_in_no_snapshot(events: EventStore) -> None:
    """Not even if somebody else has saved as many, so that the versions fit."""
    kept = InMemorySnapshotStore()
    repo = repository(events, kept)
    mine = await account(repo)
    theirs = await repo.load(mine.aggregate_id)
    mine.pay(100)
    assert len(mine.clear_uncommitted_events()) == 1
    theirs.pay(1)
    await repo.save(theirs)
    mine.pay(1)
    await repo.save(mine)
    assert kept.snapshot_count == 0
    found = await repo.load(mine.aggregate_id)
    assert found.state is not None
    assert found.state.balance == 2


async def test_an_aggregate_may_go_on_while_it_is_saved(events: EventStore) -> None:
    """Events applied meanwhile stay pending; neither lost nor in the snapshot."""
    kept = InMemorySnapshotStore()
    repo = repository(events, kept, 1)
    made = repo.create_new(uuid4())
    made.open("ann")
    core, record = events.core, await events.core()

    async def slow() -> Any:
        made.pay(1)
        events.core = core  # type: ignore[method-assign]
        return record

    events.core = slow  # type: ignore[method-assign]
    await repo.save(made)
    assert await version_of(kept, made.aggregate_id) == 1
    assert [type(event) for event in made.uncommitted_events] == [Paid]
    await repo.save(made)
    assert (await repo.load(made.aggregate_id)).state == made.state
    assert await version_of(kept, made.aggregate_id) == 2


async def test_create_snapshot_refuses_what_is_not_saved(events: EventStore) -> None:
    """Pending events, cleared ones, none at all, and a repository without a store."""
    kept = InMemorySnapshotStore()
    repo = repository(events, kept, None)
    made = await account(repo, 1)
    made.pay(1)
    with pytest.raises(SnapshotError, match="not all saved"):
        await repo.create_snapshot(made)
    made.clear_uncommitted_events()
    with pytest.raises(SnapshotError, match="cleared"):
        await repo.create_snapshot(made)
    made = await repo.load(made.aggregate_id)
    made.pay(1)
    made.mark_events_as_committed()  # which is not true
    with pytest.raises(SnapshotError, match="not all saved"):
        await repo.create_snapshot(made)
    with pytest.raises(SnapshotError, match="no events"):
        await repo.create_snapshot(repo.create_new(uuid4()))
    with pytest.raises(RuntimeError, match="no snapshot_store"):
        await repository(events, None).create_snapshot(made)
    broken = repository(events, Broken())
    found = await broken.load(made.aggregate_id)
    with pytest.raises(OSError, match="no disk"):
        await broken.create_snapshot(found)
    assert kept.snapshot_count == 0


# What goes wrong.


@pytest.mark.parametrize("mode", ["sync", "background"])
async def test_a_broken_store_fails_no_save_and_no_load(
    mode: str, events: EventStore, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged; the events are there."""
    repo = repository(events, Broken(), 1, snapshot_mode=mode)
    made = await account(repo, 1, 2)
    await repo.await_pending_snapshots()
    assert "was not saved" in caplog.text
    assert (await repo.load(made.aggregate_id)).state == made.state
    assert "no disk" in caplog.text
    assert repo.snapshot_miss_counts() == {"SnapshotError": 1}


async def test_missing_snapshots_are_counted_not_logged(
    events: EventStore, caplog: pytest.LogCaptureFixture
) -> None:
    """There being none yet is nothing special."""
    caplog.set_level(logging.DEBUG, "evsrc")
    repo = repository(events, InMemorySnapshotStore(), 99)
    made = await account(repo)
    await repo.load(made.aggregate_id)
    await repo.load_or_create(uuid4())
    assert repo.snapshot_miss_counts() == {"SnapshotNotFoundError": 2}
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"schema_version": 2}, "SnapshotSchemaVersionError"),
        ({"schema_version": 0}, "SnapshotSchemaVersionError"),
        ({"version": 9}, "SnapshotError"),
        ({"version": 0}, "SnapshotDeserializationError"),
        ({"version": -1}, "SnapshotDeserializationError"),
        ({"state": {"balance": "much"}}, "SnapshotDeserializationError"),
        (
            {"state": {"value": 3}, "aggregate_type": "X"},
            "SnapshotDeserializationError",
        ),
        ({"aggregate_id": UUID(int=1)}, "SnapshotDeserializationError"),
    ],
)
async def test_a_snapshot_that_does_not_fit_is_not_used(
    change: dict[str, Any], error: str, events: EventStore
) -> None:
    """Another schema, ahead of the events, torn, or of something else."""

    class Odd(InMemorySnapshotStore):
        async def get_snapshot(self, *key: Any) -> Snapshot | None:
            found = await super().get_snapshot(*key)
            return None if found is None else replace(found, **change)

    repo = repository(events, Odd())
    made = await account(repo, 1, 2)
    assert await folded_by_load(repo, made.aggregate_id) == 3
    found = await repo.load(made.aggregate_id)
    assert (found.state, found.version) == (made.state, 3)
    assert repo.snapshot_miss_counts() == {error: 2}


async def test_a_raised_schema_version_replays_and_replaces(
    events: EventStore,
) -> None:
    """The old snapshot is ignored until a new one takes its place."""
    kept = InMemorySnapshotStore()
    repo = repository(events, kept)
    made = await account(repo, 1, 2)

    class Newer(Counting):
        schema_version = 2

    newer = AggregateRepository(
        events, Newer, "Account", snapshot_store=kept, snapshot_threshold=3
    )
    found = await newer.load(made.aggregate_id)
    assert found.state == made.state
    for _ in range(3):
        found.pay(1)
    await newer.save(found)
    now = await kept.get_snapshot(made.aggregate_id, "Account")
    assert now is not None
    assert (now.version, now.schema_version) == (6, 2)
    assert newer.snapshot_miss_counts() == {"SnapshotSchemaVersionError": 1}


async def test_events_that_do_not_fit_the_snapshot_are_folded_without_it(
    events: EventStore,
) -> None:
    """When a state that reads well makes `_apply` raise, the events alone decide."""

    class Strict(DeclarativeAccount):
        def _apply(self, event: DomainEvent) -> None:
            super()._apply(event)
            assert self._state is not None
            if self._state.balance > 10:
                raise RuntimeError("too much")

    kept = InMemorySnapshotStore()
    repo = AggregateRepository(
        events, Strict, "Account", snapshot_store=kept, snapshot_threshold=1
    )
    made = await account(repository(events, None), 1, 2)
    id = made.aggregate_id
    await kept.save_snapshot(snapshot(id, version=2, state={"balance": 9}))
    found = await repo.load(id)
    assert found.state is not None
    assert (found.state.balance, found.version) == (3, 3)
    assert repo.snapshot_miss_counts() == {"SnapshotError": 1}


# States.


class Total(Struct, frozen=True):
    """A struct with values that JSON does not have."""

    amounts: tuple[int, ...] = ()
    by: dict[int, datetime] = {}


@dataclass(frozen=True)
class Sum:
    """A dataclass."""

    amount: int = 0
    last: UUID | None = None


class Kept(AggregateRoot[T]):
    """An aggregate whose state any function makes."""

    aggregate_type = "Account"

    def _apply(self, event: DomainEvent) -> None:
        self._state = self.after(event.aggregate_version)

    def after(self, version: int) -> T:
        raise NotImplementedError


class OfStruct(Kept[Total]):
    """Its state is a struct."""

    def _get_initial_state(self) -> Total:
        return Total()

    def after(self, version: int) -> Total:
        now = datetime(2026, 1, version, tzinfo=UTC)
        return Total(tuple(range(version)), {version: now})


class OfDataclass(Kept[Sum]):
    """Its state is a dataclass."""

    def _get_initial_state(self) -> Sum:
        return Sum()

    def after(self, version: int) -> Sum:
        return Sum(version, UUID(int=version))


class OfInt(Kept[int]):
    """Its state is a number."""

    def _get_initial_state(self) -> int:
        return 0

    def after(self, version: int) -> int:
        return version * 7


class OfDict(Kept[dict[str, int]]):
    """Its state is a dict with the key that numbers are kept under."""

    def _get_initial_state(self) -> dict[str, int]:
        return {}

    def after(self, version: int) -> dict[str, int]:
        return {"version": version, "value": 2}


class Plain:
    """A state that cannot be compared."""

    def __init__(self, amount: int) -> None:
        self.amount = amount


class WithHooks(Kept[Plain]):
    """Its state has a form of its own."""

    def _get_initial_state(self) -> Plain:
        return Plain(0)

    def after(self, version: int) -> Plain:
        return Plain(version)

    def _serialize_state(self) -> dict[str, Any]:
        assert self._state is not None
        return {"n": self._state.amount}

    def _restore_from_snapshot(self, state_dict: dict[str, Any], version: int) -> None:
        self._state, self._version = Plain(state_dict["n"]), version


@pytest.mark.parametrize("kind", [OfStruct, OfDataclass, OfInt, OfDict, WithHooks])
async def test_states_of_all_kinds_are_kept(
    kind: type[Kept[Any]], events: EventStore, kept: SnapshotStore
) -> None:
    """They come back equal, without folding an event."""
    repo = AggregateRepository(
        events, kind, "Account", snapshot_store=kept, snapshot_threshold=2
    )
    made = repo.create_new(uuid4())
    for version in (1, 2):
        made.apply_event(paid(made.aggregate_id, 1, version))
    await repo.save(made)
    found = await repo.load(made.aggregate_id)
    assert repo.snapshot_miss_counts() == {}
    assert found.version == 2
    if kind is WithHooks:
        assert found.state.amount == made.state.amount
    else:
        assert found.state == made.state
    found.apply_event(paid(made.aggregate_id, 1, 3))
    await repo.save(found)
    assert (await repo.load(made.aggregate_id)).version == 3


class OfOneValue(Kept[dict[str, int]]):
    """Its state looks like a wrapped number, and would be read as one."""

    def _get_initial_state(self) -> dict[str, int]:
        return {}

    def after(self, version: int) -> dict[str, int]:
        return {"value": version}


class OfFloats(Kept[float]):
    """Its state is no number, which nothing equals."""

    def _get_initial_state(self) -> float:
        return 0.0

    def after(self, version: int) -> float:
        return float("nan") * version


class OfNothing(Kept[Any]):
    """Its state holds what JSON cannot."""

    def _get_initial_state(self) -> Any:
        return None

    def after(self, version: int) -> Any:
        return {"x": object, "version": version}


class Unnamed(Kept[T]):
    """It does not say what its state is."""

    def _get_initial_state(self) -> Any:
        return {}

    def after(self, version: int) -> Any:
        return {"n": version}


class Forgetful(WithHooks):
    """Its hook does not restore the version."""

    def _restore_from_snapshot(self, state_dict: dict[str, Any], version: int) -> None:
        self._state = Plain(state_dict["n"])


@pytest.mark.parametrize("kind", [OfOneValue, OfFloats, OfNothing, Unnamed, Forgetful])
async def test_a_state_that_would_not_come_back_is_not_kept(
    kind: type[Kept[Any]], events: EventStore, caplog: pytest.LogCaptureFixture
) -> None:
    """A save says so in the log, `create_snapshot` raises; the events are saved."""
    kept = InMemorySnapshotStore()
    repo = AggregateRepository(
        events, kind, "Account", snapshot_store=kept, snapshot_threshold=1
    )
    made = repo.create_new(uuid4())
    made.apply_event(paid(made.aggregate_id, 1, 1))
    await repo.save(made)
    assert "no snapshot of Account" in caplog.text
    with pytest.raises((SnapshotError, NotImplementedError)):
        await repo.create_snapshot(made)
    assert kept.snapshot_count == 0
    assert (await repo.load(made.aggregate_id)).version == 1
