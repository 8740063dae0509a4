"""Check the laws of domains and views, over histories that Hypothesis thinks up.

    test_account_laws = decider_laws(account, codec=codec, snapshots=snapshots)

is a whole test. A broken law is told by its name, with the shortest history that breaks
it, as a sentence to paste. `settings(max_examples=...)` and the other decorators of
Hypothesis work on what these functions give.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from msgspec import Struct
from msgspec.structs import replace

from ..core.codec import Codec
from ..core.decider import decided, fold
from ..core.event import Recorded
from ..core.snapshot import Snapshotting
from ..core.view import View
from ..facade.events import DomainEvent
from ._domain import Domain, Refusals, domain_of, is_refusal
from ._law import Story, changed, kept, shown, told_of, tried
from ._text import same, source
from .commands import commands_of

Answer: TypeAlias = tuple[Any, ...] | Exception
_MOST: Final = 8  # commands or events, at most


class Moment(Struct, frozen=True):
    """A decision that was made, and what came before it."""

    domain: Domain
    history: tuple[Any, ...]
    state: Any
    command: Any
    refusals: Refusals

    @property
    def story(self) -> Story:
        """The moment as the start of a test."""
        return Story(lambda: f"{_given(self.history)}.when({source(self.command)})")

    def decide(self) -> Answer:
        """Give the events, or the refusal."""
        events, error = tried(
            lambda: decided(self.domain.decider, self.state, self.command)
        )
        if error is not None and not is_refusal(error, self.refusals):
            law = "decide answers or refuses"
            self.story.broken(law, told_of(error), cause=error)
        return error or events

    def repeats(self, first: Answer, again: Answer) -> None:
        """Ask that two answers to the command are the same."""
        refused = isinstance(first, Exception) or isinstance(again, Exception)
        if (
            (type(first), str(first)) != (type(again), str(again))
            if refused
            else not same(first, again, self.domain.ignoring)
        ):
            told = f"first: {shown(first)}", f"again: {shown(again)}"
            self.story.broken("decide is deterministic", *told)


def _given(events: Sequence[Any]) -> str:
    plain = (e.event if isinstance(e, Recorded) else e for e in events)
    return f"given({', '.join(map(source, plain))})"


def decider_laws(
    subject: Any,
    *,
    commands: SearchStrategy[Any] | None = None,
    codec: Codec[Any] | None = None,
    snapshots: Snapshotting[Any] | None = None,
    retryable: type | tuple[type, ...] | Callable[[Any], bool] = (),
    refusals: Refusals = None,
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
    decider = domain.decider
    plan = snapshots or domain.snapshots
    drawn = commands_of(subject) if commands is None else commands

    def repeats(command: Any) -> bool:
        if isinstance(retryable, (type, tuple)):
            return isinstance(command, retryable)
        return retryable(command)

    @given(commands=st.lists(drawn, max_size=_MOST))
    def laws(commands: list[Any]) -> None:
        state, history, answers = decider.initial, (), list[Answer]()
        states = [state]
        for command in commands:
            moment = Moment(domain, history, state, command, refusals)
            story = moment.story
            answers.append(_decision(moment))
            events = _events(answers[-1])
            for event in events:
                law = "evolve is total on what can happen"
                state = story.evolved(law, decider, state, event)
                _reads_back(story, event, codec)
                states.append(state)
            history += events
            finals = [decider.is_terminal(each) for each in states[-len(events) - 1 :]]
            if finals != sorted(finals):
                story.broken(
                    "terminal is absorbing", "an event led out of a final state"
                )
            if events and repeats(command):
                _retried(moment, state)
            story.splits(decider, history, states)
            if plan is not None:
                _snapshots(moment, plan, history, states)
        _again(domain, commands, answers, refusals)

    return laws


def _events(answer: Answer) -> tuple[Any, ...]:
    return () if isinstance(answer, Exception) else answer


def _decision(moment: Moment) -> Answer:
    """Give the answer, if the decision keeps the laws."""
    decider, state, command = moment.domain.decider, moment.state, moment.command
    before, asked = kept(state), kept(command)
    if not decider.is_terminal(state):
        answer, error = tried(lambda: decider.decide(state, command))
        if error is None and not isinstance(answer, Sequence):
            kind = type(answer).__name__
            told = f"decide gave {kind}, not a sequence of all its events"
            moment.story.broken("a refused command emits nothing", told)
    first, second = moment.decide(), moment.decide()
    moved = changed("the state", before, state)
    moved += changed("the command", asked, command)
    if moved:
        moment.story.broken("decide is pure", *moved)
    moment.repeats(first, second)
    return first


def _reads_back(story: Story, event: Any, codec: Codec[Any] | None) -> None:
    def back() -> Any:
        if isinstance(event, DomainEvent):
            return type(event).from_dict(event.to_dict())
        return codec.decode(codec.name(event), codec.encode(event)) if codec else event

    law = "events read back equal"
    story.equal(law, event, story.total(law, back, f"{source(event)}: "))


def _retried(moment: Moment, state: Any) -> None:
    again = replace(moment, state=state).decide()
    if _events(again):
        law = "a retried command changes nothing"
        moment.story.broken(law, f"the same again gave {shown(again)}")


def _snapshots(
    moment: Moment,
    plan: Snapshotting[Any],
    history: Sequence[Any],
    states: Sequence[Any],
) -> None:
    story, law = moment.story, "states read back equal"
    for version, state in enumerate(states[1:], 1):
        about = f"{source(state)}: "
        back = story.total(law, lambda: plan.load(plan.dump(state)), about)  # noqa: B023
        if version > len(moment.history):  # the others were seen before
            story.equal(law, state, back)
        full = fold(moment.domain.decider, history[version:], back)
        told = f"a snapshot at version {version}"
        story.equal("snapshot plus tail is the full fold", states[-1], full, told)


def _again(
    domain: Domain,
    commands: Sequence[Any],
    answers: Sequence[Answer],
    refusals: Refusals,
) -> None:
    """Do it all once more: what a decider remembers outside its state shows up."""
    state, history = domain.decider.initial, ()
    for command, answer in zip(commands, answers, strict=True):
        moment = Moment(domain, history, state, command, refusals)
        moment.repeats(answer, moment.decide())
        state = fold(domain.decider, _events(answer), state)
        history += _events(answer)


def view_laws(
    view: View[Any, Any], events: SearchStrategy[Any], *, idempotent: bool = True
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
        states = [view.initial]
        for n, event in enumerate(events, 1):
            story = Story(lambda: _given(events[:n]))  # noqa: B023
            states.append(story.evolved("evolve is total", view, states[-1], event))
        story = Story(lambda: _given(events))
        story.splits(view, events, states)
        for start in reversed(range(len(events) * idempotent)):
            law = "a projection that is fed twice equals once"
            told = f"then the same again, from event {start + 1} on:"
            again = fold(view, events[start:], states[-1])
            story.equal(law, states[-1], again, told)

    return laws
