"""Lend connections: of a pool of our own, of the user's pool, or of his sessions.

The driver is asyncpg in each case. A pool that is not ours is never closed.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    asynccontextmanager,
    suppress,
)
from pathlib import Path
from types import TracebackType
from typing import Any, Final, NoReturn, TypeAlias, TypeVar, cast
from urllib.parse import parse_qsl, urlsplit

import asyncpg

from ...core.errors import StoreBusyError, StoreClosedError, StoreUnavailableError
from .errors import connection_is_lost, may_be_repeated, place_of, translated

T = TypeVar("T")
Db: TypeAlias = Any
"""An asyncpg connection, of a pool or not."""

_FILES: Final = frozenset({"sslrootcert", "sslcert", "sslkey", "sslcrl"})
_FIRST_PAUSE: Final = 0.02
_LONGEST_PAUSE: Final = 1.0
_LAST_MOMENT: Final = 2.0
_CALLING_OFF: Final = 1.0


class Server:
    """Where connections come from, and how long to put up with a server that is gone.

    Args:
        lend: gives a connection for the length of a `with` block.
        where: for messages; no credentials.
        timeout: after how many seconds a statement counts as lost.
        patience: for how many seconds to try again when the server cannot be reached.
        end: closes what is ours.
        lend_again: like *lend*, for those who use one connection after the other.
        lend_once: like *lend*, for those who show the connection to the user: it is of
            no use to him afterwards.
    """

    def __init__(
        self,
        lend: Callable[[], AbstractAsyncContextManager[Db]],
        where: str,
        *,
        timeout: float,
        patience: float,
        end: Callable[[], Awaitable[None]] | None = None,
        lend_again: Callable[[], AbstractAsyncContextManager[Db]] | None = None,
        lend_once: Callable[[], AbstractAsyncContextManager[Db]] | None = None,
    ) -> None:
        self.lend = lend
        self.lend_again = lend_again or lend
        self.lend_once = lend_once or lend
        self.where = where
        self.timeout = timeout
        self.patience = patience
        self.end = end
        self.closed = False

    async def run(
        self, work: Callable[[Db], Awaitable[T]], *, repeat: bool = True
    ) -> T:
        """Run *work*; if the connection is lost, again (*repeat*: also after it began).

        Raises:
            StoreUnavailableError: the server stayed away for longer than *patience*.
            StoreBusyError: no connection became free.
            StoreClosedError: the store was closed.
        """
        again = Again(self.patience)
        while True:
            if self.closed:
                raise StoreClosedError(self.where)
            begun = False
            try:
                async with self.lend() as db:
                    begun = True
                    return await work(db)
            except Exception as error:  # noqa: BLE001 - translated and raised
                final = self.closed or (begun and not repeat)
                if final or not may_be_repeated(error) or not await again.pause():
                    self.fail(error)

    def fail(self, error: Exception) -> NoReturn:
        """Raise the error that stands for one of the driver's."""
        if self.closed and (
            connection_is_lost(error) or isinstance(error, StoreUnavailableError)
        ):
            raise StoreClosedError(self.where) from error
        ours = translated(error, self.where)
        if ours is error:
            raise error
        raise ours from error

    async def close(self) -> None:
        """Close what is ours."""
        self.closed = True
        if self.end is not None:
            await self.end()


class Again:
    """Pauses between attempts, longer each time, until patience ends."""

    def __init__(self, patience: float) -> None:
        self.left_until: float | None = None
        self.patience = patience
        self.length = _FIRST_PAUSE

    async def pause(self) -> bool:
        """Wait before the next attempt; False: there shall be none."""
        now = asyncio.get_running_loop().time()
        if self.left_until is None:  # patience begins with the first failure
            self.left_until = now + self.patience
        left = self.left_until - now
        if left <= 0:
            return False
        await asyncio.sleep(min(left, self.length * random.uniform(0.5, 1.0)))  # noqa: S311
        self.length = min(2 * self.length, _LONGEST_PAUSE)
        return True


