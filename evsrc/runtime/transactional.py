"""Handle events and move the checkpoint in one transaction: exactly once."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from ..core.errors import (
    CheckpointError,
    CorruptionError,
    LeaseLostError,
    ProjectionRetiredError,
    SchemaError,
    StoreClosedError,
    SubscriptionStateError,
)
from ..core.event import E, Recorded
from ..ports import RETIRED, START, Also, EventStore
from .delivery import Batched, Transactional
from .handling import InBatches, Parts
from .run import PASSING
from .settling import raised_by_handler

_FOR_GOOD = (
    CheckpointError,
    LeaseLostError,
    StoreClosedError,
    SchemaError,
    CorruptionError,
)


class InTransactions(InBatches[E]):
    """Each batch is one transaction, with its checkpoint; so is each half of one."""

    def __init__(
        self, store: EventStore[E], handler: Transactional[E], parts: Parts[E]
    ) -> None:
        super().__init__(Batched(self._outside), parts)
        self._store = store
        self._apply = handler.apply

    async def _outside(self, _: Sequence[Recorded[E]]) -> None:
        raise AssertionError("every attempt is made in a transaction")

    async def attempt(
        self, batch: Sequence[Recorded[E]], reached: int
    ) -> Exception | None:
        """Handle a batch and pass it; give the handler's error, or None.

        A commit whose answer never came is looked up, never repeated blindly: every
        batch moves the checkpoint forward, so where it is tells what has happened.
        """
        saver, run, tries = self._parts.saver, self._parts.run, 0
        while True:
            unsaved: Exception | None = None
            error: Exception | None = None
            try:
                error = await self._once(batch, saver.changes(reached))
            except CheckpointError as moved:
                saver.found(moved)
                if saver.position != reached:
                    continue
            except LeaseLostError:
                saver.lost = True
                raise
            except PASSING as passing:
                unsaved = passing
                tries += 1
                await run.wait_out(passing, tries)
            if error is not None or unsaved is not None:
                await run.patiently(saver.resolve)
            if (error or unsaved) is None or saver.position == reached:
                saver.committed(reached, run.done + len(batch))
                return None
            if error is not None:
                saver.undone()
                return error

    async def _once(
        self, batch: Sequence[Recorded[E]], also: Sequence[Also]
    ) -> Exception | None:
        """Make one transaction; give the handler's error, if it was rolled back."""
        failure: Exception | None = None
        try:
            async with self._store.transaction() as tx:
                try:
                    await self._apply(tx, batch)
                except (Exception, asyncio.CancelledError) as error:
                    failure = raised_by_handler(error)
                    raise
                await tx.append(also=also)
        except (Exception, asyncio.CancelledError) as error:
            raised_by_handler(error)  # a cancellation of the subscription itself
            if failure is not None and not isinstance(error, PASSING):
                return failure
            if not isinstance(error, Exception):
                raise
            if isinstance(error, (*_FOR_GOOD, *PASSING)):
                raise
            return error  # such as a constraint that is checked at the commit
        return None

    async def again(
        self, recorded: Recorded[E], also: Sequence[Also]
    ) -> Exception | None:
        """Handle an event that was parked, and write *also* with it.

        Raises:
            SubscriptionStateError: it is still to be delivered: it would be done twice.
            ProjectionRetiredError: a rebuild has replaced what it would be done to.
        """
        name = self._parts.run.name
        checkpoint = await self._store.checkpoints.load(name)
        if checkpoint is not None and checkpoint.position == RETIRED:
            raise ProjectionRetiredError(name)
        reached = START if checkpoint is None else checkpoint.position
        if reached < recorded.position:
            raise SubscriptionStateError(
                f"subscription {name!r} was not started, or starts anew: its "
                f"checkpoint is at {reached}, so the event at {recorded.position} is "
                "still to be delivered"
            )
        return await self._once((recorded,), (*also, *self._parts.saver.also()))
