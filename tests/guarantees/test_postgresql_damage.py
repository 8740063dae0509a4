"""A8 on PostgreSQL: bytes that changed in its files are noticed.

Mostly with the server's own checksums off: what it would notice itself does not count.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID, uuid4
from zlib import crc32

import asyncpg
import pytest

from evsrc import (
    NO_STREAM,
    CorruptionError,
    DeadLetter,
    EvsrcError,
    Metadata,
    NewEvent,
    SaveCheckpoint,
    SaveDeadLetter,
    StoreUnavailableError,
    StreamName,
    Write,
)
from evsrc.stores.postgresql import postgresql_store
from evsrc.stores.postgresql.checks import damaged_row
from evsrc.testing import (
    CODEC,
    Fact,
    Note,
    PostgresServer,
    PostgresStartError,
    start_postgres,
)
from tests.guarantees.workload import Store

STORES = 20
STREAMS = 8
TABLES = {"event": 12, "log": 2, "checkpoint": 2, "dead_letter": 2, "lease": 2}
"""The tables whose files are damaged, and how often."""

COLUMNS = {
    "event": "*",
    "log": "*",
    "checkpoint": "name, position, crc",
    "dead_letter": "*",
    "lease": "*",
}
"""What of a row a user can ever see through the store."""


class Target(NamedTuple):
    """One store, and the bytes of its tables as they should be."""

    prefix: str
    ordering: Any
    truth: dict[str, Any]
    rows: list[Any]
    files: dict[str, dict[Path, bytes]]
    indexes: dict[Path, bytes]


async def open_store(url: str, prefix: str, ordering: Any) -> Store:
    return await postgresql_store(
        url,
        CODEC,
        prefix=prefix,
        ordering=ordering,
        patience=timedelta(seconds=0.1),
        timeout=timedelta(seconds=10),
        max_connections=3,
    )


async def fill(store: Store) -> None:
    writes = []
    for n in range(STREAMS):
        metadata = Metadata(actor_id=f"actor-{n}")
        events: list[NewEvent[Any]] = [
            NewEvent(Fact(i, f"text {n}-{i} " * 3), uuid4(), metadata)
            for i in range(20)
        ]
        events.append(NewEvent(Note(f"note {n}"), uuid4()))
        writes.append(Write(StreamName("rot", str(n)), events, NO_STREAM))
    large = "".join(map(chr, random.Random(0).choices(range(32, 1000), k=9000)))
    writes.append(
        Write(StreamName("rot", "large"), [NewEvent(Note(large), uuid4())], NO_STREAM)
    )
    await store.append(*writes)
    for n in range(5):
        await store.checkpoints.save(SaveCheckpoint(f"reader {n}", n))
        await store.dead_letters.save(SaveDeadLetter(letter(n)))
        await store.leases.acquire(f"lease {n}", "owner", timedelta(days=999))


def letter(n: int) -> DeadLetter:
    at = datetime.fromtimestamp(n, UTC)
    return DeadLetter(
        subscription="reader",
        event_id=UUID(int=n),
        type="fact",
        data=b'{"n":%d}' % n * 9,
        error=f"ValueError: {n}",
        stacktrace="line\n" * n,
        attempts=n,
        first_failed_at=at,
        last_failed_at=at,
        position=n,
    )


async def read_everything(store: Store) -> dict[str, Any]:
    truth: dict[str, Any] = {"log": [], "head": await store.head()}
    after = 0
    while True:
        page = await store.read_all(after=after, limit=100)
        truth["log"] += [
            (r.event, r.id, r.stream, r.version, r.position, r.metadata, r.recorded_at)
            for r in page.events
        ]
        after = page.reached
        if after >= page.head:
            break
    for n in [*map(str, range(STREAMS)), "large"]:
        stream = StreamName("rot", n)
        truth[f"load {n}"] = tuple((await store.load_events(stream)).events)
        back = await store.read_stream(stream, backward=True)
        truth[f"read {n}"] = [(r.event, r.id, r.version) for r in back.events]
    for n in range(5):
        truth[f"checkpoint {n}"] = await store.checkpoints.load(f"reader {n}")
    truth["letters"] = await store.dead_letters.list()
    return truth


async def rows_of(url: str, prefix: str) -> list[Any]:
    """Give what the tables hold, without evsrc."""
    db = await asyncpg.connect(url, timeout=10)
    try:
        return [
            await db.fetch(f"SELECT {columns} FROM {prefix}_{table} ORDER BY 1, 2")
            for table, columns in COLUMNS.items()
        ]
    finally:
        await db.close()


async def make_target(server: PostgresServer, n: int) -> Target:
    prefix, ordering = f"d{n}", "concurrent" if n % 2 else "serial"
    async with await open_store(server.url, prefix, ordering) as store:
        await fill(store)
        truth = await read_everything(store)
        assert await store.verify() == ()
    rows = await rows_of(server.url, prefix)
    db = await asyncpg.connect(server.url)
    await db.execute("CHECKPOINT")
    files: dict[str, dict[Path, bytes]] = {}
    for table in TABLES:
        paths = await db.fetchrow(
            "SELECT pg_relation_filepath(oid), pg_relation_filepath(nullif("
            "reltoastrelid, 0)) FROM pg_class WHERE oid = $1::text::regclass",
            f"{prefix}_{table}",
        )
        whole = {server.data / path for path in paths if path}
        files[table] = {path: path.read_bytes() for path in whole}
    paths = await db.fetch(
        "SELECT pg_relation_filepath(indexrelid) FROM pg_index JOIN pg_class AS c "
        "ON c.oid = indrelid WHERE starts_with(c.relname, $1)",
        f"{prefix}_",
    )
    # a read of a row that seems dead marks it so in its indexes
    indexes = {
        server.data / path: (server.data / path).read_bytes() for (path,) in paths
    }
    await db.close()
    return Target(prefix, ordering, truth, rows, files, indexes)


def damage(target: Target, chance: random.Random) -> str:
    """Change 16 bytes, not all of them unused, of one table's file."""
    (table,) = chance.choices(list(TABLES), list(TABLES.values()))
    files = {path: whole for path, whole in target.files[table].items() if whole}
    (path,) = chance.choices(list(files), [len(whole) for whole in files.values()])
    whole = bytearray(files[path])
    while True:
        at = chance.randrange(len(whole) - 16)
        if any(whole[at : at + 16]):
            break
    whole[at : at + 16] = chance.randbytes(16)
    path.write_bytes(whole)
    return table


