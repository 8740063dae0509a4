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
from ..core.event import Recorded, StreamName
from ..core.expectation import AnyQuery, matches
from ..core.snapshot import Snapshot, Snapshotting
from ..core.view import View
from ..ports import Also, Appended, Conflict, DeadLetter, Page, Write


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


class Read(Struct, frozen=True):
    """One page that a reader of the log was given."""

    query: AnyQuery
    after: int
    page: Page[Any]


class Saved(Struct, frozen=True):
    """A checkpoint was moved to *position*."""

    name: str
    position: int
    moment: int


class Kept(Struct, frozen=True):
    """A snapshot was stored."""

    name: str
    snapshot: Snapshot[bytes]


class Fenced(Struct, frozen=True):
    """An append with a fence took effect while *granted* was the last token given."""

    name: str
    token: int
    granted: int


@dataclass
class Life:
    """One run of a subscription: from its start to its end, or to the crash.

    Args:
        worker: whose.
        began: when.
        done: position and moment of each event that was handled, parked or skipped.
        failed: the position at which an error, by its identity, was raised.
        handling: how many events of each stream are in the handler now.
        overlaps: streams of which two events were in the handler at once.
    """

    worker: str
    began: int
    done: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])
    failed: dict[int, int] = field(default_factory=dict[int, int])
    handling: Counter[StreamName] = field(default_factory=Counter[StreamName])
    overlaps: set[StreamName] = field(default_factory=set[StreamName])

    def enter(self, stream: StreamName) -> None:
        """Note that an event of *stream* is being handled."""
        self.handling[stream] += 1
        if self.handling[stream] > 1:
            self.overlaps.add(stream)

    def leave(self, stream: StreamName) -> None:
        """Note that it no longer is."""
        self.handling[stream] -= 1


@dataclass
class Subscribed:
    """A subscription: what it wants, in which order, and all its lives."""

    name: str
    query: AnyQuery
    from_start: bool
    by_stream: bool
    lives: list[Life] = field(default_factory=list[Life])


class Projected(Struct, frozen=True):
    """A read model that is kept together with its position."""

    view: View[Any, Recorded[Any]]
    keep: Snapshotting[Any]


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


@dataclass
class History:
    """All that happened, and the log that it led to."""

    log: Sequence[Recorded[Any]] = ()
    crashes: int = 0
    faults: int = 0
    attempts: list[Attempt] = field(default_factory=list[Attempt])
    reads: list[Read] = field(default_factory=list[Read])
    saved: list[Saved] = field(default_factory=list[Saved])
    kept: list[Kept] = field(default_factory=list[Kept])
    fenced: list[Fenced] = field(default_factory=list[Fenced])
    decisions: list[Decision] = field(default_factory=list[Decision])
    subscriptions: dict[str, Subscribed] = field(default_factory=dict[str, Subscribed])
    projections: dict[str, Projected] = field(default_factory=dict[str, Projected])

    def put_aside(self, letter: DeadLetter, moment: int) -> None:
        """Note that an event became a dead letter: it is dealt with."""
        subscribed = self.subscriptions.get(letter.subscription)
        if subscribed is None or letter.status != "failed":
            return
        done = {position for life in subscribed.lives for position, _ in life.done}
        if letter.position not in done:
            subscribed.lives[-1].done.append((letter.position, moment))

    def feed(self, subscribed: Subscribed) -> list[Recorded[Any]]:
        """Give the events that a subscription wants, in order."""
        return [
            recorded
            for recorded in self.log
            if matches(subscribed.query, recorded.stream.category, recorded.type)
        ]
