"""Say what a decision on a query does, in given, when and then; no store, no loop.

    given = boundary_specs(enrolment, codec)
    given(CourseDefined("go", 1)).when(Subscribe("ann", "go")).then(
        Subscribed("ann", "go")
    )
    given(CourseDefined("go", 0)).when(Subscribe("ann", "go")).rejected(CourseFull)
    given(CourseDefined("go", 1)).beside(Subscribed("bob", "pi")).when(...)

The model is given just the events that its query asks for. A given event that it does
not ask for fails the sentence: the decision would never see it. What happens `beside`
it must not be asked for. A sentence that is not true raises AssertionError.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any, Final, Generic, TypeAlias, TypeVar

from msgspec import Struct
from msgspec.structs import replace

from ..core.boundary import DecisionModel, QueryDecider
from ..core.codec import Codec
from ..core.event import NO_TAGS, E, Recorded, StreamName
from ..core.expectation import matches

S = TypeVar("S")
C = TypeVar("C")
StreamOf: TypeAlias = Callable[[Any], StreamName]

_SOMEWHERE: Final = StreamName("given", "1")


class _Domain(Struct, Generic[S, C, E], frozen=True):
    decider: QueryDecider[S, C, E]
    codec: Codec[E]
    stream: StreamOf

    def recorded(self, event: E, position: int) -> Recorded[E]:
        """Show an event as the log would; what could not be stored is refused."""
        tags = NO_TAGS if self.codec.tags is None else self.codec.tags(event)
        name, to = self.codec.name(event), self.stream(event)
        id = position
        return Recorded(event, name, to, position, position, id, None, 0, tags)


def boundary_specs(
    decider: QueryDecider[S, C, E],
    codec: Codec[E],
    *,
    stream: StreamOf = lambda _: _SOMEWHERE,
) -> Callable[..., BoundarySpec[S, C, E]]:
    """Give the `given` of one decider: call it with what happened so far.

    Args:
        decider: the domain.
        codec: gives the events their names and tags.
        stream: where an event is; only of interest to queries over categories.
    """
    domain = _Domain(decider, codec, stream)
    return lambda *events: BoundarySpec(domain, events)


class BoundarySpec(Struct, Generic[S, C, E], frozen=True):
    """What happened so far: inside the boundary, and beside it."""

    domain: _Domain[S, C, E]
    events: tuple[E, ...]
    others: tuple[E, ...] = ()

    def beside(self, *others: E) -> BoundarySpec[S, C, E]:
        """Let something happen, before all else, that the decision must not know of."""
        return replace(self, others=(*self.others, *others))

    def when(self, command: C) -> BoundaryDecision[S, C, E]:
        """Ask for something.

        Raises:
            AssertionError: the model of *command* does not ask for a given event, or
                asks for one beside it.
        """
        __tracebackhide__ = True
        model = self.domain.decider.model(command)
        state, inside = model.initial, len(self.others)
        for position, event in enumerate((*self.others, *self.events), 1):
            found = self.domain.recorded(event, position)
            asked = matches(model.query, found.stream.category, found.type, found.tags)
            if asked != (position > inside):
                told = "asks for" if asked else "does not ask for"
                raise AssertionError(
                    f"the decision on {command} {told} {event}, which is stored as "
                    f"{found.type!r} with the tags {sorted(found.tags)}, since its "
                    f"query is {model.query}"
                )
            if asked:
                state = _evolved(model, state, found)
        return BoundaryDecision(self, command, state)


class BoundaryDecision(Struct, Generic[S, C, E], frozen=True):
    """A command, and the state that it is decided on."""

    spec: BoundarySpec[S, C, E]
    command: C
    state: S

    def then(self, first: E, *others: E) -> BoundarySpec[S, C, E]:
        """Claim that exactly these events happen, in this order.

        Returns:
            all that happened by now, to go on with another `when`.
        """
        __tracebackhide__ = True
        return self._happens((first, *others))

    def nothing(self) -> BoundarySpec[S, C, E]:
        """Claim that nothing happens, and that it is not refused."""
        __tracebackhide__ = True
        return self._happens(())

    def rejected(self, error: type[Exception], *, match: str = "") -> None:
        """Claim that it is refused.

        Args:
            error: with this exception.
            match: a regular expression that its text contains.
        """
        __tracebackhide__ = True
        try:
            happened = self._decide()
        except error as refused:
            if re.search(match, str(refused)) is None:
                told = f"{self}\nexpected a text with {match!r}, got {str(refused)!r}"
                raise AssertionError(told) from refused
            return
        wanted = f"expected {error.__name__}, got {_listed(happened)}"
        raise AssertionError(f"{self}\n{wanted}")

    def _happens(self, expected: tuple[E, ...]) -> BoundarySpec[S, C, E]:
        __tracebackhide__ = True
        happened = self._decide()
        if happened != expected:
            raise AssertionError(
                f"{self}\nexpected {_listed(expected)}\n     got {_listed(happened)}"
            )
        return replace(self.spec, events=(*self.spec.events, *happened))

    def _decide(self) -> tuple[E, ...]:
        domain = self.spec.domain
        happened = tuple(domain.decider.decide(self.state, self.command))
        for event in happened:
            domain.recorded(event, 1)
        return happened

    def __str__(self) -> str:
        return f"given {_listed(self.spec.events)}\n when {self.command}"


def _evolved(model: DecisionModel[S, E], state: S, found: Recorded[E]) -> S:
    return model.evolve(model.initial if model.newest else state, found)


def _listed(events: Iterable[Any]) -> str:
    return ", ".join(map(str, events)) or "nothing"
