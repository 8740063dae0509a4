"""Deliver the log to a handler, from a checkpoint on, for as long as it runs.

One loop serves history and live events: read a page after the checkpoint, handle it,
save the checkpoint, wait for more. A wake-up that gets lost costs latency, no event.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Any, Generic, TypeVar

from ..core.errors import (
    CheckpointAheadError,
    EventTypeNotFoundError,
    SerializationError,
    SubscriptionError,
    SubscriptionStateError,
)
from ..core.event import E, Recorded
from ..ports import START, EventStore, Page
from .checkpointing import Saver
from .delivery import (
    AnyHandler,
    Batched,
    Delivery,
    State,
    Transactional,
    after_page,
)
from .handling import InBatches, InParallel, OneByOne, Parts, Way
from .letters import Letters
from .parking import Parking
from .run import PASSING, LeftError, Run, log, log_fields
from .settling import Settling
from .status import Status, status_of
from .transactional import InTransactions

T = TypeVar("T")


class Subscription(Generic[E]):
    """A running (or stopped) subscription; made by `subscribe`.

    `async with` starts it and stops it. Every matching event is handled at least once
    (with a `Transactional` handler: exactly once), in the order of its stream; the
    checkpoint never passes one that was neither handled, parked nor skipped by an
    explicit policy. A store that is not there is waited for.
    """

    def __init__(
        self,
        store: EventStore[E],
        name: str,
        handle: AnyHandler[E],
        delivery: Delivery[E],
    ) -> None:
        self.name = name
        self._store = store
        self._delivery = delivery
        self._run = run = Run(name)
        self._saver = Saver(store, run, delivery)
        self._parking = Parking(store, run, self._saver, delivery)
        settling = Settling(run, self._parking, delivery)
        parts = Parts(run, self._saver, self._parking, settling, delivery)
        self._way = _way_of(store, handle, delivery, parts)
        self._begun = False  # it knows where it is
        self._failure: Exception | None = None
        self._task: asyncio.Task[None] | None = None
        self._ahead: asyncio.Future[Page[E]] | None = None
        self._requests: deque[_Request] = deque()
        self._watcher: asyncio.TimerHandle | None = None
        self._seen = (0, 0.0)  # how far it was when the watcher saw it move last

    # What it has done, and how it is.

    @property
    def state(self) -> State:
        """What it is doing."""
        return self._run.state

    @property
    def position(self) -> int:
        """Everything up to here was handled, parked or skipped."""
        return self._run.position

    @property
    def handled(self) -> int:
        """How many events were handled since it was started."""
        return self._run.handled

    @property
    def failed(self) -> int:
        """How many attempts failed."""
        return self._run.failed

    @property
    def parked(self) -> int:
        """How many events were parked."""
        return self._run.parked

    @property
    def error(self) -> Exception | None:
        """Why it is in trouble; None: it is not."""
        return self._run.error

    @property
    def ended(self) -> bool:
        """Whether it delivers no more: stopped, or failed."""
        return self._run.ended

    @property
    def running(self) -> bool:
        """Whether it was started and has not ended."""
        return self._task is not None and not self.ended

    @property
    def healthy(self) -> bool:
        """Whether events flow, and their checkpoints are saved.

        It is not healthy in a retry, while its circuit is open or its store is not
        there, paused, or ended.
        """
        return self._run.sound and not self._saver.failing

    @property
    def ready(self) -> bool:
        """Whether it has caught up with the log once: what it builds can be used."""
        return self._run.ready

    @property
    def alive(self) -> bool:
        """Whether it runs, and no call of the handler takes longer than `stuck_after`.

        A subscription in trouble is alive as long as it waits and tries again.
        """
        if not self.running:
            return False
        limit = self._delivery.stuck_after.total_seconds()
        still = self._pace() == self._seen[0] and not self._run.idle
        return not still or asyncio.get_running_loop().time() - self._seen[1] < limit

    def status(self) -> Status:
        """Tell how it is doing, as far as it is known without asking the store."""
        return status_of(
            self._run,
            asyncio.get_running_loop().time(),
            checkpoint=self._saver.position,
            healthy=self.healthy,
            alive=self.alive,
        )

    async def measure(self) -> Status:
        """Tell how it is doing, with the head of the log and the lag as they are now.

        For one that does not read by itself: paused, waiting, stopped.

        Raises:
            StoreError: the store cannot say.
        """
        run = self._run
        page = await self._store.read_all(
            self._delivery.query, after=run.position, limit=1
        )
        run.head = max(run.head, page.head)
        if not run.events and not run.handling:
            run.events = page.events
        return self.status()

    @property
    def dead_letters(self) -> Letters[E]:
        """What it has parked: to look at, try again, or discard."""
        return Letters(
            self._store,
            self.name,
            self._way.again,
            between=self._between,
            ordered=self._delivery.hold_streams,
            keep=self._keep,
        )

    @property
    def runs_here(self) -> bool:
        """Whether the caller is the subscription's own handler."""
        current = asyncio.current_task()
        if current is None:
            return False
        return current is self._task or (
            isinstance(self._way, InParallel) and current in self._way.tasks
        )

    # Control.

    async def __aenter__(self) -> Subscription[E]:
        self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    def start(self) -> None:
        """Start delivering, in a task of its own.

        Raises:
            SubscriptionStateError: it was started before.
        """
        if self._task is not None:
            raise SubscriptionStateError(
                f"subscription {self.name!r} was started before"
            )
        self._task = asyncio.create_task(self.run(), name=f"evsrc:{self.name}")

    def pause(self) -> None:
        """Deliver nothing more, after the event in hand, until `resume`."""
        self._run.paused = True
        self._run.hold()
        self._run.state = State.PAUSED
        self._run.let_go()

    def resume(self) -> None:
        """Go on after `pause`."""
        if self._run.paused:
            self._run.paused = False
            self._run.attend.set()
            self._run.become(State.CATCHING_UP)

    async def stop(self, timeout: timedelta = timedelta(seconds=30)) -> None:
        """Finish what is in hand, save the checkpoint, end; within *timeout*.

        A handler that takes longer than four fifths of it is cancelled; its events are
        delivered again after the next start.
        """
        self._run.stopping = True
        self._run.hold()
        if self._task is None:
            self._run.end(State.STOPPED)
            return
        seconds = timeout.total_seconds()
        done, _ = await asyncio.wait([self._task], timeout=seconds * 0.8)
        if not done:
            self._task.cancel()
            await asyncio.wait([self._task], timeout=seconds * 0.2)

    async def caught_up(self, timeout: timedelta = timedelta(seconds=30)) -> None:
        """Return when everything that is in the log now has been handled.

        Raises:
            SubscriptionError: it failed or stopped before.
            TimeoutError: *timeout* is over.
        """
        await self.wait_for(await self._store.head(), timeout)

    async def wait_for(
        self, position: int, timeout: timedelta = timedelta(seconds=30)
    ) -> None:
        """Return when everything up to *position* has been handled.

        Raises:
            SubscriptionError: it failed or stopped before.
            TimeoutError: *timeout* is over.
        """
        if not self._run.reached(position):
            self._check_running()
            await self._run.wait(position, timeout)
            if self._run.position < position:
                self._check_running()

    async def settled(self, position: int, patience: timedelta) -> bool:
        """Wait for *position* while all goes well; False as soon as it does not.

        It does not when the subscription is paused, in a retry, or ended, or when the
        handler takes longer than *patience* for one event. In any case the wait is over
        after ten times that.
        """
        run, loop = self._run, asyncio.get_running_loop()
        deadline = loop.time() + 10 * patience.total_seconds()
        while not run.reached(position):
            if not run.sound or run.paused or loop.time() > deadline:
                return False
            handled, stuck = run.handled, run.handling
            with suppress(TimeoutError):
                await run.wait(position, patience, impatient=True)
                continue
            if stuck and run.handling and run.handled == handled:
                return False
        return True

    def _check_running(self) -> None:
        if self.ended:
            raise SubscriptionError(
                f"subscription {self.name!r} {self.state} at position {self.position}"
                + (f": {self.error!r}" if self.error else "")
            ) from self.error

    # The loop.

    async def run(self) -> None:
        """Deliver until `stop`, a Stop outcome, or an error that will not pass."""
        self._watch()
        try:
            while not self._run.stopping:
                try:
                    await self._turn()
                except LeftError:
                    self._drop_ahead()
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
        await self._parking.refresh()
        await self._deliver(page)
        if run.position < page.head:
            await asyncio.sleep(0)  # a store in memory never waits by itself
        else:
            await self._wait_for_more()

    async def _next_page(self) -> Page[E]:
        """Give the page to handle, and begin to read the one after it.

        The next page is read while this one's checkpoint is being committed.
        """
        ahead, self._ahead = self._ahead, None
        try:
            page = await (self._read(self._run.position) if ahead is None else ahead)
        except PASSING:
            page = await self._run.patiently(lambda: self._read(self._run.position))
        if page.head < self._run.position:
            raise CheckpointAheadError(self.name, self._run.position, page.head)
        if page.reached < page.head and not self._run.held:
            self._ahead = asyncio.ensure_future(self._read(page.reached))
        return page

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
        """Deal with all events of a page, and save the checkpoint if it is due."""
        run, saver = self._run, self._saver
        run.head = page.head
        if page.head > run.position and run.state is not State.CATCHING_UP:
            run.become(State.CATCHING_UP)
        run.events, run.handling = page.events, True
        try:
            await self._way.deliver(page, self._ours(page.events))
        finally:
            run.events, run.handling = (), False
            run.turns += 1
        if page.reached >= page.head:
            run.ready = True
            run.become(State.LIVE)
        run.advance(page.reached)
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
        run = self._run
        changed = asyncio.ensure_future(
            self._store.changed(run.position, timeout=self._delivery.poll)
        )
        attend = asyncio.ensure_future(run.attend.wait())
        run.idle = True
        try:
            done, _ = await asyncio.wait(
                (changed, attend), return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            run.idle = False
            run.turns += 1
            changed.cancel()
            attend.cancel()
        if changed in done:
            try:
                changed.result()  # a closed store ends the subscription
            except PASSING as error:
                await run.wait_out(error, 1)

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

    async def _between(self, work: Callable[[], Awaitable[T]]) -> T:
        """Do *work* when no event is in hand: now, or as soon as the loop can."""
        if not self.running or self.runs_here:
            return await work()
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

    async def _keep(self) -> None:
        """Save what a handler has made of an event that was parked.

        Checkpoints that are kept elsewhere may carry the state that it is in.
        """
        if not self._saver.own and self.running:
            await self._saver.commit(None)

    def _fail(self, error: Exception) -> None:
        self._failure = self._run.error = error
        self._run.note(error)
        fields = log_fields(self.name, position=self.position, error=error)
        log.error("subscription %r failed", self.name, extra=fields)

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
            fields = log_fields(self.name, position=self.position, error=error)
            log.warning("checkpoint of %r not saved", self.name, extra=fields)
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


def _way_of(
    store: EventStore[E], handle: AnyHandler[E], delivery: Delivery[E], parts: Parts[E]
) -> Way[E]:
    """Choose how events are handled; refuse what does not go together."""
    if isinstance(handle, (Batched, Transactional)) and delivery.max_streams > 1:
        raise ValueError(
            "several streams at once are for handlers of single events: a batch holds "
            "events of many streams"
        )
    match handle:
        case Transactional():
            if delivery.checkpoints or delivery.checkpoint_due is not after_page:
                raise ValueError(
                    "a Transactional handler's checkpoint is the store's own, and is "
                    "written with every page"
                )
            return InTransactions(store, handle, parts)
        case Batched():
            return InBatches(handle, parts)
        case _ if delivery.max_streams > 1:
            return InParallel(handle, parts, delivery.max_streams)
        case _:
            return OneByOne(handle, parts)


def subscribe(
    store: EventStore[E],
    name: str,
    handle: AnyHandler[E],
    delivery: Delivery[E] | None = None,
) -> Subscription[E]:
    """Make the subscription that gives every matching event to *handle*, in order.

    Args:
        store: the log to read.
        name: whose progress is kept; with a version ("cart-summary@2") if the meaning
            of what it builds may change.
        handle: gets each event, at least once; `Batched`: several at once;
            `Transactional`: exactly once, with what it writes in the store's database.
        delivery: which events, from where, and what to do about failures.

    Raises:
        ValueError: *handle* and *delivery* do not go together.

    >>> import asyncio
    >>> from evsrc.stores.memory import memory_store
    >>> async def main():
    ...     async with subscribe(memory_store(), "mail", print) as subscription:
    ...         await subscription.caught_up()
    >>> asyncio.run(main())
    """
    return Subscription(store, name, handle, delivery or Delivery())
