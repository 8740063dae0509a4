"""C1 for classes: whatever becomes of the snapshots, a loaded state is the same."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from evsrc import (
    AggregateRepository,
    InMemoryEventStore,
    InMemorySnapshotStore,
)
from evsrc.snapshots import Snapshot
from tests.facade_domain import REGISTRY, Account

IDS = [UUID(int=n) for n in (1, 2)]
ids = st.sampled_from(IDS)
amounts = st.lists(st.integers(1, 9), min_size=1, max_size=6)
changes = st.fixed_dictionaries(
    {},
    optional={
        "version": st.integers(-2, 40),
        "schema_version": st.integers(0, 2),
        "aggregate_id": ids,
        "aggregate_type": st.sampled_from(["Account", "Order"]),
    },
)


class Fate(InMemorySnapshotStore):
    """Keeps every snapshot there ever was, and gives back what it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.history: list[Snapshot] = []
        self.change: dict[str, Any] = {}
        self.broken = False

    async def save_snapshot(self, snapshot: Snapshot) -> None:
        if self.broken:
            raise OSError("no disk")
        self.history.append(snapshot)
        await super().save_snapshot(snapshot)

    async def get_snapshot(self, *key: Any) -> Snapshot | None:
        if self.broken:
            raise OSError("no disk")
        found = await super().get_snapshot(*key)
        return None if found is None else self.changed(found)

    def changed(self, found: Snapshot) -> Snapshot:
        """Change a snapshot so that it claims nothing false of this very stream."""
        other = replace(found, **self.change)
        version_lies = other.version != found.version
        if version_lies and 1 <= other.version <= self.true_version(found.aggregate_id):
            return found
        return other

    def true_version(self, id: UUID) -> int:
        return self.versions.get(id, 0)

    versions: dict[UUID, int]


steps = st.one_of(
    st.tuples(st.just("save"), ids, amounts),
    st.tuples(st.just("execute"), ids, amounts),
    st.tuples(st.just("go_on"), ids, amounts),
    st.tuples(st.just("change"), changes),
    st.tuples(st.just("tear"), ids),
    st.tuples(st.just("break_down"), st.booleans()),
    st.tuples(st.just("bring_back"), st.integers(0, 9)),
    st.tuples(st.just("delete"), ids),
    st.tuples(st.just("create"), ids),
    st.tuples(st.just("wait")),
)


class Play:
    """One story: the same events with and without snapshots."""

    def __init__(self, threshold: int, mode: Any) -> None:
        self.events = InMemoryEventStore(event_registry=REGISTRY)
        self.kept = Fate()
        self.kept.versions = {}
        self.plain = AggregateRepository(self.events, Account, "Account")
        self.repo = AggregateRepository(
            self.events,
            Account,
            "Account",
            snapshot_store=self.kept,
            snapshot_threshold=threshold,
            snapshot_mode=mode,
        )

    async def save(self, id: UUID, amounts: list[int]) -> Account:
        found = await self.repo.load_or_create(id)
        act(found, amounts)
        await self.repo.save(found)
        return found

    async def go_on(self, id: UUID, amounts: list[int]) -> None:
        (await self.save(id, amounts)).pay(1000)  # never saved

    async def execute(self, id: UUID, amounts: list[int]) -> None:
        await self.repo.execute(id, lambda found: act(found, amounts))

    async def change(self, change: dict[str, Any]) -> None:
        self.kept.change = change

    async def tear(self, id: UUID) -> None:
        tear = (
            "UPDATE evsrc_aggregate_snapshot"
            " SET state = substr(state, 1, length(state) - 3) WHERE aggregate_id = :id"
        )
        await self.kept._execute(tear, {"id": str(id)})

    async def break_down(self, broken: bool) -> None:
        self.kept.broken = broken

    async def bring_back(self, n: int) -> None:
        if n < len(self.kept.history):
            await InMemorySnapshotStore.save_snapshot(self.kept, self.kept.history[n])

    async def delete(self, id: UUID) -> None:
        await self.kept.delete_snapshot(id, "Account")

    async def create(self, id: UUID) -> None:
        if not self.kept.broken and await self.repo.exists(id):
            await self.repo.create_snapshot(await self.repo.load(id))

    async def wait(self) -> None:
        await self.repo.await_pending_snapshots()

    async def check(self) -> None:
        for id in IDS:
            truth = await self.plain.load_or_create(id)
            self.kept.versions[id] = truth.version
            found = await self.repo.load_or_create(id)
            assert (found.state, found.version) == (truth.state, truth.version)


def act(account: Account, amounts: list[int]) -> None:
    if account.version == 0:
        account.open("ann")
    for amount in amounts:
        account.pay(amount)


@settings(max_examples=200)
@given(
    st.integers(1, 5),
    st.sampled_from(["sync", "background", "manual"]),
    st.lists(steps, max_size=20),
)
def test_c1_with_and_without_snapshots_are_equal(
    threshold: int, mode: str, story: list[tuple[Any, ...]]
) -> None:
    """Torn, old, ahead, of another schema or aggregate, or gone: no state differs."""

    async def play() -> None:
        it = Play(threshold, mode)
        for step in story:
            name, *asked = step
            await getattr(it, name)(*asked)
            await it.check()
        await it.repo.await_pending_snapshots()
        await it.check()

    asyncio.run(play())
