"""Decide which gate a flight leaves from: the place where two writers race. No I/O."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, TypeAlias

from msgspec import Struct
from pyrsistent import PMap, pmap

from ..core.decider import Decider


class TakeGate(Struct, frozen=True):
    """Give *flight* the first free gate of *choices*."""

    flight: str
    choices: tuple[str, ...]


class GateTaken(Struct, frozen=True):
    """The flight leaves from this gate; nobody else does."""

    gate: str
    flight: str


class NoGateFree(Exception):  # noqa: N818 - named as what happened
    """Every gate that would do is taken."""

    def __init__(self, command: TakeGate) -> None:
        gates = ", ".join(command.choices)
        super().__init__(f"no gate is free for {command.flight!r} among {gates}")
        self.command = command


Gates: TypeAlias = PMap[str, str]
"""Who has which gate."""


def decide_gates(taken: Gates, command: TakeGate) -> Sequence[GateTaken]:
    """Decide a wish for a gate; a flight that has one keeps it.

    >>> decide_gates(pmap({"C71": "UA-1545"}), TakeGate("UA-1714", ("C71", "C72")))
    [GateTaken(gate='C72', flight='UA-1714')]
    """
    if command.flight in taken.values():
        return []
    for gate in command.choices:
        if gate not in taken:
            return [GateTaken(gate, command.flight)]
    raise NoGateFree(command)


def evolve_gates(taken: Gates, event: GateTaken) -> Gates:
    """Give the gates after one was taken."""
    return taken.set(event.gate, event.flight)


gates: Final[Decider[Gates, TakeGate, GateTaken]] = Decider(
    decide_gates, evolve_gates, pmap()
)
