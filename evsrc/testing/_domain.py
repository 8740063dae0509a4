"""See a decider and a class-based aggregate as the same thing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Any, Final, TypeAlias
from uuid import UUID

from msgspec import Struct

from ..core.decider import Decider, decided
from ..core.snapshot import Snapshotting
from ..facade.aggregate import AggregateRoot
from ._text import CHANCE

Refusals: TypeAlias = Sequence[type[Exception]] | None
"""What commands are refused with; None: with all but Python's own mistakes."""

ANY_ID: Final = UUID(int=1)
"""The id of an aggregate whose id does not matter."""

MISTAKES: Final = (
    AssertionError,
    AttributeError,
    IndexError,
    KeyError,
    NameError,
    NotImplementedError,
    RecursionError,
    StopIteration,
    TypeError,
    UnboundLocalError,
    ZeroDivisionError,
)


class Domain(Struct, frozen=True):
    """What is under test: its decider, and how to speak of it.

    Args:
        decider: the pure functions.
        name: what a pasted test calls it.
        seen: the part of the decider's state that the user knows as the state.
        ignoring: fields of events that are no part of a decision.
        snapshots: how a class keeps its states; None: it does not say.
    """

    decider: Decider[Any, Any, Any]
    name: str
    seen: Callable[[Any], Any]
    ignoring: frozenset[str]
    snapshots: Snapshotting[Any] | None = None


def domain_of(subject: Any, *, id: UUID = ANY_ID) -> Domain:
    """Give a decider, or an aggregate class, as a domain; anything else is refused."""
    if isinstance(subject, Decider):
        decider: Decider[Any, Any, Any] = subject
        return Domain(decider, _name_of(decider), lambda state: state, frozenset())
    if isinstance(subject, type) and issubclass(subject, AggregateRoot):
        cls: type[AggregateRoot[Any]] = subject
        keep = _snapshots_of(cls, id)
        free = CHANCE | {"aggregate_id"}  # that it is the aggregate's own is checked
        return Domain(cls.decider(id), cls.__name__, itemgetter(0), free, keep)
    raise TypeError(
        f"{subject!r} is neither a Decider nor a class derived from AggregateRoot"
    )


def _name_of(decider: Decider[Any, Any, Any]) -> str:
    """Find the name that the decider has in the module of its functions."""
    for function in (decider.decide, decider.evolve):
        for name, value in getattr(function, "__globals__", {}).items():
            if value is decider:
                return str(name)
    return "decider"


def _snapshots_of(cls: type[AggregateRoot[Any]], id: UUID) -> Snapshotting[Any] | None:
    if cls._get_state_type() is None and (
        cls._restore_from_snapshot is AggregateRoot._restore_from_snapshot  # noqa: SLF001
    ):
        return None

    def dump(state: Any) -> Any:
        return cls.at(id, state)._serialize_state(), state[1]  # noqa: SLF001

    def load(kept: Any) -> Any:
        aggregate = cls(id)
        aggregate._restore_from_snapshot(*kept)
        return aggregate.state, aggregate.version

    return Snapshotting(dump, load)


def is_refusal(error: Exception, refusals: Refusals) -> bool:
    """Tell whether a decision was refused with *error*, or is broken.

    A subclass of Python's mistakes that the domain defines is a refusal.
    """
    if refusals is not None:
        return isinstance(error, tuple(refusals))
    return type(error) not in MISTAKES


def attempt(
    domain: Domain, state: Any, command: Any, refusals: Refusals = None
) -> tuple[Any, ...]:
    """Give what a command leads to; nothing if it is refused."""
    try:
        return decided(domain.decider, state, command)
    except Exception as error:
        if is_refusal(error, refusals):
            return ()
        raise
