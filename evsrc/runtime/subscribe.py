"""Deliver the log to a handler, from a checkpoint on, for as long as it runs.

One loop serves history and live events: read a page after the checkpoint, handle it,
save the checkpoint, wait for more. A wake-up that gets lost costs latency, no event.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Generic, TypeVar

from ..core.errors import SubscriptionError, SubscriptionStateError
from ..core.event import E, Recorded
from ..ports import Also, EventStore
from .checkpointing import Saver
from .delivery import (
    AnyHandler,
    Batched,
    Delivery,
    Folded,
    State,
    Transactional,
    after_page,
)
from .handling import Folding, InBatches, InParallel, OneByOne, Parts, Way
from .letters import Letters
from .loop import Loop
from .parking import Parking
from .run import Run
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
        handle: AnyHandler[E] | Folded[E],
        delivery: Delivery[E],
    ) -> None:
        self.name = name
        self._store = store
        self._delivery = delivery
        self._run = run = Run(name)
        self._saver = Saver(store, run, delivery)
        parking = Parking(store, run, self._saver, delivery)
        settling = Settling(run, parking, delivery)
        parts = Parts(run, self._saver, parking, settling, delivery)
        self._way = _way_of(store, handle, delivery, parts)
        self._loop = Loop(store, delivery, run, self._saver, parking, self._way)
        self._task: asyncio.Task[None] | None = None

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
    def lag(self) -> int:
        """How many positions it is behind the log's head, as it saw that last."""
        return max(self._run.head - self._run.position, 0)

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
        return self.running and self._loop.moves

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
            keep=self._loop.keep,
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

    async def stop(self, timeout: timedelta = timedelta(seconds=30)) -> bool:
        """Finish what is in hand, save the checkpoint, end; within *timeout*.

        A handler that takes longer than four fifths of it is cancelled; its events are
        delivered again after the next start. Gives False if one was.
        """
        self._run.stopping = True
        self._run.hold()
        if self._task is None:
            self._run.end(State.STOPPED)
            return True
        seconds = timeout.total_seconds()
        done, _ = await asyncio.wait([self._task], timeout=seconds * 0.8)
        if not done:
            self._task.cancel()
            await asyncio.wait([self._task], timeout=seconds * 0.2)
        return bool(done)

    async def join(self) -> None:
        """Return when it delivers no more: it was stopped, or has failed."""
        if self._task is not None:
            await asyncio.wait([self._task])

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

    async def handle_again(
        self, recorded: Recorded[E], also: Sequence[Also] = ()
    ) -> Exception | None:
        """Give an event to the handler once more; give the handler's error, or None.

        It is done between two pages. For events that were put aside with a `park` of
        your own; the others have `dead_letters`. *also* is written or checked in the
        transaction of a `Transactional` handler; others have none.
        """
        return await self._between(lambda: self._handle_again(recorded, also))

    async def _handle_again(
        self, recorded: Recorded[E], also: Sequence[Also]
    ) -> Exception | None:
        error = await self._way.again(recorded, also)
        if error is None:
            await self._loop.keep()
        return error

    async def _between(self, work: Callable[[], Awaitable[T]]) -> T:
        """Do *work* when no event is in hand: now, or as soon as the loop can."""
        if not self.running or self.runs_here:
            return await work()
        return await self._loop.between(work)

    async def run(self) -> None:
        """Deliver until `stop`, a Stop outcome, or an error that will not pass."""
        await self._loop.run()


def _way_of(
    store: EventStore[E],
    handle: AnyHandler[E] | Folded[E],
    delivery: Delivery[E],
    parts: Parts[E],
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
        case Folded():
            return Folding(handle, parts)
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
