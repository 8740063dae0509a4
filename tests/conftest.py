"""Fixtures for all tests."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from evsrc.core.codec import Codec
from evsrc.ports import EventStore
from evsrc.stores.memory import memory_store
from evsrc.stores.sqlite import sqlite_store
from evsrc.testing import CODEC

settings.register_profile(
    "evsrc", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("evsrc")

OpenStore = Callable[..., Awaitable[EventStore[Any]]]
BACK_ENDS = ("memory", "sqlite", "sqlite-memory")


def opener(back_end: str, folder: Path) -> OpenStore:
    """Give the function that opens a store of one kind."""

    async def open_store(codec: Codec[Any] = CODEC, **options: Any) -> EventStore[Any]:
        match back_end:
            case "memory":
                return memory_store(codec)
            case "sqlite":
                return await sqlite_store(folder / "events.db", codec, **options)
            case _:
                return await sqlite_store(":memory:", codec, **options)

    return open_store


@pytest.fixture(params=BACK_ENDS)
def back_end(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def open_store(back_end: str, tmp_path: Path) -> OpenStore:
    return opener(back_end, tmp_path)


@pytest.fixture
async def store(open_store: OpenStore) -> AsyncIterator[EventStore[Any]]:
    opened = await open_store()
    yield opened
    await opened.close()
