"""Judge a history: does it keep what evsrc guarantees? Pure functions, no I/O here.

Each invariant takes a `History` and yields a sentence for everything that is wrong, or
nothing; `broken(history)` asks all of them.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from operator import attrgetter
from typing import Any, Final, TypeAlias

from ..core.decider import decided, fold
from ..core.event import Recorded, StreamName
from ..core.expectation import matches
from ..core.snapshot import restored
from ..ports import Appended
from .history import Decision, History, Subscribed

Invariant: TypeAlias = Callable[[History], Iterator[str]]
_position: Final = attrgetter("position")


def _by_number(history: History) -> dict[int, list[Recorded[Any]]]:
    found: defaultdict[int, list[Recorded[Any]]] = defaultdict(list)
    for recorded in history.log:
        found[recorded.id.int].append(recorded)
    return found


def acknowledged_events_are_there(history: History) -> Iterator[str]:
    """I1: each acknowledged event is in the log once, where it was said to be."""
    found = _by_number(history)
    for attempt in history.attempts:
        outcome = attempt.outcome
        if not isinstance(outcome, Appended):
            continue
        for write, placed in zip(attempt.writes, outcome.placed, strict=False):
            first = placed.version - len(write.events)
            for version, new in enumerate(write.events, first + 1):
                there = [(str(r.stream), r.version) for r in found[new.number]]
                if there != [(str(write.stream), version)]:
                    yield (
                        f"I1: {attempt.worker} was told that {new.event!r} is version "
                        f"{version} of '{write.stream}'; the log has it at {there}"
                    )
                elif not outcome.repeated:
                    (only,) = found[new.number]
                    if only.event != new.event:
                        yield f"I1: {new.event!r} is recorded as {only.event!r}"


def failed_events_are_not_there(history: History) -> Iterator[str]:
    """I2: what was refused, and only that, is absent; nothing comes from nowhere."""
    possible = {
        new.number
        for attempt in history.attempts
        if attempt.outcome is None or isinstance(attempt.outcome, Appended)
        for new in attempt.events
    }
    for recorded in history.log:
        if recorded.id.int not in possible:
            yield (
                f"I2: {recorded.event!r}, version {recorded.version} of "
                f"'{recorded.stream}', is recorded; no append of it succeeded"
            )


def unknown_appends_are_whole(history: History) -> Iterator[str]:
    """I3: an append without an answer is there wholly and once, or not at all."""
    found = _by_number(history)
    for attempt in history.attempts:
        if attempt.outcome is not None or not attempt.writes:
            continue
        counts = {len(found[new.number]) for new in attempt.events}
        if counts not in ({0}, {1}):
            yield (
                f"I3: of an append of {attempt.worker} to '{attempt.writes[0].stream}' "
                f"without an answer, events are recorded {sorted(counts)} times"
            )


def nothing_happens_twice(history: History) -> Iterator[str]:
    """I3: no event id is recorded twice, and no command, however often it was sent."""
    found = _by_number(history)
    for recorded in found.values():
        if len(recorded) > 1:
            yield f"I3: {recorded[0].event!r} is recorded {len(recorded)} times"
    effects: defaultdict[str, set[int]] = defaultdict(set)
    for attempt in history.attempts:
        if attempt.command is not None and attempt.writes:
            first = attempt.events[0].number
            if first in found:
                effects[attempt.command].add(first)
    for command, firsts in effects.items():
        if len(firsts) > 1:
            yield f"I3: command {command!r} took effect {len(firsts)} times"


def versions_count_from_one(history: History) -> Iterator[str]:
    """I4: the versions of each stream are 1, 2, 3 ... in the order of positions."""
    versions: Counter[StreamName] = Counter()
    for recorded in history.log:
        versions[recorded.stream] += 1
        if recorded.version != (true := versions[recorded.stream]):
            yield (
                f"I4: event {true} of '{recorded.stream}' has version "
                f"{recorded.version}"
            )


def readers_miss_nothing(history: History) -> Iterator[str]:
    """I5: a page holds all that is ever recorded between its start and its end."""
    for read in history.reads:
        page = read.page
        start = bisect_right(history.log, read.after, key=_position)
        end = bisect_right(history.log, page.reached, key=_position)
        expected = [
            r.position
            for r in history.log[start:end]
            if matches(read.query, r.stream.category, r.type)
        ]
        given = [r.position for r in page.events]
        if given != expected:
            missed = sorted(set(expected) - set(given)) or expected
            yield (
                f"I5: the page after {read.after} says that it reaches {page.reached}; "
                f"it has {given}, the log has {expected}: {missed} would be missed"
            )


def positions_rise(history: History) -> Iterator[str]:
    """I6: positions rise; with I4, a stream's events keep their order in the log."""
    for before, after in pairwise(history.log):
        if after.position <= before.position:
            yield f"I6: position {after.position} comes after {before.position}"


