"""Decide on the events that a query finds, wherever they are: dynamic boundaries.

The consistency boundary of such a decision is a query that the command determines, not
a stream (https://dcb.events). No I/O here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from .codec import Codec
from .errors import EventTypeNotFoundError
from .event import E, Recorded
from .expectation import AnyQuery, Query, any_of, matches

S = TypeVar("S")
C = TypeVar("C")


@dataclass(frozen=True)
class DecisionModel(Generic[S, E]):
    """What one decision has to know: which events, and a fold over them.

    Args:
        query: the events; the boundary of the decision.
        initial: the state before any of them.
        evolve: the step; total, and only ever given events that *query* asks for.
    """

    query: AnyQuery
    initial: S
    evolve: Callable[[S, Recorded[E]], S]

    @classmethod
    def of(
        cls, query: AnyQuery, initial: S, evolve: Callable[[S, E], S]
    ) -> DecisionModel[S, E]:
        """Make a model whose step needs the events alone, not where they are.

        >>> DecisionModel.of(Query.of(tags=["seat:1A"]), 0, lambda n, _: n + 1).initial
        0
        """
        return cls(query, initial, lambda state, found: evolve(state, found.event))

    @classmethod
    def handling(
        cls,
        codec: Codec[E],
        initial: S,
        steps: Mapping[type[Any], Callable[[S, Any], S]],
        *,
        tags: Iterable[str] = (),
    ) -> DecisionModel[S, E]:
        """Make a model from one step for each class of events that it is about.

        The query asks for just those types, and for events that have all of *tags*.

        Args:
            codec: knows the stored name of each class.
            initial: the state before any event.
            steps: from a state and an event of the class to the next state.
            tags: what the events are tagged with.

        Raises:
            EventTypeNotFoundError: *codec* has no name for a class.
            InvalidQueryError: neither steps nor tags.
        """
        for step in steps:
            if step not in codec.names:
                raise EventTypeNotFoundError(step.__qualname__, codec.names.values())
        query = Query.of(types=[codec.names[step] for step in steps], tags=tags)
        return cls.of(query, initial, lambda s, event: steps[type(event)](s, event))


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
        at = found.stream.category, found.type, found.tags
        states = {name: getattr(whole, name) for name in parts}
        for name, part in parts.items():
            if matches(part.query, *at):
                states[name] = part.evolve(states[name], found)
        return state(**states)

    queries: list[AnyQuery] = [part.query for part in parts.values()]
    initial = state(**{name: part.initial for name, part in parts.items()})
    return DecisionModel(any_of(*queries), initial, evolve)


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
