"""Read events that were stored in an older shape. No I/O here.

The stored bytes never change. A step turns a body of one shape into the next one, and
a chain of steps turns any old body into today's: give it to `json_codec`, which stores
the number of the shape beside the fields.

    def split_name(body: Body) -> Body:
        first, _, last = body["name"].partition(" ")
        return {"first": first, "last": last}

    json_codec({"signed-up": SignedUp}, upcasters={"signed-up": chain(split_name)})
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeAlias, cast

from msgspec import Struct

from .errors import UpcasterError

Body: TypeAlias = dict[str, Any]
"""An event's fields, as JSON values."""

Upcaster: TypeAlias = Callable[[Body], Body]
"""Give the body of the next shape. Derive what is new from what is old, and invent
nothing: what was not recorded is not known. A step must not change its argument."""

SHAPE: Final = "$shape"
"""The key that holds the number of a stored body's shape; without it, it is the first.
"""


class Chain(Struct, frozen=True):
    """The steps from the first shape of an event to today's; made by `chain`."""

    steps: tuple[Upcaster, ...]

    @property
    def shape(self) -> int:
        """The number of today's shape; the first one is 1."""
        return len(self.steps) + 1

    def __call__(self, body: Body) -> Body:
        """Turn a body as it was stored, with or without `SHAPE`, into today's shape.

        *body* is left as it is.

        Raises:
            ValueError: its shape is no number from 1 to today's.
            TypeError: a step gave something else than a dict.
            Exception: what a step raises.
        """
        shape: object = body.get(SHAPE, 1)
        if type(shape) is not int or not 1 <= shape <= self.shape:
            raise ValueError(
                f"stored with shape {shape!r}, known are 1 to {self.shape} - at "
                f"`$.{SHAPE}`"
            )
        result = {key: value for key, value in body.items() if key != SHAPE}
        for number, step in enumerate(self.steps[shape - 1 :], shape):
            result = step(result)
            if not isinstance(cast("object", result), dict):
                raise TypeError(f"{_name(step)}, from shape {number}, gave {result!r}")
        return result


def chain(*steps: Upcaster) -> Chain:
    """Put upcasters together: the first one reads the oldest shape.

    A step is only ever added at the end, and none is taken away: their number is that
    of the shapes that may be stored.

    Raises:
        UpcasterError: there is no step, or one cannot be called.

    >>> in_cents = lambda body: {"cents": 100 * body["euros"]}
    >>> chain(in_cents)({"euros": 3})
    {'cents': 300}
    >>> chain(in_cents)({"$shape": 2, "cents": 305})
    {'cents': 305}
    """
    if not steps:
        raise UpcasterError("a chain without steps changes nothing; leave it out")
    for step in cast("tuple[object, ...]", steps):
        if not callable(step):
            raise UpcasterError(f"{step!r} is no upcaster: it cannot be called")
    return Chain(steps)


def _name(step: Upcaster) -> str:
    return getattr(step, "__name__", repr(step))
