"""What a row function is given: a folder, a server, sizes, a stopwatch."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from time import perf_counter
from typing import Final
from urllib.parse import urlsplit

PAGE: Final = 1000
"""Events a page, for all who read in pages."""
STREAM: Final = 10
"""Events a stream, in the prepared logs."""
WRITERS: Final = 32

_files = count(1)


@dataclass(frozen=True)
class Bench:
    """One run of the suite.

    Args:
        folder: where databases go.
        seconds: how long a rate is measured.
        events: how many events the prepared logs hold.
        latencies: how many events the live rows wait for.
        clock: what rates are measured by: seconds that passed, or of this process.
        server: the DSN of a PostgreSQL server's superuser.
        loop: makes the event loop of those who use one; None: asyncio's own.
    """

    folder: Path
    seconds: float = 1.0
    events: int = 100_000
    latencies: int = 300
    clock: Callable[[], float] = perf_counter
    server: str = ""
    loop: Callable[[], asyncio.AbstractEventLoop] | None = None
    _prepared: dict[str, str] = field(default_factory=dict)

    def file(self) -> str:
        """Name a database that does not exist yet."""
        return str(self.folder / f"{next(_files)}.db")

    async def prepared(self, name: str, build: Callable[[str], Awaitable[None]]) -> str:
        """Give the file of that name; *build* fills it the first time."""
        if name not in self._prepared:
            path = self.folder / f"prepared-{name}.db"
            await build(str(path))
            self._prepared[name] = str(path)
        return self._prepared[name]

    async def database(self) -> str:
        """Make a PostgreSQL database that nothing is in; give its DSN."""
        name = f"bench_{next(_files)}"
        await execute(self.server, f"CREATE DATABASE {name}")
        return urlsplit(self.server)._replace(path=f"/{name}").geturl()

    async def prepared_database(
        self, name: str, build: Callable[[str], Awaitable[None]]
    ) -> str:
        """Give the DSN of that name; *build* fills its database the first time."""
        key = f"postgresql-{name}"
        if key not in self._prepared:
            dsn = await self.database()
            name = urlsplit(dsn).path.strip("/")
            lossy = f"ALTER DATABASE {name} SET synchronous_commit ="
            await execute(dsn, f"{lossy} off")  # while it is filled
            await build(dsn)
            await execute(dsn, f"{lossy} on")
            await execute(dsn, "VACUUM ANALYZE")  # or the first reader pays for it
            await execute(dsn, "CHECKPOINT")
            self._prepared[key] = dsn
        return self._prepared[key]

    def start(self) -> float:
        """Tell the time when one long measurement begins."""
        _settle()
        return self.clock()

    async def rate(self, step: Callable[[], Awaitable[int]]) -> float:
        """Repeat *step*, which gives how many it did, and give how many a second."""
        await step()
        _settle()
        done, clock = 0, self.clock
        start = clock()
        while (passed := clock() - start) < self.seconds:
            done += await step()
        return done / passed

    def rate_of(self, step: Callable[[], int]) -> float:
        """Do the same for a plain function."""
        step()
        _settle()
        done, clock = 0, self.clock
        start = clock()
        while (passed := clock() - start) < self.seconds:
            done += step()
        return done / passed

    def microseconds(self, step: Callable[[], object]) -> float:
        """Give the time of one call of *step*: the best of many runs of 500."""
        gc.collect()
        gc.disable()
        best, start = float("inf"), perf_counter()
        while perf_counter() - start < self.seconds / 4:
            began = perf_counter()
            for _ in range(500):
                step()
            best = min(best, perf_counter() - began)
        gc.enable()
        return best / 500 * 1e6

    async def latency(self, act: Callable[[], Awaitable[float]]) -> tuple[float, ...]:
        """Give the 50th and 99th percentile of what *act* measures, in us.

        Events come 3 ms apart, so that none waits for the checkpoint of the one before.
        """
        measured: list[float] = []
        for _ in range(20 + self.latencies):
            measured.append(await act())
            await asyncio.sleep(0.003)
        measured = sorted(measured[20:])
        return tuple(
            measured[int(len(measured) * share)] * 1e6 for share in (0.5, 0.99)
        )


async def postgresql_version(dsn: str) -> str:
    """Tell which PostgreSQL serves a database."""
    import asyncpg

    db = await asyncpg.connect(dsn)
    try:
        return ".".join(map(str, db.get_server_version()[:2]))
    finally:
        await db.close()


async def execute(dsn: str, statement: str) -> None:
    """Run one statement on a PostgreSQL database."""
    import asyncpg

    db = await asyncpg.connect(dsn)
    try:
        await db.execute(statement)
    finally:
        await db.close()


def _settle() -> None:
    """Collect, and have nobody's collections walk the modules of all contenders."""
    gc.unfreeze()
    gc.collect()
    gc.freeze()


class Signal:
    """When the handler saw the event that somebody waits for."""

    def __init__(self) -> None:
        self.seen: asyncio.Future[float] | None = None

    def arm(self) -> asyncio.Future[float]:
        """Wait for the next event."""
        self.seen = asyncio.get_running_loop().create_future()
        return self.seen

    def fire(self) -> None:
        """Note when an event was handled."""
        if self.seen is not None and not self.seen.done():
            self.seen.set_result(perf_counter())
