"""Open a PostgreSQL event store, over asyncpg.

An append is one call of one function, a page is one statement. Appends that arrive
while a call is in flight share the next one (group commit).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    asynccontextmanager,
    nullcontext,
)
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeAlias, get_args

import asyncpg

from ...core.codec import Codec
from ...core.errors import EvsrcError, StoreUnavailableError
from ...core.event import E
from ...ports import (
    Also,
    Append,
    Appended,
    BeginTransaction,
    Changed,
    Conflict,
    EventStore,
    Transaction,
    Write,
)
from ..commits import Job
from ..transactions import watched
from ..wakeup import Wakeup
from .ahead import Ahead
from .appending import Appending, Encoder
from .connections import (
    Db,
    Kept,
    Server,
    lend_from_pool,
    lend_from_sessions,
    lend_within,
    open_pool,
)
from .errors import LOSSY, place_of
from .notices import Notices
from .reader import Reader
from .schema import Names, Ordering, Statements, check
from .schema import migrate as migrate_schema
from .transactions import on_connection, own_transaction
from .writer import Writer

Source: TypeAlias = "str | asyncpg.Pool[Any] | Callable[[], Any]"
"""A DSN, an asyncpg pool, or SQLAlchemy's `async_sessionmaker` over asyncpg."""


@dataclass(frozen=True)
class PostgreSQLStore(EventStore[E]):
    """An event store whose appends can join a transaction of the caller's.

    `within(connection)` gives the same store on a connection in which a transaction is
    open: an asyncpg connection, or a SQLAlchemy session or connection on asyncpg. What
    it appends is there when the caller commits, and gone if he rolls back; it reads
    what the transaction has written (with concurrent ordering in streams only: the log
    ends where it is final). The append keeps other appends waiting until the
    transaction ends (serial ordering), or readers of the log (concurrent): let it be
    the last thing the transaction does. An append that raises leaves the transaction
    unusable.
    """

    within: Callable[[Any], EventStore[E]]


async def postgresql_store(
    source: Source,
    codec: Codec[E],
    *,
    schema: str = "public",
    prefix: str = "evsrc",
    ordering: Ordering = "serial",
    migrate: bool = True,
    accept_loss: bool = False,
    replica: Source | None = None,
    largest_commit: int = 500,
    timeout: timedelta = timedelta(seconds=60),
    patience: timedelta = timedelta(seconds=10),
    max_connections: int = 10,
    connect: Mapping[str, Any] | None = None,
) -> PostgreSQLStore[E]:
    """Open (and, if it is new, create) an event store in a PostgreSQL database.

    Args:
        source: a DSN such as "postgresql://user@host/database" (the store opens and
            closes its own pool), an asyncpg pool, or a SQLAlchemy `async_sessionmaker`
            on postgresql+asyncpg (neither is ever closed here). Two connections at
            least; one of them is kept for notices.
        codec: how events are named, checked, written and read.
        schema: where the store's tables are; created if it is missing.
        prefix: what their names begin with; stores of different schema or prefix do not
            touch each other.
        ordering: "serial": positions are dense and in the order of commits; one append
            (of this or any other process) commits at a time. "concurrent": appends of
            several processes commit at the same time, positions have holes; readers
            still miss nothing. Settled when the store is created.
        migrate: create the tables or bring them up to date; False: only check them (see
            `migration_sql`).
        accept_loss: work also on a server that may lose acknowledged appends when it
            crashes (synchronous_commit or fsync is off).
        replica: a read replica from which pages of the log are read as far as it has
            them. Serial ordering only.
        largest_commit: waiting appends share one call up to about this many events; 1
            turns sharing off.
        timeout: after how long without an answer a connection counts as lost; an append
            that waits for a lock gives up a little sooner, with a StoreBusyError.
        patience: how long to try again when the server cannot be reached.
        max_connections: how many connections the store's own pool may open; at least
            3: one listens, one appends, the others read.
        connect: more arguments for `asyncpg.create_pool`, such as `ssl` or
            `server_settings`.

    Raises:
        StoreUnavailableError: the server cannot be reached, refuses the role, or may
            lose acknowledged appends.
        SchemaError: the tables are missing, newer, somebody else's, or of the other
            ordering.
        ValueError: an argument that means nothing.
    """
    _check(ordering, largest_commit, replica)
    concurrent = ordering == "concurrent"
    names = Names(schema, prefix)
    seconds = timeout.total_seconds(), patience.total_seconds()
    options = max_connections, connect or {}

    async def prepare(db: Db) -> None:
        if not accept_loss:
            await _refuse_loss(db, server.where)
        if migrate:
            await migrate_schema(db, names, ordering)
        await check(db, names, ordering)

    async with AsyncExitStack() as opening:
        server = await _server(source, seconds, options)
        opening.push_async_callback(server.close)
        await server.run(prepare)
        copy = None
        if replica is not None:
            copy = await _server(replica, (seconds[0], 0), options)
            opening.push_async_callback(copy.close)
        statements = Statements(names)
        reader = Reader(server, statements, codec, concurrent=concurrent, replica=copy)
        reader.ahead = Ahead()
        opening.push_async_callback(reader.ahead.close)
        wakeup = Wakeup()
        wakeup.head = await reader.head()
        opened = opening.pop_all()
    writer = Writer(server, statements, concurrent=concurrent, lossy=accept_loss)
    head = names.sql("head_concurrent" if concurrent else "head_serial")
    notices = Notices(server, names, wakeup, head)
    encoder = Encoder(codec)
    appending = Appending(encoder, writer, notices, reader.read_all, largest_commit)

    async def close() -> None:
        await appending.close()
        await opened.aclose()

    def within(transaction: Any) -> EventStore[E]:
        return _within(transaction, server, statements, encoder, writer)

    room = _room_for_transactions(source, max_connections)

    def inside(db: Db) -> EventStore[E]:
        return _within(db, server, statements, encoder, writer, ours=True)

    @asynccontextmanager
    async def transaction() -> AsyncGenerator[Transaction[E]]:
        appending.commits.line.refuse_inside()  # or it might wait for room for ever
        async with room, appending.commits.line.noted():
            async with own_transaction(server, inside) as (tx, watch):
                yield tx
            if watch.reached:
                appending.committed(watch.reached)

    made = _record(
        reader, appending.append, transaction, appending.save, appending.changed, close
    )
    return PostgreSQLStore(**vars(made), within=within)


