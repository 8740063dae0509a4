"""Move a projection forward by a page, in a transaction that somebody else ends."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from functools import reduce
from operator import attrgetter
from typing import Any, Final, Generic

from ..core.errors import ProjectionRetiredError
from ..core.event import E, Recorded
from ..core.snapshot import Snapshot, Snapshotting, restored
from ..ports import (
    RETIRED,
    START,
    Also,
    EventStore,
    Page,
    SaveCheckpoint,
    SaveSnapshot,
    Transaction,
)
from .projection import (
    HandlerProjection,
    ProjectionDefinition,
    ProjectionTransaction,
    ViewProjection,
)

_position: Final = attrgetter("position")
_PAGE: Final = 1000


class Memo:
    """The last state that was decoded or written, by its bytes: loading it is free."""

    def __init__(self) -> None:
        self.stored: bytes | None = None
        self.state: Any = None

    def restored(
        self, keep: Snapshotting[Any], stored: Snapshot[bytes] | None
    ) -> Snapshot[Any] | None:
        """Give the stored snapshot as a state; None if it does not fit."""
        if stored is None or stored.schema != keep.schema:
            return None
        if stored.state != self.stored:
            found = restored(keep, stored)
            if found is None:
                return None
            self.stored, self.state = stored.state, found.state
        return Snapshot(self.state, stored.version, stored.schema)

    def dump(self, keep: Snapshotting[Any], state: Any) -> bytes:
        """Give a state's bytes."""
        self.stored, self.state = keep.dump(state), state
        return self.stored


class Progressing(Generic[E]):
    """Where a projection is; a View's state with it.

    `take` works in a transaction, and `committed` says that it was committed: until
    then, the projection is where it was.
    """

    def __init__(
        self,
        store: EventStore[E],
        definition: ProjectionDefinition[Any, E],
        memo: Memo | None = None,
    ) -> None:
        self.definition = definition
        self.position = START
        self.exists = False  # something of it is stored
        self.handled = 0
        self._store = store
        self._memo = memo or Memo()
        self._saved = START  # where the stored checkpoint is
        self._state: Any = None
        self._next: tuple[int, Any, int] | None = None

    async def load(self, tx: Transaction[E] | None = None) -> None:
        """Find out where it is, in a transaction if there is one.

        Raises:
            ProjectionRetiredError: a rebuild has replaced it.
        """
        definition = self.definition
        kept = self._store
        load = kept.checkpoints.load if tx is None else tx.load_checkpoint
        checkpoint = await load(definition.name)
        self._saved = START if checkpoint is None else checkpoint.position
        self.exists = checkpoint is not None and self._saved != RETIRED
        if self._saved == RETIRED:
            raise ProjectionRetiredError(definition.name)
        self.position = self._saved
        if isinstance(definition, ViewProjection):
            load_state = kept.snapshots.load if tx is None else tx.load_snapshot
            stored = await load_state(definition.name)
            snapshot = self._memo.restored(definition.keep, stored)
            if snapshot is None or snapshot.version != self._saved:
                self.position = START  # none, torn, or of another schema: fold anew
                self._state = definition.view.initial
            else:
                self._state = snapshot.state

    def begin_again(self) -> None:
        """Build it from the beginning, in the place of one that is retired."""
        self.position, self._saved, self.exists = START, RETIRED, False
        if isinstance(self.definition, ViewProjection):
            self._state = self.definition.view.initial

    async def take(
        self,
        tx: Transaction[E],
        events: Sequence[Recorded[E]],
        reached: int,
        *,
        rebuilding: bool,
    ) -> None:
        """Handle *events* and move the checkpoint to *reached*."""
        await tx.append(
            also=await self.work(tx, events, reached, rebuilding=rebuilding)
        )

    async def work(
        self,
        tx: Transaction[E],
        events: Sequence[Recorded[E]],
        reached: int,
        *,
        rebuilding: bool,
    ) -> tuple[Also, ...]:
        """Handle *events*; give what the transaction has to write for it at its end.

        At its end, because a worker holds its tables before it asks for the lock of the
        log: whoever does it the other way round waits in a circle.
        """
        definition, state = self.definition, self._state
        change = SaveCheckpoint(definition.name, reached, after=self._saved)
        also: tuple[Also, ...] = (change,)
        if isinstance(definition, ViewProjection):
            keep = definition.keep
            state = reduce(definition.view.evolve, events, state)
            dumped = self._memo.dump(keep, state)
            snapshot = Snapshot(dumped, reached, keep.schema)
            also = (change, SaveSnapshot(definition.name, snapshot))
        elif events:
            await handle(definition, tx, events, rebuilding=rebuilding)
        self._next = reached, state, len(events)
        return also

    async def rest(
        self, tx: Transaction[E], end: int | None
    ) -> tuple[list[Recorded[E]], int]:
        """Give all events up to *end* (None: the end of the log), and where that is."""
        events: list[Recorded[E]] = []
        reached, more = self.position, True
        while more:
            query = self.definition.query
            page = await tx.read_all(query, after=reached, limit=_PAGE)
            part = up_to(page, end)
            events += part.events
            reached = max(reached, part.reached)
            more = part is page and page.reached < page.head
        return events, reached

    def committed(self) -> None:
        """Note that the transaction of the last `take` was committed."""
        if self._next is not None:
            self.position, self._state, count = self._next
            self.handled += count
            self._saved, self._next, self.exists = self.position, None, True


async def handle(
    definition: HandlerProjection[E],
    tx: Transaction[E],
    events: Sequence[Recorded[E]],
    *,
    rebuilding: bool,
) -> None:
    """Give *events* to a projection's handler."""
    inside = ProjectionTransaction(
        tx.append,
        tx.read_all,
        tx.load_checkpoint,
        tx.load_snapshot,
        tx.connection,
        rebuilding=rebuilding,
    )
    await definition.handle(inside, events)


def up_to(page: Page[E], end: int | None) -> Page[E]:
    """Give the part of a page that is not beyond *end* (None: all of it)."""
    if end is None or page.reached <= end:
        return page
    count = bisect_right(page.events, end, key=_position)
    return Page(page.events[:count], end, page.head)