class Limit:
    """How many seconds each of many calls may take that follow one another.

    As `asyncio.timeout` around each call, with one timer for all of them: to make and
    cancel one takes a tenth of a lone append's time here.
    """

    __slots__ = ("_cancelling", "_ends", "_late", "_seconds", "_task", "_timer")

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._task: asyncio.Task[Any] | None = None
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> None:
        loop = asyncio.get_running_loop()
        self._task = task = asyncio.current_task()
        self._cancelling = task.cancelling() if task else 0
        self._late = False
        self._ends = loop.time() + self._seconds
        if self._timer is None:
            self._timer = loop.call_at(self._ends, self._look, loop)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        if self._task is None:
            return
        if loop.time() < self._ends:  # the timer is that of an earlier call
            self._timer = loop.call_at(self._ends, self._look, loop)
        else:
            self._late = self._task.cancel()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        task, self._task = self._task, None
        if self._late and task is not None and task.uncancel() <= self._cancelling:
            raise TimeoutError from error


def _check_files(dsn: str) -> None:
    """Name a file of TLS that is not there; the driver would not, nor give up."""
    with suppress(ValueError):  # the driver says what is wrong with it
        for key, path in parse_qsl(urlsplit(dsn).query):
            if key in _FILES and not Path(path).is_file():
                raise StoreUnavailableError(
                    f"the DSN cannot be used: {key} {path!r} is no file"
                )


async def open_pool(
    dsn: str, most: int, seconds: tuple[float, float], options: Mapping[str, Any]
) -> asyncpg.Pool[Any]:
    """Open a pool of our own; whoever gives a connection back has cleaned it up."""

    async def leave_alone(_: object) -> None: ...

    _check_files(dsn)
    timeout, patience = seconds
    again = Again(patience)
    while True:
        pool = asyncpg.create_pool(
            dsn,
            min_size=1,
            max_size=most,
            reset=leave_alone,
            timeout=timeout,
            **options,
        )
        try:
            return await pool
        except asyncpg.ClientConfigurationError as error:
            told = str(error).splitlines()[0]
            raise StoreUnavailableError(f"the DSN cannot be used: {told}") from None
        except ValueError:
            # its message may quote what follows a / or # in the password
            raise StoreUnavailableError(
                "the DSN cannot be used: in it, special characters of a password are "
                "written as %2F for / and so on"
            ) from None
        except Exception as error:
            if not may_be_repeated(error) or not await again.pause():
                raise translated(error, place_of(dsn)) from error


async def close_pool(pool: asyncpg.Pool[Any]) -> None:
    """Close a pool; what its connections are still doing is ended after a moment."""
    try:
        async with asyncio.timeout(_LAST_MOMENT):
            await pool.close()
    except TimeoutError:
        pool.terminate()


def lend_from_pool(
    pool: asyncpg.Pool[Any], timeout: float
) -> Callable[[], AbstractAsyncContextManager[Db]]:
    """Lend connections of an asyncpg pool.

    Raises:
        StoreBusyError: from the block's beginning; all stayed in use for *timeout*.
        StoreUnavailableError: likewise; the pool is closed.
    """

    @asynccontextmanager
    async def lend() -> AsyncGenerator[Db]:
        if pool.is_closing():
            raise StoreUnavailableError("the store's connection pool was closed")
        try:
            db = await pool.acquire(timeout=timeout)
        except TimeoutError:
            if pool.get_idle_size() or pool.get_size() < pool.get_max_size():
                raise
            raise StoreBusyError(
                f"all {pool.get_max_size()} connections of the pool stayed in use for "
                f"{timeout:g} s"
            ) from None
        moment = None
        try:
            yield db
        except TimeoutError:
            moment = _CALLING_OFF  # the server would go on waiting, and write later
            raise
        except BaseException as error:
            if connection_is_lost(error):
                cut(db)
            raise
        finally:
            with suppress(TimeoutError):  # then it was cut
                await pool.release(db, timeout=moment)

    return lend


