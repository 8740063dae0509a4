"""Say what happened inside the boundary of a decision, and what beside it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeAlias, TypeVar

from msgspec import Struct
from msgspec.structs import replace

from ..core.boundary import DecisionModel, QueryDecider, evolved
from ..core.codec import Codec
from ..core.decider import Decider
from ..core.event import Recorded, StreamName
from ..core.expectation import matches
from ._decision import Decision, Past
from ._domain import Domain
from ._text import source
from .logs import recorded

S = TypeVar("S")
C = TypeVar("C")
E = TypeVar("E")
StreamOf: TypeAlias = Callable[[Any], StreamName]


class Boundary(Struct, Generic[S, C, E], frozen=True):
    """A decider on queries, and how its events are stored."""

    decider: QueryDecider[S, C, E]
    codec: Codec[E]
    stream: StreamOf

    def stored(self, event: E, position: int = 1) -> Recorded[E]:
        """Show an event as the log would; what could not be stored is refused."""
        (found,) = recorded(event, stream=self.stream(event), codec=self.codec)
        return replace(found, position=position, version=position)

    def domain(self, model: DecisionModel[S, E], before: int) -> Domain[Any, C, E]:
        """See the decider as one on a stream, for a command that *model* belongs to.

        Its state is the model's, and the position of the last event.
        """

        def decide(state: tuple[int, S], command: C) -> Sequence[E]:
            happened = tuple(self.decider.decide(state[1], command))
            for event in happened:
                self.stored(event)
            return happened

        def evolve(state: tuple[int, S], event: E) -> tuple[int, S]:
            found = self.stored(event, state[0] + 1)
            if not asks(model, found):
                return found.position, state[1]
            return found.position, evolved(model, state[1], found)

        decider = Decider(decide, evolve, (before, model.initial))
        return Domain(decider, "decider", lambda state: state[1], frozenset())


class BoundarySpec(Past[E], Generic[S, C, E], frozen=True):
    """What happened so far: inside the boundary, and beside it."""

    boundary: Boundary[S, C, E]
    others: tuple[E, ...] = ()

    def beside(self, *others: E) -> BoundarySpec[S, C, E]:
        """Let something happen, before all else, that the decision must not know of."""
        return replace(self, others=(*self.others, *others))

    def when(self, command: C) -> Decision[BoundarySpec[S, C, E], S, C, E]:
        """Ask for something.

        Raises:
            AssertionError: the model of *command* does not ask for a given event, or
                asks for one beside it.
        """
        __tracebackhide__ = True
        model = self.boundary.decider.model(command)
        inside = len(self.others)
        for n, event in enumerate((*self.others, *self.events)):
            found = self.boundary.stored(event)
            asked = asks(model, found)
            if asked != (n >= inside):
                told = "asks for" if asked else "does not ask for"
                raise AssertionError(
                    f"the decision on {source(command)} {told} {source(event)}, which "
                    f"is stored as {found.type!r} with the tags {sorted(found.tags)}, "
                    f"since its query is {model.query}"
                )
        return Decision(self, self.boundary.domain(model, inside), command)


def asks(model: DecisionModel[Any, E], found: Recorded[E]) -> bool:
    """Tell whether an event is one that a model asks for."""
    return matches(model.query, found.stream.category, found.type, found.tags)