def _record(
    reader: Reader[E],
    append: Append[E],
    transaction: BeginTransaction[E],
    save: Callable[[Also], Awaitable[None]],
    changed: Changed[E],
    close: Callable[[], Awaitable[None]],
) -> EventStore[E]:
    records = reader.records
    return EventStore(
        append=append,
        transaction=transaction,
        read_stream=reader.read_stream,
        load_events=reader.load_events,
        read_all=reader.read_all,
        find=reader.find,
        head=reader.head,
        changed=changed,
        checkpoints=records.checkpoints(save),
        snapshots=records.snapshots(save),
        dead_letters=records.dead_letters(save),
        leases=records.leases(),
        encode=reader.codec.encode,
        verify=reader.verify,
        close=close,
        concurrent=reader.concurrent,
    )


def _check(ordering: str, largest_commit: int, replica: Source | None) -> None:
    if ordering not in get_args(Ordering):
        raise ValueError(f"ordering is serial or concurrent, not {ordering!r}")
    if largest_commit < 1:
        raise ValueError(f"largest_commit is at least 1, not {largest_commit!r}")
    if replica is not None and ordering == "concurrent":
        raise ValueError(
            "a replica cannot tell which positions are final; it needs serial ordering"
        )


def _within(
    transaction: Any,
    outside: Server,
    statements: Statements,
    encoder: Encoder[E],
    outer: Writer,
    *,
    ours: bool = False,
) -> EventStore[E]:
    server = Server(
        lend_within(transaction), outside.where, timeout=outside.timeout, patience=0
    )
    concurrent, lossy = outer.concurrent, outer.lossy
    writer = Writer(server, statements, concurrent=concurrent, lossy=lossy, alone=ours)
    reader = Reader(server, statements, encoder.codec, concurrent=concurrent)

    async def commit(job: Job) -> Appended | Conflict:
        async with server.lend() as db:
            try:
                if ours and concurrent:
                    verdict = await writer.call_in_turn(db, job)
                else:
                    arguments = writer.arguments([job])
                    (verdict,) = await writer.call(db, [job], arguments, careful=True)
            except Exception as error:  # noqa: BLE001 - translated and raised
                server.fail(error)
        if isinstance(verdict, EvsrcError):
            raise verdict
        return verdict

    async def append(
        *writes: Write[E], also: Sequence[Also] = ()
    ) -> Appended | Conflict:
        return await commit(encoder.job(writes, also))

    @asynccontextmanager
    async def savepoint() -> AsyncGenerator[Transaction[E]]:
        async with server.lend() as db, db.transaction():
            inside = on_connection(made, db)
            async with watched(inside, server.where) as (tx, _):
                yield tx

    async def save(change: Also) -> None:
        await commit(encoder.job((), (change,)))

    async def changed(*_: object, **__: object) -> None:
        raise StoreUnavailableError("a transaction has nothing to wait for; commit it")

    async def close() -> None:
        """Leave the transaction, and the store, as they are."""

    made = _record(reader, append, savepoint, save, changed, close)
    return made


async def _server(
    source: Source, seconds: tuple[float, float], options: tuple[int, Mapping[str, Any]]
) -> Server:
    timeout, patience = seconds
    lend: Callable[[], AbstractAsyncContextManager[Db]]
    if isinstance(source, str):
        _check_room(options[0], 3, "one listens and one appends")
        pool = await open_pool(source, options[0], seconds, options[1])
        kept = Kept(pool, lend_from_pool(pool, timeout))
        return Server(
            kept.lend,
            place_of(source),
            timeout=timeout,
            patience=patience,
            end=kept.close,
            lend_again=kept.lend_again,
            lend_once=kept.lend_once,
        )
    if isinstance(source, asyncpg.Pool):
        _check_room(source.get_max_size(), 2, "one of them listens")
        lend = lend_from_pool(source, timeout)  # pyright: ignore[reportUnknownArgumentType]
        where = "the pool's database"
    elif callable(source):
        lend, where = lend_from_sessions(source), "the sessions' database"
    else:
        raise TypeError(
            "a store is opened with a DSN, an asyncpg pool or an async_sessionmaker, "
            f"not {type(source).__qualname__}"
        )
    return Server(lend, where, timeout=timeout, patience=patience)


def _room_for_transactions(
    source: Source, connections: int
) -> AbstractAsyncContextManager[None]:
    """Limit the open transactions: what they wait for needs connections as well."""
    if isinstance(source, asyncpg.Pool):
        connections = source.get_max_size()
    elif not isinstance(source, str):
        return nullcontext()  # the sessions' pool is the caller's affair
    return asyncio.Semaphore(max(1, connections - 3))


def _check_room(connections: int, least: int, busy: str) -> None:
    if connections < least:
        raise ValueError(
            f"a store needs a pool of at least {least} connections, because {busy}; "
            f"this one has {connections}"
        )


async def _refuse_loss(db: Db, where: str) -> None:
    for setting in ("synchronous_commit", "fsync"):
        if await db.fetchval("SELECT current_setting($1)", setting) == "off":
            raise StoreUnavailableError(LOSSY.format(where=where, setting=setting))
