"""Let Hypothesis look for commands that lead a domain where it must never be.

    TestAccount = decider_machine(account, invariants=[never_negative]).TestCase

What it finds it shrinks to the shortest list of commands, and tells as a test to paste.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn, cast

from hypothesis import Phase, settings
from hypothesis.stateful import RuleBasedStateMachine, rule
from hypothesis.strategies import SearchStrategy

from ..core.decider import fold
from ._decision import Invariant, broken_by
from ._domain import Domain, Refusals, attempt, domain_of
from ._text import source
from .commands import commands_of

_INDENT: Final = " " * 4


class InvariantBrokenError(AssertionError):
    """An invariant does not hold, or deciding or evolving failed by mistake.

    Args:
        name: of the invariant, or of the error.
        reason: what is wrong.
        test: a test that fails until it is right.
        commands: the shortest list of commands that leads there: without any one of
            them it is not found.
    """

    def __init__(
        self, name: str, reason: str, test: str, commands: Sequence[Any]
    ) -> None:
        super().__init__(f"{reason}\n\n{test}")
        self.name = name
        self.reason = reason
        self.test = test
        self.commands = tuple(commands)


def decider_machine(
    subject: Any,
    commands: SearchStrategy[Any] | None = None,
    *,
    invariants: Sequence[Invariant[Any, Any]] = (),
    refusals: Refusals = None,
) -> type[RuleBasedStateMachine]:
    """Make a state machine whose rule is to give the domain a command.

    Args:
        subject: a decider, or a class derived from `AggregateRoot`.
        commands: what to ask; by default `commands_of(subject)`.
        invariants: functions of the state and of all events so far, each of which must
            be true after every event, also in the middle of a decision. A function is
            told by its name.
        refusals: what commands are refused with; by default every exception but those
            by which Python reports a mistake (TypeError, KeyError ...).

    Returns:
        the class; its attribute `TestCase` is what pytest runs. `TestCase.settings` are
        the current profile's, without the phase that explains: the test is shown.

    Raises:
        TypeError: *subject* is neither, or does not say what its commands are.
        InvariantBrokenError: from the test.
    """
    domain = domain_of(subject)
    drawn = commands_of(subject) if commands is None else commands

    def play(commands: Sequence[Any]) -> InvariantBrokenError | None:
        return _Play(domain, invariants, refusals).all(commands)

    class Machine(RuleBasedStateMachine):
        """Gives one command after the other."""

        def __init__(self) -> None:
            super().__init__()
            self.play = _Play(domain, invariants, refusals)

        def give(self, command: Any) -> None:
            error = self.play.all([command])
            if error is not None:
                raise _shortest(play, error) from error.__cause__

    # a rule for each kind of command: Hypothesis leaves some kinds out of each story,
    # and those that end it do not end them all
    rules = {
        f"when_{number}": _rule(branch) for number, branch in enumerate(drawn.branches)
    }
    machine: Any = type(f"{domain.name}_machine", (Machine,), rules)
    quick = [phase for phase in Phase if phase is not Phase.explain]
    machine.TestCase.settings = settings(machine.TestCase.settings, phases=quick)
    return cast("type[RuleBasedStateMachine]", machine)


def _rule(drawn: SearchStrategy[Any]) -> Callable[[Any, Any], None]:
    def when(self: Any, command: Any) -> None:
        self.give(command)

    return cast("Callable[[Any, Any], None]", rule(command=drawn)(when))


@dataclass
class _Play:
    """One story: the commands, and what came of them."""

    domain: Domain
    invariants: Sequence[Invariant[Any, Any]]
    refusals: Refusals
    events: tuple[Any, ...] = ()
    commands: list[Any] = field(default_factory=list[Any])

    def __post_init__(self) -> None:
        self.state: Any = self.domain.decider.initial

    def all(self, commands: Sequence[Any]) -> InvariantBrokenError | None:
        """Give what one of the commands breaks, as if it came from nowhere.

        Hypothesis tells bugs apart by where an exception comes from; these are one.
        """
        for command in commands:
            try:
                self.when(command)
            except InvariantBrokenError as error:
                error.__context__ = None
                return error.with_traceback(None)
        return None

    def when(self, command: Any) -> None:
        self.commands.append(command)
        before = self.events
        try:
            for event in attempt(self.domain, self.state, command, self.refusals):
                self.state = fold(self.domain.decider, [event], self.state)
                self.events = (*self.events, event)
                for invariant in self.invariants:
                    broken = broken_by(self.domain, invariant, self.state, self.events)
                    if broken is not None:
                        name = getattr(invariant, "__name__", "invariant")
                        self.fail(name, broken, before, command, name)
        except InvariantBrokenError:
            raise
        except Exception as error:  # noqa: BLE001 - it is told
            kind = type(error).__name__
            self.fail(kind, f"{kind}: {error}", before, command, cause=error)

    def fail(
        self,
        name: str,
        reason: str,
        events: Sequence[Any],
        command: Any,
        invariant: str = "",
        cause: Exception | None = None,
    ) -> NoReturn:
        """Tell it, with the test that fails until the bug is gone."""
        lines = [
            f"def test_{invariant or self.domain.name}() -> None:",
            f"{_INDENT}given = specs_of({self.domain.name})",
            f"{_INDENT}given(",
            *(f"{2 * _INDENT}{source(event)}," for event in events),
            f"{_INDENT}).when(",
            f"{2 * _INDENT}{source(command)},",
            f"{_INDENT}).holds({invariant})",
        ]
        if not events:
            lines[2:4] = [f"{_INDENT}given().when("]
        test = "\n".join(lines)
        raise InvariantBrokenError(name, reason, test, self.commands) from cause


def _shortest(
    play: Callable[[Sequence[Any]], InvariantBrokenError | None],
    error: InvariantBrokenError,
) -> InvariantBrokenError:
    """Leave out one command after the other, as long as the same is broken.

    Hypothesis, which sees the commands as choices, stops at lists that are longer.
    """
    place = len(error.commands) - 1
    while place >= 0:
        found = play([*error.commands[:place], *error.commands[place + 1 :]])
        if found is not None and found.name == error.name:
            error, place = found, min(place, len(found.commands))
        place -= 1
    return error
