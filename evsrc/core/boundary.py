"""Decide on the events that a query finds, wherever they are: dynamic boundaries.

The consistency boundary of such a decision is a query that the command determines, not
a stream (https://dcb.events). No I/O here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from pyrsistent import PMap, pmap

from .codec import Codec
from .errors import EventTypeNotFoundError, InvalidQueryError
from .event import E, Recorded
from .expectation import AnyQuery, Query, any_of, matches

S = TypeVar("S")
S2 = TypeVar("S2")
E2 = TypeVar("E2")
C = TypeVar("C")
K = TypeVar("K")


@dataclass(frozen=True)
class DecisionModel(Generic[S, E]):
    """What one decision has to know: which events, and a fold over them.

    Args:
        query: the events; the boundary of the decision.
        initial: the state before any of them.
        evolve: the step; total, and only ever given events that *query* asks for.
        newest: the state follows from the newest of these events alone, as the number
            of the last invoice does. No other is read, *evolve* is given it and
            *initial*; as a part of `compose` all are read all the same.
    """

    query: AnyQuery
    initial: S
    evolve: Callable[[S, Recorded[E]], S]
    newest: bool = False

    # with type variables of their own: checkers leave those of the class unsolved

    @staticmethod
    def of(
        query: AnyQuery,
        initial: S2,
        evolve: Callable[[S2, E2], S2],
        *,
        newest: bool = False,
    ) -> DecisionModel[S2, E2]:
        """Make a model whose step needs the events alone, not where they are.

        >>> DecisionModel.of(Query.of(tags=["seat:1A"]), 0, lambda n, _: n + 1).initial
        0
        """

        def step(state: S2, found: Recorded[E2]) -> S2:
            return evolve(state, found.event)

        return DecisionModel(query, initial, step, newest)

    @staticmethod
    def handling(
        codec: Codec[E2],
        initial: S2,
        steps: Mapping[type[Any], Callable[[S2, Any], S2]],
        *,
        tags: Iterable[str] = (),
        newest: bool = False,
    ) -> DecisionModel[S2, E2]:
        """Make a model from one step for each class of events that it is about.

        The query asks for just those types, under each name that they are stored by,
        and for events that have all of *tags*.

        Args:
            codec: knows the stored names of each class.
            initial: the state before any event.
            steps: from a state and an event of the class to the next state.
            tags: what the events are tagged with.
            newest: the newest of the events is enough.

        Raises:
            EventTypeNotFoundError: *codec* has no name for a class.
            InvalidQueryError: there are no steps.
        """
        if not steps:
            raise InvalidQueryError("a model without steps handles no event")
        known = set(codec.types.values())
        for handled in steps:
            if handled not in known:
                raise EventTypeNotFoundError(handled.__qualname__, codec.types)
        types = [name for name, stored in codec.types.items() if stored in steps]

        def step(state: S2, found: Recorded[E2]) -> S2:
            return steps[type(found.event)](state, found.event)

        return DecisionModel(Query.of(types=types, tags=tags), initial, step, newest)


def evolved(model: DecisionModel[S, E], state: S, found: Recorded[E]) -> S:
    """Give the state after one more event; where the newest counts, it counts alone."""
    return model.evolve(model.initial if model.newest else state, found)


def compose(
    state: Callable[..., S], **parts: DecisionModel[Any, E]
) -> DecisionModel[S, E]:
    """Make one model of several small ones; each sees only the events of its own query.

    Args:
        state: makes the whole state of the states of the parts, given by name, such as
            a frozen struct with one field a part.
        parts: the models, under the names of the fields.

    Raises:
        InvalidQueryError: there are no parts.
    """

    def evolve(whole: S, found: Recorded[E]) -> S:
        states = {name: getattr(whole, name) for name in parts}
        for name, part in _concerned(parts, found):
            states[name] = evolved(part, states[name], found)
        return state(**states)

    query = _query_of(parts)
    initial = state(**{name: part.initial for name, part in parts.items()})
    return DecisionModel(query, initial, evolve)


def compose_map(
    parts: Mapping[K, DecisionModel[S, E]],
) -> DecisionModel[PMap[K, S], E]:
    """Make one model of several of a kind, such as one for each product of an order.

    Its state is a map with the state of each; as in `compose`, each sees only the
    events of its own query.

    Args:
        parts: the models, each under its key.

    Raises:
        InvalidQueryError: there are no parts.
    """
    own = dict(parts)

    def evolve(states: PMap[K, S], found: Recorded[E]) -> PMap[K, S]:
        for key, part in _concerned(own, found):
            states = states.set(key, evolved(part, states[key], found))
        return states

    initial = pmap({key: part.initial for key, part in own.items()})
    return DecisionModel(_query_of(own), initial, evolve)


def _query_of(parts: Mapping[K, DecisionModel[Any, Any]]) -> AnyQuery:
    queries: list[AnyQuery] = [part.query for part in parts.values()]
    return any_of(*queries)


def _concerned(
    parts: Mapping[K, DecisionModel[S, E]], found: Recorded[E]
) -> Iterator[tuple[K, DecisionModel[S, E]]]:
    """Give the parts that ask for an event; each must see no other part's events."""
    at = found.stream.category, found.type, found.tags
    for key, part in parts.items():
        if matches(part.query, *at):
            yield key, part


@dataclass(frozen=True)
class QueryDecider(Generic[S, C, E]):
    """A decider whose state is folded from a query instead of a stream.

    Args:
        decide: state and command to events; empty when there is nothing to do, the
            domain's own exception when the command is refused.
        model: from the command alone to what the decision has to know. The events are
            recorded only if nothing that its query asks for came in between.
    """

    decide: Callable[[S, C], Sequence[E]]
    model: Callable[[C], DecisionModel[S, E]]

    def query(self, command: C) -> AnyQuery:
        """Give the consistency boundary of a command."""
        return self.model(command).query