def time_is_respected(history: History) -> Iterator[str]:
    """I8: what was asked after an answer is recorded after what was answered."""
    fresh = [
        (attempt, attempt.outcome)
        for attempt in history.attempts
        if isinstance(attempt.outcome, Appended)
        and attempt.outcome.placed
        and not attempt.outcome.repeated
    ]
    for attempt, outcome in fresh:
        acknowledged = [
            other.position
            for earlier, other in fresh
            if earlier.answered is not None and earlier.answered < attempt.asked
        ]
        first, last = outcome.placed[0].first_position, max(acknowledged, default=0)
        if first <= last:
            yield (
                f"I8: an append of {attempt.worker} was recorded at {first}, after "
                f"one at {last} had been acknowledged"
            )


def deliveries_follow_the_log(history: History) -> Iterator[str]:
    """I9: each life handles the feed in order, from where the ones before it came."""
    for subscribed in history.subscriptions.values():
        lanes: defaultdict[StreamName | None, list[int]] = defaultdict(list)
        for recorded in history.feed(subscribed):
            lanes[recorded.stream if subscribed.by_stream else None].append(
                recorded.position
            )
        wanted = {position for lane in lanes.values() for position in lane}
        for life in subscribed.lives:
            who = f"I9: {subscribed.name!r} in {life.worker}"
            for position, _ in life.done:
                if position not in wanted:
                    yield f"{who} handled {position}, which it did not ask for"
            for stream in sorted(life.overlaps):
                yield f"{who} had two events of '{stream}' in its handler at once"
        for lane in lanes.values():
            yield from _in_order(subscribed, lane)


def _in_order(subscribed: Subscribed, feed: Sequence[int]) -> Iterator[str]:
    """Follow one stream, or the whole feed, through all lives."""
    place = {position: n for n, position in enumerate(feed)}
    reached = 0 if subscribed.from_start else None
    for life in subscribed.lives:
        who = f"I9: {subscribed.name!r} in {life.worker}"
        mine = [place[position] for position, _ in life.done if position in place]
        for before, n in pairwise(mine):
            if n != before + 1:
                expected = feed[before + 1] if before + 1 < len(feed) else "no more"
                yield f"{who} handled {feed[n]} after {feed[before]}, not {expected}"
        if mine:
            if reached is not None and mine[0] > reached:
                missed = f"{feed[reached]} was never handled"
                yield f"{who} began with {feed[mine[0]]}; {missed}"
            reached = max(reached or 0, *(n + 1 for n in mine))


def checkpoints_follow_the_handler(history: History) -> Iterator[str]:
    """I9: no checkpoint passes an event that was not handled, parked or skipped."""
    for subscribed in history.subscriptions.values():
        feed = [recorded.position for recorded in history.feed(subscribed)]
        first = dict(sorted(subscribed.done, reverse=True))
        for saved, moment in history.saved:
            if saved.name != subscribed.name or not subscribed.from_start:
                continue
            passed = feed[: bisect_right(feed, saved.position)]
            missed = [each for each in passed if first.get(each, moment) >= moment]
            if missed:
                yield (
                    f"I9: the checkpoint of {saved.name!r} was moved to "
                    f"{saved.position}, but {missed[0]} was not handled"
                )


