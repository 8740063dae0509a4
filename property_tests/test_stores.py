"""A stateful machine drives each store beside a plain list, and compares."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from zlib import crc32

import pytest
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

from evsrc import memory_store, postgresql_store, sqlite_store
from evsrc.ports import EventStore
from evsrc.testing import CODEC, store_machine

from .conftest import share


async def in_memory(_: Path) -> EventStore[Any]:
    return memory_store(CODEC)


async def sqlite(folder: Path) -> EventStore[Any]:
    return await sqlite_store(folder / "events.db", CODEC, synchronous="NORMAL")


async def sqlite_in_memory(_: Path) -> EventStore[Any]:
    return await sqlite_store(":memory:", CODEC)


@pytest.mark.parametrize("ordering", ["serial", "concurrent"])
def test_postgresql(evsrc_postgres_database: str, ordering: Any) -> None:
    """The machine drives PostgreSQL, with either ordering."""

    async def postgresql(folder: Path) -> EventStore[Any]:
        return await postgresql_store(
            evsrc_postgres_database,
            CODEC,
            prefix=f"m{crc32(folder.name.encode()):08x}",
            ordering=ordering,
        )

    machine = store_machine(postgresql, durable=True, dense=ordering == "serial")
    run_state_machine_as_test(
        machine, settings=settings(max_examples=share(20), stateful_step_count=25)
    )


_steps = settings(max_examples=share(60), stateful_step_count=25)
TestMemory = store_machine(in_memory).TestCase
TestMemory.settings = settings(max_examples=share(150), stateful_step_count=30)
TestSqlite = store_machine(sqlite, durable=True).TestCase
TestSqlite.settings = _steps
TestSqliteMemory = store_machine(sqlite_in_memory).TestCase
TestSqliteMemory.settings = _steps
