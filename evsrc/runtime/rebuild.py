"""Build a new version of a projection beside the live one, then swap them.

The new version never goes beyond the live one, so that at the swap both are at the same
position: no event is left out, and none has its outside effects twice. The swap is one
transaction, in which the live version's checkpoint is retired: a worker of it that is
still running cannot commit any more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any, Final, Generic

from msgspec import Struct

from ..core.errors import (
    CheckpointAheadError,
    CheckpointError,
    ProjectionRetiredError,
    RebuildError,
    StoreBusyError,
)
from ..core.event import E
from ..ports import (
    RETIRED,
    START,
    EventStore,
    Page,
    SaveCheckpoint,
    Transaction,
)
from .progressing import Progressing, up_to
from .projection import HandlerProjection, ProjectionDefinition

_ATTEMPTS: Final = 50


class RebuildProgress(Struct, frozen=True):
    """How far a rebuild is.

    Args:
        position: what the new version contains.
        end: what it has to contain by now: the live version's position.
        handled: how many events this run has handled.
        seconds: how long it has been running.
        begun: the position at which this run began.
    """

    position: int
    end: int
    handled: int
    seconds: float
    begun: int = START

    @property
    def share(self) -> float:
        """How much of the log is behind it, from 0 to 1."""
        return min(1.0, self.position / self.end) if self.end else 1.0

    @property
    def rate(self) -> float:
        """How many events it handles a second."""
        return self.handled / self.seconds if self.seconds else 0.0

    @property
    def remaining(self) -> timedelta | None:
        """How long it will take from here; None: it cannot be told yet."""
        done = self.position - self.begun
        if self.position >= self.end:
            return timedelta(0)
        if done <= 0:
            return None
        return timedelta(seconds=self.seconds * (self.end - self.position) / done)


class Rebuilt(Struct, frozen=True):
    """A rebuild that has swapped.

    Args:
        name: the version that is live now.
        replaced: the version that is retired; None: there was none.
        position: what the live version contained at the swap.
        handled: how many events this run has handled.
    """

    name: str
    replaced: str | None
    position: int
    handled: int


OnRebuild = Callable[[RebuildProgress], None]


async def rebuild(
    store: EventStore[E],
    definition: ProjectionDefinition[Any, E],
    *,
    replaces: str | None,
    page: int = 1000,
    near: int = 1000,
    on_progress: OnRebuild | None = None,
) -> Rebuilt:
    """Build *definition* from the beginning, beside the live version, and swap.

    The live version may go on all the time; the new one is run by this function, with
    `tx.rebuilding` set, up to where the live one is (without one: to the end of the
    log). When at most *near* events are missing, the rest, the definition's `swap`, and
    the end of the live version are one transaction.

    A run that was cut off, also by a cancellation, is resumed by calling this again: it
    goes on at its own checkpoint. One that has swapped already says so again. Use
    `cancel_rebuild` to leave nothing behind instead.

    Args:
        store: the log, and where both versions are.
        definition: the new version; its name is a new one.
        replaces: the name of the live version; None: there is none.
        page: how many events are handled in one transaction.
        near: how many events may be missing when the swap begins; until the swap ends,
            appends wait (SQLite), or the live version does (PostgreSQL, with `lock`).
        on_progress: told after each page.

    Raises:
        RebuildError: *replaces* has no checkpoint, or its worker moved on in every
            attempt to swap: give the definition a `lock`.
        ProjectionRetiredError: *replaces* was replaced by another one.
        CheckpointError: another process rebuilds it as well, or cancelled it.
        Exception: what a handler raised; its page was rolled back.
    """
    return await _Rebuild(store, definition, replaces, (page, near), on_progress).run()


class _Rebuild(Generic[E]):
    """One run of a rebuild."""

    def __init__(
        self,
        store: EventStore[E],
        definition: ProjectionDefinition[Any, E],
        replaces: str | None,
        sizes: tuple[int, int],
        on_progress: OnRebuild | None,
    ) -> None:
        if replaces == definition.name:
            raise ValueError(f"a rebuild of {replaces!r} needs a name of its own")
        if min(sizes) < 1:
            raise ValueError(f"page and near are at least 1, not {sizes!r}")
        self.store = store
        self.definition = definition
        self.replaces = replaces
        self.page, self.near = sizes
        self.tell = on_progress
        self.new = Progressing(store, definition)
        self.begun = START
        self.started = asyncio.get_running_loop().time()

    async def run(self) -> Rebuilt:
        """Build, catch up, swap."""
        live = await self.live()
        with suppress(ProjectionRetiredError):
            await self.new.load()
            if live == RETIRED and await _has_swapped(
                self.store, self.definition.name, self.replaces
            ):  # and was cut off
                return await self.done(self.new.position)
        if live == RETIRED:
            raise ProjectionRetiredError(str(self.replaces))
        if not self.new.exists:
            await self.set_up()
        self.begun = self.new.position
        attempts = 0
        while True:
            try:
                await self.catch_up()
                return await self.done(await self.swap())
            except (CheckpointError, StoreBusyError) as error:
                attempts += 1
                if isinstance(error, CheckpointError) and error.name != self.replaces:
                    raise
                if attempts >= _ATTEMPTS:
                    raise RebuildError(
                        self.definition.name,
                        f"{attempts} attempts were in vain; if {self.replaces!r} moved "
                        f"on each time, give the definition a `lock`: {error}",
                    ) from error
                await asyncio.sleep(min(0.005 * 2**attempts, 1.0))

    async def live(self, tx: Transaction[E] | None = None) -> int | None:
        """Give the live version's position; None: there is no live version."""
        if self.replaces is None:
            return None
        load = self.store.checkpoints.load if tx is None else tx.load_checkpoint
        checkpoint = await load(self.replaces)
        if checkpoint is None:
            raise RebuildError(
                self.definition.name, f"{self.replaces!r} has no checkpoint"
            )
        return checkpoint.position

    async def set_up(self) -> None:
        """Make the tables and handle the first page, as one."""
        if await self.store.checkpoints.load(self.definition.name) is not None:
            self.new.begin_again()
        page = await self.next_page(await self.live())
        async with self.store.transaction() as tx:
            if isinstance(self.definition, HandlerProjection):
                await self.definition.setup(tx)
            await self.new.take(tx, page.events, page.reached, rebuilding=True)
        self.new.committed()

    async def next_page(self, end: int | None, limit: int | None = None) -> Page[E]:
        page = await self.store.read_all(
            self.definition.query,
            after=self.new.position,
            limit=limit or self.page,
        )
        return up_to(page, end)

    async def catch_up(self) -> None:
        """Handle pages until at most `near` events are missing."""
        while True:
            end = await self.live()
            if end == RETIRED:
                raise ProjectionRetiredError(str(self.replaces))
            page = await self.next_page(end, max(self.page, self.near))
            target = page.head if end is None else end
            self.report(target)
            if page.reached >= target and len(page.events) <= self.near:
                return
            if end is not None and page.reached >= page.head < end:
                raise CheckpointAheadError(str(self.replaces), end, page.head)
            events, reached = page.events, page.reached
            if len(events) > self.page:
                events = events[: self.page]
                reached = events[-1].position
            async with self.store.transaction() as tx:
                await self.new.take(tx, events, reached, rebuilding=True)
            self.new.committed()

    async def swap(self) -> int:
        """Handle the rest, swap, and retire the live version, as one."""
        definition = self.definition
        async with self.store.transaction() as tx:
            if isinstance(definition, HandlerProjection):
                await definition.lock(tx)
            live = await self.live(tx)
            if live == RETIRED:
                raise ProjectionRetiredError(str(self.replaces))
            events, reached = await self.new.rest(tx, live)
            also = await self.new.work(tx, events, reached, rebuilding=True)
            if isinstance(definition, HandlerProjection):
                await definition.swap(tx)
            if self.replaces is not None:  # nobody moves it again, or has meanwhile
                mark = _mark(definition.name, self.replaces)
                retired = SaveCheckpoint(self.replaces, RETIRED, after=live)
                also = (*also, retired, SaveCheckpoint(mark, RETIRED))
            await tx.append(also=also)
        self.new.committed()
        return self.new.position

    async def done(self, position: int) -> Rebuilt:
        """Delete what is left over of the version that was replaced."""
        if self.replaces is not None:
            await self.store.snapshots.delete(self.replaces)
        self.report(position)
        return Rebuilt(self.definition.name, self.replaces, position, self.new.handled)

    def report(self, end: int) -> None:
        if self.tell is not None:
            seconds = asyncio.get_running_loop().time() - self.started
            new = self.new
            self.tell(
                RebuildProgress(new.position, end, new.handled, seconds, self.begun)
            )


