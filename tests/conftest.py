"""Fixtures for all tests."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest
from hypothesis import HealthCheck, settings

from evsrc.core.codec import Codec
from evsrc.ports import EventStore
from evsrc.stores.memory import memory_store
from evsrc.stores.postgresql import postgresql_store
from evsrc.stores.sqlite import sqlite_store
from evsrc.testing import CODEC
from evsrc.testing.databases import fresh_database

settings.register_profile(
    "evsrc", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("evsrc")

OpenStore = Callable[..., Awaitable[EventStore[Any]]]
BACK_ENDS = ("memory", "sqlite", "sqlite-memory", "postgresql", "postgresql-concurrent")


def prefix_of(folder: Path) -> str:
    """Give the prefix of the store of one folder, in a database that many share."""
    return f"t{crc32(str(folder).encode()):08x}"


def opener(back_end: str, folder: Path, url: str = "") -> OpenStore:
    """Give the function that opens a store of one kind; one folder is one store."""
    prefix = prefix_of(folder)

    async def open_store(codec: Codec[Any] = CODEC, **options: Any) -> EventStore[Any]:
        match back_end:
            case "memory":
                return memory_store(codec)
            case "sqlite":
                return await sqlite_store(folder / "events.db", codec, **options)
            case "sqlite-memory":
                return await sqlite_store(":memory:", codec, **options)
            case _:
                ordering = "concurrent" if "concurrent" in back_end else "serial"
                return await postgresql_store(
                    url, codec, prefix=prefix, ordering=ordering, **options
                )

    return open_store


@pytest.fixture(scope="session")
def shared_database(evsrc_postgres_url: str) -> Iterator[str]:
    """Give a database for all tests of a worker; each store has a prefix of its own."""
    with fresh_database(evsrc_postgres_url) as url:
        yield url


@pytest.fixture(params=BACK_ENDS)
def back_end(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def open_store(
    back_end: str, tmp_path: Path, request: pytest.FixtureRequest
) -> OpenStore:
    postgresql = back_end.startswith("postgresql")
    url = request.getfixturevalue("shared_database") if postgresql else ""
    return opener(back_end, tmp_path, url)


@pytest.fixture
async def store(open_store: OpenStore) -> AsyncIterator[EventStore[Any]]:
    opened = await open_store()
    yield opened
    await opened.close()
