"""Say what a domain does, in given, when and then; no store, no event loop.

    given = specs_of(account)
    given(Deposited(5)).when(Withdraw(3)).then(Withdrawn(3))
    given(Deposited(5)).when(Withdraw(9)).rejected(Overdrawn, match="9")
    given(Withdrawn(3)).when(Withdraw(0)).nothing()
    given(Deposited(5), Withdrawn(3)).state(2)

    given = specs_of(enrolment, codec=codec)
    given(CourseDefined("go", 1)).beside(Subscribed("bob", "pi")).when(...)

A sentence that is not true raises AssertionError, which shows both sides.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from operator import itemgetter
from typing import Any, Generic, Protocol, TypeAlias, TypeVar, overload
from uuid import UUID

from msgspec import Struct
from msgspec.structs import replace

from ..core.boundary import DecisionModel, QueryDecider, evolved
from ..core.codec import Codec
from ..core.decider import Decider, fold
from ..core.event import Recorded, StreamName
from ..core.expectation import asks_for
from ..core.view import View
from ..facade.aggregate import AggregateRoot
from ..facade.events import DomainEvent
from ._decision import Decision, Past, claim, fail
from ._domain import ANY_ID, Domain, domain_of
from ._text import differences, same, source
from .assertions import recorded

S = TypeVar("S")
C = TypeVar("C")
E = TypeVar("E")
A = TypeVar("A", bound=AggregateRoot[Any])
E_contra = TypeVar("E_contra", contravariant=True)
P_co = TypeVar("P_co", covariant=True)
StreamOf: TypeAlias = Callable[[Any], StreamName]


def _somewhere(_event: object) -> StreamName:
    return StreamName("test", "1")


class Given(Protocol[E_contra, P_co]):
    """Say what happened so far; it is the start of a sentence."""

    def __call__(self, *events: E_contra) -> P_co:
        """Give the start of a sentence."""
        ...


@overload
def specs_of(subject: View[S, E]) -> Given[E, ViewSpec[S, E]]: ...
@overload
def specs_of(
    subject: Decider[S, C, E], *, within: Callable[[C, E], bool] | None = None
) -> Given[E, Spec[S, C, E]]: ...
@overload
def specs_of(
    subject: QueryDecider[S, C, E], *, codec: Codec[E], stream: StreamOf = _somewhere
) -> Given[E, BoundarySpec[S, C, E]]: ...
@overload
def specs_of(
    subject: type[A],
    *,
    within: Callable[[Callable[[A], object], DomainEvent], bool] | None = None,
    id: UUID = ANY_ID,
    compare: Collection[str] = (),
) -> Given[DomainEvent, Spec[Any, Callable[[A], object], DomainEvent]]: ...
def specs_of(
    subject: Any,
    *,
    within: Callable[[Any, Any], bool] | None = None,
    codec: Codec[Any] | None = None,
    stream: StreamOf = _somewhere,
    id: UUID = ANY_ID,
    compare: Collection[str] = (),
) -> Callable[..., Any]:
    """Give the `given` of one domain: call it with what happened so far.

    A `QueryDecider` is given just the events that its query asks for. A given event
    that it does not ask for fails the sentence, since the decision would never see it;
    what happens `beside` them must not be asked for.

    Args:
        subject: a decider, a query decider, a class derived from `AggregateRoot`, or a
            view. A command for a class is a function of the aggregate, as `execute`
            takes it.
        within: for a decider or a class, whether the decision on a command may know an
            event. A given event that it may not know fails the test: in production it
            would not be read.
        codec: for a query decider, gives the events their names and tags.
        stream: for a query decider, where an event is; only of interest to queries
            over categories.
        id: of the aggregate, for a class.
        compare: for a class, which of an event's `event_id`, `occurred_at`,
            `correlation_id`, `aggregate_version` and `aggregate_id` are compared; by
            default none, they come by themselves.

    Raises:
        TypeError: *subject* is none of these, or a query decider without a codec.
    """
    if isinstance(subject, View):
        view: View[Any, Any] = subject
        return lambda *events: ViewSpec(events, view)
    if isinstance(subject, QueryDecider):
        if codec is None:
            raise TypeError("a query decider needs codec=, which tells names and tags")
        boundary: Boundary[Any, Any, Any] = Boundary(subject, codec, stream)
        return lambda *events: BoundarySpec(events, boundary)
    domain = domain_of(subject, id=id)
    domain = replace(domain, ignoring=domain.ignoring - set(compare))
    spec: type[Spec[Any, Any, Any]] = Spec
    return lambda *events: spec(events, domain, within)


class Spec(Past[E], Generic[S, C, E], frozen=True):
    """What happened so far."""

    domain: Domain
    within: Callable[[C, E], bool] | None = None

    def when(self, command: C) -> Decision[Spec[S, C, E], S, C, E]:
        """Ask for something.

        Raises:
            AssertionError: a given event is not `within` what the decision may know.
        """
        if self.within is not None:
            for event in self.events:
                if not self.within(command, event):
                    raise AssertionError(
                        f"the decision on {source(command)} does not know the event "
                        f"{source(event)}: it lies outside the consistency boundary"
                    )
        return Decision(self, self.domain, command)

    def state(self, expected: S) -> None:
        """Claim the state after all that happened."""
        __tracebackhide__ = True
        reached = fold(self.domain.decider, self.events)
        claim(expected, self.domain.seen(reached), str(self))


class ViewSpec(Past[E], Generic[S, E], frozen=True):
    """What a view has seen."""

    view: View[S, E]

    def state(self, expected: S) -> ViewSpec[S, E]:
        """Claim what there is to read."""
        __tracebackhide__ = True
        claim(expected, fold(self.view, self.events), str(self))
        return self

    def twice_gives_once(self) -> ViewSpec[S, E]:
        """Claim that events which come again change nothing, as after a crash.

        Each end of what was seen is repeated: the last event, the last two, and so on.
        """
        __tracebackhide__ = True
        state = fold(self.view, self.events)
        for n in range(len(self.events) - 1, -1, -1):
            again = fold(self.view, self.events[n:], state)
            if not same(state, again):
                told = f"then the same again, from {source(self.events[n])} on"
                fail(self, told, *differences(state, again))
        return self


class Boundary(Struct, Generic[S, C, E], frozen=True):
    """A decider on queries, and how its events are stored."""

    decider: QueryDecider[S, C, E]
    codec: Codec[E]
    stream: StreamOf

    def stored(self, event: E) -> Recorded[E]:
        """Show an event as the log would; what could not be stored is refused."""
        return recorded(event, stream=self.stream(event), codec=self.codec)[0]

    def domain(self, model: DecisionModel[S, E], before: int) -> Domain:
        """See the decider as one on a stream, for a command that *model* belongs to.

        Its state is the model's, and the position of the last event.
        """

        def decide(state: tuple[int, S], command: C) -> Sequence[E]:
            happened = tuple(self.decider.decide(state[1], command))
            for event in happened:
                self.stored(event)
            return happened

        def evolve(state: tuple[int, S], event: E) -> tuple[int, S]:
            found, at = self.stored(event), state[0] + 1
            if not asks(model, found):
                return at, state[1]
            return at, evolved(model, state[1], replace(found, position=at, version=at))

        decider = Decider(decide, evolve, (before, model.initial))
        return Domain(decider, "decider", itemgetter(1), frozenset())


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
    return asks_for(model.query, found)
