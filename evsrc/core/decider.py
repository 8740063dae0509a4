"""Decide what happens, and fold what happened: a domain as pure functions.

The decider and its combinators follow Jérémie Chassaing, "Functional Event Sourcing
Decider" (2021). No I/O here.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from pyrsistent import PMap, pmap

S = TypeVar("S")
S2 = TypeVar("S2")
C = TypeVar("C")
C2 = TypeVar("C2")
E = TypeVar("E")
E2 = TypeVar("E2")
K = TypeVar("K", bound=Hashable)
SF = TypeVar("SF")
EF_contra = TypeVar("EF_contra", contravariant=True)


def _never(_state: object) -> bool:
    return False


@dataclass(frozen=True)
class Decider(Generic[S, C, E]):
    """A domain: what may happen, and what it means.

    Args:
        decide: state and command to events; empty when there is nothing to do, the
            domain's own exception when the command is refused.
        evolve: state and event to the next state; total.
        initial: the state before anything happened.
        is_terminal: whether a state is final; nothing more is decided there.
    """

    decide: Callable[[S, C], Sequence[E]]
    evolve: Callable[[S, E], S]
    initial: S
    is_terminal: Callable[[S], bool] = _never


class Folds(Protocol[SF, EF_contra]):
    """Anything with a first state and a step: a `Decider`, a `View`."""

    @property
    def initial(self) -> SF:
        """The state before anything happened."""
        ...

    @property
    def evolve(self) -> Callable[[SF, EF_contra], SF]:
        """The step from one state to the next."""
        ...


class _Unset:
    __slots__ = ()


_UNSET = _Unset()


def fold(folds: Folds[S, E], events: Iterable[E], state: S | _Unset = _UNSET) -> S:
    """Give the state after *events*, from *state* or else from the initial one.

    >>> from evsrc.core.view import View
    >>> fold(View(0, lambda total, paid: total + paid), [3, 4])
    7
    """
    evolve = folds.evolve
    result: S = folds.initial if isinstance(state, _Unset) else state
    for event in events:
        result = evolve(result, event)
    return result


def decided(decider: Decider[S, C, E], state: S, command: C) -> tuple[E, ...]:
    """Give the events of one command; a terminal state is absorbing, it gives none."""
    if decider.is_terminal(state):
        return ()
    return tuple(decider.decide(state, command))


def run(
    decider: Decider[S, C, E], state: S, commands: Iterable[C]
) -> tuple[S, tuple[E, ...]]:
    """Decide each command on the state that the one before it left.

    Returns:
        the last state and all events, in order.
    """
    decide, evolve = decider.decide, decider.evolve
    is_terminal = None if decider.is_terminal is _never else decider.is_terminal
    events: list[E] = []
    for command in commands:
        if is_terminal is not None and is_terminal(state):
            break
        for event in decide(state, command):
            state = evolve(state, event)
            events.append(event)
    return state, tuple(events)


def adapt(
    decider: Decider[S, C, E],
    *,
    command: Callable[[C2], C | None],
    event: Callable[[E2], E | None],
    out: Callable[[E], E2],
) -> Decider[S, C2, E2]:
    """Retarget a decider to wider commands and events.

    Args:
        decider: what to retarget.
        command: picks the decider's own command out of a wider one; None: not mine.
        event: picks its own event; None: not mine, the state stays the very same.
        out: turns an event it decided into the wider kind.
    """

    def decide(state: S, wider: C2) -> Sequence[E2]:
        mine = command(wider)
        return () if mine is None else [out(e) for e in decided(decider, state, mine)]

    def evolve(state: S, wider: E2) -> S:
        mine = event(wider)
        return state if mine is None else decider.evolve(state, mine)

    return Decider(decide, evolve, decider.initial, decider.is_terminal)


def both(
    first: Decider[S, C, E], second: Decider[S2, C, E]
) -> Decider[tuple[S, S2], C, E]:
    """Pair two deciders: each sees every command and event; final when both are."""

    def decide(state: tuple[S, S2], command: C) -> Sequence[E]:
        return decided(first, state[0], command) + decided(second, state[1], command)

    def evolve(state: tuple[S, S2], event: E) -> tuple[S, S2]:
        return first.evolve(state[0], event), second.evolve(state[1], event)

    def is_terminal(state: tuple[S, S2]) -> bool:
        return first.is_terminal(state[0]) and second.is_terminal(state[1])

    return Decider(decide, evolve, (first.initial, second.initial), is_terminal)


def many(
    decider: Decider[S, C, E],
    *,
    command_key: Callable[[C], K],
    event_key: Callable[[E], K],
) -> Decider[PMap[K, S], C, E]:
    """Make a keyed family: one state a key, each of them an instance of *decider*."""

    def decide(states: PMap[K, S], command: C) -> Sequence[E]:
        state = states.get(command_key(command), decider.initial)
        return decided(decider, state, command)

    def evolve(states: PMap[K, S], event: E) -> PMap[K, S]:
        key = event_key(event)
        return states.set(key, decider.evolve(states.get(key, decider.initial), event))

    return Decider(decide, evolve, pmap())
