"""Callers of a store that know what must become of each of their appends."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, NamedTuple
from uuid import UUID, uuid4

from evsrc import (
    ANY,
    NO_STREAM,
    AppendCondition,
    Appended,
    EvsrcError,
    NewEvent,
    Query,
    StreamName,
    Write,
)
from evsrc.ports import EventStore, SaveCheckpoint
from evsrc.testing import CODEC, Fact, Tagged

Store = EventStore[Any]
SHARED = StreamName("shared", "one")
__all__ = [
    "CODEC",
    "SHARED",
    "Place",
    "Store",
    "Tail",
    "Workload",
    "everything",
    "facts",
]


class Place(NamedTuple):
    stream: StreamName
    version: int
    position: int


def facts(*numbers: int) -> list[NewEvent[Any]]:
    return [NewEvent(Fact(n), uuid4()) for n in numbers]


class Workload:
    """Appends of all kinds by several callers; every refusal is a false failure.

    Each caller has a stream of its own, whose versions it knows, a checkpoint of its
    own, which it moves by compare-and-set, and a tag of its own, under the condition
    that nobody else uses it.
    """

    def __init__(self, store: Store, seed: int) -> None:
        self.store = store
        self.chance = random.Random(seed)
        self.places: dict[UUID, Place] = {}  # of what was acknowledged
        self.asked: set[UUID] = set()
        self.checkpoints: dict[str, int] = {}
        self.tagged: Counter[str] = Counter()  # the last position of each tag
        self.failures: list[str] = []
        self.kinds: Counter[str] = Counter()
        self.repeated = 0
        self.acknowledged = 0
        self._versions: Counter[StreamName] = Counter()
        self._awaited: list[tuple[int, asyncio.Future[None]]] = []

    async def call_until(self, done: asyncio.Event, callers: Sequence[int]) -> None:
        """Append in a task for each caller until *done*."""

        async def call(caller: int) -> None:
            while not done.is_set():
                await self.call(caller)

        async with asyncio.TaskGroup() as group:
            for caller in callers:
                group.create_task(call(caller))

    async def until(self, acknowledged: int) -> None:
        """Return once so many calls were acknowledged."""
        if self.acknowledged < acknowledged:
            future = asyncio.get_running_loop().create_future()
            self._awaited.append((acknowledged, future))
            await future

    async def call(self, caller: int) -> None:
        """Append once, in one of six ways."""
        kinds = "any", "exact", "streams", "with checkpoint", "checkpoint", "condition"
        kind = self.chance.choice(kinds)
        self.kinds[kind] += 1
        own, name = StreamName("own", str(caller)), f"reader-{caller}"
        version = self._versions[own]
        exact = Write(own, self._some(), version or NO_STREAM)
        moved = SaveCheckpoint(
            name,
            self.checkpoints.get(name, 0) + self.chance.randint(1, 9),
            after=self.checkpoints.get(name, 0),
        )
        writes: list[Write[Any]] = []
        match kind:
            case "any":
                writes = [Write(SHARED, self._some(), ANY)]
            case "exact" | "with checkpoint":
                writes = [exact]
            case "streams":
                other = StreamName("other", str(self.chance.randrange(5)))
                writes = [Write(SHARED, self._some(), ANY), exact]
                writes.append(Write(other, self._some(), ANY))
            case "condition":
                tag = f"caller-{caller}"
                tagged = [NewEvent(Tagged(n, (tag,)), uuid4()) for n in (1, 2)]
                only = AppendCondition(Query.of(tags=[tag]), self.tagged[tag])
                writes = [Write(SHARED, tagged, only)]
        self.asked |= {new.id for write in writes for new in write.events}
        also = [moved] if "checkpoint" in kind else []
        try:
            if writes:
                outcome = await self.store.append(*writes, also=also)
                self._record(writes, outcome)
                if kind == "condition" and isinstance(outcome, Appended):
                    self.tagged[f"caller-{caller}"] = outcome.position
            else:
                await self.store.checkpoints.save(moved)
        except EvsrcError as error:
            self.failures.append(f"{kind}: {error!r}")
            return
        for change in also:
            self.checkpoints[name] = change.position
        self.acknowledged += 1
        for number, future in self._awaited:
            if number <= self.acknowledged and not future.done():
                future.set_result(None)

    def _some(self) -> list[NewEvent[Any]]:
        return facts(*range(self.chance.randint(1, 4)))

    def _record(self, writes: Sequence[Write[Any]], outcome: Any) -> None:
        if not isinstance(outcome, Appended):
            self.failures.append(repr(outcome))
            return
        self.repeated += outcome.repeated
        for write, placed in zip(writes, outcome.placed, strict=True):
            count = len(write.events)
            self._versions[write.stream] = placed.version
            for n, new in enumerate(write.events):
                # with concurrent ordering positions of one write may have holes
                dense = placed.last_position - placed.first_position == count - 1
                position = placed.first_position + n if dense else 0
                version = placed.version - count + 1 + n
                self.places[new.id] = Place(write.stream, version, position)

    async def check(self, store: Store) -> str:
        """See that everything acknowledged is there once, and nothing unasked."""
        found = await everything(store)
        ids = [id for id, _ in found]
        places = dict(found)
        lost = [
            id
            for id, place in self.places.items()
            if (there := places.get(id)) is None
            or there[:2] != place[:2]
            or place.position not in (0, there.position)
        ]
        doubled = len(ids) - len(set(ids))
        for name, position in self.checkpoints.items():
            saved = await store.checkpoints.load(name)
            assert saved is not None
            assert saved.position == position, f"{name} is not where it was moved"
        assert set(ids) <= self.asked
        assert await store.verify() == ()
        counts = (
            f"{self.acknowledged} calls acknowledged ({self.repeated} found repeated), "
            f"{len(self.places)} events, {len(lost)} lost, {doubled} doubled, "
            f"{len(self.failures)} false failures"
        )
        assert not self.failures, self.failures[:5]
        assert not lost, counts
        assert not doubled, counts
        return counts


async def everything(store: Store) -> list[tuple[UUID, Place]]:
    """Give the whole log; see that its streams have no gap."""
    found: list[tuple[UUID, Place]] = []
    versions: Counter[StreamName] = Counter()
    after = 0
    while True:
        page = await store.read_all(after=after)
        for r in page.events:
            versions[r.stream] += 1
            assert r.version == versions[r.stream], f"a gap in {r.stream}"
            found.append((r.id, Place(r.stream, r.version, r.position)))
        after = page.reached
        if after >= page.head:
            return found


class Tail:
    """Readers that follow the log: page after page, and whoever gets events handed."""

    def __init__(self) -> None:
        self.read: list[tuple[UUID, Place]] = []
        self.handled: list[tuple[UUID, Place]] = []

    async def handle(self, recorded: Any) -> None:
        place = Place(recorded.stream, recorded.version, recorded.position)
        self.handled.append((recorded.id, place))

    async def follow(self, store: Store, done: asyncio.Event) -> None:
        """Read until *done* and then to the end."""
        after = 0
        while True:
            last = done.is_set()
            page = await store.read_all(after=after, limit=100)
            for r in page.events:
                self.read.append((r.id, Place(r.stream, r.version, r.position)))
            after = page.reached
            if after >= page.head:
                if last:
                    return
                await store.changed(after, timeout=timedelta(milliseconds=100))
