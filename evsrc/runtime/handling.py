"""Give the events of a page to a handler: one by one, in batches, or in parallel.

All ways end alike: each event was handled, parked, skipped by an explicit policy, or is
left for the next time; the run's position never passes one that is left.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from heapq import heapify, heappop, heappush
from typing import Generic, Protocol

from ..core.event import E, Recorded, StreamName
from ..ports import Also, Page
from .checkpointing import Saver
from .delivery import Batched, Delivery, Folded, Handler, after_page
from .parking import Parking
from .run import LeftError, Run
from .settling import Settling, raised_by_handler


class Parts(Generic[E]):
    """What every way of handling works with."""

    def __init__(
        self,
        run: Run,
        saver: Saver[E],
        parking: Parking[E],
        settling: Settling[E],
        delivery: Delivery[E],
    ) -> None:
        self.run = run
        self.saver = saver
        self.parking = parking
        self.settling = settling
        self.due = delivery.checkpoint_due
        self.each = delivery.checkpoint_due is not after_page

    async def passed(self, position: int, head: int) -> None:
        """Note that everything up to *position* is done; save it if that is due."""
        run = self.run
        run.position = position
        if run.nearest <= position < head:  # the page's end tells the others
            run.advance(position)
        if self.each and self.due(self.saver.progress(page_ended=False)):
            await self.saver.save()


class Way(Protocol[E]):
    """One way to handle events."""

    async def deliver(self, page: Page[E], events: Sequence[Recorded[E]]) -> None:
        """Deal with all *events* of a page.

        Raises:
            LeftError: it was told to leave before the end.
            SubscriptionError: the policy stops the subscription.
        """
        ...

    async def again(
        self, recorded: Recorded[E], also: Sequence[Also]
    ) -> Exception | None:
        """Handle an event that was parked; write *also* with it, if it can.

        Gives the handler's error, or None.
        """
        ...


class OneByOne(Generic[E]):
    """The handler gets one event after the other."""

    def __init__(self, handle: Handler[E], parts: Parts[E]) -> None:
        self._handle = handle
        self._parts = parts

    async def deliver(self, page: Page[E], events: Sequence[Recorded[E]]) -> None:
        """Deal with all events of a page; the loop that everything's speed hangs on."""
        parts, run, handle = self._parts, self._parts.run, self._handle
        held, each, head = parts.parking.held, parts.each, page.head
        for recorded in events:
            position = recorded.position
            if run.held:
                raise LeftError
            if held and await parts.parking.behind(recorded, position):
                await parts.passed(position, head)
                continue
            try:
                await handle(recorded)
                run.handled += 1
            except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001
                await parts.settling.settle(
                    recorded, raised_by_handler(error), self.attempt, position
                )
            if each or run.nearest <= position:
                await parts.passed(position, head)
            else:
                run.position = position

    async def attempt(self, recorded: Recorded[E]) -> Exception | None:
        """Handle one event; give the handler's error, or None."""
        try:
            await self._handle(recorded)
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001
            return raised_by_handler(error)
        return None

    async def again(
        self, recorded: Recorded[E], also: Sequence[Also]
    ) -> Exception | None:
        """Handle an event that was parked."""
        del also  # nothing is written with it
        return await self.attempt(recorded)


class Folding(OneByOne[E]):
    """A View takes in one event after the other."""

    def __init__(self, folded: Folded[E], parts: Parts[E]) -> None:
        super().__init__(folded.handle, parts)
        self._folded = folded

    async def deliver(self, page: Page[E], events: Sequence[Recorded[E]]) -> None:
        """Deal with all events of a page."""
        await self._parts.run.patiently(self._folded.settle)
        await super().deliver(page, events)

    async def again(
        self, recorded: Recorded[E], also: Sequence[Also]
    ) -> Exception | None:
        """Handle an event that was parked, and write *also* with it."""
        return await self._folded.again(recorded, also)


