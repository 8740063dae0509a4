"""Check the laws of upcasters, over old events that Hypothesis thinks up."""

# values and types of any shape are looked at, which strict typing cannot follow
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import msgspec
from hypothesis import given

from ..core.codec import dec_hook, enc_hook
from ..core.upcast import SHAPE, Body, Chain
from ._law import break_law, changed, told_of, tried
from ._text import differences, source
from .strategies import values


def upcaster_laws(
    upcasters: Chain,
    old: Any,
    new: Any,
    *,
    agree: Callable[[Any, Any], bool] = lambda _old, _new: True,
) -> Callable[[], None]:
    """Make the test that the upcasters of one event keep the laws.

    * upcasters compose: from the first shape, the chain gives what its steps give one
      by one; from any later shape, too
    * an upcaster is pure: it does not change its argument, and answers the same twice
    * what is upcast is a valid event of today
    * old and new agree, as far as you say

    Args:
        upcasters: the chain, as given to `json_codec`.
        old: a struct class of the event's first shape, as it was stored.
        new: the event class of today.
        agree: tells whether an old and a new event mean the same.

    Raises:
        LawBrokenError: from the test.
    """

    @given(event=values(old))
    def laws(event: Any) -> None:
        body: Body = msgspec.to_builtins(event, enc_hook=enc_hook, str_keys=True)
        stored = deepcopy(body)
        shapes = _shapes(upcasters, body, source(event))
        for shape, between in enumerate(shapes, 1):
            whole = upcasters({SHAPE: shape, **between})
            if whole != shapes[-1]:
                told = differences(shapes[-1], whole)
                break_law("upcasters compose", source(event), *told)
        if upcasters(body) != shapes[-1] or body != stored:
            break_law("an upcaster is pure", source(event))
        _agree(event, shapes[-1], new, agree)

    return laws


def _shapes(upcasters: Chain, body: Body, story: str) -> list[Body]:
    """Give the body in each of its shapes."""
    shapes = [deepcopy(body)]
    for step in upcasters.steps:
        last = deepcopy(shapes[-1])
        name = getattr(step, "__name__", repr(step))
        after, error = tried(lambda: step(last))  # noqa: B023 - called at once
        if error is not None:
            break_law(
                "an upcaster is total", story, f"{name}: {told_of(error)}", cause=error
            )
        again = step(deepcopy(shapes[-1]))
        found = changed(f"the argument of {name}", shapes[-1], last)
        found += differences(after, again)
        if found:
            break_law("an upcaster is pure", story, *found)
        shapes.append(after)
    return shapes


def _agree(event: Any, body: Body, new: Any, agree: Callable[[Any, Any], bool]) -> None:
    law, story = "what is upcast is a valid event of today", source(event)
    today, error = tried(
        lambda: msgspec.convert(body, new, str_keys=True, dec_hook=dec_hook)
    )
    if error is not None:
        break_law(law, story, str(error), cause=error)
    if not agree(event, today):
        break_law("old and new agree", story, f"upcast to {source(today)}")
