"""Let two writers race for one stream, and see the loser decide again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from msgspec import Struct

from ..core.event import StreamName
from ..ports import Also, Appended, Conflict, EventStore, Write
from ..runtime.ids import new_id
from ..runtime.transact import transact
from .gates import GateTaken, TakeGate
from .log import GATES, LogEvent

_CHOICES: Final = ("C71", "C72")
_SLOW: Final = TakeGate("UA-1545", _CHOICES)
_QUICK: Final = TakeGate("UA-1714", _CHOICES)


class Race(Struct, frozen=True):
    """How a race ended: what the quick writer recorded, and what the slow one tried."""

    winner: GateTaken
    lost: Conflict
    tried: tuple[GateTaken, ...]
    attempts: int


async def race(store: EventStore[LogEvent]) -> Race:
    """Have two flights want the same gate, both having seen it free.

    The order is not left to chance: the slow writer's store is a copy of *store* whose
    `append` lets the quick writer append first, once.
    """
    stream = StreamName("gates", f"EWR-{new_id()}")
    won: list[LogEvent] = []
    tried: list[LogEvent] = []
    lost: list[Conflict] = []

    async def append(
        *writes: Write[LogEvent], also: Sequence[Also] = ()
    ) -> Appended | Conflict:
        if not tried:
            won.extend((await transact(store, GATES, stream, _QUICK)).events)
        tried.extend(new.event for write in writes for new in write.events)
        outcome = await store.append(*writes, also=also)
        if isinstance(outcome, Conflict):
            lost.append(outcome)
        return outcome

    slow = replace(store, append=append)
    decided = await transact(slow, GATES, stream, _SLOW)
    (winner,), (conflict,) = _taken(won), lost
    return Race(winner, conflict, _taken(tried), decided.attempts)


def _taken(events: Sequence[LogEvent]) -> tuple[GateTaken, ...]:
    return tuple(event for event in events if isinstance(event, GateTaken))
