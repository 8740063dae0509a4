"""Make unique ids that sort by time, so that their index grows at its end."""

from __future__ import annotations

import os
import random
from time import time_ns
from typing import Final
from uuid import UUID, SafeUUID

from ..core.event import NO_METADATA, E, Metadata, NewEvent

_VERSION_AND_VARIANT: Final = (0x7 << 76) | (0x2 << 62)
_CHANCE: Final = (1 << 80) - 1 & ~(0xF << 76) & ~(0x3 << 62)
_chance: Final = random.Random(os.urandom(64))  # noqa: S311 - unique, not secret
_bits: Final = _chance.getrandbits
_new: Final = object.__new__
_set_int: Final = UUID.__dict__["int"].__set__
_set_is_safe: Final = UUID.__dict__["is_safe"].__set__
_UNKNOWN: Final = SafeUUID.unknown

if hasattr(os, "register_at_fork"):  # a child must not repeat its parent's numbers
    os.register_at_fork(after_in_child=lambda: _chance.seed(os.urandom(64)))


def new_id() -> UUID:
    """Make a UUID of version 7 (RFC 9562): 48 bits of milliseconds, 74 bits of chance.

    Unique, and sorted by time; not a secret that nobody could guess.

    >>> new_id().version
    7
    """
    id = _new(UUID)  # UUID(int=...) checks what is known here, for as long again
    chance = _VERSION_AND_VARIANT | _bits(80) & _CHANCE
    _set_int(id, time_ns() // 1_000_000 << 80 | chance)
    _set_is_safe(id, _UNKNOWN)
    return id


def new_event(event: E, metadata: Metadata = NO_METADATA) -> NewEvent[E]:
    """Give *event* an id of its own, ready to be appended."""
    return NewEvent(event, new_id(), metadata)
