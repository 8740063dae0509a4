"""Say what a domain does, in given, when and then; no store, no event loop.

    given = specs_of(account)
    given(Deposited(5)).when(Withdraw(3)).then(Withdrawn(3))
    given(Deposited(5)).when(Withdraw(9)).rejected(Overdrawn, match="9")
    given(Withdrawn(3)).when(Withdraw(0)).nothing()
    given(Deposited(5), Withdrawn(3)).state(2)

A sentence that is not true raises AssertionError, which shows both sides.
"""

# values and types of any shape are looked at, which strict typing cannot follow
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, Final, Generic, NoReturn, Protocol, TypeVar, cast, overload
from uuid import UUID

from msgspec import Struct
from msgspec.structs import replace

from ..core.codec import Codec, value_codec
from ..core.decider import Decider, decided, fold
from ..core.event import NO_METADATA, Metadata, Recorded, StreamName
from ..core.view import View
from ..facade.aggregate import AggregateRoot
from ..facade.events import DomainEvent
from ._domain import ANY_ID, Domain, attempt, domain_of
from ._text import differences, same, source

S = TypeVar("S")
C = TypeVar("C")
E = TypeVar("E")
A = TypeVar("A", bound=AggregateRoot[Any])
SI_contra = TypeVar("SI_contra", contravariant=True)
EI_contra = TypeVar("EI_contra", contravariant=True)

_SOMETIME: Final = datetime(2000, 1, 1, tzinfo=UTC)
_SOMEWHERE: Final = StreamName("test", "1")


class Invariant(Protocol[SI_contra, EI_contra]):
    """Tell whether a state, and all events that led to it, are as they must be."""

    def __call__(self, state: SI_contra, events: tuple[EI_contra, ...], /) -> bool:
        """Judge one moment; an AssertionError is a no with a reason."""
        ...


class Given(Protocol[S, C, E]):
    """Say what happened so far, for a decider or a class."""

    def __call__(self, *events: E) -> Spec[S, C, E]:
        """Give the start of a sentence."""
        ...


class GivenSeen(Protocol[S, E]):
    """Say what a view has seen."""

    def __call__(self, *events: E) -> ViewSpec[S, E]:
        """Give the start of a sentence."""
        ...


@overload
def specs_of(subject: View[S, E]) -> GivenSeen[S, E]: ...
@overload
def specs_of(
    subject: Decider[S, C, E],
    *,
    within: Callable[[C, E], bool] | None = None,
) -> Given[S, C, E]: ...
@overload
def specs_of(
    subject: type[A],
    *,
    within: Callable[[Callable[[A], object], DomainEvent], bool] | None = None,
    id: UUID = ANY_ID,
    compare: Collection[str] = (),
) -> Given[Any, Callable[[A], object], DomainEvent]: ...
def specs_of(
    subject: Any,
    *,
    within: Callable[[Any, Any], bool] | None = None,
    id: UUID = ANY_ID,
    compare: Collection[str] = (),
) -> Callable[..., Any]:
    """Give the `given` of one domain: call it with what happened so far.

    Args:
        subject: a decider, a class derived from `AggregateRoot`, or a view. A command
            for a class is a function of the aggregate, as `execute` takes it.
        within: whether the decision on a command may know an event. A given event
            that it may not know fails the test: in production it would not be read.
        id: of the aggregate, for a class.
        compare: for a class, which of an event's `event_id`, `occurred_at`,
            `correlation_id`, `aggregate_version` and `aggregate_id` are compared; by
            default none, they come by themselves.

    Raises:
        TypeError: *subject* is none of these.
    """
    if isinstance(subject, View):
        view: View[Any, Any] = subject
        return lambda *events: ViewSpec(view, events)
    domain = domain_of(subject, id=id)
    domain = replace(domain, ignoring=domain.ignoring - set(compare))
    return lambda *events: Spec(domain, events, within)


class Spec(Struct, Generic[S, C, E], frozen=True):
    """What happened so far."""

    domain: Domain[S, C, E]
    events: tuple[E, ...]
    within: Callable[[C, E], bool] | None = None

    def when(self, command: C) -> Decision[S, C, E]:
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
        return Decision(self, command)

    def state(self, expected: S) -> None:
        """Claim the state after all that happened."""
        __tracebackhide__ = True
        reached = fold(self.domain.decider, self.events)
        _claim(expected, self.domain.seen(reached), _story(self))


