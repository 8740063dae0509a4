"""Say, as values, how a subscription is run and what it is doing. No I/O here."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from typing import Generic, Literal, TypeAlias, final

from msgspec import Struct

from ..core.breaker import Breaker
from ..core.event import E, Recorded, StreamName
from ..core.expectation import ALL, AnyQuery
from ..core.policy import FailurePolicy, Stop, retry_then
from ..ports import Also, Checkpoints, Transaction


class State(StrEnum):
    """What a subscription is doing."""

    STARTING = "starting"
    CATCHING_UP = "catching_up"
    LIVE = "live"
    RETRYING = "retrying"
    CIRCUIT_OPEN = "circuit_open"
    PAUSED = "paused"
    STOPPED = "stopped"
    FAILED = "failed"


class Parked(Struct, Generic[E], frozen=True):
    """An event that was put aside: why, and after how many attempts."""

    subscription: str
    recorded: Recorded[E]
    error: Exception
    attempts: int


class Progress(Struct, frozen=True):
    """What was handled since the last saved checkpoint."""

    events: int
    seconds: float
    page_ended: bool


Handler: TypeAlias = Callable[[Recorded[E]], Awaitable[None]]
ParkEvent: TypeAlias = Callable[[Parked[E]], Awaitable[None]]
CheckpointDue: TypeAlias = Callable[[Progress], bool]
StartFrom: TypeAlias = Literal["checkpoint", "beginning", "end"] | int


def after_page(progress: Progress) -> bool:
    """Save a checkpoint at the end of every page."""
    return progress.page_ended


def after_event(progress: Progress) -> bool:
    """Save a checkpoint after every event."""
    return progress.events > 0


def after_time(interval: timedelta) -> CheckpointDue:
    """Save a checkpoint when the last one was saved *interval* ago.

    >>> due = after_time(timedelta(seconds=5))
    >>> due(Progress(events=9, seconds=4.9, page_ended=True))
    False
    """
    seconds = interval.total_seconds()
    return lambda progress: progress.seconds >= seconds


@final
@dataclass(frozen=True, slots=True)
class Batched(Generic[E]):
    """A handler that is given several events at once, in the log's order.

    A batch is what one page holds. One that fails is halved until the event that fails
    is alone; the policy applies to that one. So an event may be handled again with
    fewer others after a batch that held it failed.
    """

    handle: Callable[[Sequence[Recorded[E]]], Awaitable[None]]


@final
@dataclass(frozen=True, slots=True)
class Transactional(Generic[E]):
    """A handler whose work commits together with the checkpoint: exactly once.

    It is given the open transaction and the events of a page, in the log's order. What
    it writes through the transaction (`append`, or SQL on `connection`) is there if and
    only if the checkpoint has passed the events. A page that fails is rolled back and
    halved until the event that fails is alone; the policy applies to that one.
    """

    apply: Callable[[Transaction[E], Sequence[Recorded[E]]], Awaitable[None]]


AnyHandler: TypeAlias = Handler[E] | Batched[E] | Transactional[E]


@final
@dataclass(frozen=True, slots=True)
class Folded(Generic[E]):
    """The handler of a View: what it makes of events is stored by its checkpoints.

    Args:
        handle: takes an event in.
        again: takes in one that was parked, and stores that with *also*; gives the
            View's error, or None.
        settle: finds out what became of a commit whose answer never came; asked for
            before anything else is handled.
    """

    handle: Handler[E]
    again: Callable[[Recorded[E], Sequence[Also]], Awaitable[Exception | None]]
    settle: Callable[[], Awaitable[None]]


@dataclass(frozen=True, kw_only=True)
class Delivery(Generic[E]):
    """How a subscription is run.

    Args:
        query: which events; the others move the checkpoint all the same.
        start: where to start: the saved checkpoint (else the beginning), the beginning,
            the end of the log, or after a position.
        page: how many events are read at once.
        poll: read again after this time even if nothing woke us.
        on_failure: what to do when the handler fails; the default retries three times,
            then stops.
        park: puts an event aside, durably, in a place of yours. By default it becomes
            a dead letter of the store, in one transaction with the checkpoint (if that
            is the store's own). A StoreUnavailableError or StoreBusyError that it
            raises is waited out, so that the same event may be given to it again.
        hold_streams: park every later event of a stream behind its parked one, without
            handling it, until all of them were re-driven or discarded; False: the
            stream goes on without its parked events.
        breaker: when to take failures for an outage, and wait; None: never.
        max_streams: how many events may be handled at once, each of another stream. The
            checkpoint moves over what is handled without a gap.
        checkpoint_due: when to save the checkpoint.
        checkpoints: where; the store's own by default.
        also: what is written or checked in the transaction of each checkpoint, asked
            for each time: a `Fence` keeps a worker that has lost its lease from moving
            it. Needs the store's own checkpoints.
        streams: deliver only the events of these streams (a partition); the others
            move the checkpoint all the same. It must be pure.
        stuck_after: a handler that takes longer for one call is not alive any more.

    Raises:
        ValueError: *page* or *max_streams* is less than 1; *also* is to be written with
            *checkpoints* that are kept elsewhere, or streams are to be held for letters
            that are.
    """

    query: AnyQuery = ALL
    start: StartFrom = "checkpoint"
    page: int = 1000
    poll: timedelta = timedelta(seconds=1)
    on_failure: FailurePolicy = field(default_factory=lambda: retry_then(Stop()))
    park: ParkEvent[E] | None = None
    hold_streams: bool = False
    breaker: Breaker | None = None
    max_streams: int = 1
    checkpoint_due: CheckpointDue = after_page
    checkpoints: Checkpoints | None = None
    also: Callable[[], Sequence[Also]] = tuple
    streams: Callable[[StreamName], bool] | None = None
    stuck_after: timedelta = timedelta(minutes=1)

    def __post_init__(self) -> None:
        if self.page < 1:
            raise ValueError(f"a page has at least 1 event, not {self.page!r}")
        if self.max_streams < 1:
            raise ValueError(f"max_streams is at least 1, not {self.max_streams!r}")
        if self.hold_streams and self.park is not None:
            raise ValueError(
                "which streams are held is known from the store's dead letters: "
                "`hold_streams` does not go with a `park` of your own"
            )
        if self.also is not tuple and self.checkpoints is not None:
            raise ValueError(
                "`also` is written with the store's own checkpoints: it cannot be "
                "in one transaction with `checkpoints` kept elsewhere"
            )
