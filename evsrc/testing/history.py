"""Say, as values, what happened in a simulation; `invariants` judges it. No I/O here.

Moments are numbers that grow: what has the smaller one happened first.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from msgspec import Struct

from ..core.decider import Decider
from ..core.event import NewEvent, Recorded, StreamName
from ..core.expectation import AnyQuery, matches
from ..core.snapshot import Snapshotting
from ..core.view import View
from ..ports import (
    Also,
    Appended,
    Conflict,
    DeadLetter,
    Fence,
    Page,
    SaveCheckpoint,
    SaveSnapshot,
    Write,
)


@dataclass
class Attempt:
    """One call of `append`: what was asked, and what the caller was told.

    *command* is the key of the command that it was decided for. *outcome* None: the
    caller never heard of it, or heard that nobody knows.
    """

    worker: str
    writes: Sequence[Write[Any]]
    also: Sequence[Also]
    asked: int
    command: str | None = None
    answered: int | None = None
    outcome: Appended | Conflict | Exception | None = None

    @property
    def events(self) -> list[NewEvent[Any]]:
        """The events of all its writes."""
        return [new for write in self.writes for new in write.events]


class Read(Struct, frozen=True):
    """One page that a reader of the log was given."""

    query: AnyQuery
    after: int
    page: Page[Any]


@dataclass
class Life:
    """One run of a subscription: from its start to its end, or to the crash.

    Args:
        worker: whose.
        done: position and moment of each event that was handled, parked or skipped.
        failed: the position at which an error, by its identity, was raised.
        handling: how many events of each stream are in the handler now.
        overlaps: streams of which two events were in the handler at once.
    """

    worker: str
    done: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])
    failed: dict[int, int] = field(default_factory=dict[int, int])
    handling: Counter[StreamName] = field(default_factory=Counter[StreamName])
    overlaps: set[StreamName] = field(default_factory=set[StreamName])


@dataclass
class Subscribed:
    """A subscription: what it wants, in which order, and all its lives."""

    name: str
    query: AnyQuery
    from_start: bool
    by_stream: bool
    lives: list[Life] = field(default_factory=list[Life])

    @property
    def done(self) -> list[tuple[int, int]]:
        """What was done in all its lives."""
        return [each for life in self.lives for each in life.done]


@dataclass
class Decision:
    """One command and its answer.

    Args:
        head_before: where the log ended when it was asked.
        head_after: where it ended when it was answered.
        ids: of the events that it led to; empty: none.
        repeated: they had been recorded by an earlier attempt.
        refusal: the domain's error.
    """

    worker: str
    decider: Decider[Any, Any, Any]
    stream: StreamName
    command: Any
    head_before: int
    head_after: int = 0
    ids: Sequence[UUID] = ()
    repeated: bool = False
    refusal: Exception | None = None


Projected = tuple[View[Any, Recorded[Any]], Snapshotting[Any]]


@dataclass
class History:
    """All that happened, and the log that it led to.

    Args:
        saved: checkpoints that were moved, and when.
        kept: snapshots that were stored.
        fenced: what took effect with a fence, and the last token given at that time.
        projections: read models that are kept together with their position.
    """

    log: Sequence[Recorded[Any]] = ()
    crashes: int = 0
    faults: int = 0
    attempts: list[Attempt] = field(default_factory=list[Attempt])
    reads: list[Read] = field(default_factory=list[Read])
    saved: list[tuple[SaveCheckpoint, int]] = field(
        default_factory=list[tuple[SaveCheckpoint, int]]
    )
    kept: list[SaveSnapshot] = field(default_factory=list[SaveSnapshot])
    fenced: list[tuple[Fence, int]] = field(default_factory=list[tuple[Fence, int]])
    decisions: list[Decision] = field(default_factory=list[Decision])
    subscriptions: dict[str, Subscribed] = field(default_factory=dict[str, Subscribed])
    projections: dict[str, Projected] = field(default_factory=dict[str, Projected])

    def put_aside(self, letter: DeadLetter, moment: int) -> None:
        """Note that an event became a dead letter: it is dealt with."""
        subscribed = self.subscriptions.get(letter.subscription)
        if subscribed is None or letter.status != "failed":
            return
        if letter.position not in dict(subscribed.done):
            subscribed.lives[-1].done.append((letter.position, moment))

    def feed(self, subscribed: Subscribed) -> list[Recorded[Any]]:
        """Give the events that a subscription wants, in order."""
        return [
            recorded
            for recorded in self.log
            if matches(subscribed.query, recorded.stream.category, recorded.type)
        ]

    def missed(self, subscribed: Subscribed) -> list[int]:
        """Give the positions of those that it has not handled."""
        done = dict(subscribed.done)
        feed = self.feed(subscribed)
        return [recorded.position for recorded in feed if recorded.position not in done]
