"""Deliver the log to a handler, from a checkpoint on, for as long as it runs.

One loop serves history and live events: read a page after the checkpoint, handle it,
save the checkpoint, wait for more. A wake-up that gets lost costs latency, no event.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
from contextlib import suppress
from datetime import timedelta
from typing import Final, Generic

from ..core.errors import (
    CheckpointAheadError,
    CheckpointError,
    StoreBusyError,
    SubscriptionError,
    SubscriptionStateError,
)
from ..core.event import E, Recorded
from ..core.policy import Failure, Park, Retry, Skip, Stop
from ..ports import START, EventStore, Page, SaveCheckpoint
from .delivery import Delivery, Handler, Parked, Progress, State, after_page

_log: Final = logging.getLogger("evsrc")


class _Waiter:
    """Somebody who waits for a position."""

    __slots__ = ("impatient", "position", "told")

    def __init__(self, position: int, *, impatient: bool) -> None:
        self.position = position
        self.impatient = impatient
        self.told = asyncio.Event()


class Subscription(Generic[E]):
    """A running (or stopped) subscription; made by `subscribe`.

    `async with` starts it and stops it. Every matching event is handled at least once,
    in order; the checkpoint never passes one that was neither handled, parked nor
    skipped by an explicit policy.
    """

    def __init__(
        self,
        store: EventStore[E],
        name: str,
        handle: Handler[E],
        delivery: Delivery[E],
    ) -> None:
        if delivery.page < 1:
            raise ValueError(f"a page has at least 1 event, not {delivery.page!r}")
        self.name = name
        self.state = State.STARTING
        self.position = START
        self.handled = 0
        self.failed = 0
        self.parked = 0
        self.error: Exception | None = None
        self._failure: Exception | None = None
        self._store = store
        self._handle = handle
        self._delivery = delivery
        self._checkpoints = delivery.checkpoints or store.checkpoints
        self._saved: int | None = None  # None: not known to be anywhere
        self._saved_at = 0.0
        self._since_save = 0
        self._task: asyncio.Task[None] | None = None
        self._stopping = asyncio.Event()
        self._running = asyncio.Event()
        self._running.set()
        self._held = False  # stopping or paused
        self._ahead: asyncio.Future[Page[E]] | None = None
        self._handling = False  # inside the handler
        self._waiting: asyncio.Task[None] | None = None  # for more to read
        self._waiters: set[_Waiter] = set()
        self._nearest: float = math.inf  # the first position that somebody waits for

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

    @property
    def ended(self) -> bool:
        """Whether it delivers no more: stopped, or failed."""
        return self.state in (State.STOPPED, State.FAILED)

    @property
    def running(self) -> bool:
        """Whether it was started and has not ended."""
        return self._task is not None and not self.ended

    @property
    def healthy(self) -> bool:
        """Whether events flow: not failed, not in a retry, not paused, not ended."""
        return self.state in (State.STARTING, State.CATCHING_UP, State.LIVE)

    @property
    def runs_here(self) -> bool:
        """Whether the caller is the subscription's own handler."""
        return self._task is not None and asyncio.current_task() is self._task

    def pause(self) -> None:
        """Deliver nothing more, after the event in hand, until `resume`."""
        self._running.clear()
        self._held = True
        self.state = State.PAUSED
        self._let_go()

    def resume(self) -> None:
        """Go on after `pause`."""
        if not self._running.is_set():
            self._running.set()
            self._held = self._stopping.is_set()
            self._become(State.CATCHING_UP)

    async def stop(self, timeout: timedelta = timedelta(seconds=30)) -> None:
        """Finish the event in hand, save the checkpoint, end; within *timeout*.

        A handler that takes longer than four fifths of it is cancelled; its event is
        delivered again after the next start.
        """
        self._stopping.set()
        self._held = True
        self._running.set()
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.cancel()
        if self._task is None:
            self._end(State.STOPPED)
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
        if not self._has_reached(position):
            self._check_alive()
            await self._reached(position, timeout)
            if self.position < position:
                self._check_alive()

    async def settled(self, position: int, patience: timedelta) -> bool:
        """Wait for *position* while all goes well; False as soon as it does not.

        It does not when the subscription is paused, in a retry, or ended, or when the
        handler takes longer than *patience* for one event. In any case the wait is over
        after ten times that.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + 10 * patience.total_seconds()
        while not self._has_reached(position):
            if not self.healthy or not self._running.is_set() or loop.time() > deadline:
                return False
            handled, stuck = self.handled, self._handling
            with suppress(TimeoutError):
                await self._reached(position, patience, impatient=True)
                continue
            if stuck and self._handling and self.handled == handled:
                return False
        return True

    async def _reached(
        self, position: int, timeout: timedelta, *, impatient: bool = False
    ) -> None:
        """Wait until *position* is handled, or it ends; impatient: or is in trouble."""
        waiter = _Waiter(position, impatient=impatient)
        self._waiters.add(waiter)
        self._nearest = min(self._nearest, position)
        try:
            async with asyncio.timeout(timeout.total_seconds()):
                await waiter.told.wait()
        finally:
            self._waiters.discard(waiter)
            self._nearest = min((w.position for w in self._waiters), default=math.inf)

    def _has_reached(self, position: int) -> bool:
        return self.position >= position and self.state is not State.STARTING

    def _check_alive(self) -> None:
        if self.ended:
            raise SubscriptionError(
                f"subscription {self.name!r} {self.state} at position {self.position}"
                + (f": {self.error!r}" if self.error else "")
            ) from self.error

    # The loop.

    async def run(self) -> None:
        """Deliver until `stop`, a Stop outcome, or an error of the store."""
        try:
            await self._begin()
            while not self._stopping.is_set():
                await self._running.wait()
                page = await self._next_page()
                if not await self._deliver(page):
                    self._drop_ahead()
                    continue
                if self.position < page.head:
                    await asyncio.sleep(0)  # a store in memory never waits by itself
                else:
                    await self._wait_for_more()
        except asyncio.CancelledError:
            if not self._stopping.is_set():
                self._end(State.STOPPED)
                raise
        except Exception as error:  # noqa: BLE001 - it ends here, for all to see
            self._failure = self.error = error
            _log.exception("subscription %r failed at %d", self.name, self.position)
        except BaseException:
            self._end(State.FAILED)
            raise
        finally:
            self._drop_ahead()
        await self._finish()

    async def _begin(self) -> None:
        start = self._delivery.start
        if start == "checkpoint":
            saved = await self._checkpoints.load(self.name)
            self.position = START if saved is None else saved.position
            self._saved = self.position
        elif start == "end":
            self.position = await self._store.head()
        else:
            self.position = START if isinstance(start, str) else start
        self._saved_at = asyncio.get_running_loop().time()
        self._become(State.CATCHING_UP)
        self._pass(self.position)

    async def _next_page(self) -> Page[E]:
        """Give the page to handle, and begin to read the one after it.

        The next page is read while this one's checkpoint is being committed.
        """
        ahead, self._ahead = self._ahead, None
        page = await (self._read(self.position) if ahead is None else ahead)
        if page.head < self.position:
            raise CheckpointAheadError(self.name, self.position, page.head)
        if page.reached < page.head and not self._held:
            self._ahead = asyncio.ensure_future(self._read(page.reached))
        return page

    def _drop_ahead(self) -> None:
        """Forget the page that is being read ahead, and what may go wrong with it."""
        ahead, self._ahead = self._ahead, None
        if ahead is not None:
            ahead.add_done_callback(lambda read: read.cancelled() or read.exception())
            ahead.cancel()

    async def _read(self, after: int) -> Page[E]:
        attempt = 0
        while not self._stopping.is_set():
            try:
                return await self._store.read_all(
                    self._delivery.query, after=after, limit=self._delivery.page
                )
            except StoreBusyError as error:
                attempt += 1
                self._become(State.RETRYING, error)
                await self._rest(min(0.1 * 2**attempt, 5.0))
        return Page((), after, after)

    async def _deliver(self, page: Page[E]) -> bool:
        """Handle a page; False if it was left before its end."""
        if page.head > self.position and self.state is not State.CATCHING_UP:
            self._become(State.CATCHING_UP)
        due, handle = self._delivery.checkpoint_due, self._handle
        each = due is not after_page
        for recorded in page.events:
            if self._held:
                return False
            self._handling = True
            try:
                await handle(recorded)
                self.handled += 1
            except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001
                if not await self._settle(recorded, _raised_by_handler(error)):
                    return False
            self._handling = False
            self.position = recorded.position
            self._since_save += 1
            if self._nearest <= recorded.position < page.head:
                self._pass(recorded.position)
            if each and due(self._progress(page_ended=False)):
                await self._save()
        if page.reached >= page.head:
            self._become(State.LIVE)
        self._pass(page.reached)
        moved = (
            self._since_save
            or self.position - (self._saved or 0) >= self._delivery.page
        )
        if moved and due(self._progress(page_ended=True)):
            await self._save()
        return True

    async def _settle(self, recorded: Recorded[E], error: Exception) -> bool:
        """Follow the policy for a failed event; False: left unhandled to stop."""
        attempt = 1
        while True:
            self.failed += 1
            self._become(State.RETRYING, error)
            match self._delivery.on_failure(Failure(error, attempt)):
                case Retry(delay, jitter):
                    chance = 1 + jitter * random.uniform(-1, 1)  # noqa: S311
                    await self._rest(delay.total_seconds() * chance)
                    if self._stopping.is_set():
                        return False
                    attempt += 1
                    try:
                        await self._handle(recorded)
                        self.handled += 1
                        break
                    except (Exception, asyncio.CancelledError) as again:  # noqa: BLE001
                        error = _raised_by_handler(again)
                case Skip():
                    _log.warning("%r skips %s: %r", self.name, recorded.id, error)
                    break
                case Park():
                    await self._park(recorded, error, attempt)
                    break
                case Stop():
                    raise SubscriptionError(
                        f"subscription {self.name!r} stopped before position "
                        f"{recorded.position} ({recorded.type} of '{recorded.stream}') "
                        f"after {attempt} attempts: {error!r}"
                    ) from error
        self._become(State.CATCHING_UP)
        return True

    async def _park(
        self, recorded: Recorded[E], error: Exception, attempts: int
    ) -> None:
        if self._delivery.park is None:
            raise SubscriptionError(
                f"subscription {self.name!r} has nowhere to park position "
                f"{recorded.position}: give it `park`"
            ) from error
        await self._delivery.park(Parked(self.name, recorded, error, attempts))
        self.parked += 1

    async def _wait_for_more(self) -> None:
        """Wait for the store, or for `stop`, which cancels the wait.

        There is no task for each of the two: they would cost as much as the read.
        """
        self._waiting = waiting = asyncio.current_task()
        try:
            if not self._stopping.is_set():
                await self._store.changed(self.position, timeout=self._delivery.poll)
        except asyncio.CancelledError:
            # ours is taken back; that of somebody else goes on
            if self._waiting is not None or waiting is None or waiting.uncancel():
                raise
        finally:
            self._waiting = None

    async def _rest(self, seconds: float) -> None:
        """Sleep, but not through a stop."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stopping.wait()

    # Bookkeeping.

    def _progress(self, *, page_ended: bool) -> Progress:
        seconds = asyncio.get_running_loop().time() - self._saved_at
        return Progress(self._since_save, seconds, page_ended)

    async def _save(self) -> None:
        known, self._saved = self._saved, None  # unknown while it is under way
        change = SaveCheckpoint(self.name, self.position, after=known)
        try:
            await self._checkpoints.save(change)
        except StoreBusyError as error:  # handled all the same; the next one saves it
            self._saved = known
            _log.warning("checkpoint of %r not saved: %s", self.name, error)
            return
        except CheckpointError:
            self._saved = self.position  # it is another worker's now: leave it alone
            raise
        self._saved = change.position
        self._saved_at = asyncio.get_running_loop().time()
        self._since_save = 0

    async def _finish(self) -> None:
        try:
            if self.state is not State.STARTING and self.position != self._saved:
                await self._save()
        except Exception as error:  # noqa: BLE001 - e.g. the store is closed already
            self._failure = self.error = self._failure or error
            _log.warning("checkpoint of %r not saved: %s", self.name, error)
        finally:
            self._end(State.STOPPED if self._failure is None else State.FAILED)

    def _pass(self, position: int) -> None:
        self.position = max(self.position, position)
        for waiter in self._waiters:
            if waiter.position <= self.position:
                waiter.told.set()

    def _become(self, state: State, error: Exception | None = None) -> None:
        paused = not self._running.is_set() and error is None
        self.state, self.error = State.PAUSED if paused else state, error
        if state is State.RETRYING:
            self._let_go()

    def _end(self, state: State) -> None:
        self.state = state
        for waiter in self._waiters:
            waiter.told.set()

    def _let_go(self) -> None:
        """Release those who only wait while all goes well."""
        for waiter in self._waiters:
            if waiter.impatient:
                waiter.told.set()


def _raised_by_handler(error: BaseException) -> Exception:
    """Give the handler's error; a cancellation of the subscription itself goes on."""
    if isinstance(error, Exception):
        return error
    task = asyncio.current_task()
    if task is None or task.cancelling():
        raise error
    return SubscriptionError("the handler raised CancelledError")


def subscribe(
    store: EventStore[E],
    name: str,
    handle: Handler[E],
    delivery: Delivery[E] | None = None,
) -> Subscription[E]:
    """Make the subscription that gives every matching event to *handle*, in order.

    Args:
        store: the log to read.
        name: whose progress is kept; with a version ("cart-summary@2") if the meaning
            of what it builds may change.
        handle: gets each event, at least once.
        delivery: which events, from where, and what to do about failures.

    >>> import asyncio
    >>> from evsrc.stores.memory import memory_store
    >>> async def main():
    ...     async with subscribe(memory_store(), "mail", print) as subscription:
    ...         await subscription.caught_up()
    >>> asyncio.run(main())
    """
    return Subscription(store, name, handle, delivery or Delivery())
