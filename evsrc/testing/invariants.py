"""Judge a history: does it keep what evsrc guarantees? Pure functions, no I/O here.

Each invariant takes a `History` and yields a sentence for everything that is wrong, or
nothing. `broken(history)` asks all of them; one pass over the history each.
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
from .history import Attempt, Decision, History, Subscribed

Invariant: TypeAlias = Callable[[History], Iterator[str]]
_position: Final = attrgetter("position")
_ordered: Final = attrgetter("asked")


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
        for write in attempt.writes
        for new in write.events
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
        counts = {len(found[new.number]) for w in attempt.writes for new in w.events}
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
            first = attempt.writes[0].events[0].number
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
        if recorded.version != versions[recorded.stream]:
            yield (
                f"I4: event {versions[recorded.stream]} of '{recorded.stream}' has "
                f"version {recorded.version}"
            )


def readers_miss_nothing(history: History) -> Iterator[str]:
    """I5: a page holds all that is ever recorded between its start and its end."""
    positions = [recorded.position for recorded in history.log]
    for read in history.reads:
        page = read.page
        start = bisect_right(positions, read.after)
        end = bisect_right(positions, page.reached)
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
    acked = [a for a in history.attempts if _fresh(a) and a.answered is not None]
    answers = sorted(acked, key=lambda attempt: attempt.answered or 0)
    last, at = 0, 0
    for attempt in sorted(acked, key=_ordered):
        while at < len(answers) and (answers[at].answered or 0) < attempt.asked:
            last = max(last, _placed(answers[at])[-1])
            at += 1
        first = _placed(attempt)[0]
        if first <= last:
            yield (
                f"I8: an append of {attempt.worker} was recorded at {first}, after "
                f"one at {last} had been acknowledged"
            )


def _fresh(attempt: Attempt) -> bool:
    outcome = attempt.outcome
    return (
        isinstance(outcome, Appended) and bool(outcome.placed) and not outcome.repeated
    )


def _placed(attempt: Attempt) -> tuple[int, int]:
    assert isinstance(attempt.outcome, Appended)
    placed = attempt.outcome.placed
    return placed[0].first_position, placed[-1].last_position


def deliveries_follow_the_log(history: History) -> Iterator[str]:
    """I9: each life handles the feed in order, from where the ones before it came."""
    for subscribed in history.subscriptions.values():
        lanes: dict[StreamName | None, list[int]] = defaultdict(list)
        lane_of: dict[int, StreamName | None] = {}
        for recorded in history.feed(subscribed):
            lane = recorded.stream if subscribed.by_stream else None
            lane_of[recorded.position] = lane
            lanes[lane].append(recorded.position)
        for life in subscribed.lives:
            who = f"I9: {subscribed.name!r} in {life.worker}"
            for position, _ in life.done:
                if position not in lane_of:
                    yield f"{who} handled {position}, which it did not ask for"
            for stream in sorted(life.overlaps):
                yield f"{who} had two events of '{stream}' in its handler at once"
        for lane, feed in lanes.items():
            yield from _in_order(subscribed, lane, lane_of, feed)


def _in_order(
    subscribed: Subscribed,
    lane: StreamName | None,
    lane_of: dict[int, StreamName | None],
    feed: Sequence[int],
) -> Iterator[str]:
    """Follow one stream, or the whole feed, through all lives."""
    place = {position: n for n, position in enumerate(feed)}
    reached = 0 if subscribed.from_start else None
    for life in subscribed.lives:
        who = f"I9: {subscribed.name!r} in {life.worker}"
        previous: int | None = None
        mine = [p for p, _ in life.done if p in lane_of and lane_of[p] == lane]
        for n in map(place.__getitem__, mine):
            if previous is not None and n != previous + 1:
                expected = feed[previous + 1] if previous + 1 < len(feed) else "no more"
                yield f"{who} handled {feed[n]} after {feed[previous]}, not {expected}"
            if previous is None and reached is not None and n > reached:
                yield f"{who} began with {feed[n]}; {feed[reached]} was never handled"
            previous = n
        reached = max([reached or 0, *(place[p] + 1 for p in mine)])


def checkpoints_follow_the_handler(history: History) -> Iterator[str]:
    """I9: no checkpoint passes an event that was not handled, parked or skipped."""
    for subscribed in history.subscriptions.values():
        feed = history.feed(subscribed)
        first: dict[int, int] = {}
        for life in subscribed.lives:
            for position, moment in life.done:
                first[position] = min(moment, first.get(position, moment))
        if not subscribed.from_start:
            continue
        for saved in history.saved:
            if saved.name != subscribed.name:
                continue
            end = bisect_right(feed, saved.position, key=_position)
            for recorded in feed[:end]:
                if first.get(recorded.position, saved.moment) >= saved.moment:
                    yield (
                        f"I9: the checkpoint of {saved.name!r} was moved to "
                        f"{saved.position}, but {recorded.position} was not handled"
                    )
                    break


def everything_is_handled(history: History) -> Iterator[str]:
    """I9: when all is quiet, each subscription has handled all it wants."""
    for subscribed in history.subscriptions.values():
        done = {position for life in subscribed.lives for position, _ in life.done}
        feed = [recorded.position for recorded in history.feed(subscribed)]
        missed = [position for position in feed if position not in done]
        if missed and subscribed.from_start:
            yield f"I9: {subscribed.name!r} never handled {missed}"


def projections_are_the_fold(history: History) -> Iterator[str]:
    """I10: each stored state of a projection is the fold of the log at its position."""
    for name, projected in history.projections.items():
        feed = history.feed(history.subscriptions[name])
        for kept in history.kept:
            stored = restored(projected.keep, kept.snapshot)
            if kept.name != name or stored is None:
                continue
            end = bisect_right(feed, stored.version, key=_position)
            true = fold(projected.view, feed[:end])
            if stored.state != true:
                yield (
                    f"I10: {name!r} at {stored.version} was stored as "
                    f"{stored.state!r}; the fold of the log is {true!r}"
                )


def one_owner_at_a_time(history: History) -> Iterator[str]:
    """I11: no append takes effect with the token of a lease that another has by now."""
    for fenced in history.fenced:
        if fenced.token < fenced.granted:
            yield (
                f"I11: an append with token {fenced.token} of lease {fenced.name!r} "
                f"took effect after token {fenced.granted} had been given"
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
    for version in range(low, high + 1):
        if _answer(decision, stream[:version]) == answer:
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
