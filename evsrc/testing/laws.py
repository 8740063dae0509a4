"""Check the laws of a domain, over histories that Hypothesis thinks up.

    test_account_laws = decider_laws(account, codec=codec, snapshots=snapshots)

is a whole test. A broken law is told by its name, with the shortest history that breaks
it, as a sentence to paste. `settings(max_examples=...)` and the other decorators of
Hypothesis work on what these functions give.
"""

# values and types of any shape are looked at, which strict typing cannot follow
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any, Final, Generic, NoReturn, TypeVar, cast

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from msgspec import Struct

from ..core.codec import Codec, dec_hook, enc_hook
from ..core.decider import decided, fold
from ..core.event import Recorded
from ..core.snapshot import Snapshotting
from ..core.upcast import SHAPE, Body, Chain
from ..core.view import View
from ..facade.events import DomainEvent
from ._domain import Domain, domain_of, is_refusal
from ._text import differences, same, source
from .strategies import commands_of, values

S = TypeVar("S")
C = TypeVar("C")
E = TypeVar("E")
T = TypeVar("T")

_MOST: Final = 8  # commands or events, at most


class LawBrokenError(AssertionError):
    """A law does not hold; its name, and the history that breaks it.

    Args:
        law: the sentence that is not true.
        story: the shortest history, as a test would give it.
        reasons: what is otherwise.
    """

    def __init__(self, law: str, story: str, *reasons: str) -> None:
        super().__init__("\n".join((f"broken: {law}", *reasons, "", story)))
        self.law = law
        self.story = story


class Moment(Struct, Generic[S, C, E], frozen=True):
    """A decision that was made, and what came before it."""

    domain: Domain[S, C, E]
    history: tuple[E, ...]
    state: S
    command: C
    refusals: Sequence[type[Exception]] | None

    @property
    def story(self) -> str:
        """The moment as the start of a test."""
        events = ", ".join(map(source, self.history))
        return f"given({events}).when({source(self.command)})"

    def broken(
        self, law: str, *reasons: str, cause: Exception | None = None
    ) -> NoReturn:
        """Tell that a law is broken here."""
        _break(law, self.story, *reasons, cause=cause)

    def decide(self) -> tuple[E, ...] | Exception:
        """Give the events, or the refusal."""
        events, error = _tried(
            lambda: decided(self.domain.decider, self.state, self.command)
        )
        if error is not None and not is_refusal(error, self.refusals):
            self.broken("decide answers or refuses", _told(error), cause=error)
        return error or cast("tuple[E, ...]", events)

    def evolve(self, state: S, event: E) -> S:
        """Give the next state."""
        after, error = _tried(lambda: self.domain.decider.evolve(state, event))
        if error is not None:
            told = f"evolve failed on {source(event)}: {_told(error)}"
            self.broken("evolve is total on what can happen", told, cause=error)
        return cast("S", after)


def _tried(call: Callable[[], Any]) -> tuple[Any, Exception | None]:
    try:
        return call(), None
    except Exception as error:  # noqa: BLE001 - whatever it is, it is judged
        return None, error


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _break(
    law: str, story: str, *reasons: str, cause: Exception | None = None
) -> NoReturn:
    # at one place, and not while another error is handled: Hypothesis tells bugs apart
    # by that, and would tell several laws that one bug breaks
    raise LawBrokenError(law, story, *reasons) from cause


