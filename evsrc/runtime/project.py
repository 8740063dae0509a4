"""Keep a projection up to date from the log, what it builds and its position as one.

Both are stored in one transaction: each event has its effect exactly once, however
often the process dies.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any, Final, Generic, TypeVar

from ..core.event import E, Recorded
from ..core.expectation import ALL
from ..core.snapshot import restored
from ..ports import START, EventStore, SaveCheckpoint, Transaction
from .delivery import Delivery, Transactional
from .kept import KeptView, check_live
from .progressing import Progressing, handle
from .projection import HandlerProjection, ProjectionDefinition, ViewProjection
from .subscribe import Subscription, subscribe

S = TypeVar("S")

_PAGE: Final = 1000


class Projection(Generic[S, E]):
    """A projection that a subscription keeps up to date; made by `project`."""

    def __init__(
        self,
        store: EventStore[E],
        definition: ProjectionDefinition[S, E],
        delivery: Delivery[E],
    ) -> None:
        self.definition = definition
        self._store = store
        name = definition.name
        if isinstance(definition, ViewProjection):
            self._view = KeptView(store, definition, delivery)
            self.subscription: Subscription[E] = self._view.subscription
        else:
            handler = definition

            async def apply(tx: Transaction[E], events: Sequence[Recorded[E]]) -> None:
                await handle(handler, tx, events, rebuilding=False)

            self.subscription = subscribe(store, name, Transactional(apply), delivery)

    @property
    def state(self) -> S:
        """What a View has folded; there is none for a handler's tables."""
        return self._view.state

    async def __aenter__(self) -> Projection[S, E]:
        await prepare(self._store, self.definition)
        self.subscription.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.subscription.stop()


async def prepare(
    store: EventStore[E], definition: ProjectionDefinition[Any, E]
) -> None:
    """Let a handler set up its tables, if it has not begun; once, whoever comes.

    Raises:
        ProjectionRetiredError: a rebuild has replaced this version.
    """
    name = definition.name
    checkpoint = await store.checkpoints.load(name)
    check_live(checkpoint)
    if checkpoint is not None or not isinstance(definition, HandlerProjection):
        return
    async with store.transaction() as tx:
        # first: whoever does the same waits here, and finds the checkpoint then
        await tx.append()
        if await tx.load_checkpoint(name) is None:
            await definition.setup(tx)
            await tx.append(also=[SaveCheckpoint(name, START)])


async def catch_up(
    store: EventStore[E], definition: ProjectionDefinition[Any, E]
) -> None:
    """Bring a projection to the end of the log, a page and a transaction at a time."""
    projection = Progressing(store, definition)
    await projection.load()
    while True:
        page = await store.read_all(
            definition.query, after=projection.position, limit=_PAGE
        )
        if page.reached == projection.position:
            return
        async with store.transaction() as tx:
            await projection.take(tx, page.events, page.reached, rebuilding=False)
        projection.committed()


def project(
    store: EventStore[E],
    definition: ProjectionDefinition[S, E],
    delivery: Delivery[E] | None = None,
) -> Projection[S, E]:
    """Make the projection that a subscription keeps up to date in *store*.

    Args:
        store: the log to read, and where the read model and its position are kept.
        definition: the read model: a `ViewProjection`, or a `HandlerProjection`, whose
            handler and checkpoint share a transaction.
        delivery: how it is delivered, and what to do about failures. Its query is the
            definition's, its start the checkpoint.

    Use it as `async with project(...) as projection:`; `projection.state` is the state
    of a View, `projection.subscription` the delivery behind it.

    Raises:
        ProjectionRetiredError: from the block's beginning; a rebuild has replaced it.
        ValueError: *delivery* has a query or a start of its own.
    """
    given = delivery or Delivery()
    if given.query not in (ALL, definition.query) or given.start != "checkpoint":
        raise ValueError(
            f"projection {definition.name!r} has its own query, and starts at its "
            "checkpoint; leave `query` and `start` out of the delivery"
        )
    if isinstance(definition, ViewProjection) and given.max_streams > 1:
        raise ValueError(
            f"projection {definition.name!r} is a View, which is folded in the log's "
            "order: `max_streams` is for handlers"
        )
    return Projection(store, definition, replace(given, query=definition.query))


async def load_view(
    store: EventStore[E], definition: ViewProjection[S, E]
) -> tuple[S, int]:
    """Give the stored state of a View and the position that it contains.

    Whoever keeps it up to date, inline or async, in this process or another.
    """
    stored = await store.snapshots.load(definition.name)
    snapshot = restored(definition.keep, stored)
    if snapshot is None:
        return definition.view.initial, START
    return snapshot.state, snapshot.version


async def wait_for_checkpoint(
    store: EventStore[E],
    name: str,
    position: int,
    timeout: timedelta = timedelta(seconds=30),
    poll: timedelta = timedelta(milliseconds=50),
) -> None:
    """Return when the stored checkpoint of *name* has reached *position*.

    For those who read what another process builds: give the position of an append
    (`Appended.position`, `Decided.position`), wait, read. In the process itself,
    `Subscription.wait_for` is told at once and reads nothing.

    Args:
        store: where the checkpoint is.
        name: the subscription or projection.
        position: of an event that it handles. Those that its query leaves out are
            passed too, but stored only with the next checkpoint.
        timeout: how long to wait at most.
        poll: how often to look.

    Raises:
        ProjectionRetiredError: a rebuild has replaced it.
        TimeoutError: *timeout* is over.
    """
    async with asyncio.timeout(timeout.total_seconds()):
        while True:
            checkpoint = await store.checkpoints.load(name)
            check_live(checkpoint)
            if checkpoint is not None and checkpoint.position >= position:
                return
            await asyncio.sleep(poll.total_seconds())