def restore(targets: list[Target]) -> None:
    for target in targets:
        for files in (target.indexes, *target.files.values()):
            for path, whole in files.items():
                path.write_bytes(whole)


def only_less(read: dict[str, Any], truth: dict[str, Any]) -> bool:
    """Tell whether some of what was written is missing, and nothing is wrong."""
    return all(
        now == truth[what]
        or now is None
        # the position of the last event, which may be gone
        or (what == "head" and now < truth[what])
        or (isinstance(now, list | tuple) and all(each in truth[what] for each in now))
        for what, now in read.items()
    )


async def outcome_of(url: str, target: Target) -> str:  # noqa: PLR0911 - one each
    """Read a damaged store as a user would, and say how that went."""
    try:
        async with await open_store(url, target.prefix, target.ordering) as store:
            read = await read_everything(store)
            problems = await store.verify()
    except StoreUnavailableError:
        return "crashed"
    except EvsrcError:
        return "raised"
    if not only_less(read, target.truth):
        return "silent"
    if read != target.truth:
        missing = [what for what, now in read.items() if now != target.truth[what]]
        print(f"less is read of {target.prefix}, {target.ordering}: {missing}")
        return "gone, but reported" if problems else "row gone"
    if problems:
        return "reported"
    try:
        rows = await rows_of(url, target.prefix)
    except (asyncpg.PostgresError, OSError, UnicodeDecodeError):
        return "not in any read"
    if rows == target.rows:
        return "unused space"
    leases, were = rows[-1], target.rows[-1]  # they cannot be listed through a store
    return "row gone" if len(leases) < len(were) else "not in any read"


@contextmanager
def server_with(*, checksums: bool) -> Iterator[PostgresServer]:
    """Run a server with or without checksums of its own, and no vacuum meanwhile.

    One that crashes because of damage stays down, so that it is seen.
    """
    settings = {"autovacuum": "off", "restart_after_crash": "off"}
    with start_postgres(settings=settings) as server:
        server.stop()
        program = server._programs / "pg_checksums"
        if not program.exists():
            pytest.skip(f"there is no {program}")
        order = "--enable" if checksums else "--disable"
        try:
            server._account.run(
                server._folder, program, order, "--no-sync", "-D", server.data
            )
        except PostgresStartError as error:
            if "already" not in str(error):
                raise
        server.start()
        yield server


def size(rounds: int, *, checksums: bool, soak: bool = False) -> Any:
    limit = pytest.mark.timeout(3600 if soak else 180)
    return pytest.param(
        rounds,
        checksums,
        marks=[limit, pytest.mark.soak] if soak else limit,
        id=f"{'checksums' if checksums else 'bare'}-{'many' if soak else 'few'}",
    )


