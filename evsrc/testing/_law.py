"""Say that a law is broken, and gather what shows it."""

# values and types of any shape are looked at, which strict typing cannot follow
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any, NoReturn, TypeVar

from ._text import differences

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


def tried(call: Callable[[], Any]) -> tuple[Any, Exception | None]:
    """Give the answer of a call, and the error if there is none."""
    try:
        return call(), None
    except Exception as error:  # noqa: BLE001 - whatever it is, it is judged
        return None, error


def told_of(error: Exception) -> str:
    """Give an error's class and text."""
    return f"{type(error).__name__}: {error}"


def break_law(
    law: str, story: str, *reasons: str, cause: Exception | None = None
) -> NoReturn:
    """Raise the error, at one place.

    And not while another error is handled: Hypothesis tells bugs apart by that, and
    would tell several laws that one bug breaks.
    """
    raise LawBrokenError(law, story, *reasons) from cause


def kept(value: T) -> T | None:
    """Give a copy to compare with later; None of what cannot be copied or compared."""
    try:
        copied = deepcopy(value)
    except Exception:  # noqa: BLE001 - such as a lock in a state: nothing to compare
        return None
    return copied if copied == value else None


def changed(what: str, before: Any, now: Any) -> list[str]:
    """Give how a value differs from what was `kept` of it."""
    if before is None:
        return []
    return [f"{what} changed: {line}" for line in differences(before, now)]
