"""Rows that need a process of their own: what an import takes, what events weigh."""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Final

_ROOT: Final = Path(__file__).parents[2]
_EVENTS: Final = 100_000


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
    print(asyncio.run(_grow(import_module(sys.argv[1]))))
