"""Decide in a sentence, and compare what is claimed with what is."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, Generic, NoReturn, Self, TypeAlias, TypeVar

from msgspec import Struct
from msgspec.structs import replace

from ..core.decider import decided, fold
from ._domain import Domain, attempt
from ._law import shown, tried
from ._text import differences, same, source

S = TypeVar("S")
C = TypeVar("C")
E = TypeVar("E")
P = TypeVar("P", bound="Past[Any]")
Invariant: TypeAlias = Callable[[S, tuple[E, ...]], bool]
"""Tells whether a state, and all events that led to it, are as they must be.

An AssertionError is a no with a reason.
"""


class Past(Struct, Generic[E], frozen=True):
    """What happened so far."""

    events: tuple[E, ...]

    def followed_by(self, events: Iterable[E]) -> Self:
        """Let more happen."""
        return replace(self, events=(*self.events, *events))

    def __str__(self) -> str:
        """Show it as the start of a sentence."""
        return f"given {shown(self.events)}"


class Decision(Struct, Generic[P, S, C, E], frozen=True):
    """A command, decided on what happened so far."""

    past: P
    domain: Domain
    command: C

    def then(self, first: E, *others: E) -> P:
        """Claim that exactly these events happen, in this order.

        Returns:
            all that happened by now, to go on with `state` or `when`.
        """
        __tracebackhide__ = True
        return self._happens((first, *others))

    def nothing(self) -> P:
        """Claim that nothing happens, and that it is not refused."""
        __tracebackhide__ = True
        return self._happens(())

    def rejected(
        self, error: type[Exception] | tuple[type[Exception], ...], *, match: str = ""
    ) -> None:
        """Claim that it is refused.

        Args:
            error: with this exception.
            match: a regular expression that its text contains.
        """
        __tracebackhide__ = True
        happened, refusal = tried(self._decide)
        if not isinstance(refusal, error):
            kinds = error if isinstance(error, tuple) else (error,)
            names = " or ".join(kind.__name__ for kind in kinds)
            got = shown(refusal or happened)
            fail(self, f"expected {names}, got {got}", cause=refusal)
        if re.search(match, str(refusal)) is None:
            told = f"refused with {str(refusal)!r}, which does not match {match!r}"
            fail(self, told, cause=refusal)

    def holds(self, *invariants: Invariant[S, E]) -> P:
        """Claim that after each event these hold, or that the command is refused.

        Returns:
            all that happened by now.
        """
        __tracebackhide__ = True
        events: tuple[E, ...] = attempt(self.domain, self._state(), self.command)
        for n in range(len(events) + 1):
            after = (*self.past.events, *events[:n])
            state = fold(self.domain.decider, after)
            for invariant in invariants:
                broken = broken_by(self.domain, invariant, state, after)
                if broken is not None:
                    fail(self, f"happened: {shown(events)}", broken)
        return self.past.followed_by(events)

    def _happens(self, expected: tuple[E, ...]) -> P:
        __tracebackhide__ = True
        happened, error = tried(self._decide)
        if error is not None:
            told = f"expected {shown(expected)}, got {shown(error)}"
            fail(self, told, cause=error)
        lines = _compared(expected, happened, self.domain.ignoring)
        if lines:
            fail(self, *lines)
        return self.past.followed_by(happened)

    def _state(self) -> Any:
        return fold(self.domain.decider, self.past.events)

    def _decide(self) -> tuple[E, ...]:
        return decided(self.domain.decider, self._state(), self.command)

    def __str__(self) -> str:
        return f"{self.past}\n when {source(self.command)}"


def broken_by(
    domain: Domain, invariant: Invariant[Any, E], state: Any, events: Sequence[E]
) -> str | None:
    """Say how an invariant is broken; None if it holds."""
    seen, reason = domain.seen(state), ""
    try:
        if invariant(seen, tuple(events)):
            return None
    except AssertionError as error:
        reason = f" ({error})" if str(error) else ""
    name = getattr(invariant, "__name__", repr(invariant))
    return f"{name} does not hold{reason}: the state is {source(seen)}"


def claim(expected: Any, got: Any, story: str) -> None:
    """Fail, with both sides, unless one value is the other."""
    __tracebackhide__ = True
    found = differences(expected, got)
    if found:
        fail(story, f"expected {source(expected)}", f"     got {source(got)}", *found)


def _compared(
    expected: Sequence[Any], got: Sequence[Any], ignoring: Collection[str]
) -> list[str]:
    """Show two lists of events side by side, and where they differ."""
    if same(expected, got, ignoring):
        return []
    lines = [f"expected {shown(expected)}", f"     got {shown(got)}"]
    for n, (one, other) in enumerate(zip(expected, got, strict=False), 1):
        if type(one) is type(other):
            found = differences(one, other, ignoring)
            lines += [f"event {n} {line}" for line in found]
    return lines


def fail(*lines: object, cause: Exception | None = None) -> NoReturn:
    """Say in these lines what is not true."""
    __tracebackhide__ = True
    raise AssertionError("\n".join(map(str, lines))) from cause
