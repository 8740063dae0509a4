"""The world of a simulation: a store behind a bad network, workers, and crashes.

`simulation` says how it is used.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any, Final

from msgspec import Struct

from ..core.errors import AppendOutcomeUnknownError, EvsrcError, StoreBusyError
from ..ports import (
    Also,
    Appended,
    Conflict,
    EventStore,
    Fence,
    Lease,
    SaveCheckpoint,
    SaveDeadLetter,
    SaveSnapshot,
)
from ..stores.memory import memory_store
from .clock import VirtualLoop
from .faults import Call, Duplicate, Effect, Fail, LoseReply, befall, intercepted
from .history import Attempt, History, Read
from .worker import Crash, Work, Worker, owner, seen, start

_EPOCH: Final = datetime(2026, 1, 1, tzinfo=UTC)
_READS: Final = {"load_events", "read_stream", "read_all", "find", "head"}
_LATE: Final = 0.3  # the share of lost replies to requests that take effect later
_LATEST: Final = 5.0  # seconds
_LEASES: Final = {"leases.acquire", "leases.renew", "leases.release"}
_WRITES: Final = {"append", "checkpoints.save", "snapshots.save", "dead_letters.save"}


class Chaos(Struct, frozen=True):
    """How bad a simulated world is.

    Each kind of fault is left out of a run by the toss of a coin, so that some runs
    have one kind alone.

    Args:
        crashes: how many workers crash, at most.
        within: when the last crash comes at the latest.
        latency: how long a request or a reply takes, at most; mostly it is less.
        failing: the share of calls that raise StoreBusyError, and do nothing.
        losing: the share of calls whose reply is lost: AppendOutcomeUnknownError from
            what writes, StoreBusyError from the others. Of what is not just read, it
            may take effect later.
        doubling: the share of appends and reads that arrive twice.
        deafness: the share of waits for `changed` that no wake-up reaches.
        patience: how long workers may take for everything, by the simulated clock.
    """

    crashes: int = 4
    within: timedelta = timedelta(seconds=3)
    latency: timedelta = timedelta(milliseconds=200)
    failing: float = 0.05
    losing: float = 0.05
    doubling: float = 0.05
    deafness: float = 0.3
    patience: timedelta = timedelta(minutes=10)


class World:
    """What a scenario is given: it starts workers here.

    Attributes:
        chance: a source of chance of this run's seed.
        store: the store without faults, latency or crashes, for a scenario's own
            events and checks.
        history: what has happened so far.
    """

    def __init__(self, loop: VirtualLoop, seed: int, chaos: Chaos) -> None:
        self.chance = random.Random(f"world {seed}")  # noqa: S311 - repeatable
        self.chaos = chaos
        self.history = History()
        self.trace: list[str] = []
        self.problems: list[str] = []
        self.answers: dict[str, Any] = {}
        self.over = False
        self.raw: EventStore[Any] = memory_store(now=self.now)
        self.store = intercepted(self.raw, self._calmly)
        kinds = ("failing", "losing", "doubling", "deafness")
        self._faults = {
            kind: self.chance.choice((0.0, getattr(chaos, kind))) for kind in kinds
        }
        self.head = 0
        self._loop = loop
        self._moments = count(1)
        self._workers: dict[str, Worker] = {}
        self._running: list[asyncio.Task[None]] = []
        self._serving: list[asyncio.Task[None]] = []
        self._requests: set[asyncio.Task[Any]] = set()
        self._granted: dict[str, int] = {}
        self._calm = self._settled = False
        self._crashing: asyncio.Task[None] | None = None
        loop.on_task = _adopt

    # What scenarios use.

    def run(self, name: str, work: Work) -> None:
        """Start a worker that ends by itself; after a crash it begins again.

        Args:
            name: unique in this world.
            work: `async def work(worker)`. It runs again from its start after a crash
                and after an EvsrcError; any other error fails the run.
        """
        self._running.append(self._start(name, work, forever=False))

    def serve(self, name: str, work: Work) -> None:
        """Start a worker that goes on until the run is over, such as a subscription."""
        self._serving.append(self._start(name, work, forever=True))

    def now(self) -> datetime:
        """Tell the simulated time."""
        return _EPOCH + timedelta(seconds=self._loop.time())

    async def settle(self) -> None:
        """Wait until all work is done and delivered; from then on nothing goes wrong.

        It is called for you after the scenario; call it to check something then.
        """
        if self._settled:
            return
        self._settled = True
        await self._ended(self._running)
        self._calm = True
        if self._crashing is not None:
            self._crashing.cancel()
        with suppress(TimeoutError):
            async with asyncio.timeout(self.chaos.patience.total_seconds()):
                while not await self._delivered():  # noqa: ASYNC110 - takes no time
                    await asyncio.sleep(0.1)
        self.over = True
        await self._ended(self._serving)

    # Workers.

    def _start(self, name: str, work: Work, *, forever: bool) -> asyncio.Task[None]:
        if name in self._workers:
            raise ValueError(f"there is a worker {name!r} already")
        if self._crashing is None:
            self._crashing = asyncio.create_task(self._crash(), name="crashes")
        worker = self._workers[name] = Worker(self, name)
        return asyncio.create_task(self._supervise(worker, work, forever), name=name)

    async def _supervise(self, worker: Worker, work: Work, forever: bool) -> None:
        while True:
            self.note(worker.name, "begins")
            ending = await worker.live(work)
            self.note(worker.name, "ends" if ending is None else f"ends: {ending!r}")
            done = ending is None and not forever
            if done or (self.over and not isinstance(ending, Crash)):
                del self._workers[worker.name]
                return
            if not (ending is None or isinstance(ending, (EvsrcError, Crash))):
                self.problems.append(f"worker {worker.name!r} raised {ending!r}")
                return
            await asyncio.sleep(self.chance.random() * 0.5)
            worker = self._workers[worker.name] = Worker(self, worker.name)

    async def _crash(self) -> None:
        for _ in range(self.chance.randint(0, self.chaos.crashes)):
            span = self.chaos.within.total_seconds() / max(1, self.chaos.crashes)
            await asyncio.sleep(self.chance.random() * span)
            alive = [w for w in self._workers.values() if w.alive]
            if alive:
                worker = self.chance.choice(alive)
                self.history.crashes += 1
                self.note(worker.name, "crashes")
                worker.die()

    async def _ended(self, tasks: Sequence[asyncio.Task[None]]) -> None:
        if not tasks:
            return
        patience = self.chaos.patience
        _, late = await asyncio.wait(tasks, timeout=patience.total_seconds())
        for task in sorted(late, key=hash):
            self.problems.append(
                f"worker {task.get_name()!r} is at work for {patience}"
            )
            task.cancel()
        for task in tasks:
            if task not in late:
                task.result()

    async def _delivered(self) -> bool:
        """Tell whether everything that is in the log now has been handled."""
        if self._requests:
            return False
        history = self.history
        history.log = (await self.raw.read_all(limit=10**9)).events
        return not any(map(history.missed, history.subscriptions.values()))

    # The network.

    def moment(self) -> int:
        """Give the number of this moment."""
        return next(self._moments)

    def note(self, who: str, what: str) -> None:
        """Write a line of the trace."""
        self.trace.append(f"{self._loop.time():9.3f} {who}: {what}")

    async def pause(self) -> None:
        """Let a message travel: mostly quick, sometimes slow."""
        longest = self.chaos.latency.total_seconds()
        await asyncio.sleep(self.chance.random() ** 4 * longest)

    def is_deaf(self) -> bool:
        """Tell whether a wait for `changed` is one that no wake-up reaches."""
        return not self._calm and self.chance.random() < self._faults["deafness"]

    def request(self, who: str, port: str, call: Call) -> asyncio.Task[Any]:
        """Send a request; it takes effect whatever becomes of its sender."""
        return self._send(self._serve(who, port, call))

    def _send(self, serving: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        # not the worker's task: a crash does not call it back
        sending = start(serving, None)
        self._requests.add(sending)
        sending.add_done_callback(self._requests.discard)
        sending.add_done_callback(seen)
        return sending

    async def _serve(self, who: str, port: str, call: Call) -> Any:
        await self.pause()
        effect = self._effect(port, call)
        if effect is not None:
            self.history.faults += 1
            self.note(who, f"{port} meets {type(effect).__name__}")
        if isinstance(effect, LoseReply) and self._is_late(port):
            self._send(self._end_late(who, port, call))
            raise effect.error
        result = await befall(effect, lambda: self._apply(who, port, call))
        await self.pause()
        return result

    def _is_late(self, port: str) -> bool:
        return port in _WRITES | _LEASES and self.chance.random() < _LATE

    async def _end_late(self, who: str, port: str, call: Call) -> None:
        await asyncio.sleep(self.chance.random() * _LATEST)
        self.note(who, f"{port} takes effect late")
        await self._apply(who, port, call)

    def _effect(self, port: str, call: Call) -> Effect | None:
        if self._calm:
            return None
        faults, dice = self._faults, self.chance.random()
        if dice < faults["failing"]:
            return Fail(StoreBusyError("the simulated store is busy"))
        dice -= faults["failing"]
        if dice < faults["losing"]:
            lost = AppendOutcomeUnknownError("the simulated store")
            return LoseReply(lost if port in _WRITES else StoreBusyError("no reply"))
        dice -= faults["losing"]
        safe = port in _READS or (port == "append" and not call.keywords.get("also"))
        return Duplicate() if safe and dice < faults["doubling"] else None

    async def heard(
        self,
        who: str,
        port: str,
        call: Call,
        made: Callable[[str, str, Call], Awaitable[Any]],
        command: str | None = None,
    ) -> Any:
        """Make a call; note of an append what was asked, and what its caller hears."""
        if port != "append":
            return await made(who, port, call)
        also = call.keywords.get("also", ())
        attempt = Attempt(who, call.args, also, self.moment(), command)
        self.history.attempts.append(attempt)
        try:
            attempt.outcome = await made(who, port, call)
        except AppendOutcomeUnknownError:
            raise
        except Exception as error:
            attempt.outcome = error
            raise
        finally:
            attempt.answered = self.moment()
        return attempt.outcome

    async def _calmly(self, port: str, call: Call, /) -> Any:
        return await self.heard("the scenario", port, call, self._apply)

    async def _apply(self, who: str, port: str, call: Call) -> Any:
        """Let a request take effect, and note what invariants are to know of it."""
        result = await call()
        if port in ("checkpoints.save", "dead_letters.save"):
            self._written(call.args)
        match port, result:
            case "append", Appended():
                self._appended(who, result, call.keywords.get("also", ()))
            case "append", Conflict():
                self.note(who, f"append to '{result.stream}' conflicts")
            case "read_all", _ if not call.keywords.get("backward"):
                query = (*call.args, call.keywords.get("query", "all"))[0]
                read = Read(query, call.keywords.get("after", 0), result)
                self.history.reads.append(read)
            case "leases.acquire", Lease(name, _, token):
                self._granted[name] = token
                self.note(who, f"has lease {name!r} with token {token}")
            case _:
                pass
        return result

    def _appended(self, who: str, outcome: Appended, also: Sequence[Any]) -> None:
        for placed in outcome.placed:
            again = " again" if outcome.repeated else ""
            place = f"'{placed.stream}' to version {placed.version}"
            self.note(who, f"appends {place}, position {placed.last_position}{again}")
            self.head = max(self.head, placed.last_position)
        if not outcome.repeated:
            self._written(also)

    def _written(self, also: Sequence[Also]) -> None:
        """Note what was written; a letter is dealt with before its checkpoint moves."""
        history = self.history
        for change in also:
            if isinstance(change, SaveDeadLetter):
                history.put_aside(change.letter, self.moment())
        for change in also:
            match change:
                case Fence(name):
                    history.fenced.append((change, self._granted.get(name, 0)))
                case SaveSnapshot():
                    history.kept.append(change)
                case SaveCheckpoint():
                    history.saved.append((change, self.moment()))
                case _:
                    pass


def _adopt(task: asyncio.Task[Any]) -> None:
    """Give a new task to the worker whose code has made it."""
    worker = owner.get()
    if worker is not None:
        worker.tasks.append(task)
