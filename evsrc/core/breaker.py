"""Tell an outage from a poison event: a circuit that opens, as a value. No I/O here.

While it is open the subscription waits: nothing is skipped, parked or passed for that.
"""

from __future__ import annotations

from datetime import timedelta

from msgspec import Struct
from msgspec.structs import replace


class Breaker(Struct, frozen=True):
    """When so many events fail that it must be an outage, and how long to wait then.

    An event has failed when the policy gives it up (it would be skipped, parked or
    stopped at); its retries do not count. Of those that fail before the circuit opens
    the policy decides; the one that opens it, and all later ones, are waited for.

    Args:
        failures: this many events in a row open the circuit.
        share: so does this share of the last *of* events, if it is given.
        of: how many events the share is taken of.
        pause: how long to wait before one event is tried; twice as long each time.
        longest: no pause is longer.

    Raises:
        ValueError: a value is out of its range.
    """

    failures: int = 5
    share: float | None = None
    of: int = 20
    pause: timedelta = timedelta(seconds=5)
    longest: timedelta = timedelta(minutes=1)

    def __post_init__(self) -> None:
        if self.failures < 1 or self.of < 1:
            raise ValueError("a breaker counts at least 1 event")
        if self.share is not None and not 0 < self.share <= 1:
            raise ValueError(f"a share is above 0 and at most 1, not {self.share!r}")


class Circuit(Struct, frozen=True):
    """What a breaker has seen.

    Args:
        in_row: how many events failed since one was handled.
        recent: which of the last events failed, as far as the share needs them.
        trials: how often one event was tried since the circuit opened; None: closed.
    """

    in_row: int = 0
    recent: tuple[bool, ...] = ()
    trials: int | None = None


CLOSED = Circuit()


def failed(breaker: Breaker, circuit: Circuit, handled: int) -> Circuit:
    """Note an event that was given up, after *handled* others that were not.

    >>> breaker = Breaker(failures=2)
    >>> once = failed(breaker, CLOSED, handled=0)
    >>> failed(breaker, once, handled=1).trials is None
    True
    >>> failed(breaker, once, handled=0).trials
    0
    """
    if circuit.trials is not None:
        return replace(circuit, trials=circuit.trials + 1)
    between = (False,) * min(handled, breaker.of)
    recent = (*circuit.recent, *between, True)[-breaker.of :]
    in_row = 1 if handled else circuit.in_row + 1
    opens = in_row >= breaker.failures or (
        breaker.share is not None
        and len(recent) == breaker.of
        and sum(recent) >= breaker.share * breaker.of
    )
    return Circuit(in_row, recent, 0 if opens else None)


def pause_of(breaker: Breaker, circuit: Circuit) -> timedelta:
    """Tell how long to wait before the next event is tried.

    >>> pause_of(Breaker(pause=timedelta(seconds=5)), Circuit(trials=2))
    datetime.timedelta(seconds=20)
    """
    growth: int = 1 << min(circuit.trials or 0, 32)
    return min(breaker.pause * growth, breaker.longest)
