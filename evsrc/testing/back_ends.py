"""Open a store of any kind for a test, in a place of its own."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeAlias
from zlib import crc32

from ..core.codec import Codec
from ..ports import EventStore
from ..stores.memory import memory_store
from ..stores.sqlite import sqlite_store
from . import BACK_ENDS

OpenStore: TypeAlias = Callable[..., Awaitable[EventStore[Any]]]
"""`await open_store(codec=..., **options)`: called again, it opens the same store."""


def is_server(back_end: str) -> bool:
    """Tell whether a back end needs a PostgreSQL server."""
    return back_end.startswith("postgresql")


def missing(back_end: str) -> str | None:
    """Say why a back end cannot run here for want of a driver; None: it can."""
    if is_server(back_end) and find_spec("asyncpg") is None:
        return "asyncpg is not installed: pip install 'evsrc-py[postgresql]'"
    return None


def prefix_of(folder: Path) -> str:
    """Give the prefix of the store of one folder, in a database that many share."""
    return f"t{crc32(str(folder).encode()):08x}"


def opener(
    back_end: str, folder: Path, codec: Codec[Any], *, url: str = ""
) -> OpenStore:
    """Give the function that opens a store of one kind; one folder is one store.

    Those that need a server are in the database *url*, named after the folder.
    """
    usual = codec

    async def open_store(codec: Codec[Any] = usual, **options: Any) -> EventStore[Any]:
        match back_end:
            case "memory":
                return memory_store(codec, **options)
            case "sqlite":
                return await sqlite_store(folder / "events.db", codec, **options)
            case "sqlite-memory":
                return await sqlite_store(":memory:", codec, **options)
            case "postgresql" | "postgresql-concurrent":
                from ..stores.postgresql import postgresql_store  # noqa: PLC0415 - brings its driver

                concurrent = back_end.endswith("-concurrent")
                ordering: Any = "concurrent" if concurrent else "serial"
                options = {"prefix": prefix_of(folder), "ordering": ordering} | options
                return await postgresql_store(url, codec, **options)
            case _:
                raise ValueError(f"{back_end!r} is none of {', '.join(BACK_ENDS)}")

    return open_store
