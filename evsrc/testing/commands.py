"""Draw commands, and the histories and states that they lead to, with Hypothesis."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeVar, get_type_hints

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from ..core.decider import Decider, fold
from ..facade.aggregate import DeclarativeAggregate
from ..facade.handlers import is_event_handler
from ._domain import Refusals, attempt, domain_of
from ._text import Call
from .strategies import Overrides, values


def commands_of(
    subject: Any, overrides: Overrides | None = None
) -> SearchStrategy[Any]:
    """Draw commands of a domain.

    Args:
        subject: a decider, whose `decide` says by its annotation what a command is; or
            an aggregate class: its public methods, called with arguments of the types
            that are annotated.
        overrides: as of `values`; for an argument of a method
            `{(Account.deposit, "amount"): ...}`.

    Raises:
        TypeError: an annotation is missing.
    """
    if isinstance(subject, Decider):
        decide: Any = subject.decide
        parameters = list(inspect.signature(decide).parameters)
        hints = get_type_hints(decide, include_extras=True)
        wanted = hints.get(parameters[1]) if len(parameters) == 2 else None
        if wanted is None or isinstance(wanted, TypeVar):
            name = getattr(decide, "__qualname__", repr(decide))
            raise TypeError(
                f"{name} does not say what a command is: annotate its second "
                "argument, or give commands=values(...)"
            )
        return values(wanted, overrides)
    return st.one_of(
        [
            _calls_of(name, method, overrides or {})
            for name, method in vars(subject).items()
            if inspect.isfunction(method)
            and not name.startswith("_")
            and not hasattr(DeclarativeAggregate, name)
            and not is_event_handler(method)
        ]
    )


def _calls_of(
    name: str, method: Callable[..., Any], overrides: Overrides
) -> SearchStrategy[Call]:
    hints = get_type_hints(method, include_extras=True)
    arguments: dict[str, SearchStrategy[Any]] = {}
    for parameter in list(inspect.signature(method).parameters)[1:]:
        if (method, parameter) in overrides:
            arguments[parameter] = overrides[method, parameter]
        elif parameter in hints:
            arguments[parameter] = values(hints[parameter], overrides)
        else:
            raise TypeError(
                f"{method.__qualname__} does not say what its {parameter!r} is"
            )
    return st.fixed_dictionaries(arguments).map(lambda given: Call(name, given))


def histories(
    subject: Any,
    commands: SearchStrategy[Any] | None = None,
    *,
    refusals: Refusals = None,
    most: int = 10,
) -> SearchStrategy[tuple[Any, ...]]:
    """Draw the events of histories that can happen: of commands, one after the other.

    Args:
        subject: a decider or an aggregate class.
        commands: what is asked; by default `commands_of` it. What is refused is left
            out.
        refusals: what the domain refuses commands with; by default every exception but
            those by which Python reports a mistake (TypeError, KeyError, ...).
        most: how many commands, at most.
    """
    domain = domain_of(subject)

    def happened(asked: list[Any]) -> tuple[Any, ...]:
        state: Any = domain.decider.initial
        events: tuple[Any, ...] = ()
        for command in asked:
            new = attempt(domain, state, command, refusals)
            state, events = fold(domain.decider, new, state), events + new
        return events

    drawn = commands_of(subject) if commands is None else commands
    return st.lists(drawn, max_size=most).map(happened)


def states(
    subject: Any,
    commands: SearchStrategy[Any] | None = None,
    *,
    refusals: Refusals = None,
    most: int = 10,
) -> SearchStrategy[Any]:
    """Draw the states that can be reached; arguments as of `histories`."""
    domain = domain_of(subject)
    drawn = histories(subject, commands, refusals=refusals, most=most)
    return drawn.map(lambda events: domain.seen(fold(domain.decider, events)))
