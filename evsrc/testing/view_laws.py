"""Check the laws of a view, over histories that Hypothesis thinks up."""

# values and types of any shape are looked at, which strict typing cannot follow
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NoReturn, TypeVar

from hypothesis import given
from hypothesis.strategies import SearchStrategy
from msgspec import Struct

from ..core.decider import fold
from ..core.event import Recorded
from ..core.view import View
from ._law import break_law, changed, kept, told_of, tried
from ._text import differences, same, source

S = TypeVar("S")
E = TypeVar("E")


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
        break_law(law, f"given({shown})", *reasons, cause=cause)

    def evolve(self, state: Any) -> Any:
        """Give the state after the last event, if evolve keeps the laws."""
        event, before = self.events[-1], kept(state)
        result, error = tried(lambda: self.view.evolve(state, event))
        if error is not None:
            self.broken("evolve is total", told_of(error), cause=error)
        moved = changed("the state", before, state)
        if moved:
            self.broken("evolve is pure", *moved)
        again = self.view.evolve(state, event)
        if not same(result, again):
            self.broken("evolve is deterministic", *differences(result, again))
        return result


def _plain(event: Any) -> Any:
    return event.event if isinstance(event, Recorded) else event
