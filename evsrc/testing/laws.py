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
from typing import Any, Final, Generic, NoReturn, TypeVar, cast

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from msgspec import Struct

from ..core.codec import Codec
from ..core.decider import decided, fold
from ..core.snapshot import Snapshotting
from ..facade.events import DomainEvent
from ._domain import Domain, domain_of, is_refusal
from ._law import break_law, changed, kept, told_of, tried
from ._text import differences, same, source
from .commands import commands_of

S = TypeVar("S")
C = TypeVar("C")
E = TypeVar("E")
T = TypeVar("T")

_MOST: Final = 8  # commands or events, at most


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
        break_law(law, self.story, *reasons, cause=cause)

    def decide(self) -> tuple[E, ...] | Exception:
        """Give the events, or the refusal."""
        events, error = tried(
            lambda: decided(self.domain.decider, self.state, self.command)
        )
        if error is not None and not is_refusal(error, self.refusals):
            self.broken("decide answers or refuses", told_of(error), cause=error)
        return error or cast("tuple[E, ...]", events)

    def evolve(self, state: S, event: E) -> S:
        """Give the next state."""
        after, error = tried(lambda: self.domain.decider.evolve(state, event))
        if error is not None:
            told = f"evolve failed on {source(event)}: {told_of(error)}"
            self.broken("evolve is total on what can happen", told, cause=error)
        return cast("S", after)


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
    before, asked = kept(state), kept(command)
    if not domain.decider.is_terminal(state):
        _answers_at_once(moment)
    first, second = moment.decide(), moment.decide()
    moved = changed("the state", before, state)
    moved += changed("the command", asked, command)
    if moved:
        moment.broken("decide is pure", *moved)
    if not _same_answer(domain, first, second):
        told = f"first: {_answer(first)}", f"again: {_answer(second)}"
        moment.broken("decide is deterministic", *told)
    return () if isinstance(first, Exception) else first


def _answers_at_once(moment: Moment[Any, Any, Any]) -> None:
    answer, error = tried(
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
    before, happened = kept(state), kept(event)
    result = moment.evolve(state, event)
    moved = changed("the state", before, state)
    moved += changed("the event", happened, event)
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
        back, error = tried(lambda: type(event).from_dict(event.to_dict()))
    elif codec is not None:
        back, error = tried(
            lambda: codec.decode(codec.name(event), codec.encode(event))
        )
    else:
        return
    law = "events read back equal"
    if error is not None:
        moment.broken(law, f"{source(event)}: {told_of(error)}", cause=error)
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
        back, error = tried(lambda: plan.load(plan.dump(state)))  # noqa: B023
        if error is not None:
            told = f"{source(state)}: {told_of(error)}"
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
