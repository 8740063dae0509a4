"""A worker of a simulation: code that a crash can end at any await.

`simulation` says how it is used.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from contextvars import ContextVar, copy_context
from dataclasses import replace
from datetime import timedelta
from itertools import count
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar
from uuid import NAMESPACE_OID, uuid5

from ..core.decider import Decider
from ..core.errors import OptimisticLockError, StoreError
from ..core.event import Metadata, NewEvent, Recorded, StreamName
from ..core.policy import Failure, Outcome, Skip
from ..core.snapshot import Snapshotting
from ..core.view import View
from ..ports import EventStore
from ..runtime.delivery import Delivery, Handler, Parked
from ..runtime.project import project
from ..runtime.projection import ViewProjection
from ..runtime.subscribe import Subscription, subscribe
from ..runtime.transact import Decided, transact
from .faults import Call, intercepted
from .history import Decision, Life, Subscribed

if TYPE_CHECKING:
    from .world import World

S = TypeVar("S")
C = TypeVar("C")
T = TypeVar("T")
_A_WHILE: Final = timedelta(seconds=1)
_BEYOND: Final = 2**62  # a position that no log reaches

owner: ContextVar[Worker | None] = ContextVar("owner", default=None)
"""The worker whose code runs; None: the world's own."""
_command: ContextVar[str | None] = ContextVar("command", default=None)


class Crash(BaseException):
    """The process has ended; what is left of its code gets this from the store."""