class InParallel(OneByOne[E]):
    """Up to so many streams at a time; the events of each stay in order."""

    def __init__(self, handle: Handler[E], parts: Parts[E], max_streams: int) -> None:
        super().__init__(handle, parts)
        self._most = max_streams
        self.tasks: set[asyncio.Task[None]] = set()

    async def deliver(self, page: Page[E], events: Sequence[Recorded[E]]) -> None:
        """Deal with all events of a page; the first error ends it for all of them."""
        progress = _Progress(page, events)
        count = min(self._most, len(progress.ready))
        self.tasks = {
            asyncio.create_task(
                self._work(progress), name=f"{self._parts.run.name}:{n}"
            )
            for n in range(count)
        }
        working = self.tasks
        try:
            while working:
                done, working = await asyncio.wait(
                    working, return_when=asyncio.FIRST_EXCEPTION
                )
                for task in done:
                    if not isinstance(task.exception(), LeftError):
                        task.result()
        finally:
            await self._end()
        if progress.low < len(events):
            raise LeftError

    async def _end(self) -> None:
        tasks = {task for task in self.tasks if not task.done()}
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        self.tasks = set()

    async def _work(self, progress: _Progress[E]) -> None:
        """Take the earliest event whose stream nobody works on, until none is left.

        A stream that comes free has a worker, so whoever finds none may go.
        """
        parts = self._parts
        while progress.ready:
            if parts.run.held:
                raise LeftError
            index, later = heappop(progress.ready)
            recorded = progress.events[index]
            if not await parts.parking.behind(recorded, None):
                error = await self.attempt(recorded)
                if error is None:
                    parts.run.handled += 1
                else:
                    await parts.settling.settle(recorded, error, self.attempt, None)
            if later:
                heappush(progress.ready, (later.popleft(), later))
            position = progress.complete(index)
            if position is not None:
                await parts.passed(position, progress.head)


class _Progress(Generic[E]):
    """Which events of a page are done, and which can be taken."""

    def __init__(self, page: Page[E], events: Sequence[Recorded[E]]) -> None:
        self.events = events
        self.head = page.head
        self.low = 0  # all events before this one are done
        self._done = bytearray(len(events))
        streams: dict[StreamName, deque[int]] = {}
        for index, recorded in enumerate(events):
            streams.setdefault(recorded.stream, deque()).append(index)
        self.ready = [(lane.popleft(), lane) for lane in streams.values()]
        heapify(self.ready)

    def complete(self, index: int) -> int | None:
        """Note that an event is done; give the position that is reached, if it is new.

        It is the last of those before which all are done.
        """
        self._done[index] = 1
        if index != self.low:
            return None
        end = self._done.find(0, index)
        self.low = len(self.events) if end < 0 else end
        return self.events[self.low - 1].position


class InBatches(Generic[E]):
    """The handler gets a page's events together; a batch that fails is halved."""

    def __init__(self, batched: Batched[E], parts: Parts[E]) -> None:
        self._handle = batched.handle
        self._parts = parts

    async def deliver(self, page: Page[E], events: Sequence[Recorded[E]]) -> None:
        """Deal with all events of a page."""
        waiting = deque([events] if events else [])
        while waiting:
            if self._parts.run.held:
                raise LeftError
            await self._next(page, waiting)

    async def _next(self, page: Page[E], waiting: deque[Sequence[Recorded[E]]]) -> None:
        """Deal with the first batch that waits, or put its halves in its place."""
        parts, batch = self._parts, waiting.popleft()
        last = batch[-1]
        free = self._free(batch)
        if free < len(batch):
            waiting.appendleft(batch[free + (not free) :])
            if not waiting[0]:
                waiting.popleft()
            if not free:
                await parts.parking.behind(batch[0], batch[0].position)
                await parts.passed(batch[0].position, page.head)
                return
            batch = batch[:free]
            last = batch[-1]
        reached = last.position if waiting else page.reached
        error = await self.attempt(batch, reached)
        if error is None:
            parts.run.handled += len(batch)
        elif len(batch) == 1:
            await parts.settling.settle(last, error, self._one, last.position)
        else:
            waiting.extendleft((batch[len(batch) // 2 :], batch[: len(batch) // 2]))
            return
        await parts.passed(last.position, page.head)

    def _free(self, batch: Sequence[Recorded[E]]) -> int:
        """Count the events before the first whose stream is held."""
        parking = self._parts.parking
        if not parking.held:
            return len(batch)
        held = (n for n, recorded in enumerate(batch) if parking.holds(recorded))
        return next(held, len(batch))

    async def attempt(
        self, batch: Sequence[Recorded[E]], reached: int
    ) -> Exception | None:
        """Handle a batch; give the handler's error, or None."""
        del reached  # the checkpoint follows when it is due
        try:
            await self._handle(batch)
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001
            return raised_by_handler(error)
        return None

    async def _one(self, recorded: Recorded[E]) -> Exception | None:
        return await self.attempt((recorded,), recorded.position)

    async def again(
        self, recorded: Recorded[E], also: Sequence[Also]
    ) -> Exception | None:
        """Handle an event that was parked."""
        del also  # nothing is written with it
        return await self.attempt((recorded,), recorded.position)