@pytest.mark.parametrize(
    ("rounds", "checksums"),
    [
        size(2, checksums=False),
        size(1, checksums=True),
        size(50, checksums=False, soak=True),
        size(10, checksums=True, soak=True),
    ],
)
async def test_a8_changed_bytes_are_noticed(rounds: int, checksums: bool) -> None:
    """Sixteen changed bytes of a table: no read returns what was not written.

    What the store cannot see is a row that is gone as a whole because its header was
    hit: a checkpoint, a letter, a lease, and with concurrent ordering the last event
    of a stream. (With serial ordering a missing event leaves a hole in the positions.)
    "Not in any read" is what no read uses: the head where positions come from a
    sequence, and what only a scan of the whole table comes across, or misses.
    The server's own checksums, on by default since PostgreSQL 18, notice that too.
    """
    chance = random.Random(8)
    counts = {"serial": Counter[str](), "concurrent": Counter[str]()}
    wrong: list[str] = []
    gone = Counter[str]()
    with server_with(checksums=checksums) as server:
        targets = [await make_target(server, n) for n in range(STORES)]
        for _ in range(rounds):
            server.stop()
            restore(targets)
            damaged = [damage(target, chance) for target in targets]
            server.start()
            for target, table in zip(targets, damaged, strict=True):
                outcome = await outcome_of(server.url, target)
                counts[target.ordering][outcome] += 1
                if outcome in ("crashed", "not in any read"):
                    server.restart("immediate")
                if outcome == "row gone":
                    gone[f"{target.ordering} {table}"] += 1
                if outcome == "silent":
                    wrong.append(f"{target.ordering} {table}")
    for ordering, found in counts.items():
        print(
            f"A8 {ordering}, {checksums=}: {found.total()} corruptions: {dict(found)}"
        )
    print(f"rows gone unnoticed: {dict(gone)}; wrong data: {wrong}")
    assert not wrong
    assert not {"serial event", "serial log", "concurrent log"} & gone.keys()
    assert not (checksums and gone)
    found = counts["serial"] + counts["concurrent"]
    noticed = found["raised"] + found["reported"] + found["crashed"]
    assert noticed > found.total() // 2


async def test_a8_a_text_that_is_no_text_is_damage() -> None:
    """What the driver cannot decode is named as damage, by reads and by `verify`."""
    with server_with(checksums=False) as server:
        target = await make_target(server, 0)
        server.stop()
        path, whole = max(
            target.files["event"].items(), key=lambda each: b"rot" in each[1]
        )
        path.write_bytes(whole.replace(b"rot", b"r\x8dt", 1))
        server.start()
        async with await open_store(server.url, target.prefix, "serial") as store:
            with pytest.raises(CorruptionError, match="damaged.*not UTF-8"):
                await store.read_all()
            problems = await store.verify()
            assert any("not UTF-8" in problem for problem in problems)


async def test_a8_a_head_below_the_log_is_damage() -> None:
    """A head that was lowered does not make the log end there."""
    with server_with(checksums=False) as server:
        target = await make_target(server, 0)
        db = await asyncpg.connect(server.url)
        async with await open_store(server.url, target.prefix, "serial") as store:
            for head in (-5, 0, 3, 168, 170):
                await db.execute(f"UPDATE {target.prefix}_log SET head = {head}")
                assert await store.verify() != ()
                with pytest.raises(CorruptionError):
                    await read_everything(store)
        await db.close()


@pytest.mark.parametrize("column", ["position", "version", "at", "crc", "seal"])
async def test_a8_a_number_that_changed_is_damage(
    evsrc_postgres_database: str, column: str
) -> None:
    """Whatever an event's number became, a little or the most that its column holds."""
    url = evsrc_postgres_database
    db = await asyncpg.connect(url)
    async with await open_store(url, "numbers", "concurrent") as store:
        await fill(store)
        await db.execute("SET session_replication_role = replica")  # no trigger
        most = 2**31 if column in ("crc", "seal") else 2**63
        here = "FROM numbers_event WHERE event_id = $1"
        last = (await store.read_all()).events[-1]
        (true,) = await db.fetchrow(f"SELECT {column} {here}", last.id)
        change = f"UPDATE numbers_event SET {column} = $2 WHERE event_id = $1"
        for false in (true + 1, true ^ 2**30, -true, most - 1, -most, 0):
            await db.execute(change, last.id, false)
            with pytest.raises(CorruptionError):
                await store.find(last.id)
            if column != "position":  # or it may be beyond the head
                with pytest.raises(CorruptionError):
                    await store.read_all()
        await db.execute(change, last.id, true)
        assert await store.verify() == ()
    await db.close()


def test_a8_of_several_damaged_events_the_first_is_named() -> None:
    """Wherever they are, and by however much each of them is wrong."""
    data, ids = [b"a", b"b", b"c", b"d"], [bytes([n]) * 16 for n in range(4)]
    whole = [
        (crc32(each, 7) + crc32(id) - 2**32) % 4294967291
        for each, id in zip(data, ids, strict=True)
    ]
    assert damaged_row([7] * 4, data, ids, [None] * 4, whole) is None
    for first, second in combinations(range(4), 2):
        for wrong in ((1, 1), (1, 2), (2, 1)):
            sums = list(whole)
            sums[first] += wrong[0]
            sums[second] += wrong[1]
            assert damaged_row([7] * 4, data, ids, [None] * 4, sums) == first
