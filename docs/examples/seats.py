"""Hold the seats of a room for a while, with functions.

One seat is a small decider; `many` makes the room of it, a stream with a state for each
seat. Time is part of the command, so a decision can be repeated and tested.
"""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import TypeAlias, assert_never

from msgspec import Struct
from pyrsistent import PMap

from evsrc import (
    Codec,
    Decider,
    StreamName,
    json_codec,
    many,
    query,
    sqlite_store,
    transact,
)


class Reserve(Struct, frozen=True):
    """A guest wants a seat, from now until later."""

    seat: str
    guest: str
    now: datetime
    until: datetime


class Release(Struct, frozen=True):
    """A seat is not needed any more."""

    seat: str


class SeatReserved(Struct, frozen=True):
    seat: str
    guest: str
    until: datetime


class SeatReleased(Struct, frozen=True):
    seat: str


Command: TypeAlias = Reserve | Release
Event: TypeAlias = SeatReserved | SeatReleased


class Hold(Struct, frozen=True):
    """Who has a seat, and until when."""

    guest: str
    until: datetime


class SeatTakenError(Exception):
    """Somebody else has the seat."""

    def __init__(self, seat: str, hold: Hold) -> None:
        until = f"{hold.until:%H:%M}"
        super().__init__(f"seat {seat!r} is held by {hold.guest!r} until {until}")


def decide(hold: Hold | None, command: Command) -> Sequence[Event]:
    """Decide about one seat."""
    match command:
        case Reserve(seat, guest, now, until):
            if hold is None:
                return [SeatReserved(seat, guest, until)]
            if hold.until <= now:
                return [SeatReleased(seat), SeatReserved(seat, guest, until)]
            if hold.guest == guest:
                return []  # the same wish again: nothing to do
            raise SeatTakenError(seat, hold)
        case Release(seat):
            return [] if hold is None else [SeatReleased(seat)]
        case _:
            assert_never(command)


def evolve(_: Hold | None, event: Event) -> Hold | None:
    """Give the hold on one seat after an event."""
    match event:
        case SeatReserved(_, guest, until):
            return Hold(guest, until)
        case SeatReleased():
            return None
        case _:
            assert_never(event)


seat: Decider[Hold | None, Command, Event] = Decider(decide, evolve, None)
room: Decider[PMap[str, Hold | None], Command, Event] = many(
    seat,
    command_key=lambda command: command.seat,
    event_key=lambda event: event.seat,
)
codec: Codec[Event] = json_codec(
    {"seat-reserved": SeatReserved, "seat-released": SeatReleased}
)


async def main() -> None:
    """Reserve some seats and show what became of it."""
    ten = datetime(2025, 5, 1, 10, tzinfo=UTC)
    eleven, noon = ten + timedelta(hours=1), ten + timedelta(hours=2)
    stream = StreamName("room", "blue")
    async with await sqlite_store(":memory:", codec) as store:
        for command in (
            Reserve("1A", "ann", now=ten, until=eleven),
            Reserve("1B", "bob", now=ten, until=noon),
            Reserve("1A", "bob", now=ten, until=noon),
            Reserve("1A", "ann", now=ten, until=noon),
            Reserve("1A", "bob", now=eleven, until=noon),
            Release("1B"),
        ):
            try:
                done = await transact(store, room, stream, command)
            except SeatTakenError as refused:
                print("refused:", refused)
            else:
                print([type(event).__name__ for event in done.events])
        state, version = await query(store, room, stream)
        holds = {seat: hold.guest for seat, hold in sorted(state.items()) if hold}
        print(f"version {version}: {holds}")


if __name__ == "__main__":
    asyncio.run(main())