class Worker:
    """A process of its own, as far as the simulation goes.

    Attributes:
        name: whose work it does; the next life has the same.
        world: where it lives.
        store: the store as this worker sees it: far away, unreliable, and gone with it.
    """

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.store: EventStore[Any] = intercepted(world.raw, self._around)
        self.tasks: list[asyncio.Task[Any]] = []
        self._crash: asyncio.Future[None] | None = None
        self._dead = False
        self._commands = count(1)

    # Life and death.

    async def live(self, work: Work) -> BaseException | None:
        """Do the work; give the error that ended it, if one did."""
        crash = self._crash = asyncio.get_running_loop().create_future()
        task = start(work(self), self)
        await asyncio.wait([task, crash], return_when=asyncio.FIRST_COMPLETED)
        if crash.done():
            return Crash()
        self.die()
        return None if task.cancelled() else task.exception()

    @property
    def alive(self) -> bool:
        """Whether it has begun, and has neither ended nor crashed."""
        return self._crash is not None and not self._dead

    def die(self) -> None:
        """Drop all tasks; whatever they still try, nothing of it reaches the store."""
        self._dead = True
        if self._crash is not None and not self._crash.done():
            self._crash.set_result(None)
        for task in self.tasks:
            task.add_done_callback(seen)
            task.cancel()

    def _check_alive(self) -> None:
        if self._dead:
            raise Crash

    async def _around(self, port: str, call: Call, /) -> Any:
        self._check_alive()
        if port == "changed":
            if not self.world.is_deaf():
                return await call()
            return await asyncio.sleep(call.keywords["timeout"].total_seconds())
        key = _command.get()
        return await self.world.heard(self.name, port, call, self._request, key)

    async def _request(self, who: str, port: str, call: Call) -> Any:
        sending = self.world.request(who, port, call)
        await asyncio.wait([sending])
        self._check_alive()
        return sending.result()

    # What work is made of.

    async def transact(
        self,
        decider: Decider[S, C, Any],
        stream: StreamName,
        command: C,
        *,
        key: str | None = None,
        **options: Any,
    ) -> Decided[S, Any]:
        """Decide a command until it is answered, as a client does that sends it again.

        A store that is busy, or does not answer, is asked again, with the same event
        ids; so is the next life after a crash. The answer is given to later lives, too.

        Args:
            decider: the domain.
            stream: which stream.
            command: what is wanted.
            key: of the command, the same in each life and unique in the world; by
                default the worker's name and the number of the call.
            options: of `evsrc.transact`, such as a cache.

        Raises:
            Exception: what the domain refuses the command with.
        """
        key = key or f"{self.name}/{next(self._commands)}"
        if key not in self.world.answers:
            self.world.answers[key] = await self._ask(
                key, decider, stream, command, options
            )
        answer: Decided[S, Any] | Exception = self.world.answers[key]
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def _ask(
        self,
        key: str,
        decider: Decider[S, C, Any],
        stream: StreamName,
        command: C,
        options: dict[str, Any],
    ) -> Decided[S, Any] | Exception:
        world = self.world
        answer: Decided[S, Any] | Exception | None = None
        numbered, envelop = _with_ids(decider, key)
        token = _command.set(key)
        decision = Decision(self.name, decider, stream, command, world.head)
        while answer is None:
            decision.head_before = world.head
            try:
                answer = await transact(
                    self.store, numbered, stream, command, envelop=envelop, **options
                )
            except (StoreError, OptimisticLockError):
                await world.pause()
            except Exception as refusal:  # noqa: BLE001 - it is the domain's
                answer = decision.refusal = refusal
        _command.reset(token)
        decision.head_after = world.head
        if isinstance(answer, Decided) and answer.events:
            last = next(a for a in reversed(world.history.attempts) if a.command == key)
            decision.ids = [new.id for new in last.events]
            decision.repeated = getattr(last.outcome, "repeated", False)
        world.history.decisions.append(decision)
        return answer

    async def subscribe(
        self, name: str, handle: Handler[Any], delivery: Delivery[Any] | None = None
    ) -> None:
        """Run a subscription until the world is over.

        Args:
            name: of the subscription.
            handle: gets each event; a crash may come before, during and after it. With
                `max_streams` the order of each stream is checked, else of all.
            delivery: as for `evsrc.subscribe`. `checkpoints` are to be the store's.

        Raises:
            SubscriptionError: the subscription has failed.
        """
        life, delivery = self._begun(name, delivery or Delivery())

        async def noted(recorded: Recorded[Any]) -> None:
            life.handling[recorded.stream] += 1
            if life.handling[recorded.stream] > 1:
                life.overlaps.add(recorded.stream)
            try:
                await self.world.pause()
                self._check_alive()
                await handle(recorded)
                self._check_alive()
            except Exception as error:
                life.failed[id(error)] = recorded.position
                raise
            finally:
                life.handling[recorded.stream] -= 1
            self._done(life, recorded.position)

        await self._follow(subscribe(self.store, name, noted, delivery))

    async def project(
        self,
        name: str,
        view: View[S, Recorded[Any]],
        keep: Snapshotting[S],
        delivery: Delivery[Any] | None = None,
    ) -> None:
        """Run a projection until the world is over, as `evsrc.project` would.

        Raises:
            SubscriptionError: its subscription has failed.
        """
        life, delivery = self._begun(name, delivery or Delivery())
        self.world.history.projections[name] = view, keep

        def noted(state: S, recorded: Recorded[Any]) -> S:
            self._check_alive()
            after = view.evolve(state, recorded)
            self._done(life, recorded.position)
            return after

        definition = ViewProjection(
            name=name, view=View(view.initial, noted), keep=keep, query=delivery.query
        )
        await self._follow(project(self.store, definition, delivery).subscription)

    def _done(self, life: Life, position: int) -> None:
        life.done.append((position, self.world.moment()))

    def _begun(self, name: str, delivery: Delivery[Any]) -> tuple[Life, Delivery[Any]]:
        """Note a subscription's new life; give its delivery, which notes all."""
        known = self.world.history.subscriptions.setdefault(
            name,
            Subscribed(
                name,
                delivery.query,
                from_start=delivery.start in {"checkpoint", "beginning"},
                by_stream=delivery.max_streams > 1,
            ),
        )
        life = Life(self.name)
        known.lives.append(life)

        def on_failure(failure: Failure) -> Outcome:
            outcome = delivery.on_failure(failure)
            if isinstance(outcome, Skip) and id(failure.error) in life.failed:
                self._done(life, life.failed[id(failure.error)])
            return outcome

        async def parked(event: Parked[Any]) -> None:
            assert delivery.park is not None
            await delivery.park(event)
            self._check_alive()
            self._done(life, event.recorded.position)

        park = None if delivery.park is None else parked
        return life, replace(delivery, on_failure=on_failure, park=park)

    async def _follow(self, subscription: Subscription[Any]) -> None:
        async with subscription:
            while not self.world.over:
                with suppress(TimeoutError):
                    await subscription.wait_for(_BEYOND, _A_WHILE)


Work: TypeAlias = Callable[[Worker], Coroutine[Any, Any, object]]


def start(work: Coroutine[Any, Any, T], by: Worker | None) -> asyncio.Task[T]:
    """Start a task of a worker; None: of the world."""
    context = copy_context()
    context.run(owner.set, by)
    return context.run(asyncio.get_running_loop().create_task, work)


def _with_ids(
    decider: Decider[S, C, Any], key: str
) -> tuple[Decider[S, C, Any], Callable[[Any, Metadata], NewEvent[Any]]]:
    """Give *decider*, and what makes the same ids for each decision of *key*."""
    numbers = count(1)

    def decide(state: S, command: C) -> Any:
        nonlocal numbers
        numbers = count(1)
        return decider.decide(state, command)

    def envelop(event: Any, metadata: Metadata) -> NewEvent[Any]:
        id = uuid5(NAMESPACE_OID, f"{key}/{next(numbers)}")
        return NewEvent(event, id, metadata)

    return replace(decider, decide=decide), envelop


def seen(task: asyncio.Task[Any]) -> None:
    """Look at a task's error, which nobody may be left to do."""
    if not task.cancelled():
        task.exception()
