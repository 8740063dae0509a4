"""Keep a folded state so that a load can start from it. No I/O here.

A snapshot may be dropped at any time: one that is missing, torn, of another schema or
ahead of its stream is as good as none.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Generic, TypeAlias, TypeVar

import msgspec
from msgspec import Struct

from .codec import dec_hook, enc_hook

S = TypeVar("S")


class Snapshot(Struct, Generic[S], frozen=True):
    """A state, the version or position that it was folded up to, and its schema."""

    state: S
    version: int
    schema: int


SnapshotPolicy: TypeAlias = Callable[[int, int], bool]
"""Given the versions before and after an append: take a snapshot now?"""


def every(events: int) -> SnapshotPolicy:
    """Take a snapshot whenever an append crosses a multiple of *events*.

    >>> every(10)(8, 11), every(10)(11, 14)
    (True, False)
    """
    if events < 1:
        raise ValueError(f"a snapshot every {events} events makes no sense; use >= 1")
    return lambda before, after: before // events != after // events


due_every_100: Final = every(100)


class Snapshotting(Struct, Generic[S], frozen=True):
    """How the states of one decider are kept.

    Args:
        dump: state to bytes.
        load: bytes to state; any exception means that there is no snapshot.
        due: when to take one.
        schema: raise it when the meaning of the stored state changes.
    """

    dump: Callable[[S], bytes]
    load: Callable[[bytes], S]
    due: SnapshotPolicy = due_every_100
    schema: int = 1


def json_snapshots(
    type: type[S], *, due: SnapshotPolicy = due_every_100, schema: int = 1
) -> Snapshotting[S]:
    """Keep states of *type* as JSON; pyrsistent and pydantic values are welcome.

    >>> plan = json_snapshots(dict[str, int])
    >>> plan.load(plan.dump({"a": 1}))
    {'a': 1}
    """
    dump = msgspec.json.Encoder(enc_hook=enc_hook).encode
    load = msgspec.json.Decoder(type, dec_hook=dec_hook).decode
    return Snapshotting(dump, load, due, schema)


def restored(
    plan: Snapshotting[S], stored: Snapshot[bytes] | None
) -> Snapshot[S] | None:
    """Give the stored snapshot as a state; None if it does not fit for any reason."""
    if stored is None or stored.schema != plan.schema:
        return None
    try:
        return Snapshot(plan.load(stored.state), stored.version, stored.schema)
    except Exception:  # noqa: BLE001 - whatever is wrong with it, it is absent
        return None
