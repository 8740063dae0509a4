"""Check the laws of upcasters, over old events that Hypothesis thinks up."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import msgspec
from hypothesis import given

from ..core.codec import dec_hook, enc_hook
from ..core.upcast import SHAPE, Body, Chain
from ._law import Story, changed
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
        stored, story = deepcopy(body), Story(lambda: source(event))
        shapes = _shapes(upcasters, body, story)
        for shape, between in enumerate(shapes, 1):
            whole = upcasters({SHAPE: shape, **between})
            story.equal("upcasters compose", shapes[-1], whole)
        if upcasters(body) != shapes[-1] or body != stored:
            story.broken("an upcaster is pure")
        today = story.total(
            "what is upcast is a valid event of today",
            lambda: msgspec.convert(shapes[-1], new, str_keys=True, dec_hook=dec_hook),
        )
        if not agree(event, today):
            story.broken("old and new agree", f"upcast to {source(today)}")

    return laws


def _shapes(upcasters: Chain, body: Body, story: Story) -> list[Body]:
    """Give the body in each of its shapes."""
    shapes = [deepcopy(body)]
    for step in upcasters.steps:
        last = deepcopy(shapes[-1])
        name = getattr(step, "__name__", repr(step))
        after = story.total("an upcaster is total", lambda: step(last), f"{name}: ")  # noqa: B023 - called at once
        found = changed(f"the argument of {name}", shapes[-1], last)
        found += differences(after, step(deepcopy(shapes[-1])))
        if found:
            story.broken("an upcaster is pure", *found)
        shapes.append(after)
    return shapes
