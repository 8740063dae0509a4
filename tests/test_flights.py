"""What happens to flights, aircraft and gates: the demo's domain, without a store."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evsrc import fold, run
from evsrc.cli.flights import (
    Airborne,
    Aircraft,
    Arrive,
    Cancel,
    Cancelled,
    Depart,
    Flight,
    FlightArrived,
    FlightCancelled,
    FlightCommand,
    FlightDeparted,
    FlightRefused,
    FlightScheduled,
    FlyLeg,
    Landed,
    LegFlown,
    Planned,
    Schedule,
    Unknown,
    aircraft,
    flight,
)
from evsrc.cli.gates import GateTaken, NoGateFree, TakeGate, gates

SCHEDULE = Schedule("UA", 1545, "EWR", "IAH", "2013-01-01", 515, "N14228")
DEPART, ARRIVE, CANCEL = Depart(517, 2), Arrive(830, 11), Cancel()
SCHEDULED = FlightScheduled("UA", 1545, "EWR", "IAH", "2013-01-01", 515, "N14228")
DEPARTED = FlightDeparted("UA", "EWR", 517, 2)
ARRIVED = FlightArrived("UA", "EWR", 830, 11)
CANCELLED = FlightCancelled("UA", "EWR")

commands = st.lists(st.sampled_from([SCHEDULE, DEPART, ARRIVE, CANCEL]), max_size=8)


def allowed(state: Flight, command: FlightCommand) -> bool:
    try:
        flight.decide(state, command)
    except FlightRefused:
        return False
    return True


@pytest.mark.parametrize(
    ("wanted", "happened", "state"),
    [
        ([SCHEDULE], (SCHEDULED,), Planned("UA", "EWR")),
        ([SCHEDULE, DEPART], (SCHEDULED, DEPARTED), Airborne("UA", "EWR")),
        ([SCHEDULE, DEPART, ARRIVE], (SCHEDULED, DEPARTED, ARRIVED), Landed()),
        ([SCHEDULE, CANCEL], (SCHEDULED, CANCELLED), Cancelled()),
    ],
    ids=["planned", "airborne", "landed", "cancelled"],
)
def test_commands_become_what_happened(wanted, happened, state) -> None:
    """A flight is scheduled, departs and arrives, or is cancelled."""
    assert run(flight, Unknown(), wanted) == (state, happened)


@pytest.mark.parametrize(
    "wanted",
    [[SCHEDULE], [SCHEDULE, DEPART], [SCHEDULE, DEPART, ARRIVE], [SCHEDULE, CANCEL]],
    ids=["planned", "airborne", "landed", "cancelled"],
)
def test_a_known_flight_happens_once(wanted) -> None:
    """The same commands again lead to nothing."""
    state, _ = run(flight, Unknown(), wanted)
    assert run(flight, state, wanted) == (state, ())


@pytest.mark.parametrize(
    ("state", "command", "message"),
    [
        (Unknown(), DEPART, "a flight that is unknown cannot depart"),
        (Unknown(), ARRIVE, "a flight that is unknown cannot arrive"),
        (Unknown(), CANCEL, "a flight that is unknown cannot cancel"),
        (Planned("UA", "EWR"), ARRIVE, "a flight that is planned cannot arrive"),
        (Airborne("UA", "EWR"), CANCEL, "a flight that is airborne cannot cancel"),
        (Landed(), CANCEL, "a flight that is landed cannot cancel"),
        (Cancelled(), DEPART, "a flight that is cancelled cannot depart"),
        (Cancelled(), ARRIVE, "a flight that is cancelled cannot arrive"),
    ],
)
def test_what_cannot_be_is_refused(state, command, message) -> None:
    """A flight does nothing that its state rules out."""
    with pytest.raises(FlightRefused, match=message):
        flight.decide(state, command)


@given(commands)
def test_a_flight_is_cancelled_or_flown(wanted: list[FlightCommand]) -> None:
    """No history holds one event twice, or both a departure and a cancellation."""
    state: Flight = Unknown()
    events: list[object] = []
    for command in wanted:
        if allowed(state, command):
            state, happened = run(flight, state, [command])
            events += happened
    assert len(events) == len(set(events))
    assert not {DEPARTED, CANCELLED} <= set(events)
    assert fold(flight, events) == state


LEG = FlyLeg("2013-01-01-UA-1545-EWR", "EWR", "IAH", 1400, 227)
DIVERTED = FlyLeg("2013-01-02-UA-1714-LGA", "LGA", "IAH", 1416, None)


def test_an_aircraft_collects_its_legs() -> None:
    """Legs, miles and minutes add up; a diverted flight's minutes are not known."""
    state, events = run(aircraft, Aircraft(), [LEG, DIVERTED])
    assert state == Aircraft(2, 2816, 227, "IAH", DIVERTED.flight)
    assert events == (
        LegFlown(LEG.flight, "EWR", "IAH", 1400, 227),
        LegFlown(DIVERTED.flight, "LGA", "IAH", 1416, None),
    )


def test_a_leg_is_flown_once() -> None:
    """The same leg again leads to nothing."""
    state, _ = run(aircraft, Aircraft(), [LEG])
    assert run(aircraft, state, [LEG]) == (state, ())


def test_a_flight_gets_the_first_free_gate() -> None:
    """Gates go to who asks first; who has one keeps it."""
    first, second = TakeGate("UA-1545", ("C71", "C72")), TakeGate("UA-1714", ("C71",))
    state, events = run(gates, gates.initial, [first, first])
    assert events == (GateTaken("C71", "UA-1545"),)
    with pytest.raises(NoGateFree, match="no gate is free for 'UA-1714' among C71"):
        gates.decide(state, second)
