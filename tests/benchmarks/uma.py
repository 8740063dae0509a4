"""UmaDB, a database for dynamic consistency boundaries, through its client."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from importlib.metadata import version
from itertools import count
from pathlib import Path
from socket import socket
from time import monotonic

import umadb

from .bench import STREAM, Bench

NAME = f"UmaDB {version('umadb')}"
_unique = count(1)
_DATA = b'{"text":"' + b"x" * 100 + b'"}'
_AT_ONCE = 500
_START = "from umadb.umadb_server_cli import main; main()"


@contextmanager
def _open(folder: Path) -> Generator[umadb.Client]:
    with socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    where = f"127.0.0.1:{port}"
    server = subprocess.Popen(
        [sys.executable, "-c", _START, "--listen", where, "--db-path", str(folder)],
        stdout=subprocess.DEVNULL,
    )
    try:
        yield _connected(f"http://{where}")
    finally:
        server.terminate()
        server.wait()


def _connected(url: str) -> umadb.Client:
    end = monotonic() + 20
    while True:
        try:
            client = umadb.Client(url)
            client.head()
        except Exception:
            if monotonic() > end:
                raise
        else:
            return client


def _query(*tags: str) -> umadb.Query:
    return umadb.Query([umadb.QueryItem(tags=[tag]) for tag in tags])


def _append_one(
    client: umadb.Client, tags: list[str], condition: umadb.AppendCondition
) -> None:
    client.append([umadb.Event("placed", _DATA, tags)], condition)


async def _rate(bench: Bench, step: Callable[[umadb.Client], int]) -> float:
    async def build(path: str) -> None:
        Path(path).mkdir()
        with _open(Path(path)) as client:
            for first in range(0, bench.events, _AT_ONCE):
                client.append(
                    [
                        umadb.Event(
                            "placed", _DATA, [f"order:{n // STREAM}", "tenant:1"]
                        )
                        for n in range(first, min(first + _AT_ONCE, bench.events))
                    ]
                )

    path = await bench.prepared("uma", build)
    with _open(Path(path)) as client:
        return bench.rate_of(lambda: step(client))


async def boundary_append(bench: Bench) -> float:
    """`append` under a condition on a tag that nothing has."""

    def step(client: umadb.Client) -> int:
        key = f"unique:{next(_unique)}-{monotonic()}"
        _append_one(client, [key], umadb.AppendCondition(_query(key)))
        return 1

    return await _rate(bench, step)


async def boundary_read(bench: Bench) -> float:
    """`read` of a tag that 10 events have."""
    orders = bench.events // STREAM

    def step(client: umadb.Client) -> int:
        found = list(client.read(_query(f"order:{next(_unique) % orders}")))
        assert len(found) >= STREAM
        return 1

    return await _rate(bench, step)


async def boundary_decide(bench: Bench) -> float:
    """`read` of two items, then `append` under the condition of the same query."""
    orders = bench.events // STREAM

    def step(client: umadb.Client) -> int:
        n = next(_unique)
        one = f"order:{n % orders}"
        query = _query(one, f"order:{(n + 7) % orders}")
        read = client.read(query)
        list(read)
        condition = umadb.AppendCondition(query, read.head())
        _append_one(client, [one, f"tenant:of-{n}"], condition)
        return 1

    return await _rate(bench, step)


async def boundary_hot(bench: Bench) -> float:
    """A type that is not there, of a tag that all events have, from the beginning."""
    query = umadb.Query([umadb.QueryItem(types=["unique"], tags=["tenant:1"])])

    def step(client: umadb.Client) -> int:
        _append_one(client, ["order:hot", "tenant:1"], umadb.AppendCondition(query))
        return 1

    return 1000 / await _rate(bench, step)
