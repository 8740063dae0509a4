"""Keep a View up to date: its state is stored with each checkpoint, in one append."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Generic, TypeVar

from ..core.errors import ProjectionRetiredError, SubscriptionStateError
from ..core.event import E, Recorded
from ..core.snapshot import Snapshot, restored
from ..ports import (
    RETIRED,
    START,
    Also,
    Checkpoint,
    Checkpoints,
    EventStore,
    SaveCheckpoint,
    SaveSnapshot,
)
from .delivery import Delivery, Folded
from .projection import ViewProjection
from .subscribe import Subscription

S = TypeVar("S")


class KeptView(Generic[S, E]):
    """A View whose state is stored with each checkpoint, in one append."""

    def __init__(
        self,
        store: EventStore[E],
        definition: ViewProjection[S, E],
        delivery: Delivery[E],
    ) -> None:
        self.state = definition.view.initial
        self._evolve = definition.view.evolve
        self._definition = definition
        self._store = store
        self._also = delivery.also
        self._at = START  # where the stored checkpoint is
        self._loaded = False
        self._tried: Snapshot[bytes] | None = None  # it may be stored, or not
        self._parked: tuple[S] | None = None  # the state, if that is stored
        kept = Checkpoints(self._load, self._save, store.checkpoints.delete)
        self.subscription = Subscription[E](
            store,
            definition.name,
            Folded(self._handle, self._again, self._settle),
            replace(delivery, checkpoints=kept, also=tuple),
        )

    async def _handle(self, recorded: Recorded[E]) -> None:
        self.state = self._evolve(self.state, recorded)

    async def _again(
        self, recorded: Recorded[E], also: Sequence[Also]
    ) -> Exception | None:
        """Fold an event that was parked; store the state and *also* in one append.

        Raises:
            SubscriptionStateError: its effect could not be kept: there is no state.
        """
        if not self._loaded:
            raise SubscriptionStateError(
                f"projection {self._definition.name!r} was not started: its state is "
                "not loaded; re-drive its letters inside `async with project(...)`"
            )
        await self._settle()
        try:
            state = self._evolve(self.state, recorded)
        except Exception as error:  # noqa: BLE001 - whatever the View raises
            return error
        position = self.subscription.position
        await self._keep(state, position, also, parked=(state,))
        self.state = state
        return None

    async def _load(self, name: str) -> Checkpoint | None:
        self._loaded = True
        stored = await self._store.snapshots.load(name)
        snapshot = restored(self._definition.keep, stored)
        checkpoint = await self._store.checkpoints.load(name)
        check_live(checkpoint)
        reached = START if checkpoint is None else checkpoint.position
        if snapshot is not None and snapshot.version == reached:
            self.state, self._at = snapshot.state, snapshot.version
            return Checkpoint(name, snapshot.version)
        # none, torn, of another schema, or half deleted: fold anew
        if checkpoint is not None:
            change = SaveCheckpoint(name, START, after=reached)
            await self._store.checkpoints.save(change)
        self.state, self._at = self._definition.view.initial, START
        return None

    async def _save(self, change: SaveCheckpoint) -> None:
        """Save it from where it is known to be, in any case: a retired one stays so."""
        await self._settle()
        await self._keep(self.state, change.position, (), parked=None)

    async def _keep(
        self, state: S, position: int, also: Sequence[Also], parked: tuple[S] | None
    ) -> None:
        name, keep = self._definition.name, self._definition.keep
        moved = SaveCheckpoint(name, position, after=self._at)
        snapshot = Snapshot(keep.dump(state), position, keep.schema)
        self._tried, self._parked = snapshot, parked
        stored = SaveSnapshot(name, snapshot)
        await self._store.append(also=(moved, stored, *also, *self._also()))
        self._at, self._tried, self._parked = position, None, None

    async def _settle(self) -> None:
        """Find out what became of an append whose answer never came."""
        tried = self._tried
        if tried is None:
            return
        if await self._store.snapshots.load(self._definition.name) == tried:
            self._at = tried.version
            if self._parked is not None:
                (self.state,) = self._parked
        self._tried = self._parked = None


def check_live(checkpoint: Checkpoint | None) -> None:
    """Refuse a projection that a rebuild has replaced.

    Raises:
        ProjectionRetiredError: it has.
    """
    if checkpoint is not None and checkpoint.position == RETIRED:
        raise ProjectionRetiredError(checkpoint.name)
