"""Name what the demo's log holds: its events, its streams, and the deciders over them.

Stored names are literals; they never change. No I/O here.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, TypeAlias

from ..core.codec import Codec, json_codec
from ..core.decider import Decider, adapt
from ..core.event import StreamName
from ..core.expectation import Expected
from ..ports import Write
from ..runtime.ids import new_event
from .flights import (
    Aircraft,
    Flight,
    FlightArrived,
    FlightCancelled,
    FlightCommand,
    FlightDeparted,
    FlightEvent,
    FlightScheduled,
    FlyLeg,
    LegFlown,
    aircraft,
    flight,
)
from .gates import Gates, GateTaken, TakeGate, gates

LogEvent: TypeAlias = FlightEvent | LegFlown | GateTaken

CODEC: Final[Codec[LogEvent]] = json_codec(
    {
        "flight-scheduled": FlightScheduled,
        "flight-departed": FlightDeparted,
        "flight-arrived": FlightArrived,
        "flight-cancelled": FlightCancelled,
        "leg-flown": LegFlown,
        "gate-taken": GateTaken,
    }
)


def flight_stream(id: str) -> StreamName:
    """Name a flight's stream."""
    return StreamName("flight", id)


def aircraft_stream(tailnum: str) -> StreamName:
    """Name an aircraft's stream."""
    return StreamName("aircraft", tailnum)


def write(
    stream: StreamName, events: Iterable[LogEvent], expected: Expected
) -> Write[LogEvent]:
    """Make the write of *events*, each with an id of its own."""
    return Write(stream, [new_event(event) for event in events], expected)


FLIGHT: Final[Decider[Flight, FlightCommand, LogEvent]] = adapt(
    flight,
    command=lambda command: command,
    event=lambda event: event if isinstance(event, FlightEvent) else None,
    out=lambda event: event,
)
AIRCRAFT: Final[Decider[Aircraft, FlyLeg, LogEvent]] = adapt(
    aircraft,
    command=lambda command: command,
    event=lambda event: event if isinstance(event, LegFlown) else None,
    out=lambda event: event,
)
GATES: Final[Decider[Gates, TakeGate, LogEvent]] = adapt(
    gates,
    command=lambda command: command,
    event=lambda event: event if isinstance(event, GateTaken) else None,
    out=lambda event: event,
)
