"""Say, as values, how a subscription is run and what it is doing. No I/O here."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from typing import Generic, Literal, TypeAlias

from msgspec import Struct

from ..core.event import E, Recorded, StreamName
from ..core.expectation import ALL, AnyQuery
from ..core.policy import FailurePolicy, Stop, retry_then
from ..ports import Also, Checkpoints


class State(StrEnum):
    """What a subscription is doing."""

    STARTING = "starting"
    CATCHING_UP = "catching_up"
    LIVE = "live"
    RETRYING = "retrying"
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
        park: puts an event aside, durably; needed if *on_failure* parks.
        checkpoint_due: when to save the checkpoint.
        checkpoints: where; the store's own by default.
        also: what is written or checked in the transaction of each checkpoint, asked
            for each time: a `Fence` keeps a worker that has lost its lease from moving
            it. Needs the store's own checkpoints.
        streams: deliver only the events of these streams (a partition); the others
            move the checkpoint all the same. It must be pure.

    Raises:
        ValueError: *page* is less than 1; *also* and *checkpoints* are both given.
    """

    query: AnyQuery = ALL
    start: StartFrom = "checkpoint"
    page: int = 1000
    poll: timedelta = timedelta(seconds=1)
    on_failure: FailurePolicy = field(default_factory=lambda: retry_then(Stop()))
    park: ParkEvent[E] | None = None
    checkpoint_due: CheckpointDue = after_page
    checkpoints: Checkpoints | None = None
    also: Callable[[], Sequence[Also]] = tuple
    streams: Callable[[StreamName], bool] | None = None

    def __post_init__(self) -> None:
        if self.page < 1:
            raise ValueError(f"a page has at least 1 event, not {self.page!r}")
        if self.also is not tuple and self.checkpoints is not None:
            raise ValueError(
                "`also` is written with the store's own checkpoints: it cannot be "
                "in one transaction with `checkpoints` kept elsewhere"
            )
