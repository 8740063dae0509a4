"""Say that a law is broken, and what is asked of every domain and view."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any, NoReturn, TypeVar

from msgspec import Struct

from ..core.decider import fold
from ._text import differences, same, source

T = TypeVar("T")


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


class Story(Struct, frozen=True):
    """A history, and what is asked of it; *told* gives it as a test would."""

    told: Callable[[], str]

    def broken(
        self, law: str, *reasons: str, cause: Exception | None = None
    ) -> NoReturn:
        """Raise the error, at one place.

        And not while another error is handled: Hypothesis tells bugs apart by that, and
        would tell several laws that one bug breaks.
        """
        raise LawBrokenError(law, self.told(), *reasons) from cause

    def total(self, law: str, call: Callable[[], Any], about: str = "") -> Any:
        """Give the answer of a call that must not fail."""
        answer, error = tried(call)
        if error is not None:
            self.broken(law, f"{about}{told_of(error)}", cause=error)
        return answer

    def equal(self, law: str, expected: Any, got: Any, *about: str) -> None:
        """Ask that two values are the same."""
        if not same(expected, got):
            self.broken(law, *about, *differences(expected, got))

    def evolved(self, law: str, subject: Any, state: Any, event: Any) -> Any:
        """Give the state after an event, if `evolve` is total, pure and repeatable."""
        before, happened = kept(state), kept(event)
        about = f"evolve failed on {source(event)}: "
        after = self.total(law, lambda: subject.evolve(state, event), about)
        moved = changed("the state", before, state)
        moved += changed("the event", happened, event)
        if moved:
            self.broken("evolve is pure", *moved)
        again = subject.evolve(state, event)
        self.equal("evolve is deterministic", after, again)
        return after

    def splits(
        self, subject: Any, events: Sequence[Any], states: Sequence[Any]
    ) -> None:
        """Ask that the fold from each of the *states* leads to the last one."""
        for start, state in enumerate(states):
            whole = fold(subject, events[start:], state)
            about = f"folded in parts, split after event {start}"
            self.equal("fold splits", states[-1], whole, about)


def tried(call: Callable[[], Any]) -> tuple[Any, Exception | None]:
    """Give the answer of a call, and the error if there is none."""
    try:
        return call(), None
    except Exception as error:  # noqa: BLE001 - whatever it is, it is judged
        return None, error


def told_of(error: Exception) -> str:
    """Give an error's class and text."""
    return f"{type(error).__name__}: {error}"


def shown(answer: Sequence[Any] | Exception) -> str:
    """Give what a decision led to: the events, or the refusal."""
    if isinstance(answer, Exception):
        return told_of(answer)
    return ", ".join(map(source, answer)) or "nothing"


def kept(value: T) -> T | None:
    """Give a copy to compare with later; None of what cannot be copied or compared."""
    copied, _ = tried(lambda: deepcopy(value))  # such as a lock in a state
    return copied if copied == value else None


def changed(what: str, before: Any, now: Any) -> list[str]:
    """Give how a value differs from what was `kept` of it."""
    if before is None:
        return []
    return [f"{what} changed: {line}" for line in differences(before, now)]
