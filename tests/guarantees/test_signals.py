"""S7: a process that is told to end finishes what is in hand, saves, and ends."""

from __future__ import annotations

import asyncio
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from signal import Signals
from typing import Any
from uuid import uuid4

import aiosqlite
import pytest

from evsrc import (
    Delivery,
    SQLiteCheckpointRepository,
    SQLiteEventStore,
    Stop,
    memory_store,
    retry_then,
    run_until_signal,
    sqlite_store,
    subscribe,
)
from evsrc.testing import CODEC
from tests.facade_domain import REGISTRY, opened, paid
from tests.guarantees.test_subscriptions import fill

COUNT = 300


async def prepare(kind: str, path: str) -> None:
    if kind == "core":
        async with await sqlite_store(path, CODEC) as store:
            await fill(store, COUNT)
        return
    async with SQLiteEventStore(path, REGISTRY) as classes:
        id = uuid4()
        events = [opened(id), *(paid(id, n) for n in range(1, COUNT))]
        await classes.append_events(id, "Account", events, 0)


async def saved(kind: str, path: str) -> int | None:
    if kind == "core":
        async with await sqlite_store(path, CODEC) as store:
            checkpoint = await store.checkpoints.load("s")
            return None if checkpoint is None else checkpoint.position
    async with aiosqlite.connect(path + ".checkpoints") as connection:
        return await SQLiteCheckpointRepository(connection).get_position("s")


@asynccontextmanager
async def started(
    kind: str, path: str, hang: int = -1, timeout: float = 20
) -> AsyncIterator[Process]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.guarantees.signal_process"),
        *(kind, path, str(hang), str(timeout)),
        stdout=PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def said(process: Process) -> list[str]:
    assert process.stdout is not None
    line = await asyncio.wait_for(process.stdout.readline(), 30)
    return line.decode().split()


async def rest(process: Process) -> list[list[str]]:
    lines = []
    while line := await said(process):
        lines.append(line)
    await asyncio.wait_for(process.wait(), 10)
    return lines


@pytest.mark.parametrize("number", [Signals.SIGTERM, Signals.SIGINT])
@pytest.mark.parametrize("kind", ["core", "classes"])
async def test_a_signal_ends_it_with_its_checkpoint(
    kind: str, number: Signals, tmp_path: Path
) -> None:
    """In the middle of a page: what it said is what is saved; the next goes on there."""
    path, handled = str(tmp_path / "events.db"), []
    await prepare(kind, path)
    for more in (20, 20, COUNT):
        wanted = min(len(handled) + more, COUNT)
        if len(handled) == COUNT:  # we were so slow that it has done it all
            break
        async with started(kind, path) as process:
            while len(handled) < wanted:
                word, place = await said(process)
                assert word == "handled"
                handled.append(int(place))
            process.send_signal(number)
            *others, last = await rest(process)
            assert process.returncode == 0
        handled += [int(place) for _, place in others]
        assert last[:3] == ["ended", number.name, str(len(handled))]
        assert kind == "core" or last[3:] == ["stopped", "1", "1"]
        assert await saved(kind, path) == len(handled)
    assert handled == list(range(1, COUNT + 1)), "no gap, nothing twice"


@pytest.mark.parametrize("kind", ["core", "classes"])
async def test_a_handler_that_hangs_is_not_waited_for(
    kind: str, tmp_path: Path
) -> None:
    """The process ends within its timeout; the event is not passed."""
    path = str(tmp_path / "events.db")
    await prepare(kind, path)
    async with started(kind, path, hang=10, timeout=0.5) as process:
        while (await said(process))[0] != "hangs":
            pass
        process.send_signal(signal.SIGTERM)
        (last,) = await rest(process)
        assert process.returncode == 0
    assert last[:3] == ["ended", "SIGTERM", "10"]
    assert kind == "core" or last[3] == "forced"
    assert await saved(kind, path) == 10


@pytest.mark.parametrize("kind", ["core", "classes"])
async def test_the_second_signal_ends_it_at_once(kind: str, tmp_path: Path) -> None:
    """Somebody who cannot wait for the timeout does not have to."""
    path = str(tmp_path / "events.db")
    await prepare(kind, path)
    async with started(kind, path, hang=10, timeout=600) as process:
        while (await said(process))[0] != "hangs":
            pass
        while process.returncode is None:
            process.send_signal(signal.SIGTERM)
            try:
                await asyncio.wait_for(process.wait(), 0.1)
            except TimeoutError:
                continue
        assert process.returncode == -signal.SIGTERM


async def test_it_returns_when_all_have_failed() -> None:
    """A worker that has nothing left to do ends, so that somebody starts it again."""
    before = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)]

    async def fail(_: Any) -> None:
        raise ValueError

    async with memory_store(CODEC) as store:
        await fill(store, 1)
        once: Delivery[Any] = Delivery(on_failure=retry_then(Stop(), retries=0))
        failing = subscribe(store, "f", fail, once)
        assert await asyncio.wait_for(run_until_signal(failing), 20) is None
        assert failing.error is not None
    after = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)]
    assert after == before
