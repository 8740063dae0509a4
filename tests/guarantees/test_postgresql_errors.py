"""A7 on PostgreSQL: each fault has a clear error, and is over when its cause is.

No error, and nothing that one was raised from, shows a password.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import traceback
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import asyncpg
import pytest
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine

from evsrc import (
    ANY,
    NO_STREAM,
    Appended,
    EvsrcError,
    SaveCheckpoint,
    SchemaError,
    StoreBusyError,
    StoreClosedError,
    StoreFullError,
    StoreUnavailableError,
    StreamName,
    Write,
)
from evsrc.core.errors import AppendOutcomeUnknownError
from evsrc.stores.postgresql import migration_sql, postgresql_store
from evsrc.testing import CODEC, start_postgres
from tests.guarantees.workload import Store, everything, facts

CANARY = "c4n4ry-p4ssw0rd"
STREAM = StreamName("trouble", "x")
IMPATIENT = timedelta(seconds=0.1)
AUTHORITY = """\
-----BEGIN CERTIFICATE-----
MIIBgzCCASmgAwIBAgIUcUZWihTrhhpk5s6Q41TkTNF3yUswCgYIKoZIzj0EAwIw
FjEUMBIGA1UEAwwLZXZzcmMgdGVzdHMwIBcNMjYxMTI0MTQ0MzUxWhgPMjEyNjEw
MzExNDQzNTFaMBYxFDASBgNVBAMMC2V2c3JjIHRlc3RzMFkwEwYHKoZIzj0CAQYI
KoZIzj0DAQcDQgAExcdTEsCYjvgex72GwcuK6WD9qtoMEWbM8SpAw2Ix2tViMnqZ
aDxOC8oetXrNcnS4tdBdzqVt80cCNCaMw+bViaNTMFEwHQYDVR0OBBYEFCnNubpX
fmpNlpXV5ms0yvMf+m+OMB8GA1UdIwQYMBaAFCnNubpXfmpNlpXV5ms0yvMf+m+O
MA8GA1UdEwEB/wQFMAMBAf8wCgYIKoZIzj0EAwIDSAAwRQIgWcBwQHvSffJb8wKd
YrDjr73S/lPHVr+vUPXga5woPyMCIQCYWFUz/kB231cONUS8VWRnzW1tSb9ed8tr
AW3MGcbXDg==
-----END CERTIFICATE-----
"""


async def open_store(source: Any, **options: Any) -> Store:
    return await postgresql_store(source, CODEC, **{"patience": IMPATIENT, **options})


def append(store: Store) -> Any:
    return store.append(Write(STREAM, facts(1, 2), ANY))


@asynccontextmanager
async def refused(
    cls: type[EvsrcError] | tuple[type[EvsrcError], ...], match: str, *secrets: str
) -> AsyncIterator[None]:
    """Expect an error; look for passwords in everything that a log would show of it."""
    with pytest.raises(cls, match=match) as raised:
        yield
    told = "".join(traceback.format_exception(raised.value, chain=True))
    cause: BaseException | None = raised.value
    seen: list[BaseException] = []
    while cause is not None and cause not in seen:
        seen.append(cause)
        told += f"{cause!s} {cause!r}"
        hidden = cause.__suppress_context__
        cause = cause.__cause__ or (None if hidden else cause.__context__)
    lines = [line for line in told.splitlines() if not line.startswith("    ")]
    for secret in (CANARY, *secrets):  # not in lines of this file's source
        assert not any(secret in line for line in lines), lines


class Role:
    """A role of its own in a database, and its DSN."""

    def __init__(self, url: str, admin: asyncpg.Connection[Any]) -> None:
        self.name = f"evsrc_{uuid4().hex[:12]}"
        self.admin, self.admin_url = admin, url
        at = urlsplit(url)
        self.url = at._replace(
            netloc=f"{self.name}:{CANARY}@{at.hostname}:{at.port}"
        ).geturl()

    async def may(self, rights: str) -> None:
        await self.admin.execute(f"GRANT {rights} TO {self.name}")

    async def set(self, setting: str) -> None:
        await self.admin.execute(f"ALTER ROLE {self.name} SET {setting}")


@pytest.fixture
async def admin(evsrc_postgres_database: str) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(evsrc_postgres_database)
    yield connection
    await connection.close()


@pytest.fixture
async def role(evsrc_postgres_database: str, admin: Any) -> AsyncIterator[Role]:
    made = Role(evsrc_postgres_database, admin)
    await admin.execute(f"CREATE ROLE {made.name} LOGIN PASSWORD '{CANARY}'")
    yield made
    await admin.execute(f"DROP OWNED BY {made.name}; DROP ROLE {made.name}")


# Who asks, and where.


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"password": f"wrong-{CANARY}"}, "password authentication failed"),
        ({"user": "nobody_like_this"}, "password authentication failed"),
        ({"path": "/no_such_database"}, "does not exist"),
        ({"port": 1}, "cannot be reached"),
        ({"hostname": "no-such-host.invalid"}, "cannot be reached"),
    ],
)
async def test_a7_a_server_that_lets_nobody_in(
    role: Role, change: dict[str, Any], told: str
) -> None:
    """Wrong password, role, database, port and host: told, without the password."""
    at = urlsplit(role.url)
    parts = {
        "user": role.name,
        "password": CANARY,
        "hostname": at.hostname,
        "port": at.port,
        "path": at.path,
        **change,
    }
    url = "postgresql://{user}:{password}@{hostname}:{port}{path}".format(**parts)
    async with refused(StoreUnavailableError, told):
        await open_store(url)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://user:{}/rest@localhost/db",
        "postgresql://user:12/{}@127.0.0.1:1/db",
        "postgresql://user:{}#rest@localhost/db",
        "postgresql://user:x?{}@localhost/db",
        "postgresql://user:{}:@rest@127.0.0.1:1/db",
        "postgresql://user:{}@127.0.0.1:1/db",
        "postgresql://user:{}@localhost:port/db",
        "postgresql://user:{}@[::1/db",
        "postgresql://user:{}@one:1,two:2/db?sslmode=x",
        "postgresql://127.0.0.1:1/db?password={}",
        "mysql://user:{}@localhost/db",
    ],
)
async def test_a7_a_dsn_that_is_wrong_is_not_quoted(url: str) -> None:
    """Whatever is wrong with a DSN, its password is not in the message."""
    async with refused(StoreUnavailableError, "cannot be"):
        await open_store(url.format(CANARY))


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ("sslmode=require", "127.0.0.1:.*rejected SSL upgrade"),
        ("sslmode=verify-full&sslrootcert={ca}", "127.0.0.1:.*rejected SSL upgrade"),
        ("sslmode=verify-full&sslrootcert=no.pem", "sslrootcert 'no.pem' is no file"),
        ("sslmode=verify-full", 'root certificate file ".*root.crt" does not exist'),
    ],
    ids=["require", "verify-full", "no file", "no authority"],
)
async def test_a7_tls_that_was_asked_for_is_not_done_without(
    role: Role, tmp_path: Path, monkeypatch: Any, asked: str, told: str
) -> None:
    """A server without TLS, or nobody to vouch for it: no password goes there."""
    monkeypatch.setenv("HOME", str(tmp_path))  # where the driver looks for root.crt
    ca = tmp_path / "ca.pem"
    ca.write_text(AUTHORITY)
    async with refused(StoreUnavailableError, told):
        await open_store(f"{role.url}?{asked.format(ca=ca)}")


async def test_a7_a_role_without_rights(role: Role) -> None:
    """A role that may only read reads; its append says so and writes nothing."""
    async with await open_store(role.admin_url) as store:
        await append(store)
        for table in ("event", "log", "schema", "checkpoint"):
            await role.may(f"SELECT ON evsrc_{table}")
        async with await open_store(role.url) as reading:
            async with refused(StoreUnavailableError, "no right.*permission denied"):
                await append(reading)
            async with refused(StoreUnavailableError, "no right"):
                await reading.checkpoints.save(SaveCheckpoint("x", 1))
            assert len(await everything(reading)) == 2
            await role.may("INSERT ON evsrc_event")
            await role.may("UPDATE ON evsrc_log")
            assert isinstance(await append(reading), Appended)
        assert len(await everything(store)) == 4
    async with refused(StoreUnavailableError, "no right"):
        await open_store(role.url, prefix="other")


async def test_a7_a_role_or_server_that_only_reads(role: Role) -> None:
    """An append refused because of read-only transactions is known not to be there."""
    async with await open_store(role.admin_url) as store:
        await append(store)
    await role.may("ALL ON ALL TABLES IN SCHEMA public")
    await role.set("default_transaction_read_only = on")
    async with await open_store(role.url) as store:
        async with refused(StoreUnavailableError, "takes no writes.*read-only"):
            await append(store)
        assert len(await everything(store)) == 2


# What is there.


async def test_a7_a_schema_that_does_not_fit(evsrc_postgres_database: str) -> None:
    """Missing, newer and incomplete tables, and those of others, are told apart."""
    url = evsrc_postgres_database
    admin = await asyncpg.connect(url)
    async with refused(SchemaError, "does not exist.*migrate=True"):
        await open_store(url, migrate=False)
    await admin.execute(migration_sql())
    async with await open_store(url, migrate=False) as store:
        await append(store)
        async with refused(SchemaError, "has serial ordering"):
            await open_store(url, ordering="concurrent")
        await admin.execute("INSERT INTO evsrc_schema (version) VALUES (999)")
        async with refused(SchemaError, "schema version 999.*upgrade"):
            await open_store(url)
        await admin.execute("DELETE FROM evsrc_schema WHERE version = 999")
        await admin.execute("ALTER TABLE evsrc_log RENAME TO evsrc_gone")
        async with refused(SchemaError, "not complete.*does not exist"):
            await append(store)
        async with refused(SchemaError, "not complete"):
            await store.read_all()
        async with refused(SchemaError, "not complete"):
            await open_store(url)
        await admin.execute("ALTER TABLE evsrc_gone RENAME TO evsrc_log")
        assert isinstance(await append(store), Appended)
        assert len(await everything(store)) == 4
    await admin.execute("CREATE TABLE other_event (x int)")
    async with refused(SchemaError, "not a table of evsrc"):
        await open_store(url, prefix="other")
    await admin.close()


# Settings under which an acknowledged append could be lost, or judged wrongly.


@pytest.mark.parametrize("whose", ["role", "database"])
async def test_a7_synchronous_commit_off(role: Role, admin: Any, whose: str) -> None:
    """It is refused at open, and also when it is turned off later; unless accepted."""
    database = await admin.fetchval("SELECT current_database()")
    name = role.name if whose == "role" else database
    async with await open_store(role.admin_url) as store:
        await append(store)
    for kind in ("TABLES", "SEQUENCES"):
        await role.may(f"ALL ON ALL {kind} IN SCHEMA public")
    async with await open_store(role.url) as store:
        await append(store)
        await store.checkpoints.save(SaveCheckpoint("x", 1, after=0))
        await admin.execute(f"ALTER {whose} {name} SET synchronous_commit = off")
        # it holds for connections that are made from now on
        await admin.fetch(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = $1",
            role.name,
        )
        with suppress(AppendOutcomeUnknownError, StoreUnavailableError):
            await append(store)  # perhaps on a connection that was just ended
        async with refused(
            StoreUnavailableError, "synchronous_commit=off.*accept_loss"
        ):
            await append(store)
        async with refused(StoreUnavailableError, "synchronous_commit=off"):
            await store.checkpoints.save(SaveCheckpoint("x", 2, after=1))
        assert len(await everything(store)) == 4
        async with refused(StoreUnavailableError, "synchronous_commit=off"):
            await open_store(role.url)
        async with await open_store(role.url, accept_loss=True) as lossy:
            assert isinstance(await append(lossy), Appended)
        await admin.execute(f"ALTER {whose} {name} RESET synchronous_commit")
        await admin.fetch(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = $1",
            role.name,
        )
        assert isinstance(await append(store), Appended)
        assert len(await everything(store)) == 8


@pytest.mark.parametrize("level", ["serializable", "repeatable read"])
async def test_a7_a_role_of_another_isolation(role: Role, level: str) -> None:
    """An append that could not see what it waited for is refused, not misjudged."""
    async with await open_store(role.admin_url) as store:
        await append(store)
        await store.checkpoints.save(SaveCheckpoint("x", 1, after=0))
    await role.may("ALL ON ALL TABLES IN SCHEMA public")
    await role.set(f"default_transaction_isolation = '{level}'")
    async with await open_store(role.url) as store:
        async with refused(StoreUnavailableError, f"{level}.*READ COMMITTED"):
            await append(store)
        async with refused(StoreUnavailableError, f"{level}.*READ COMMITTED"):
            await store.checkpoints.save(SaveCheckpoint("x", 2, after=1))
        assert len(await everything(store)) == 2


# Connections.


async def test_a7_a_pool_that_is_in_use(evsrc_postgres_database: str) -> None:
    """All connections of the user's pool in use: busy within the timeout, then well."""
    async with asyncpg.create_pool(
        evsrc_postgres_database, min_size=1, max_size=3
    ) as pool:
        store = await open_store(pool, timeout=timedelta(seconds=0.3))
        held = [await pool.acquire() for _ in range(3)]
        async with refused(StoreBusyError, "all 3 connections of the pool"):
            await append(store)
        async with refused(StoreBusyError, "all 3 connections of the pool"):
            await store.read_all()
        for connection in held:
            await pool.release(connection)
        assert isinstance(await append(store), Appended)
        assert len(await everything(store)) == 2
        await store.close()
        assert await pool.fetchval("SELECT 1") == 1