def decider_laws(
    subject: Any,
    *,
    commands: SearchStrategy[Any] | None = None,
    codec: Codec[Any] | None = None,
    snapshots: Snapshotting[Any] | None = None,
    retryable: type | tuple[type, ...] | Callable[[Any], bool] = (),
    refusals: Sequence[type[Exception]] | None = None,
) -> Callable[[], None]:
    """Make the test that a decider, or an aggregate class, keeps the laws.

    * decide answers or refuses: it does not fail by mistake
    * decide is deterministic: the same twice, and for the whole history again
    * decide is pure, and so is evolve: state, command and event stay as they were
    * a refused command emits nothing: no answer that yields events and refuses later
    * evolve is total on what can happen
    * fold splits: a history in two parts leads to the same state as in one
    * terminal is absorbing: no event leads out of a final state
    * events read back equal, with *codec*; those of a class without it
    * states read back equal, with *snapshots*; those of a class without it
    * snapshot plus tail is the full fold, likewise
    * a retried command changes nothing, for those that are *retryable*

    Args:
        subject: a decider, or a class derived from `AggregateRoot`.
        commands: what to ask; by default `commands_of(subject)`.
        codec: the events' codec.
        snapshots: how states are kept.
        retryable: commands that may be repeated, as classes or as a predicate; once
            such a command was granted, the same again is refused or empty.
        refusals: what commands are refused with; by default every exception but those
            by which Python reports a mistake (TypeError, KeyError ...).

    Raises:
        TypeError: *subject* is neither, or does not say what its commands are.
        LawBrokenError: from the test.
    """
    domain = domain_of(subject)
    plan = snapshots or domain.snapshots
    repeats = _predicate(retryable)
    drawn = commands_of(subject) if commands is None else commands

    @given(commands=st.lists(drawn, max_size=_MOST))
    def laws(commands: list[Any]) -> None:
        state, history = domain.decider.initial, ()
        states = [state]
        for command in commands:
            moment = Moment(domain, history, state, command, refusals)
            events = _decision(moment)
            for event in events:
                state = _evolution(moment, state, event, codec)
                states.append(state)
            history += events
            _terminal(moment, states[len(moment.history) :])
            if events and repeats(command):
                _retried(moment, state)
            _splits(moment, history, states)
            if plan is not None:
                _snapshots(moment, plan, history, states)
        _again(domain, commands, history, refusals)

    return laws


def _predicate(
    retryable: type | tuple[type, ...] | Callable[[Any], bool],
) -> Callable[[Any], bool]:
    if isinstance(retryable, (type, tuple)):
        return lambda command: isinstance(command, retryable)
    return retryable


def _decision(moment: Moment[Any, Any, Any]) -> tuple[Any, ...]:
    """Give the events of a moment, if its decision keeps the laws."""
    domain, state, command = moment.domain, moment.state, moment.command
    before, asked = _kept(state), _kept(command)
    if not domain.decider.is_terminal(state):
        _answers_at_once(moment)
    first, second = moment.decide(), moment.decide()
    moved = _changed("the state", before, state)
    moved += _changed("the command", asked, command)
    if moved:
        moment.broken("decide is pure", *moved)
    if not _same_answer(domain, first, second):
        told = f"first: {_answer(first)}", f"again: {_answer(second)}"
        moment.broken("decide is deterministic", *told)
    return () if isinstance(first, Exception) else first


def _answers_at_once(moment: Moment[Any, Any, Any]) -> None:
    answer, error = _tried(
        lambda: moment.domain.decider.decide(moment.state, moment.command)
    )
    if error is None and not isinstance(answer, Sequence):
        moment.broken(
            "a refused command emits nothing",
            f"decide gave {type(answer).__name__}, not a sequence of all its events",
        )


def _evolution(
    moment: Moment[Any, Any, Any], state: Any, event: Any, codec: Codec[Any] | None
) -> Any:
    """Give the state after an event, if event and evolve keep the laws."""
    before, happened = _kept(state), _kept(event)
    result = moment.evolve(state, event)
    moved = _changed("the state", before, state)
    moved += _changed("the event", happened, event)
    if moved:
        moment.broken("evolve is pure", *moved)
    again = moment.evolve(state, event)
    if not same(result, again):
        moment.broken("evolve is deterministic", *differences(result, again))
    _event_reads_back(moment, event, codec)
    return result


def _event_reads_back(
    moment: Moment[Any, Any, Any], event: Any, codec: Codec[Any] | None
) -> None:
    if isinstance(event, DomainEvent):
        back, error = _tried(lambda: type(event).from_dict(event.to_dict()))
    elif codec is not None:
        back, error = _tried(
            lambda: codec.decode(codec.name(event), codec.encode(event))
        )
    else:
        return
    law = "events read back equal"
    if error is not None:
        moment.broken(law, f"{source(event)}: {_told(error)}", cause=error)
    if not same(event, back):
        moment.broken(law, *differences(event, back))


def _terminal(moment: Moment[Any, Any, Any], states: Sequence[Any]) -> None:
    finals = [moment.domain.decider.is_terminal(state) for state in states]
    if finals != sorted(finals):
        moment.broken("terminal is absorbing", "an event led out of a final state")


