"""Read a page after the checkpoint, deal with it, save where it is, wait for more."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Generic, TypeVar

from ..core.errors import (
    CheckpointAheadError,
    EventTypeNotFoundError,
    SerializationError,
)
from ..core.event import E, Recorded
from ..core.expectation import ALL, asks_for
from ..ports import START, AtHand, EventStore, Page
from .checkpointing import Saver
from .delivery import Delivery, State
from .handling import Folding, Way
from .parking import Parking
from .run import PASSING, LeftError, Run, log, log_fields
from .transactional import InTransactions

T = TypeVar("T")


class Loop(Generic[E]):
    """The task of one subscription. It owns the position; nobody else moves it."""

    def __init__(
        self,
        store: EventStore[E],
        delivery: Delivery[E],
        run: Run,
        saver: Saver[E],
        parking: Parking[E],
        way: Way[E],
    ) -> None:
        self._store = store
        self._delivery = delivery
        self._run = run
        self._saver = saver
        self._parking = parking
        self._way = way
        self._begun = False  # it knows where it is
        self._failure: Exception | None = None
        self._ahead: asyncio.Future[Page[E]] | None = None
        self._at_hand: AtHand[E] | None = None  # what came while it waited
        self._requests: deque[_Request] = deque()
        self._watcher: asyncio.TimerHandle | None = None
        self._seen = (0, 0.0)  # how far it was when the watcher saw it move last

    @property
    def moves(self) -> bool:
        """Whether it waits on purpose, or has done something within `stuck_after`."""
        limit = self._delivery.stuck_after.total_seconds()
        still = self._pace() == self._seen[0] and not self._run.idle
        return not still or asyncio.get_running_loop().time() - self._seen[1] < limit

    async def run(self) -> None:
        """Deliver until `stop`, a Stop outcome, or an error that will not pass."""
        self._watch()
        try:
            while not self._run.stopping:
                try:
                    await self._turn()
                except LeftError:
                    self._drop_ahead()
                if self._run.held:
                    await self._attend()
        except asyncio.CancelledError:
            if not self._run.stopping:
                self._run.end(State.STOPPED)
                raise
        except Exception as error:  # noqa: BLE001 - it ends here, for all to see
            self._fail(error)
        except BaseException:
            self._run.end(State.FAILED)
            raise
        finally:
            self._leave()
        await self._finish()

    async def _begin(self) -> None:
        run, start = self._run, self._delivery.start
        exact = isinstance(self._way, InTransactions)
        saved = await self._saver.begin(load=start == "checkpoint" or exact)
        if start == "checkpoint":
            run.position = saved or START
        elif start == "end":
            run.position = await run.patiently(self._store.head)
        else:
            run.position = START if isinstance(start, str) else start
        if exact and run.position != saved:
            await run.patiently(lambda: self._saver.commit(None))
        await self._parking.refresh(all=True)
        self._begun = True
        self._sample()
        run.become(State.CATCHING_UP)
        run.advance(run.position)

    async def _turn(self) -> None:
        """Read a page and deal with it; wait for more if it was the last one."""
        run = self._run
        if not self._begun:
            await self._begin()
        page = await self._next_page()
        if self._parking.held:
            await self._parking.refresh()
        delivering, head = self._deliver(page), page.head
        del page  # see there
        await delivering
        if run.position < head:
            await asyncio.sleep(0)  # a store in memory never waits by itself
        else:
            await self._wait_for_more()

    async def _next_page(self) -> Page[E]:
        """Give the page to handle, and begin to read the one after it.

        The next page is read while this one is handled and its checkpoint committed.
        """
        at_hand, self._at_hand = self._at_hand, None
        if at_hand is not None and self._fits(at_hand):
            return self._asked_for(at_hand.page)
        ahead, self._ahead = self._ahead, None
        try:
            page = await (self._read(self._run.position) if ahead is None else ahead)
        except PASSING:
            page = await self._run.patiently(lambda: self._read(self._run.position))
        if page.head < self._run.position:
            raise CheckpointAheadError(self._run.name, self._run.position, page.head)
        if page.reached < page.head and not self._run.held:
            self._ahead = asyncio.ensure_future(self._read(page.reached))
            await asyncio.sleep(0)  # or it would begin only when a handler waits
        return page

    def _fits(self, at_hand: AtHand[E]) -> bool:
        """Tell whether that is the next page, as it would be read here."""
        events = at_hand.page.events
        follows = events and events[0].position == self._run.position + 1
        same = at_hand.read_all == self._store.read_all
        return bool(follows and same and len(events) <= self._delivery.page)

    def _asked_for(self, page: Page[E]) -> Page[E]:
        """Leave out what the subscription does not ask for."""
        query = self._delivery.query
        if query == ALL:
            return page
        events = [recorded for recorded in page.events if asks_for(query, recorded)]
        return Page(tuple(events), page.reached, page.head)

    async def _read(self, after: int) -> Page[E]:
        """Read a page; one that cannot be decoded is read up to the event before.

        Raises:
            SerializationError, EventTypeNotFoundError: the next event cannot be read.
            StoreError: the store could not read.
        """
        limit = self._delivery.page
        while True:
            try:
                return await self._store.read_all(
                    self._delivery.query, after=after, limit=limit
                )
            except (SerializationError, EventTypeNotFoundError):
                if limit == 1:
                    raise
                limit //= 2

    def _drop_ahead(self) -> None:
        """Forget the page that is being read ahead, and what may go wrong with it."""
        ahead, self._ahead = self._ahead, None
        if ahead is not None:
            ahead.add_done_callback(lambda read: read.cancelled() or read.exception())
            ahead.cancel()

    async def _deliver(self, page: Page[E]) -> None:
        """Deal with all events of a page, and save the checkpoint if it is due.

        The events are let go before that: while it is being saved the next page is
        decoded, in the memory that they had, and the collector has less to look at.
        """
        run, saver = self._run, self._saver
        run.head = page.head
        last = page.reached >= page.head
        if page.head > run.position and not (last and run.state is State.LIVE):
            run.become(State.CATCHING_UP)
        run.events, run.handling = page.events, True
        try:
            await self._way.deliver(page, self._ours(page.events))
        finally:
            run.events, run.handling = (), False
            run.turns += 1
        if last:
            run.ready = True
            run.become(State.LIVE)
        run.advance(page.reached)
        del page
        self._sample()
        if self._moved() and self._delivery.checkpoint_due(
            saver.progress(page_ended=True)
        ):
            await saver.save()

    def _ours(self, events: tuple[Recorded[E], ...]) -> Sequence[Recorded[E]]:
        ours = self._delivery.streams
        return events if ours is None else [r for r in events if ours(r.stream)]

    def _moved(self) -> bool:
        """Tell whether there is something to save: events, or a page without any."""
        saved, position = self._saver.position, self._run.position
        if position == saved:
            return False
        return self._saver.unsaved > 0 or position - (saved or 0) >= self._delivery.page

    async def _wait_for_more(self) -> None:
        """Wait for the store, or for `hold`, which cancels the wait.

        There is no task for each of the two: they would cost as much as the read.
        """
        run, task, failed = self._run, asyncio.current_task(), None
        if run.attend.is_set():
            return
        before = 0 if task is None else task.cancelling()
        run.idle, run.waiting = True, task
        try:
            self._at_hand = await self._store.changed(
                run.position, timeout=self._delivery.poll
            )
        except asyncio.CancelledError:
            # ours is taken back; that of somebody else goes on
            if run.waiting is not None or task is None or task.uncancel() > before:
                raise
        except PASSING as error:  # a closed store ends the subscription
            failed = error
        finally:
            run.idle, run.waiting = False, None
            run.turns += 1
        if failed is not None:
            await run.wait_out(failed, 1)

    async def _attend(self) -> None:
        """Do what was asked for between two pages; wait while it is paused."""
        run = self._run
        while run.held and not run.stopping:
            run.attend.clear()
            while self._requests:
                await self._requests.popleft().serve()
            run.held = run.paused or run.stopping
            if run.paused and not self._requests:
                run.idle = True
                await run.attend.wait()
                run.idle = False
            run.held = run.paused or run.stopping or bool(self._requests)
            if not run.held:  # what called for attention has had it
                run.attend.clear()

    async def between(self, work: Callable[[], Awaitable[T]]) -> T:
        """Do *work* between two pages, as soon as that can be."""
        request = _Request(work)
        self._requests.append(request)
        self._run.hold()
        answer: T = await request.answer
        return answer

    # Bookkeeping.

    def _sample(self) -> None:
        now = asyncio.get_running_loop().time()
        self._run.samples.append((now, self._run.done, self._run.position))

    def _pace(self) -> int:
        return self._run.turns + self._run.done + self._run.failed

    def _watch(self) -> None:
        """Look from time to time whether it gets on; costs the events nothing."""
        loop, pace = asyncio.get_running_loop(), self._pace()
        if pace != self._seen[0] or self._run.idle or self._seen[1] == 0:
            self._seen = (pace, loop.time())
        wait = self._delivery.stuck_after.total_seconds() / 4
        self._watcher = loop.call_later(wait, self._watch)

    async def keep(self) -> None:
        """Save what a handler has made of an event that was parked.

        Checkpoints that are kept elsewhere may carry the state that it is in; a View's
        is stored already.
        """
        kept = self._saver.own or isinstance(self._way, Folding)
        if self._begun and not kept:
            await self._saver.commit(None)

    def _fail(self, error: Exception) -> None:
        self._failure = self._run.error = error
        self._run.note(error)
        fields = log_fields(self._run.name, position=self._run.position, error=error)
        log.error("subscription %r failed", self._run.name, extra=fields)

    def _leave(self) -> None:
        self._drop_ahead()
        if self._watcher is not None:
            self._watcher.cancel()

    async def _finish(self) -> None:
        """Save the checkpoint a last time; end."""
        run, saver = self._run, self._saver
        try:
            while self._requests:
                await self._requests.popleft().serve()
            if self._begun and not saver.lost and run.position != saver.position:
                await self._save_at_last()
        except Exception as error:  # noqa: BLE001 - e.g. the store is closed already
            self._failure = run.error = self._failure or error
            run.note(error)
            fields = log_fields(
                self._run.name, position=self._run.position, error=error
            )
            log.warning("checkpoint of %r not saved", self._run.name, extra=fields)
        finally:
            run.end(State.STOPPED if self._failure is None else State.FAILED)

    async def _save_at_last(self) -> None:
        """Save the checkpoint; a store that is busy gets a few chances."""
        for pause in (0.05, 0.2, 0.8):
            try:
                return await self._saver.commit(None)
            except PASSING:
                await asyncio.sleep(pause)
        return await self._saver.commit(None)


class _Request:
    """Something that is to be done between two pages, and its answer."""

    def __init__(self, work: Callable[[], Awaitable[Any]]) -> None:
        self._work = work
        self.answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    async def serve(self) -> None:
        if self.answer.done():  # whoever asked has gone
            return
        try:
            result = await self._work()
        except Exception as error:  # noqa: BLE001 - it is the asker's
            if not self.answer.done():
                self.answer.set_exception(error)
        except BaseException:
            self.answer.cancel()
            raise
        else:
            if not self.answer.done():
                self.answer.set_result(result)