async def test_a7_a_pool_that_is_too_small_is_refused(
    evsrc_postgres_database: str,
) -> None:
    """The connection that listens would leave none for appends."""
    async with asyncpg.create_pool(
        evsrc_postgres_database, min_size=1, max_size=1
    ) as pool:
        with pytest.raises(ValueError, match="at least 2"):
            await open_store(pool)
    with pytest.raises(ValueError, match="at least 3"):
        await open_store(evsrc_postgres_database, max_connections=2)


async def test_a7_a_pool_that_was_closed(evsrc_postgres_database: str) -> None:
    """A pool closed under its store is named at once; so is a store that was closed."""
    pool = await asyncpg.create_pool(evsrc_postgres_database, min_size=1, max_size=3)
    store = await open_store(pool, patience=timedelta(seconds=60))
    await append(store)
    pool.terminate()
    async with asyncio.timeout(5):
        async with refused(StoreUnavailableError, "pool was closed"):
            await append(store)
        async with refused(StoreUnavailableError, "pool was closed"):
            await store.read_all()
        await store.close()
    own = await open_store(evsrc_postgres_database)
    await own.close()
    async with refused(StoreClosedError, "is closed"):
        await append(own)
    async with refused(StoreClosedError, "is closed"):
        await own.read_all()


async def test_a7_sessions_whose_backends_end(
    evsrc_postgres_database: str, admin: Any
) -> None:
    """Over SQLAlchemy's sessions, too, a terminated backend is nobody's error."""
    engine = create_async_engine(
        evsrc_postgres_database.replace("postgresql://", "postgresql+asyncpg://")
    )
    try:
        async with await open_store(
            async_sessionmaker(engine), patience=timedelta(seconds=10)
        ) as store:
            for n in range(10):
                await append(store)
                await admin.fetch(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE "
                    "datname = current_database() AND pid <> pg_backend_pid()"
                )
                assert len((await store.load_events(STREAM)).events) == 2 * n + 2
            assert len(await everything(store)) == 20
    finally:
        await engine.dispose()