def _retried(moment: Moment[Any, Any, Any], state: Any) -> None:
    again = msgspec.structs.replace(moment, state=state).decide()
    if again and not isinstance(again, Exception):
        law = "a retried command changes nothing"
        moment.broken(law, f"the same again gave {_answer(again)}")


def _splits(
    moment: Moment[Any, Any, Any], history: Sequence[Any], states: Sequence[Any]
) -> None:
    for start, state in enumerate(states):
        whole = fold(moment.domain.decider, history[start:], state)
        if not same(states[-1], whole):
            told = f"folded in parts, split after event {start}"
            moment.broken("fold splits", told, *differences(states[-1], whole))


def _snapshots(
    moment: Moment[Any, Any, Any],
    plan: Snapshotting[Any],
    history: Sequence[Any],
    states: Sequence[Any],
) -> None:
    # those before the moment's own were seen in the moments before it
    for version in range(len(moment.history) + 1, len(states)):
        state = states[version]
        back, error = _tried(lambda: plan.load(plan.dump(state)))  # noqa: B023
        if error is not None:
            told = f"{source(state)}: {_told(error)}"
            moment.broken("states read back equal", told, cause=error)
        if not same(state, back):
            moment.broken("states read back equal", *differences(state, back))
    for version in range(1, len(states)):
        back = plan.load(plan.dump(states[version]))
        full = fold(moment.domain.decider, history[version:], back)
        if not same(states[-1], full):
            told = f"a snapshot at version {version}"
            law = "snapshot plus tail is the full fold"
            moment.broken(law, told, *differences(states[-1], full))


def _again(
    domain: Domain[Any, Any, Any],
    commands: Sequence[Any],
    history: tuple[Any, ...],
    refusals: Sequence[type[Exception]] | None,
) -> None:
    """Do it all once more: what a decider remembers outside its state shows up."""
    state, second = domain.decider.initial, ()
    for command in commands:
        moment = Moment(domain, second, state, command, refusals)
        answer = moment.decide()
        events = () if isinstance(answer, Exception) else answer
        state, second = fold(domain.decider, events, state), second + events
        if not _same_answer(domain, history[: len(second)], second):
            first = history[len(moment.history) : len(second)]
            told = f"first: {_answer(first)}", f"again: {_answer(events)}"
            moment.broken("decide is deterministic", *told)


def _same_answer(
    domain: Domain[Any, Any, Any],
    first: tuple[Any, ...] | Exception,
    second: tuple[Any, ...] | Exception,
) -> bool:
    if isinstance(first, Exception) or isinstance(second, Exception):
        return type(first) is type(second) and str(first) == str(second)
    return same(first, second, domain.ignoring)


def _answer(answer: tuple[Any, ...] | Exception) -> str:
    if isinstance(answer, Exception):
        return f"{type(answer).__name__}: {answer}"
    return ", ".join(map(source, answer)) or "nothing"


def _kept(value: T) -> T | None:
    """Give a copy to compare with later; None of what cannot be copied or compared."""
    try:
        copied = deepcopy(value)
    except Exception:  # noqa: BLE001 - such as a lock in a state: nothing to compare
        return None
    return copied if copied == value else None


def _changed(what: str, before: Any, now: Any) -> list[str]:
    if before is None:
        return []
    return [f"{what} changed: {line}" for line in differences(before, now)]


def view_laws(
    view: View[S, E],
    events: SearchStrategy[Any],
    *,
    idempotent: bool = True,
) -> Callable[[], None]:
    """Make the test that a view keeps the laws.

    * evolve is total, pure and deterministic
    * fold splits
    * a projection that is fed twice equals once: if the last events come again, one of
      them or all, there is the same to read; this one only if *idempotent*

    A view that `project` keeps is fed each event once, and need not be idempotent; one
    that a handler feeds must be.

    Args:
        view: what to test; its events may be recorded ones.
        events: draws histories, such as `histories(decider)`, with
            `.map(lambda events: recorded(*events))` if the view wants recorded ones.
        idempotent: whether it claims to be.

    Raises:
        LawBrokenError: from the test.
    """

    @given(events=events)
    def laws(events: Sequence[Any]) -> None:
        state, states = view.initial, [view.initial]
        for n in range(1, len(events) + 1):
            seen = _Seen(view, tuple(events[:n]))
            state = seen.evolve(state)
            states.append(state)
        for start, split in enumerate(states):
            seen = _Seen(view, tuple(events))
            found = differences(state, fold(view, events[start:], split))
            if found:
                seen.broken("fold splits", *found)
        if idempotent:
            _fed_twice(view, events, state)

    return laws


