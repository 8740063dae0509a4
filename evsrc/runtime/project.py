"""Keep a View up to date from the log, its state and its position as one fact.

The state is stored together with the position that it contains, in one transaction:
each event is folded exactly once, however often the process dies.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Generic, TypeVar

from ..core.event import E, Recorded
from ..core.snapshot import Snapshot, Snapshotting, restored
from ..core.view import View
from ..ports import (
    START,
    Checkpoint,
    Checkpoints,
    EventStore,
    SaveCheckpoint,
    SaveSnapshot,
)
from .delivery import Delivery
from .subscribe import Subscription, subscribe

S = TypeVar("S")


class Projection(Generic[S, E]):
    """A View that a subscription keeps up to date; made by `project`."""

    def __init__(
        self,
        store: EventStore[E],
        name: str,
        view: View[S, Recorded[E]],
        keep: Snapshotting[S],
        delivery: Delivery[E],
    ) -> None:
        self.state = view.initial
        self._store = store
        self._name = name
        self._view = view
        self._keep = keep
        self._also = delivery.also
        kept = Checkpoints(self._load, self._save, self._delete)
        self.subscription: Subscription[E] = subscribe(
            store, name, self._handle, replace(delivery, checkpoints=kept, also=tuple)
        )

    async def __aenter__(self) -> Projection[S, E]:
        self.subscription.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.subscription.stop()

    async def _handle(self, recorded: Recorded[E]) -> None:
        self.state = self._view.evolve(self.state, recorded)

    async def _load(self, name: str) -> Checkpoint | None:
        stored = await self._store.snapshots.load(name)
        snapshot = restored(self._keep, stored)
        saved = await self._store.checkpoints.load(name)
        reached = START if saved is None else saved.position
        # none, torn, of another schema, or half deleted: fold anew
        if snapshot is None or snapshot.version != reached:
            self.state = self._view.initial
            await self._delete(name)
            return None
        self.state = snapshot.state
        return Checkpoint(name, snapshot.version)

    async def _save(self, change: SaveCheckpoint) -> None:
        state = self._keep.dump(self.state)
        snapshot = Snapshot(state, change.position, self._keep.schema)
        kept = SaveSnapshot(change.name, snapshot)
        await self._store.append(also=(change, kept, *self._also()))

    async def _delete(self, name: str) -> None:
        await self._store.checkpoints.delete(name)
        await self._store.snapshots.delete(name)


def project(
    store: EventStore[E],
    name: str,
    view: View[S, Recorded[E]],
    keep: Snapshotting[S],
    delivery: Delivery[E] | None = None,
) -> Projection[S, E]:
    """Make the projection that keeps *view* up to date in *store*.

    Args:
        store: the log to read, and where state and position are kept.
        name: of the read model, with a version: "sales@2".
        view: the read model as a fold over recorded events.
        keep: how its state is written and read; `due` is not asked, the state is kept
            whenever the checkpoint is. Another `schema` folds anew from the beginning.
        delivery: which events, and what to do about failures.

    Use it as `async with project(...) as projection:`; `projection.state` is the read
    model, `projection.subscription` the delivery behind it.
    """
    return Projection(store, name, view, keep, delivery or Delivery())