# A server of its own: stopped, and without space.


async def test_a7_a_server_stopped_and_started(tmp_path: Path) -> None:
    """While it is down appends fail within their patience; then the same store works."""
    with start_postgres() as server:
        async with (
            await open_store(server.url) as store,
            await open_store(server.url, patience=timedelta(seconds=30)) as patient,
        ):
            await append(store)
            server.stop()
            for _ in range(2):  # the second one knows that nothing was sent
                async with refused(
                    (StoreUnavailableError, AppendOutcomeUnknownError),
                    "cannot be reached|append the same events",
                    server._password,
                ):
                    await append(store)
            async with refused(
                StoreUnavailableError, "cannot be reached", server._password
            ):
                await store.read_all()
            opening = open_store(server.url, patience=timedelta(seconds=30))
            waiting = asyncio.gather(append(patient), patient.read_all(), opening)
            await asyncio.to_thread(server.start)
            appended, _, opened = await waiting
            assert isinstance(appended, Appended)
            await opened.close()
            assert isinstance(await append(store), Appended)
            assert len(await everything(store)) == 6
            assert await store.verify() == ()


@contextmanager
def small_disk(megabytes: int) -> Iterator[Path]:
    """Mount a file system that is full soon; skip where that is not allowed."""
    folder = Path("/tmp") / f"evsrc-small-{uuid4().hex[:8]}"
    folder.mkdir()
    try:
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "evsrc", str(folder)],
            capture_output=True,
            text=True,
            check=False,
        )
        if mounted.returncode:
            pytest.skip(f"no file system can be mounted: {mounted.stderr.strip()}")
        try:
            yield folder
        finally:
            subprocess.run(["umount", "-l", str(folder)], check=True)
    finally:
        folder.rmdir()


