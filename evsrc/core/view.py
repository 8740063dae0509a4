"""Fold events into something to read. No I/O here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

S = TypeVar("S")
S2 = TypeVar("S2")
E = TypeVar("E")


@dataclass(frozen=True)
class View(Generic[S, E]):
    """A read model as a pure fold.

    Args:
        initial: what there is to read before anything happened.
        evolve: the step; an event that is not its own leaves the state as it is.
    """

    initial: S
    evolve: Callable[[S, E], S]


def merge(first: View[S, E], second: View[S2, E]) -> View[tuple[S, S2], E]:
    """Fold two views in one pass.

    >>> count = View(0, lambda n, _: n + 1)
    >>> total = View(0, lambda n, paid: n + paid)
    >>> view = merge(count, total)
    >>> view.evolve(view.evolve(view.initial, 5), 6)
    (2, 11)
    """

    def evolve(state: tuple[S, S2], event: E) -> tuple[S, S2]:
        return first.evolve(state[0], event), second.evolve(state[1], event)

    return View((first.initial, second.initial), evolve)
