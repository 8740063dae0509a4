"""Keep the transactions of a store apart from its other appends, and from misuse."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager, suppress
from contextvars import ContextVar
from dataclasses import replace
from typing import Final, Generic

from ..core.errors import TransactionError
from ..core.event import E
from ..ports import Also, Append, Appended, Conflict, Transaction, Write

_inside: ContextVar[frozenset[object]] = ContextVar("evsrc_inside", default=frozenset())
MOMENTS: Final = 2.0


class Line:
    """Those who write to one store, one after the other.

    A transaction that is *held* stays at the head of the line until its block ends. One
    that is only *noted* leaves waiting to the database.
    """

    def __init__(self, store: str) -> None:
        self.store = store
        self.lock = asyncio.Lock()
        self.open: set[object] = set()

    def is_inside(self) -> bool:
        """Tell whether the caller runs inside a transaction's block."""
        return bool(self.open) and not self.open.isdisjoint(_inside.get())

    def refuse_inside(self) -> None:
        """Refuse a caller who would wait for the transaction that he is in.

        Raises:
            TransactionError: he is in one of this store's.
        """
        if self.is_inside():
            raise TransactionError(
                f"{self.store}: inside a transaction's block, append with `tx.append`: "
                "the store's own append would wait for the transaction to end"
            )

    async def free(self) -> None:
        """Wait until no transaction is held; the caller's next step is then his own."""
        if self.open:
            self.refuse_inside()
            async with self.lock:
                pass

    @asynccontextmanager
    async def noted(self) -> AsyncGenerator[None]:
        """Note that a block runs inside a transaction of this store."""
        self.refuse_inside()
        this, outside = object(), _inside.get()
        self.open.add(this)
        _inside.set(outside | {this})
        try:
            yield
        finally:
            self.open.discard(this)
            _inside.set(outside)

    @asynccontextmanager
    async def held(self) -> AsyncGenerator[None]:
        """Keep everybody else waiting while a block runs."""
        self.refuse_inside()
        async with self.lock, self.noted():
            yield

    async def ended(self) -> None:
        """Wait for open transactions; not for long, they may have been forgotten."""
        if self.open:
            with suppress(TimeoutError):
                async with asyncio.timeout(MOMENTS), self.lock:
                    pass


class Watched(Generic[E]):
    """The appends of one transaction: whether one failed, and how far they reached."""

    def __init__(self, append: Append[E], store: str) -> None:
        self.inner = append
        self.store = store
        self.reached = 0
        self.failure: BaseException | None = None
        self.over = False

    async def append(
        self, *writes: Write[E], also: Sequence[Also] = ()
    ) -> Appended | Conflict:
        """Append in the transaction."""
        self.check()
        try:
            done = await self.inner(*writes, also=also)
        except BaseException as error:
            self.failure = error
            raise
        if writes and isinstance(done, Appended):
            self.reached = max(self.reached, done.position)
        return done

    def check(self) -> None:
        """Refuse a transaction that is over or has failed."""
        if self.over:
            raise TransactionError(f"{self.store}: this transaction is over")
        if self.failure is not None:
            raise TransactionError(
                f"{self.store}: an append in this transaction failed, so nothing of it "
                f"is written: {self.failure!r}"
            ) from self.failure


@asynccontextmanager
async def watched(
    inside: Transaction[E], store: str
) -> AsyncGenerator[tuple[Transaction[E], Watched[E]]]:
    """Give a transaction for a block; at its end, refuse to commit a failed one."""
    watch = Watched(inside.append, store)
    try:
        yield replace(inside, append=watch.append), watch
        watch.check()
    finally:
        watch.over = True
