"""Fixtures that await, for sessions in which pytest-asyncio runs.

All of those load this module, with or without evsrc: it imports nothing of evsrc.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import pytest_asyncio

if TYPE_CHECKING:
    from ..ports import EventStore
    from .back_ends import OpenStore


@pytest_asyncio.fixture
async def evsrc_store(evsrc_open_store: OpenStore) -> AsyncIterator[EventStore[Any]]:
    """Give an empty store of the back end in turn, which is closed after the test."""
    async with await evsrc_open_store() as store:
        yield store
