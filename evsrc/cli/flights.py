"""Decide what happens to flights and to the aircraft that fly them.

Two deciders: a flight is planned, flown or cancelled; an aircraft collects the legs it
flew. Clock times are local, as hhmm, the way the timetable prints them. No I/O here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, TypeAlias, assert_never

from msgspec import Struct
from msgspec.structs import astuple

from ..core.decider import Decider


class Schedule(Struct, frozen=True):
    """Put the flight into the timetable."""

    carrier: str
    number: int
    origin: str
    dest: str
    day: str
    at: int
    aircraft: str | None


class Depart(Struct, frozen=True):
    """Leave the gate, *delay* minutes late."""

    at: int
    delay: int


class Arrive(Struct, frozen=True):
    """Reach a gate; the delay of a diverted flight is not known."""

    at: int
    delay: int | None


class Cancel(Struct, frozen=True):
    """Take the flight out: it will not leave."""


FlightCommand: TypeAlias = Schedule | Depart | Arrive | Cancel


class FlightScheduled(Struct, frozen=True):
    """The flight is in the timetable."""

    carrier: str
    number: int
    origin: str
    dest: str
    day: str
    at: int
    aircraft: str | None


class FlightDeparted(Struct, frozen=True):
    """The flight left, *delay* minutes late (early, if negative)."""

    carrier: str
    origin: str
    at: int
    delay: int


class FlightArrived(Struct, frozen=True):
    """The flight came to a gate; without a delay if it was diverted."""

    carrier: str
    origin: str
    at: int
    delay: int | None


class FlightCancelled(Struct, frozen=True):
    """The flight never left."""

    carrier: str
    origin: str


FlightEvent: TypeAlias = (
    FlightScheduled | FlightDeparted | FlightArrived | FlightCancelled
)


class Unknown(Struct, frozen=True):
    """No such flight is in the timetable."""


class Planned(Struct, frozen=True):
    """It is to leave."""

    carrier: str
    origin: str


class Airborne(Struct, frozen=True):
    """It left, and was not seen again so far."""

    carrier: str
    origin: str


class Landed(Struct, frozen=True):
    """It arrived."""


class Cancelled(Struct, frozen=True):
    """It was cancelled."""


Flight: TypeAlias = Unknown | Planned | Airborne | Landed | Cancelled


class FlightRefused(Exception):  # noqa: N818 - named as what happened
    """A flight in this state cannot do that."""

    def __init__(self, command: FlightCommand, state: Flight) -> None:
        wanted, now = type(command).__name__.lower(), type(state).__name__.lower()
        super().__init__(f"a flight that is {now} cannot {wanted}")
        self.command, self.state = command, state


def decide_flight(state: Flight, command: FlightCommand) -> Sequence[FlightEvent]:
    """Decide one command; what has happened already does not happen again.

    >>> decide_flight(Planned("UA", "EWR"), Depart(517, 2))
    [FlightDeparted(carrier='UA', origin='EWR', at=517, delay=2)]
    >>> decide_flight(Airborne("UA", "EWR"), Depart(517, 2))
    []
    """
    done: tuple[type[Flight], ...]
    match command:
        case Schedule():
            new = isinstance(state, Unknown)
            return [FlightScheduled(*astuple(command))] if new else []
        case Depart(at, delay):
            if isinstance(state, Planned):
                return [FlightDeparted(state.carrier, state.origin, at, delay)]
            done = Airborne, Landed
        case Arrive(at, late):
            if isinstance(state, Airborne):
                return [FlightArrived(state.carrier, state.origin, at, late)]
            done = (Landed,)
        case Cancel():
            if isinstance(state, Planned):
                return [FlightCancelled(state.carrier, state.origin)]
            done = (Cancelled,)
        case _:
            assert_never(command)
    if isinstance(state, done):
        return []
    raise FlightRefused(command, state)


def evolve_flight(_state: Flight, event: FlightEvent) -> Flight:
    """Give the state after *event*; each event says all that the state needs."""
    match event:
        case FlightScheduled():
            return Planned(event.carrier, event.origin)
        case FlightDeparted():
            return Airborne(event.carrier, event.origin)
        case FlightArrived():
            return Landed()
        case FlightCancelled():
            return Cancelled()
        case _:
            assert_never(event)


flight: Final[Decider[Flight, FlightCommand, FlightEvent]] = Decider(
    decide_flight, evolve_flight, Unknown()
)


class FlyLeg(Struct, frozen=True):
    """Fly one leg; *minutes* in the air are not known of a diverted flight."""

    flight: str
    origin: str
    dest: str
    miles: int
    minutes: int | None


class LegFlown(Struct, frozen=True):
    """The aircraft flew a leg."""

    flight: str
    origin: str
    dest: str
    miles: int
    minutes: int | None


class Aircraft(Struct, frozen=True):
    """What an aircraft has done, and where it went last."""

    legs: int = 0
    miles: int = 0
    minutes: int = 0
    place: str | None = None
    last_flight: str | None = None


def decide_aircraft(state: Aircraft, command: FlyLeg) -> Sequence[LegFlown]:
    """Decide a leg; the same one twice in a row is one leg.

    A repetition from further back is for the flight's own stream to notice: a leg is
    recorded in one append with the departure that it belongs to.
    """
    if command.flight == state.last_flight:
        return []
    return [LegFlown(*astuple(command))]


def evolve_aircraft(state: Aircraft, event: LegFlown) -> Aircraft:
    """Give the aircraft after a leg.

    >>> evolve_aircraft(Aircraft(), LegFlown("B6-725", "JFK", "BQN", 1576, 183)).miles
    1576
    """
    return Aircraft(
        state.legs + 1,
        state.miles + event.miles,
        state.minutes + (event.minutes or 0),
        event.dest,
        event.flight,
    )


aircraft: Final[Decider[Aircraft, FlyLeg, LegFlown]] = Decider(
    decide_aircraft, evolve_aircraft, Aircraft()
)
