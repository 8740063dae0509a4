"""Tell, as a value, how a subscription is doing."""

from __future__ import annotations

from bisect import bisect_right
from datetime import UTC, datetime, timedelta
from operator import attrgetter

from msgspec import Struct

from .delivery import State
from .run import Run

_position = attrgetter("position")


class Status(Struct, frozen=True, kw_only=True):
    """How a subscription was doing when it was asked.

    Args:
        name: the subscription's.
        state: what it was doing.
        position: everything up to here was handled, parked or skipped.
        checkpoint: the position that is saved, if it is known.
        head: the log's last position, as it was seen last.
        lag: how many positions are behind the head; as many events at most.
        behind: the age of the oldest event that is not handled; zero: there is none;
            None: not known (nothing of what remains was read yet).
        rate: events handled (or parked, or skipped) in a second, lately; None: unknown.
        remaining: how long the rest will take at the pace of late; None: unknown.
        handled, parked, skipped: how many events, since it was started.
        failed: how many attempts failed.
        error: why it is in trouble; None: it is not.
        last_error, last_error_at: what went wrong last, also if it was overcome.
        healthy: events flow, and their checkpoints are saved.
        ready: it has caught up once.
        alive: it runs, and no call of the handler has taken too long.
    """

    name: str
    state: State
    position: int
    checkpoint: int | None
    head: int
    lag: int
    behind: timedelta | None
    rate: float | None
    remaining: timedelta | None
    handled: int
    parked: int
    skipped: int
    failed: int
    error: Exception | None
    last_error: Exception | None
    last_error_at: datetime | None
    healthy: bool
    ready: bool
    alive: bool


def status_of(
    run: Run, now: float, *, checkpoint: int | None, healthy: bool, alive: bool
) -> Status:
    """Make the status; *now* is the loop's time."""
    rate, pace = _speed(run, now)
    lag = max(run.head - run.position, 0)
    return Status(
        name=run.name,
        state=run.state,
        position=run.position,
        checkpoint=checkpoint,
        head=max(run.head, run.position),
        lag=lag,
        behind=_behind(run, lag),
        rate=rate,
        remaining=_remaining(lag, pace),
        handled=run.handled,
        parked=run.parked,
        skipped=run.skipped,
        failed=run.failed,
        error=run.error,
        last_error=run.last_error,
        last_error_at=run.last_error_at,
        healthy=healthy,
        ready=run.ready,
        alive=alive,
    )


def _behind(run: Run, lag: int) -> timedelta | None:
    if not lag:
        return timedelta(0)
    first = bisect_right(run.events, run.position, key=_position)
    if first == len(run.events):
        return None
    age = datetime.now(UTC) - run.events[first].recorded_at
    return max(age, timedelta(0))


def _speed(run: Run, now: float) -> tuple[float | None, float | None]:
    """Give events and positions in a second since the oldest sample."""
    if not run.samples:
        return None, None
    at, done, position = run.samples[0]
    if now <= at:
        return None, None
    return (run.done - done) / (now - at), (run.position - position) / (now - at)


def _remaining(lag: int, pace: float | None) -> timedelta | None:
    if not lag:
        return timedelta(0)
    return timedelta(seconds=lag / pace) if pace else None