def _mark(name: str, replaces: str) -> str:
    """Name the checkpoint that tells which of several has replaced a version."""
    return f"{replaces}>{name}"


async def _has_swapped(store: EventStore[E], name: str, replaces: str | None) -> bool:
    if replaces is None:
        return False
    return await store.checkpoints.load(_mark(name, replaces)) is not None


async def cancel_rebuild(
    store: EventStore[E],
    definition: ProjectionDefinition[Any, E],
    *,
    replaces: str | None,
) -> None:
    """Give up a rebuild that has not swapped: nothing of the new version is left.

    Its `drop` is called, its checkpoint and state are deleted. A run that is still
    under way, in whatever process, fails at its next page (with a CheckpointError, or
    because its tables are gone). The live version is not touched.

    Args:
        store: as it was given to `rebuild`.
        definition: the new version.
        replaces: the name of the live version; None: there is none.

    Raises:
        RebuildError: it has swapped; *definition* is live.
    """
    name = definition.name
    attempts, given_up = 0, False
    while not given_up:
        attempts += 1
        try:
            given_up = await _give_up(store, definition, replaces)
        except CheckpointError:  # the live version has moved on: look again
            if attempts >= _ATTEMPTS:
                raise
    await store.snapshots.delete(name)
    await store.checkpoints.delete(name)


async def _give_up(
    store: EventStore[E],
    definition: ProjectionDefinition[Any, E],
    replaces: str | None,
) -> bool:
    """Drop the tables and fence whoever still builds, unless it has swapped."""
    name = definition.name
    found = await store.checkpoints.load(name)
    live = None if replaces is None else await store.checkpoints.load(replaces)
    if found is None or found.position == RETIRED:
        return True
    if await _has_swapped(store, name, replaces):
        raise RebuildError(name, f"it has taken the place of {replaces!r} already")
    async with store.transaction() as tx:
        if isinstance(definition, HandlerProjection):
            await definition.drop(tx)
        also = [SaveCheckpoint(name, RETIRED)]
        if live is not None:  # it has not swapped meanwhile
            also.append(SaveCheckpoint(live.name, live.position, after=live.position))
        await tx.append(also=also)
    return True
