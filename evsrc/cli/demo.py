"""Run `evsrc demo`: flights from a file through a log to read models, and once more."""

from __future__ import annotations

import asyncio
import logging
import sys
import tempfile
from argparse import Namespace
from collections.abc import Generator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Final

from rich.console import Console

from ..core.errors import EvsrcError, SchemaError, StoreUnavailableError
from ..stores.sqlite import sqlite_store
from . import show
from .build import build, history
from .log import CODEC
from .race import race
from .record import Store
from .rows import Data, DataError, check

FAILED: Final = 1
REFUSED: Final = 2
INTERRUPTED: Final = 130
_DSN: Final = ("postgresql://", "postgres://")
_PATIENCE: Final = timedelta(seconds=2)
_LARGEST_COMMIT: Final = 8000  # events: a chunk of rows, few pages are rewritten


def run(arguments: Namespace) -> int:
    """Run the demo; give the exit code.

    Anything that is wrong with the arguments is said before anything is written.
    """
    console = Console()
    try:
        data = check(arguments.data)
        tailnum = _aircraft(data, arguments.aircraft)
        with _logged(), _place(arguments.db) as place:
            return asyncio.run(_demo(console, data, place, tailnum))
    except (DataError, SchemaError, StoreUnavailableError) as error:
        return _say(f"{error}", REFUSED)
    except EvsrcError as error:
        return _say(f"{error}", FAILED)
    except KeyboardInterrupt:
        return _say("interrupted; with --db it resumes when started again", INTERRUPTED)


def _say(text: str, code: int) -> int:
    print(f"evsrc demo: {text}", file=sys.stderr)  # noqa: T201 - the command's own words
    return code


@contextmanager
def _logged() -> Generator[None, None, None]:
    """Show what the library logs as lines; an error is said once more when it ends."""

    def shortened(record: logging.LogRecord) -> bool:
        record.exc_info = None
        return True

    handler = logging.StreamHandler()
    handler.addFilter(shortened)
    logger = logging.getLogger("evsrc")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


def _aircraft(data: Data, wanted: str | None) -> str | None:
    if wanted is not None and wanted not in data.legs:
        raise DataError(f"no aircraft {wanted!r} flew in data file '{data.path}'")
    return wanted or data.busiest


@contextmanager
def _place(db: str | None) -> Generator[str, None, None]:
    """Give the database's place; without one, a file that is gone afterwards."""
    if db is not None:
        yield db if db.startswith(_DSN) else str(Path(db).absolute())
        return
    with tempfile.TemporaryDirectory(prefix="evsrc-demo-") as directory:
        yield str(Path(directory) / "flights.db")


async def _store(place: str) -> Store:
    if place.startswith(_DSN):
        from ..stores.postgresql import postgresql_store  # noqa: PLC0415 - an extra

        return await postgresql_store(
            place, CODEC, largest_commit=_LARGEST_COMMIT, patience=_PATIENCE
        )
    return await sqlite_store(place, CODEC, largest_commit=_LARGEST_COMMIT)


async def _demo(console: Console, data: Data, place: str, tailnum: str | None) -> int:
    show.heading(console, f"{data.rows:,} flights of {data.path.name}")
    async with await _store(place) as store:
        with show.progress(console) as on_progress:
            first = await build(store, data, on_progress)
        show.built(console, "first run", first)
        airlines, airports = first.punctuality
        show.tallies(console, "by airline", airlines, show.airline_names())
        show.tallies(console, "by airport", airports, {})
        if tailnum is not None:
            show.history(console, tailnum, await history(store, tailnum))
        show.race(console, await race(store))
    async with await _store(place) as store:
        second = await build(store, data, lambda _: None)
    show.built(console, "second run, same database: resumes where it was", second)
    if (first.totals, first.punctuality) != (second.totals, second.punctuality):
        return _say(f"the second run has other totals: {second.totals}", FAILED)
    show.line(console, f"totals: {second.totals}")
    return 0
