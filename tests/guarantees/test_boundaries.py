"""B1: nothing that stands against a condition comes before its append, whoever writes.

Every conditional append records what it knew of its boundary, so that the log can be
held against itself. `pytest -m soak -n 0 -s tests/guarantees/test_boundaries.py` makes
50,000 appends on each kind of store; a normal run makes fewer.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from evsrc import ALL
from evsrc.ports import EventStore
from evsrc.testing.query_checks import check_claims
from tests.conftest import prefix_of
from tests.guarantees.boundary_process import UNLOCKED, open_store

KINDS = ["sqlite", "postgresql-serial", "postgresql-concurrent"]
PROCESSES = 4


@pytest.fixture
def where(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> str:
    if kind.startswith("sqlite"):
        return str(tmp_path / "events.db")
    return request.getfixturevalue("shared_database")


async def follow(store: EventStore[Any], ended: asyncio.Event) -> list[Any]:
    """Read the log while it is written, to its end."""
    seen: list[Any] = []
    after = 0
    while True:
        done = ended.is_set()
        page = await store.read_all(ALL, after=after)
        seen += page.events
        assert page.reached >= after
        after = page.reached
        if after >= page.head:
            if done:
                return seen
            await store.changed(after, timeout=timedelta(milliseconds=50))


async def write_and_judge(kind: str, where: str, prefix: str, appends: int) -> str:
    """Let processes write, follow them, and hold what is there against itself."""
    module = "-m", "tests.guarantees.boundary_process"
    async with await open_store(kind, where, prefix) as store:
        writers = [
            await asyncio.create_subprocess_exec(
                *(sys.executable, *module, kind, where, prefix),
                *(str(n), str(appends // PROCESSES)),
                stdout=asyncio.subprocess.PIPE,
            )
            for n in range(PROCESSES)
        ]
        ended = asyncio.Event()
        following = asyncio.create_task(follow(store, ended))
        said = [(await writer.communicate())[0] for writer in writers]
        ended.set()
        log = await following
        counts: Counter[str] = sum(
            (Counter(json.loads(text)) for text in said), Counter()
        )
        positions = [recorded.position for recorded in log]
        assert positions == sorted(set(positions)), "out of order, or twice"
        assert len(log) == counts["events"], "stored is not what was acknowledged"
        claims = check_claims(log)
        assert claims == counts["conditional"]
        problems = await store.verify()
    assert problems == ()
    return f"{dict(counts)}: {claims} claims hold, {len(log)} delivered in order"


@pytest.mark.timeout(240)
@pytest.mark.parametrize("kind", KINDS)
async def test_b1_conditions_hold_whoever_writes(
    kind: str, where: str, tmp_path: Path
) -> None:
    """Four processes mix conditional, unconditional, stream and open appends."""
    print(f"B1 {kind}:", await write_and_judge(kind, where, prefix_of(tmp_path), 2400))


@pytest.mark.soak
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kind", KINDS)
async def test_b1_many_conditions_hold_whoever_writes(
    kind: str, where: str, tmp_path: Path
) -> None:
    """The same with 50,000 appends."""
    told = await write_and_judge(kind, where, prefix_of(tmp_path), 50_016)
    print(f"B1 {kind}:", told)


@pytest.mark.timeout(240)
@pytest.mark.parametrize("kind", [kind + UNLOCKED for kind in KINDS])
async def test_b1_a_store_without_a_lock_is_found(
    kind: str, where: str, tmp_path: Path
) -> None:
    """It accepts what it should refuse, and the log shows it."""
    with pytest.raises(AssertionError, match="it was"):
        await write_and_judge(kind, where, prefix_of(tmp_path), 2400)