class Decision(Struct, Generic[S, C, E], frozen=True):
    """A command, decided on what happened so far."""

    spec: Spec[S, C, E]
    command: C

    def then(self, first: E, *others: E) -> Spec[S, C, E]:
        """Claim that exactly these events happen, in this order.

        Returns:
            all that happened by now, to go on with `state` or `when`.
        """
        __tracebackhide__ = True
        return self._happens((first, *others))

    def nothing(self) -> Spec[S, C, E]:
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
        try:
            happened = self._decide()
        except error as refused:
            if re.search(match, str(refused)) is None:
                told = f"refused with {str(refused)!r}, which does not match {match!r}"
                raise AssertionError(f"{self}\n{told}") from refused
            return
        except Exception as other:
            wanted = f"expected {_names(error)}, got {_shown(other)}"
            raise AssertionError(f"{self}\n{wanted}") from other
        _fail(self, f"expected {_names(error)}, got {_listed(happened)}")

    def holds(self, *invariants: Invariant[S, E]) -> Spec[S, C, E]:
        """Claim that after each event these hold, or that the command is refused.

        Returns:
            all that happened by now.
        """
        __tracebackhide__ = True
        events = attempt(self.spec.domain, self._state(), self.command) or ()
        for n in range(len(events) + 1):
            after = (*self.spec.events, *events[:n])
            state = fold(self.spec.domain.decider, after)
            for invariant in invariants:
                broken = broken_by(self.spec.domain, invariant, state, after)
                if broken is not None:
                    _fail(self, f"happened: {_listed(events)}", broken)
        return replace(self.spec, events=(*self.spec.events, *events))

    def _happens(self, expected: tuple[E, ...]) -> Spec[S, C, E]:
        __tracebackhide__ = True
        try:
            happened = self._decide()
        except Exception as error:
            told = f"expected {_listed(expected)}, got {_shown(error)}"
            raise AssertionError(f"{self}\n{told}") from error
        lines = _compared(expected, happened, self.spec.domain.ignoring)
        if lines:
            _fail(self, *lines)
        return replace(self.spec, events=(*self.spec.events, *happened))

    def _state(self) -> S:
        return fold(self.spec.domain.decider, self.spec.events)

    def _decide(self) -> tuple[E, ...]:
        return decided(self.spec.domain.decider, self._state(), self.command)

    def __str__(self) -> str:
        return f"{_story(self.spec)}\n when {source(self.command)}"


class ViewSpec(Struct, Generic[S, E], frozen=True):
    """What a view has seen."""

    view: View[S, E]
    events: tuple[E, ...]

    def state(self, expected: S) -> ViewSpec[S, E]:
        """Claim what there is to read."""
        __tracebackhide__ = True
        _claim(expected, fold(self.view, self.events), _story(self))
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
                _fail(_story(self), told, *differences(state, again))
        return self


def recorded(
    *events: Any,
    stream: StreamName = _SOMEWHERE,
    metadata: Metadata = NO_METADATA,
    at: datetime = _SOMETIME,
    codec: Codec[Any] | None = None,
) -> tuple[Recorded[Any], ...]:
    """Give events as a log would hold them, for views and handlers of recorded events.

    What is recorded already keeps its stream, metadata and time; it is numbered anew:
    `recorded(*recorded(a, stream=one), *recorded(b, stream=other))` is one log.

    Args:
        events: events, or recorded ones.
        stream: of those that are not recorded yet.
        metadata: likewise.
        at: likewise; when they were recorded, aware.
        codec: tells their stored names; by default the tag or the name of the class.

    >>> [each.version for each in recorded("a", "b")]
    [1, 2]
    """
    name = (codec or value_codec()).name
    moment = round((at - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds() * 1e6)
    versions: dict[StreamName, int] = {}
    log: list[Recorded[Any]] = []
    for position, event in enumerate(events, 1):
        known = isinstance(event, Recorded)
        where = cast("Recorded[Any]", event).stream if known else stream
        version = versions[where] = versions.get(where, 0) + 1
        log.append(
            replace(event, version=version, position=position, _id=position)
            if known
            else Recorded(
                *(event, name(event), where, version, position),
                *(position, metadata, moment),
            )
        )
    return tuple(log)


def broken_by(
    domain: Domain[S, C, E], invariant: Invariant[Any, E], state: S, events: Sequence[E]
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


def _claim(expected: Any, got: Any, story: str) -> None:
    __tracebackhide__ = True
    found = differences(expected, got)
    if found:
        _fail(story, f"expected {source(expected)}", f"     got {source(got)}", *found)


def _compared(
    expected: Sequence[Any], got: Sequence[Any], ignoring: Collection[str]
) -> list[str]:
    """Show two lists of events side by side, and where they differ."""
    if len(expected) == len(got) and all(
        same(one, other, ignoring) for one, other in zip(expected, got, strict=True)
    ):
        return []
    lines = [f"expected {_listed(expected)}", f"     got {_listed(got)}"]
    for n, (one, other) in enumerate(zip(expected, got, strict=False), 1):
        if type(one) is type(other):
            found = differences(one, other, ignoring)
            lines += [f"event {n} {line}" for line in found]
    return lines


def _story(spec: Spec[Any, Any, Any] | ViewSpec[Any, Any]) -> str:
    return f"given {_listed(spec.events)}"


def _listed(events: Iterable[Any]) -> str:
    return ", ".join(map(source, events)) or "nothing"


def _shown(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _names(error: type[Exception] | tuple[type[Exception], ...]) -> str:
    kinds = error if isinstance(error, tuple) else (error,)
    return " or ".join(kind.__name__ for kind in kinds)


def _fail(*lines: object) -> NoReturn:
    __tracebackhide__ = True
    raise AssertionError("\n".join(map(str, lines)))