class Kept:
    """A pool of our own, and up to two of its connections that wait for their next use.

    To give one back and take it again would cost a third of a lone append, and of a
    short read, and the one that was used last is warm. When somebody waits for the
    pool, they are given back, but for the one of the flights of group commit.
    """

    def __init__(
        self,
        pool: asyncpg.Pool[Any],
        lend: Callable[[], AbstractAsyncContextManager[Db]],
    ) -> None:
        self.pool = pool
        self.take = lend
        self.first: list[tuple[Db, AsyncExitStack]] = []
        self.second: list[tuple[Db, AsyncExitStack]] = []
        self.waiting = 0  # for the pool
        self.closed = False

    def lend(self) -> AbstractAsyncContextManager[Db]:
        """Lend a connection to whoever needs one."""
        return _Lent(self)

    def lend_again(self) -> AbstractAsyncContextManager[Db]:
        """Lend one to those who come one after the other, before all others."""
        return _Lent(self, again=True)

    def lend_once(self) -> AbstractAsyncContextManager[Db]:
        """Lend one that the pool takes away from whoever had it."""
        return _Lent(self, once=True)

    async def next(self, *, again: bool) -> tuple[Db, AsyncExitStack]:
        """Give a connection, and what gives it back to the pool."""
        while found := (self.first if again or not self.waiting else []) or self.second:
            db, lent = found.pop()
            if not is_gone(db):
                return db, lent
            await _give_back(lent)
        lent = AsyncExitStack()
        self.waiting += 1
        try:
            return await lent.enter_async_context(self.take()), lent
        finally:
            self.waiting -= 1

    def keep(self, db: Db, lent: AsyncExitStack, *, again: bool) -> bool:
        """Keep a connection for its next use; False: it is to be given back."""
        kept = self.second if self.first else self.first
        reserved = again and kept is self.first
        if self.closed or kept or (self.waiting and not reserved):
            return False
        kept.append((db, lent))
        return True

    async def close(self) -> None:
        """Give them back and close the pool."""
        self.closed = True
        while found := self.first or self.second:
            await _give_back(found.pop()[1])
        await close_pool(self.pool)


class _Lent:
    """A connection for the length of a block; one whose use failed is not kept."""

    __slots__ = ("_again", "_db", "_from", "_lent", "_once")

    def __init__(self, kept: Kept, *, again: bool = False, once: bool = False) -> None:
        self._from = kept
        self._again = again
        self._once = once

    async def __aenter__(self) -> Db:
        first = self._from.first
        if self._again and first and not is_gone(first[-1][0]):  # in few steps
            self._db, self._lent = first.pop()
        else:
            self._db, self._lent = await self._from.next(again=self._again)
        return self._db

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None:
            await self._lent.__aexit__(kind, error, trace)
        elif self._once or not self._from.keep(self._db, self._lent, again=self._again):
            await self._lent.aclose()


async def _give_back(lent: AsyncExitStack) -> None:
    with suppress(asyncpg.InterfaceError):
        await lent.aclose()


def is_gone(db: Db) -> bool:
    """Tell whether a connection of a pool is gone; the pool takes such a one back."""
    try:
        return bool(db.is_closed())
    except asyncpg.InterfaceError:
        return True


def cut(db: Db) -> None:
    """End a connection that nobody shall use any more."""
    with suppress(asyncpg.InterfaceError):  # gone, so no longer lent
        db.terminate()


def lend_from_sessions(
    session_factory: Callable[[], Any],
) -> Callable[[], AbstractAsyncContextManager[Db]]:
    """Lend the asyncpg connections of a SQLAlchemy `async_sessionmaker`."""

    @asynccontextmanager
    async def lend() -> AsyncGenerator[Db]:
        async with session_factory() as session:
            connection = await session.connection()
            raw = await connection.get_raw_connection()
            db = _driver(raw)
            try:
                yield db
            except BaseException as error:
                if connection_is_lost(error) or db.is_closed():
                    await connection.invalidate()
                raise

    return lend


def lend_within(
    transaction: Any,
) -> Callable[[], AbstractAsyncContextManager[Db]]:
    """Lend the connection of a transaction that the caller has begun.

    Args:
        transaction: an asyncpg connection, or a SQLAlchemy session or connection.

    Raises:
        StoreUnavailableError: from the block's beginning; no transaction is open.
    """

    @asynccontextmanager
    async def lend() -> AsyncGenerator[Db]:
        if hasattr(transaction, "is_in_transaction"):
            db = transaction
        else:
            connection = transaction
            if not hasattr(connection, "get_raw_connection"):
                connection = await connection.connection()
            await connection.exec_driver_sql("SELECT 1")  # it begins at the first use
            db = _driver(await connection.get_raw_connection())
        if not db.is_in_transaction():
            raise StoreUnavailableError(
                "the connection is in no transaction; begin one, or append directly"
            )
        yield db

    return lend


def _driver(raw: Any) -> Db:
    db: Db = raw.driver_connection
    if not isinstance(db, asyncpg.Connection):
        raise StoreUnavailableError(
            "the sessions are not on postgresql+asyncpg: their driver's connection is "
            f"a {type(db).__qualname__}"
        )
    return cast("Db", db)


__all__ = [
    "Again",
    "Db",
    "Kept",
    "Limit",
    "Server",
    "cut",
    "is_gone",
    "lend_from_pool",
    "lend_from_sessions",
    "lend_within",
    "open_pool",
]
