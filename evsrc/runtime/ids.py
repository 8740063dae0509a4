"""Make unique ids that sort by time, so that their index grows at its end."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from itertools import count
from time import time
from typing import Final
from uuid import UUID, SafeUUID

from ..core.event import NO_METADATA, E, Metadata, NewEvent

_VERSION_AND_VARIANT: Final = (0x7 << 76) | (0x2 << 62)
_CHANCE: Final = (1 << 80) - 1 & ~(0xF << 76) & ~(0x7 << 61)
_new: Final = object.__new__
_set_int: Final = UUID.__dict__["int"].__set__
_set_is_safe: Final = UUID.__dict__["is_safe"].__set__


class _Numbers:
    """Ids as numbers: within a millisecond one more each, from a random start."""

    def __init__(self) -> None:
        self.chance = random.Random()  # noqa: S311 - unique, not secret
        self.begin()

    def begin(self) -> None:
        self.chance.seed(os.urandom(64))
        self.began = self.ends = 0.0
        self.following: Iterator[int]

    def next(self) -> int:
        now = time()
        if not self.began <= now < self.ends:
            start = _VERSION_AND_VARIANT | self.chance.getrandbits(80) & _CHANCE
            # a counter of its own, so that no two threads are given one number
            self.following = count(int(now * 1000) << 80 | start)
            self.began, self.ends = now, now + 0.001
        return next(self.following)


_numbers: Final = _Numbers()
_number: Final = _numbers.next

if hasattr(os, "register_at_fork"):  # a child must not repeat its parent's numbers
    os.register_at_fork(after_in_child=_numbers.begin)


def new_id() -> UUID:
    """Make a UUID of version 7 (RFC 9562): 48 bits of milliseconds, 73 bits of chance.

    Unique, and sorted by time; not a secret that nobody could guess: within one
    millisecond a process counts on from the first (RFC 9562, 6.2, method 2).

    >>> new_id().version
    7
    """
    id = _new(UUID)  # UUID(int=...) checks what is known here, for as long again
    _set_int(id, _number())
    _set_is_safe(id, SafeUUID.unknown)
    return id


def new_event(event: E, metadata: Metadata = NO_METADATA) -> NewEvent[E]:
    """Give *event* an id of its own, ready to be appended."""
    return NewEvent(event, _number(), metadata)