def _fed_twice(view: View[Any, Any], events: Sequence[Any], state: Any) -> None:
    for start in reversed(range(len(events))):
        found = differences(state, fold(view, events[start:], state))
        if found:
            law = "a projection that is fed twice equals once"
            told = f"then the same again, from event {start + 1} on:"
            _Seen(view, tuple(events)).broken(law, told, *found)


class _Seen(Struct, frozen=True):
    """What a view has seen."""

    view: View[Any, Any]
    events: tuple[Any, ...]

    def broken(
        self, law: str, *reasons: str, cause: Exception | None = None
    ) -> NoReturn:
        shown = ", ".join(source(_plain(event)) for event in self.events)
        _break(law, f"given({shown})", *reasons, cause=cause)

    def evolve(self, state: Any) -> Any:
        """Give the state after the last event, if evolve keeps the laws."""
        event, before = self.events[-1], _kept(state)
        result, error = _tried(lambda: self.view.evolve(state, event))
        if error is not None:
            self.broken("evolve is total", _told(error), cause=error)
        moved = _changed("the state", before, state)
        if moved:
            self.broken("evolve is pure", *moved)
        again = self.view.evolve(state, event)
        if not same(result, again):
            self.broken("evolve is deterministic", *differences(result, again))
        return result


def _plain(event: Any) -> Any:
    return event.event if isinstance(event, Recorded) else event


def upcaster_laws(
    upcasters: Chain,
    old: Any,
    new: Any,
    *,
    agree: Callable[[Any, Any], bool] = lambda _old, _new: True,
) -> Callable[[], None]:
    """Make the test that the upcasters of one event keep the laws.

    * upcasters compose: from the first shape, the chain gives what its steps give one
      by one; from any later shape, too
    * an upcaster is pure: it does not change its argument, and answers the same twice
    * what is upcast is a valid event of today
    * old and new agree, as far as you say

    Args:
        upcasters: the chain, as given to `json_codec`.
        old: a struct class of the event's first shape, as it was stored.
        new: the event class of today.
        agree: tells whether an old and a new event mean the same.

    Raises:
        LawBrokenError: from the test.
    """

    @given(event=values(old))
    def laws(event: Any) -> None:
        body: Body = msgspec.to_builtins(event, enc_hook=enc_hook, str_keys=True)
        stored = deepcopy(body)
        shapes = _shapes(upcasters, body, source(event))
        for shape, between in enumerate(shapes, 1):
            whole = upcasters({SHAPE: shape, **between})
            if whole != shapes[-1]:
                told = differences(shapes[-1], whole)
                _break("upcasters compose", source(event), *told)
        if upcasters(body) != shapes[-1] or body != stored:
            _break("an upcaster is pure", source(event))
        _agree(event, shapes[-1], new, agree)

    return laws


def _shapes(upcasters: Chain, body: Body, story: str) -> list[Body]:
    """Give the body in each of its shapes."""
    shapes = [deepcopy(body)]
    for step in upcasters.steps:
        last = deepcopy(shapes[-1])
        name = getattr(step, "__name__", repr(step))
        after, error = _tried(lambda: step(last))  # noqa: B023 - called at once
        if error is not None:
            _break(
                "an upcaster is total", story, f"{name}: {_told(error)}", cause=error
            )
        again = step(deepcopy(shapes[-1]))
        found = _changed(f"the argument of {name}", shapes[-1], last)
        found += differences(after, again)
        if found:
            _break("an upcaster is pure", story, *found)
        shapes.append(after)
    return shapes


def _agree(event: Any, body: Body, new: Any, agree: Callable[[Any, Any], bool]) -> None:
    law, story = "what is upcast is a valid event of today", source(event)
    today, error = _tried(
        lambda: msgspec.convert(body, new, str_keys=True, dec_hook=dec_hook)
    )
    if error is not None:
        _break(law, story, str(error), cause=error)
    if not agree(event, today):
        _break("old and new agree", story, f"upcast to {source(today)}")
