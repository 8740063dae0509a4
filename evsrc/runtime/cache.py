"""Keep folded states between transactions, so that a load reads only what is new.

What is kept was read from, or acknowledged by, the store; a stale entry costs one
conflict, after which only the tail is read.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, TypeVar

from ..core.event import StreamName

S = TypeVar("S")


class StateCache(Generic[S]):
    """The states of the streams that were used last.

    Args:
        most: how many states are kept at most.
    """

    def __init__(self, most: int = 10_000) -> None:
        if most < 1:
            raise ValueError(f"a cache of {most} states makes no sense; use >= 1")
        self._most = most
        self._states: OrderedDict[StreamName, tuple[S, int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._states)

    def get(self, stream: StreamName) -> tuple[S, int] | None:
        """Give a stream's state and version, if they are here."""
        found = self._states.get(stream)
        if found is not None:
            self._states.move_to_end(stream)
        return found

    def put(self, stream: StreamName, state: S, version: int) -> None:
        """Keep a stream's state; an older version never replaces a newer one."""
        known = self._states.get(stream)
        if known is not None and known[1] > version:
            return
        self._states[stream] = state, version
        self._states.move_to_end(stream)
        if len(self._states) > self._most:
            self._states.popitem(last=False)
