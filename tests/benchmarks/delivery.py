"""Delivery: what the loop adds to a handler, and what a dead subscriber costs a writer.

`python -m tests.benchmarks.delivery` prints both. All times are the best (overhead) or
the median (writer) of interleaved rounds in one process.
"""

from __future__ import annotations

import asyncio
import logging
import tempfile
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any, Final

from evsrc import Batched, Delivery, Retry, Stop, Transactional, retry_then, subscribe
from evsrc.core.event import Recorded
from evsrc.core.expectation import ANY
from evsrc.ports import EventStore, Write
from evsrc.stores.memory import memory_store
from evsrc.stores.sqlite import sqlite_store

from .domain import Event
from .evsrc_core import _deposited, _stream, codec

EVENTS: Final = 100_000
_ROUNDS: Final = 9


async def _nothing(*_: Any) -> None: ...


KINDS: Final[dict[str, tuple[Any, Delivery[Any]]]] = {
    "one by one": (_nothing, Delivery()),
    "in batches": (Batched(_nothing), Delivery()),
    "8 streams at once": (_nothing, Delivery(max_streams=8)),
    "in transactions": (Transactional(_nothing), Delivery()),
}


async def _filled() -> EventStore[Event]:
    store = memory_store(codec)
    for n in range(EVENTS // 100):
        new = [_deposited() for _ in range(100)]
        await store.append(Write(_stream(n), new, ANY))
    return store


async def _bare(events: Sequence[Recorded[Event]]) -> float:
    began = perf_counter()
    for recorded in events:
        await _nothing(recorded)
    return perf_counter() - began


async def _delivered(store: EventStore[Event], kind: str) -> float:
    handle, delivery = KINDS[kind]
    await store.checkpoints.delete(kind)
    began = perf_counter()
    async with subscribe(store, kind, handle, delivery) as subscription:
        await subscription.caught_up()
    return perf_counter() - began


async def overhead() -> dict[str, float]:
    """Give nanoseconds per event: of a bare `for`, and of each kind of delivery."""
    store = await _filled()
    events = (await store.read_all(limit=EVENTS)).events
    best: dict[str, float] = {}
    for _ in range(_ROUNDS):
        taken = {"a bare for": await _bare(events)}
        taken |= {kind: await _delivered(store, kind) for kind in KINDS}
        best = {kind: min(best.get(kind, t), t) for kind, t in taken.items()}
    return {kind: t / EVENTS * 1e9 for kind, t in best.items()}


async def _hang(_: object) -> None:
    await asyncio.Event().wait()


async def _fail(_: object) -> None:
    raise ValueError


def _dead() -> list[tuple[Callable[..., Any], Delivery[Any]]]:
    again = Retry(timedelta(milliseconds=100))
    return [
        (_hang, Delivery()),
        (_fail, Delivery(on_failure=lambda _: again)),
        (_fail, Delivery(on_failure=retry_then(Stop(), retries=0))),
    ]


async def _saves(store: EventStore[Event], first: int, count: int) -> float:
    began = perf_counter()
    for n in range(first, first + count):
        await store.append(Write(_stream(n), [_deposited()], 0))
    return perf_counter() - began


async def dead_subscribers(rounds: int = 60, count: int = 50) -> float:
    """Give how much longer an append takes beside three dead subscribers.

    One hangs, one fails for ever, one has stopped. SQLite, FULL; the rounds with and
    without them take turns in one store.
    """
    taken: dict[bool, list[float]] = {True: [], False: []}
    with tempfile.TemporaryDirectory() as folder:
        async with await sqlite_store(Path(folder) / "events.db", codec) as store:
            await _saves(store, 0, count)
            for turn in range(1, 2 * rounds + 1):
                dead = turn % 2 == 0
                async with AsyncExitStack() as running:
                    for n, (handle, delivery) in enumerate(_dead() if dead else ()):
                        subscription = subscribe(store, f"d{n}", handle, delivery)
                        subscription.start()
                        stop = timedelta(milliseconds=10)
                        running.push_async_callback(subscription.stop, stop)
                    await asyncio.sleep(0.1)  # they have read what they cannot handle
                    taken[dead].append(await _saves(store, turn * count, count))
    return median(taken[True]) / median(taken[False])


def main() -> None:
    """Print both."""
    found = asyncio.run(overhead())
    bare = found["a bare for"]
    print(f"a bare `for` over {EVENTS:,} events: {bare:.0f} ns an event")
    for kind in KINDS:
        print(f"delivered {kind}: {found[kind]:.0f} ns, {found[kind] - bare:+.0f} ns")
    logging.disable()  # the dead say so each time
    ratio = asyncio.run(dead_subscribers())
    print(f"an append beside three dead subscribers takes {ratio:.3f} times as long")


if __name__ == "__main__":
    main()
