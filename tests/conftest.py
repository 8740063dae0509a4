"""Fixtures for all tests: the plugin's, by shorter names."""

from __future__ import annotations

import asyncio
import os
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from evsrc import memory_store
from evsrc.ports import EventStore
from evsrc.testing import CODEC
from evsrc.testing.back_ends import OpenStore, prefix_of
from tests.disk import use_memory

__all__ = ["OpenStore", "on_the_loops_clock", "prefix_of"]

use_memory()
# else each of the hundreds of processes that tests start would compile the package anew
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
settings.register_profile(
    "evsrc", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("evsrc")


def on_the_loops_clock() -> EventStore[Any]:
    """Make a store in memory whose time is that of the running, virtual loop."""
    loop, start = asyncio.get_running_loop(), datetime(2013, 1, 1, tzinfo=UTC)
    return memory_store(CODEC, now=lambda: start + timedelta(seconds=loop.time()))


@pytest.fixture(scope="session")
def shared_database(evsrc_shared_database: str) -> str:
    return evsrc_shared_database


@pytest.fixture
def open_store(evsrc_open_store: OpenStore) -> OpenStore:
    return evsrc_open_store


@pytest.fixture
def store(evsrc_store: EventStore[Any]) -> EventStore[Any]:
    return evsrc_store