def everything_is_handled(history: History) -> Iterator[str]:
    """I9: when all is quiet, each subscription has handled all it wants."""
    for subscribed in history.subscriptions.values():
        missed = history.missed(subscribed)
        if missed and subscribed.from_start:
            yield f"I9: {subscribed.name!r} never handled {missed}"


def projections_are_the_fold(history: History) -> Iterator[str]:
    """I10: each stored state of a projection is the fold of the log at its position."""
    for name, (view, keep) in history.projections.items():
        feed = history.feed(history.subscriptions[name])
        for kept in history.kept:
            stored = restored(keep, kept.snapshot) if kept.name == name else None
            if stored is None:
                continue
            end = bisect_right(feed, stored.version, key=_position)
            true = fold(view, feed[:end])
            if stored.state != true:
                yield (
                    f"I10: {name!r} at {stored.version} was stored as "
                    f"{stored.state!r}; the fold of the log is {true!r}"
                )


def one_owner_at_a_time(history: History) -> Iterator[str]:
    """I11: no append takes effect with the token of a lease that another has by now."""
    for fence, granted in history.fenced:
        if fence.token < granted:
            yield (
                f"I11: an append with token {fence.token} of lease {fence.name!r} "
                f"took effect after token {granted} had been given"
            )


def decisions_are_true(history: History) -> Iterator[str]:
    """I8: each command was decided on a state that was true while it was asked."""
    streams: defaultdict[StreamName, list[Recorded[Any]]] = defaultdict(list)
    for recorded in history.log:
        streams[recorded.stream].append(recorded)
    for decision in history.decisions:
        problem = _misjudged(decision, streams[decision.stream])
        if problem:
            yield (
                f"I8: {decision.command!r} of {decision.worker} to "
                f"'{decision.stream}' {problem}"
            )


def _misjudged(decision: Decision, stream: Sequence[Recorded[Any]]) -> str | None:
    numbers = [recorded.id for recorded in stream]
    if decision.ids:
        if decision.ids[0] not in numbers:
            return "was answered with events that are not recorded"
        at = numbers.index(decision.ids[0])
        found = [recorded.event for recorded in stream[at : at + len(decision.ids)]]
        expected = _answer(decision, stream[:at])
        if not decision.repeated and found != expected:
            return f"led to {found!r}; on the state before them it means {expected!r}"
        return None
    low = bisect_right(stream, decision.head_before, key=_position)
    high = bisect_right(stream, decision.head_after, key=_position)
    answer: Any = type(decision.refusal) if decision.refusal else []
    if any(_answer(decision, stream[:n]) == answer for n in range(low, high + 1)):
        return None
    said = f"refused with {decision.refusal!r}" if decision.refusal else "found done"
    return f"was {said}; no state between versions {low} and {high} says so"


def _answer(decision: Decision, before: Sequence[Recorded[Any]]) -> Any:
    """Give what the domain says on the state after *before*: events, or the refusal."""
    state = fold(decision.decider, [recorded.event for recorded in before])
    try:
        return list(decided(decision.decider, state, decision.command))
    except Exception as refusal:  # noqa: BLE001 - it is the domain's
        return type(refusal)


INVARIANTS: Final[tuple[Invariant, ...]] = (
    acknowledged_events_are_there,
    failed_events_are_not_there,
    unknown_appends_are_whole,
    nothing_happens_twice,
    versions_count_from_one,
    readers_miss_nothing,
    positions_rise,
    time_is_respected,
    decisions_are_true,
    deliveries_follow_the_log,
    checkpoints_follow_the_handler,
    everything_is_handled,
    projections_are_the_fold,
    one_owner_at_a_time,
)
"""All invariants; each takes a history and says what is wrong."""


def broken(history: History) -> list[str]:
    """Give a sentence for each violation of an invariant; empty: there is none."""
    return [problem for invariant in INVARIANTS for problem in invariant(history)]
