"""Say what a projection is, apart from when it runs. No I/O here.

The same value is registered inline (`inline`: in the append's transaction) or async
(`project`: by a subscription), and is what `rebuild` builds anew.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeAlias, TypeVar

from ..core.event import E, Recorded
from ..core.expectation import ALL, AnyQuery
from ..core.snapshot import Snapshotting
from ..core.view import View
from ..ports import Transaction

S = TypeVar("S")


@dataclass(frozen=True, slots=True)
class ProjectionTransaction(Transaction[E]):
    """The transaction that a projection's handler works in.

    Args:
        rebuilding: these events are history that another version has dealt with: leave
            out what goes outside, such as mails.
    """

    rebuilding: bool = False


ProjectionHandler: TypeAlias = Callable[
    [ProjectionTransaction[E], Sequence[Recorded[E]]], Awaitable[None]
]
ProjectionStep: TypeAlias = Callable[[Transaction[E]], Awaitable[None]]


async def _nothing(_: object) -> None:
    """Do nothing."""


@dataclass(frozen=True, kw_only=True)
class ViewProjection(Generic[S, E]):
    """A read model whose state is folded and kept by evsrc, as a snapshot.

    Args:
        name: of the read model, with a version: "sales@2".
        view: the read model as a fold over recorded events.
        keep: how its state is written and read; `due` is not asked, the state is kept
            whenever the checkpoint is. Another `schema` folds anew from the beginning.
        query: which events.
    """

    name: str
    view: View[S, Recorded[E]]
    keep: Snapshotting[S]
    query: AnyQuery = ALL


@dataclass(frozen=True, kw_only=True)
class HandlerProjection(Generic[E]):
    """A read model in tables of yours, in the store's own database.

    All functions work in the transaction they are given, on `tx.connection`, and leave
    its end to evsrc: what they did is there together with the checkpoint, or not at
    all. They must not keep the transaction.

    Args:
        name: of the read model, with a version: "sales@2".
        handle: gets some events, in the log's order; each exactly once, unless the
            transaction was rolled back.
        query: which events.
        setup: makes the tables; called once, before the first events.
        drop: undoes *setup*; called when a rebuild is cancelled.
        swap: puts the tables of this version in the place of the live ones, and drops
            those; called once, at the end of a rebuild.
        lock: keeps the live version from writing to its tables (`LOCK TABLE sales`);
            called before *swap*. Not needed on SQLite, which has one writer.
    """

    name: str
    handle: ProjectionHandler[E]
    query: AnyQuery = ALL
    setup: ProjectionStep[E] = _nothing
    drop: ProjectionStep[E] = _nothing
    swap: ProjectionStep[E] = _nothing
    lock: ProjectionStep[E] = _nothing


ProjectionDefinition: TypeAlias = ViewProjection[S, E] | HandlerProjection[E]