def fill(folder: Path) -> Path:
    """Use up all space of a file system."""
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file:
        while True:
            try:
                file.write(b"\0" * 65536)
            except OSError:
                return ballast


@pytest.mark.skipif(os.getuid() != 0, reason="mounting a small disk takes root")
@pytest.mark.parametrize("ordering", ["serial", "concurrent"])
async def test_a7_no_space_for_tables(ordering: Any) -> None:
    """A full disk says so; reads go on, nothing is half written, and space is enough."""
    with small_disk(24) as disk, start_postgres() as server:
        place = disk / "tables"
        place.mkdir()
        server._account.own(disk)
        admin = await asyncpg.connect(server.url)
        await admin.execute(f"CREATE TABLESPACE small LOCATION '{place}'")
        await admin.execute("CREATE DATABASE small TABLESPACE small TEMPLATE template0")
        url = urlsplit(server.url)._replace(path="/small").geturl()
        async with await open_store(url, ordering=ordering) as store:
            await append(store)
            ballast = fill(disk)
            written, full, secret = 2, 0, server._password
            while full < 8:
                stream = StreamName("large", str(uuid4()))
                try:
                    async with refused(StoreFullError, "No space left", secret):
                        await store.append(Write(stream, facts(*range(200)), NO_STREAM))
                except pytest.fail.Exception:
                    written += 200  # there was some left
                else:
                    full += 1
                    assert (await store.load_events(stream)).version == 0
                    assert (await store.load_events(STREAM)).version == 2
            assert len(await everything(store)) == written
            ballast.unlink()
            assert isinstance(await append(store), Appended)
            assert len(await everything(store)) == written + 2
            assert await store.verify() == ()
        await admin.close()
    print(f"A7 {ordering}: {full} appends on a full disk, {written} events kept")
