"""Fixtures for all tests: the plugin's, by shorter names."""

from __future__ import annotations

import os
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from evsrc.ports import EventStore
from evsrc.testing.back_ends import OpenStore, prefix_of
from tests.disk import use_memory

__all__ = ["OpenStore", "prefix_of"]

use_memory()
# else each of the hundreds of processes that tests start would compile the package anew
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
settings.register_profile(
    "evsrc", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("evsrc")


@pytest.fixture(scope="session")
def shared_database(evsrc_shared_database: str) -> str:
    return evsrc_shared_database


@pytest.fixture
def open_store(evsrc_open_store: OpenStore) -> OpenStore:
    return evsrc_open_store


@pytest.fixture
def store(evsrc_store: EventStore[Any]) -> EventStore[Any]:
    return evsrc_store
