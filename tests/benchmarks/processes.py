"""Rows that need processes: what an import takes, what events weigh, many writers."""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from time import perf_counter
from types import ModuleType
from typing import Final

from .bench import WRITERS, Bench

_ROOT: Final = Path(__file__).parents[2]
_EVENTS: Final = 100_000
_PROCESSES: Final = 4


def import_names(module: ModuleType) -> float:
    """Give the milliseconds that a contender's names take to import, bytecode warm."""
    code = (
        "from time import perf_counter; began = perf_counter(); "
        f"{module.IMPORTS}; print((perf_counter() - began) * 1e3)"
    )
    return _output("-c", code)


def live_events(module: ModuleType) -> float:
    """Give by how many MB the process of a contender grows with 100k events."""
    return _output("-m", __name__, module.__name__)


def writers(bench: Bench, module: str, opening: str, dsn: str) -> float:
    """Give how many events a second four processes append together.

    Args:
        bench: says for how long.
        module: of the contender.
        opening: its function that gives a process its step.
        dsn: the database for all.
    """
    command = (sys.executable, "-m", __name__, module, opening, dsn)
    children = [
        subprocess.Popen(
            (*command, str(number * WRITERS), str(bench.seconds)),
            cwd=_ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(_PROCESSES)
    ]
    try:
        for child in children:  # each has opened its store and done one step
            assert child.stdout is not None
            assert child.stdout.readline() == "ready\n"
        for child in children:
            assert child.stdin is not None
            child.stdin.write("go\n")
            child.stdin.flush()
        return sum(float(child.communicate()[0]) for child in children)
    finally:
        for child in children:
            child.kill()


async def _write(module: str, opening: str, dsn: str, first: str, seconds: str) -> None:
    opened = getattr(import_module(module), opening)(dsn, int(first))
    async with opened as step:
        await step()
        print("ready", flush=True)
        sys.stdin.readline()
        done, began = 0, perf_counter()
        while (passed := perf_counter() - began) < float(seconds):
            done += await step()
        print(done / passed)


def _output(*arguments: str) -> float:
    done = subprocess.run(
        [sys.executable, *arguments], cwd=_ROOT, check=True, capture_output=True
    )
    return float(done.stdout)


def _resident() -> float:
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


async def _grow(module: ModuleType) -> float:
    await module.live_events(1000)
    before = _resident()
    kept = await module.live_events(_EVENTS)
    after = _resident()
    del kept
    return after - before


if __name__ == "__main__":
    if sys.argv[2:]:
        asyncio.run(_write(*sys.argv[1:]))
    else:
        print(asyncio.run(_grow(import_module(sys.argv[1]))))
