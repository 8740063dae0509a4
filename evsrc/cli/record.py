"""Record the flights of a file: many at once, those of one aircraft in order.

That a flight is recorded once follows from its stream: it is written where there is
none yet, together with the leg of its aircraft, or it is decided again on what is
there. The checkpoint only saves time after an interruption.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from itertools import count, islice
from typing import Final, TypeAlias

from msgspec import Struct

from ..core.decider import run
from ..core.errors import OptimisticLockError
from ..core.event import StreamName
from ..ports import Appended, Conflict, EventStore, SaveCheckpoint, Write
from ..runtime.cache import StateCache
from ..runtime.transact import query
from .flights import Aircraft, Flight, FlightDeparted, FlightRefused, aircraft, flight
from .log import AIRCRAFT, FLIGHT, LogEvent, aircraft_stream, flight_stream, write
from .rows import Data, DataError, Row, read

Store: TypeAlias = EventStore[LogEvent]
OnRows: TypeAlias = Callable[[int], Awaitable[None]]
_CHUNK: Final = 2000
_ATTEMPTS: Final = 5


class Recorded(Struct, frozen=True):
    """How many rows were done before, and how many events are new."""

    skipped: int
    events: int


async def record(store: Store, data: Data, on_rows: OnRows) -> Recorded:
    """Record every flight of *data* that is not recorded yet; tell how many are done.

    Raises:
        StoreError: the store could not; what it acknowledged is there.
    """
    progress = f"demo-rows:{data.digest}"
    saved = await store.checkpoints.load(progress)
    done = skipped = 0 if saved is None else saved.position
    await on_rows(done)
    rows = islice(read(data.path), done, None)
    states: StateCache[Aircraft] = StateCache()
    events = 0
    while chunk := await asyncio.to_thread(lambda: tuple(islice(rows, _CHUNK))):
        events += await _record_chunk(store, states, chunk)
        done += len(chunk)
        await store.checkpoints.save(SaveCheckpoint(progress, done))
        await on_rows(done)
    return Recorded(skipped, events)


async def _record_chunk(
    store: Store, states: StateCache[Aircraft], chunk: Sequence[Row]
) -> int:
    """Record the rows of all aircraft at once, each aircraft's one after another."""
    lanes: dict[str, list[Row]] = {}
    for row in chunk:
        lanes.setdefault(row.aircraft or row.id, []).append(row)

    async def lane(rows: Sequence[Row]) -> int:
        return sum([await record_row(store, states, row) for row in rows])

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(lane(rows)) for rows in lanes.values()]
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from failed
    return sum(task.result() for task in tasks)


class _Plane(Struct, frozen=True):
    """The aircraft of a row, as it is known."""

    stream: StreamName
    state: Aircraft
    version: int


async def record_row(store: Store, states: StateCache[Aircraft], row: Row) -> int:
    """Record one flight and the leg of its aircraft in one append; give the events.

    Raises:
        DataError: what is recorded of the flight contradicts the row.
        OptimisticLockError: others kept writing to its streams.
        StoreError: the store could not; nothing was written.
    """
    stream = flight_stream(row.id)
    known: tuple[Flight, int] = flight.initial, 0  # most are new: try that, unread
    plane = await _plane(store, states, row)
    for attempt in count(1):
        writes, after = _decided(row, stream, known, plane)
        if not writes:
            return 0
        match await store.append(*writes):
            case Appended(placed):
                if after is not None:
                    states.put(placed[-1].stream, after, placed[-1].version)
                return sum(len(write.events) for write in writes)
            case Conflict(moved, expected, actual):
                if attempt == _ATTEMPTS:
                    raise OptimisticLockError(moved, expected, actual, attempts=attempt)
                known = await query(store, FLIGHT, stream)
                plane = await _plane(store, states, row, behind=True)
    raise AssertionError("unreachable: the last attempt returns or raises")


async def _plane(
    store: Store, states: StateCache[Aircraft], row: Row, *, behind: bool = False
) -> _Plane | None:
    """Give the row's aircraft; *behind*: what is kept of it may be old."""
    if row.aircraft is None:
        return None
    stream = aircraft_stream(row.aircraft)
    kept = None if behind else states.get(stream)
    state, version = kept or await query(store, AIRCRAFT, stream, cache=states)
    return _Plane(stream, state, version)


def _decided(
    row: Row, stream: StreamName, known: tuple[Flight, int], plane: _Plane | None
) -> tuple[Sequence[Write[LogEvent]], Aircraft | None]:
    """Give what to write for *row*, and its aircraft after it, if it flew a leg."""
    try:
        _, events = run(flight, known[0], row.commands)
    except FlightRefused as refused:
        raise DataError(f"flight '{row.id}' is recorded otherwise: {refused}") from None
    if not events:
        return (), None
    writes = [write(stream, events, known[1])]
    departed = any(isinstance(event, FlightDeparted) for event in events)
    if departed and row.leg is not None and plane is not None:
        after, legs = run(aircraft, plane.state, (row.leg,))
        if legs:
            return [*writes, write(plane.stream, legs, plane.version)], after
    return writes, None
