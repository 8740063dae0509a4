"""Give each test a PostgreSQL database of its own; through asyncpg."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import asyncpg


@contextmanager
def fresh_database(url: str) -> Generator[str]:
    """Keep a new, empty database on a server while the block runs; give its DSN.

    It goes with all that still uses it: sessions and prepared transactions.

    Args:
        url: the DSN of a role that may create databases, on PostgreSQL 13 or later.
    """
    name = f"evsrc_{uuid4().hex}"
    own = urlsplit(url)._replace(path=f"/{name}").geturl()
    like = "TEMPLATE template0 ENCODING 'UTF8' LOCALE 'C'"
    _fetch(url, f"CREATE DATABASE {name} {like}")
    try:
        yield own
    finally:
        # a prepared transaction keeps its database, even against FORCE
        prepared = (
            "SELECT format('ROLLBACK PREPARED %L', gid) FROM pg_prepared_xacts "
            "WHERE database = $1"
        )
        for (rollback,) in _fetch(url, prepared, name):
            _fetch(own, rollback)
        _fetch(url, f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


def _fetch(url: str, statement: str, *arguments: str) -> list[Any]:
    async def fetch() -> list[Any]:
        connection = await asyncpg.connect(url)
        try:
            return await connection.fetch(statement, *arguments)
        finally:
            await connection.close()

    # in a thread, because a loop may run in this one
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, fetch()).result()
