"""Failed events are kept, taken, resolved and forgotten, the same in every repository."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import aiosqlite
import pytest
from sqlalchemy.ext.asyncio import create_async_engine

from evsrc import (
    DLQEntry,
    DLQRepository,
    DLQStats,
    DomainEvent,
    InMemoryCheckpointRepository,
    InMemoryDLQRepository,
    InMemoryEventBus,
    InMemoryEventStore,
    PostgreSQLDLQRepository,
    SQLiteDLQRepository,
)
from evsrc.subscriptions import SubscriptionConfig, SubscriptionManager
from tests.facade_domain import REGISTRY, Paid, opened, paid


@pytest.fixture(params=["memory", "sqlite", "postgresql"])
async def letters(
    request: pytest.FixtureRequest, tmp_path: Path
) -> AsyncIterator[DLQRepository]:
    if request.param == "memory":
        yield InMemoryDLQRepository()
        return
    if request.param == "postgresql":
        url = request.getfixturevalue("evsrc_postgres_database")
        engine = create_async_engine(url.replace("://", "+asyncpg://", 1))
        yield PostgreSQLDLQRepository(engine)
        await engine.dispose()
        return
    async with aiosqlite.connect(tmp_path / "app.db") as connection:
        connection.row_factory = aiosqlite.Row
        yield SQLiteDLQRepository(connection)


def raised(error: Exception) -> Exception:
    """Give the error with a trace."""
    try:
        raise error
    except type(error) as caught:
        return caught


async def add(letters: DLQRepository, projection: str = "p", **other: Any) -> UUID:
    entry: dict[str, Any] = {
        "event_id": uuid4(),
        "projection_name": projection,
        "event_type": "Paid",
        "event_data": {"amount": 1},
        "error": raised(ValueError("no")),
        **other,
    }
    await letters.add_failed_event(**entry)
    id: UUID = entry["event_id"]
    return id


async def entry_of(letters: DLQRepository, event_id: UUID) -> DLQEntry:
    found = await letters.get_failed_events(status=None)
    (entry,) = [entry for entry in found if entry.event_id == event_id]
    return entry


async def test_a_failure_is_kept_with_its_reason(letters: DLQRepository) -> None:
    """Every field comes back, the error with message and trace."""
    data = {"amount": 13, "who": "é\0", "list": [1, None, {"a": 1.5}]}
    id = await add(letters, event_data=data, retry_count=4)
    (entry,) = await letters.get_failed_events()
    assert (entry.event_id, entry.projection_name, entry.event_type) == (
        id,
        "p",
        "Paid",
    )
    assert entry.event_data == data
    assert (entry.error_message, entry.retry_count, entry.status) == ("no", 4, "failed")
    assert entry.error_stacktrace is not None
    assert "ValueError: no" in entry.error_stacktrace
    assert "in raised" in entry.error_stacktrace
    assert entry.first_failed_at == entry.last_failed_at
    assert (
        timedelta(0) <= datetime.now(UTC) - entry.first_failed_at < timedelta(minutes=1)
    )
    assert (entry.resolved_at, entry.resolved_by) == (None, None)
    assert await letters.get_failed_event_by_id(entry.id) == entry
    assert await letters.get_failed_event_by_id(entry.id + 1) is None


async def test_what_is_kept_is_a_copy(letters: DLQRepository) -> None:
    """Changing the dict that was given, or one that was read, changes nothing."""
    data = {"list": [1]}
    id = await add(letters, event_data=data)
    data["list"].append(2)
    assert (await entry_of(letters, id)).event_data == {"list": [1]}


class Mute(Exception):
    """An error that cannot say what it is."""

    def __str__(self) -> str:
        raise RuntimeError("mute")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ValueError(), "ValueError()"),
        (ValueError("a\0b"), "a\\x00b"),
        (ValueError("\ud800"), "\\ud800"),
        (Mute(), "<exception str() failed>"),
    ],
    ids=["silent", "nul", "surrogate", "mute"],
)
async def test_any_error_can_be_kept(
    letters: DLQRepository, error: Exception, message: str
) -> None:
    """An error without a message, or with one that no database takes, is kept."""
    id = await add(letters, error=raised(error), event_data={"odd": object})
    entry = await entry_of(letters, id)
    assert entry.error_message == message
    assert entry.event_data == {"odd": "<class 'object'>"}


async def test_failing_again_is_the_same_entry(letters: DLQRepository) -> None:
    """Event and projection are the key; what was resolved is open again."""
    id = await add(letters)
    first = await entry_of(letters, id)
    assert await letters.mark_resolved(first.id, "ann")
    again = raised(TypeError("worse"))
    await add(letters, event_id=id, error=again, retry_count=7, event_data={"a": 2})
    await add(letters, "other", event_id=id)
    (entry,) = await letters.get_failed_events("p")
    assert (entry.id, entry.first_failed_at) == (first.id, first.first_failed_at)
    assert entry.last_failed_at >= first.last_failed_at
    assert (entry.error_message, entry.retry_count) == ("worse", 7)
    assert (entry.status, entry.resolved_at, entry.resolved_by) == (
        "failed",
        None,
        None,
    )
    assert entry.event_data == {"a": 2}
    assert len(await letters.get_failed_events()) == 2


async def test_entries_are_chosen(letters: DLQRepository) -> None:
    """By projection, by status, up to a limit; the oldest are first."""
    ids = [await add(letters, name) for name in "aabb"]
    first = await entry_of(letters, ids[0])
    assert await letters.mark_retrying(first.id)

    async def found(*asked: Any, **also: Any) -> list[int]:
        entries = await letters.get_failed_events(*asked, **also)
        return [ids.index(entry.event_id) for entry in entries]

    assert await found() == [1, 2, 3]
    assert await found("a") == [1]
    assert await found("a", None) == [0, 1]
    assert await found(status="retrying") == [0]
    assert await found(status="resolved") == []
    assert await found(limit=2) == [1, 2]
    assert await found("c") == []


async def test_one_of_many_takes_an_entry(letters: DLQRepository) -> None:
    """Whoever gets True retries it; whoever is told first resolved it."""
    entry = await entry_of(letters, await add(letters))
    taken = await asyncio.gather(*(letters.mark_retrying(entry.id) for _ in range(5)))
    assert sorted(taken) == [False] * 4 + [True]
    by = uuid4()
    resolved = await asyncio.gather(
        *(letters.mark_resolved(entry.id, by) for _ in range(5))
    )
    assert sorted(resolved) == [False] * 4 + [True]
    entry = await entry_of(letters, entry.event_id)
    assert (entry.status, entry.resolved_by) == ("resolved", str(by))
    assert entry.resolved_at is not None
    assert not await letters.mark_retrying(entry.id), "it is resolved"
    assert not await letters.mark_retrying(99)
    assert not await letters.mark_resolved(99, "ann")


async def test_failures_are_counted(letters: DLQRepository) -> None:
    """Resolved ones do not count; the projection with the most is first."""
    assert await letters.get_failure_stats() == DLQStats(0, 0, 0, None)
    assert await letters.get_projection_failure_counts() == []
    ids = [await add(letters, name) for name in "abbbc"]
    entries = [await entry_of(letters, id) for id in ids]
    await letters.mark_retrying(entries[1].id)
    await letters.mark_resolved(entries[4].id, "ann")
    stats = await letters.get_failure_stats()
    assert stats == DLQStats(3, 1, 2, entries[0].first_failed_at)
    b, a = await letters.get_projection_failure_counts()
    assert (b.projection_name, b.failure_count) == ("b", 3)
    assert (a.projection_name, a.failure_count) == ("a", 1)
    assert b.oldest_failure == entries[1].first_failed_at
    assert b.most_recent_failure == entries[3].last_failed_at


async def test_resolved_entries_are_forgotten(letters: DLQRepository) -> None:
    """Those that are old enough, and no others; zero days means all of them."""
    ids = [await add(letters) for _ in range(3)]
    for id in ids[:2]:
        await letters.mark_resolved((await entry_of(letters, id)).id, "ann")
    assert await letters.delete_resolved_events() == 0
    assert await letters.delete_resolved_events(older_than_days=0) == 2
    (left,) = await letters.get_failed_events(status=None)
    assert left.event_id == ids[2]
    with pytest.raises(ValueError, match="at least 0"):
        await letters.delete_resolved_events(-1)


async def test_the_one_in_memory_can_be_cleared() -> None:
    """Then it is empty."""
    letters = InMemoryDLQRepository()
    await add(letters)
    await letters.clear()
    assert await letters.get_failed_events() == []


async def test_sqlite_entries_join_the_callers_transaction(tmp_path: Path) -> None:
    """Inside a transaction they are part of it; else they are committed at once."""
    path = tmp_path / "app.db"
    async with aiosqlite.connect(path) as connection, aiosqlite.connect(path) as other:
        letters, there = SQLiteDLQRepository(connection), SQLiteDLQRepository(other)
        await connection.execute("BEGIN")
        await add(letters)
        await connection.rollback()
        assert await letters.get_failed_events() == []
        await add(letters)
        assert len(await there.get_failed_events()) == 1


async def test_the_manager_parks_in_it(letters: DLQRepository) -> None:
    """A poison event is there with error and payload; the events after it are handled.

    The entry's payload makes the event again, so that it can be handled by hand.
    """

    class Picky:
        def __init__(self) -> None:
            self.seen: list[int] = []

        async def handle(self, event: DomainEvent) -> None:
            if isinstance(event, Paid):
                if event.amount == 13:
                    raise ValueError("unlucky")
                self.seen.append(event.amount)

    async with InMemoryEventStore(event_registry=REGISTRY) as store:
        id, picky = uuid4(), Picky()
        events = [opened(id), paid(id, 1, 2), paid(id, 13, 3), paid(id, 2, 4)]
        await store.append_events(id, "Account", events, 0)
        manager = SubscriptionManager(
            store, InMemoryEventBus(), InMemoryCheckpointRepository(), dlq_repo=letters
        )
        config = SubscriptionConfig(max_retries=2, initial_retry_delay=0.0)
        subscription = await manager.subscribe(picky, config, "picky")
        async with manager:
            await subscription.caught_up()
        assert picky.seen == [1, 2]
        (entry,) = await letters.get_failed_events("picky")
        assert (entry.event_id, entry.event_type) == (events[2].event_id, "Paid")
        assert (entry.error_message, entry.retry_count) == ("unlucky", 2)
        assert entry.error_stacktrace is not None
        assert "in handle" in entry.error_stacktrace
        assert Paid.from_dict(entry.event_data) == events[2]
        assert (await letters.get_failure_stats()).total_failed == 1
