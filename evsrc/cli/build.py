"""Record a file's flights while subscriptions build the read models from the log."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from itertools import accumulate
from typing import Any, Final, TypeAlias

from msgspec import Struct

from ..core.errors import SubscriptionError
from ..runtime.delivery import Delivery
from ..runtime.project import Projection, project
from .flights import Aircraft, LegFlown
from .log import AIRCRAFT, LogEvent, aircraft_stream
from .models import COUNTED, JUDGED, Punctuality, Totals
from .record import Store, record
from .rows import Data

_PAGE: Final = 2000
_LOOK: Final = timedelta(milliseconds=200)


class Progress(Struct, frozen=True):
    """How far a build is: flights recorded, and log positions read of all there are."""

    rows: int
    of: int
    position: int
    head: int


OnProgress: TypeAlias = Callable[[Progress], None]


class Reading(Struct, frozen=True):
    """What a read model's subscription did: from where, to where, how many events."""

    name: str
    resumed: int
    reached: int
    handled: int


class Built(Struct, frozen=True):
    """What a build led to: rows done before, events recorded now, and read models."""

    skipped: int
    events: int
    totals: Totals
    punctuality: Punctuality
    readings: tuple[Reading, ...]


async def build(store: Store, data: Data, on_progress: OnProgress) -> Built:
    """Record what is not recorded yet and read what is not read yet.

    Raises:
        DataError: the file contradicts what is recorded.
        StoreError: the store could not go on; start again to resume.
        SubscriptionError: a read model could not go on.
    """
    delivery: Delivery[LogEvent] = Delivery(page=_PAGE)
    counted = project(store, COUNTED, delivery)
    judged = project(store, JUDGED, delivery)
    models: tuple[Projection[Any, LogEvent], ...] = (counted, judged)
    resumed = [await _position(store, model) for model in models]

    async def tell(rows: int) -> None:
        readers = [model.subscription for model in models]
        for reader in readers:
            if reader.ended:
                raise SubscriptionError(
                    f"read model {reader.name!r} stopped at position "
                    f"{reader.position}: {reader.error}"
                )
        position = min(reader.position for reader in readers)
        on_progress(Progress(rows, data.rows, position, await store.head()))

    async with counted, judged:
        recorded = await record(store, data, tell)
        for model in models:
            while not await _has_read(model, await store.head()):
                await tell(data.rows)
        await tell(data.rows)
    readings = tuple(
        Reading(done.name, start, done.position, done.handled)
        for start, done in zip(resumed, (m.subscription for m in models), strict=True)
    )
    return Built(
        recorded.skipped, recorded.events, counted.state, judged.state, readings
    )


async def _position(store: Store, model: Projection[Any, LogEvent]) -> int:
    saved = await store.checkpoints.load(model.subscription.name)
    return 0 if saved is None else saved.position


async def _has_read(model: Projection[Any, LogEvent], head: int) -> bool:
    """Wait a moment for *model* to read up to *head*."""
    with suppress(TimeoutError):
        await model.subscription.wait_for(head, _LOOK)
        return True
    return False


class Step(Struct, frozen=True):
    """One event of an aircraft, and the aircraft after it."""

    leg: LegFlown
    version: int
    after: Aircraft


async def history(store: Store, tailnum: str) -> tuple[Step, ...]:
    """Give what an aircraft did, one event after the other."""
    page = await store.read_stream(aircraft_stream(tailnum))
    legs = [(r.event, r.version) for r in page.events if isinstance(r.event, LegFlown)]
    states = accumulate(
        (leg for leg, _ in legs), AIRCRAFT.evolve, initial=AIRCRAFT.initial
    )
    next(states)
    return tuple(
        Step(leg, version, after)
        for (leg, version), after in zip(legs, states, strict=True)
    )
