"""Run projections inside the transaction of each append."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, Generic

from ..core.errors import ProjectionRetiredError
from ..core.event import E
from ..ports import START, Also, Appended, Conflict, EventStore, Transaction, Write
from .progressing import Memo, Progressing
from .project import catch_up, prepare
from .projection import ProjectionDefinition


class _Inline(Generic[E]):
    """A store's way to append, with projections behind it."""

    def __init__(
        self,
        store: EventStore[E],
        definitions: Sequence[ProjectionDefinition[Any, E]],
    ) -> None:
        self._store = store
        self._projections = [(each, Memo()) for each in definitions]

    async def append(
        self, *writes: Write[E], also: Sequence[Also] = ()
    ) -> Appended | Conflict:
        if not writes:
            return await self._store.append(also=also)
        async with self.transaction() as tx:
            return await tx.append(*writes, also=also)

    @asynccontextmanager
    async def transaction(self) -> AsyncGenerator[Transaction[E]]:
        reached = START
        async with self._store.transaction() as tx:

            async def append(
                *writes: Write[E], also: Sequence[Also] = ()
            ) -> Appended | Conflict:
                nonlocal reached
                done = await tx.append(*writes, also=also)
                if writes and isinstance(done, Appended) and not done.repeated:
                    reached = done.position
                return done

            yield replace(tx, append=append)
            if reached:
                for definition, memo in self._projections:
                    await self._bring_up(tx, definition, memo)

    async def _bring_up(
        self, tx: Transaction[E], definition: ProjectionDefinition[Any, E], memo: Memo
    ) -> None:
        """Bring a projection to the end of the log."""
        projection = Progressing(self._store, definition, memo)
        try:
            await projection.load(tx)
            events, reached = await projection.rest(tx, None)
            await projection.take(tx, events, reached, rebuilding=False)
        except ProjectionRetiredError:
            return  # its successor handles the events
        except Exception as error:
            error.add_note(
                f"raised by the inline projection {definition.name!r}: nothing was "
                "appended"
            )
            raise


async def inline(
    store: EventStore[E], *definitions: ProjectionDefinition[Any, E]
) -> EventStore[E]:
    """Give *store* with appends that keep projections up to date, in one transaction.

    When an append returns, the read models contain it; when one of them fails, with
    whatever error, nothing is appended. Events that came in another way (through the
    plain store, or before) are handled first, in the log's order. Each projection gets
    the events as they are recorded, with versions and positions, as it would async.

    Every append waits for the projections, and every other append waits for it: keep
    them few and quick. One that a rebuild has replaced is left alone.

    Args:
        store: where the events, and the read models, are.
        definitions: what to keep up to date; they are brought to the end of the log
            before this returns.

    Raises:
        ProjectionRetiredError: a rebuild has replaced one of them.
        ValueError: the store commits appends concurrently, so that their order is not
            known inside a transaction.
    """
    if store.concurrent:
        raise ValueError(
            "an inline projection needs serial ordering: with concurrent ordering, the "
            "events before the append's own are not known in its transaction"
        )
    for definition in definitions:
        await prepare(store, definition)
        await catch_up(store, definition)
    made = _Inline(store, definitions)
    return replace(store, append=made.append, transaction=made.transaction)
