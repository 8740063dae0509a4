"""Check records that stand alone: checkpoints, snapshots, dead letters, leases.

Whoever makes one of them only, and no store, runs the checks of that one. Each is a
coroutine function that takes a fresh, empty record and raises AssertionError where a
promise of `evsrc.ports` is broken:

    @pytest.mark.parametrize("check", checkpoint_checks)
    async def test_my_checkpoints(check):
        await check(my_checkpoints())

`store_checks` holds all of these, too.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Final

from msgspec.structs import replace

from ..core.errors import CheckpointError
from ..core.snapshot import Snapshot
from ..ports import (
    START,
    Checkpoint,
    Checkpoints,
    DeadLetters,
    Leases,
    SaveCheckpoint,
    SaveDeadLetter,
    SaveSnapshot,
    Snapshots,
)
from ._bench import HOSTILE, NOW, SOON, checks_of, letter, refuses, some

# Checkpoints.


async def moves_checkpoints(kept: Checkpoints) -> None:
    """A checkpoint moves where it is told, from where it is if that is asked."""
    assert await kept.load("x") is None
    await kept.save(SaveCheckpoint("x", 3, after=START))
    await kept.save(SaveCheckpoint("x", 5, after=3))
    await refuses(CheckpointError, kept.save(SaveCheckpoint("x", 9, after=3)))
    await refuses(CheckpointError, kept.save(SaveCheckpoint("x", 9, after=START)))
    assert await kept.load("x") == Checkpoint("x", 5)
    await kept.save(SaveCheckpoint("x", 2))
    assert await kept.load("x") == Checkpoint("x", 2)
    assert await kept.load("y") is None
    await refuses(CheckpointError, kept.save(SaveCheckpoint("y", 9, after=1)))
    assert await kept.load("y") is None


async def forgets_checkpoints(kept: Checkpoints) -> None:
    """A deleted checkpoint is as if it had never been; others stay."""
    await kept.save(SaveCheckpoint("x", 3))
    await kept.save(SaveCheckpoint("y", 4))
    for _ in range(2):
        await kept.delete("x")
        assert await kept.load("x") is None
    assert await kept.load("y") == Checkpoint("y", 4)
    await kept.save(SaveCheckpoint("x", 1, after=START))
    assert await kept.load("x") == Checkpoint("x", 1)


async def lets_one_worker_move_a_checkpoint(kept: Checkpoints) -> None:
    """Of many that move a checkpoint from one place exactly one does."""
    for start in (START, 1, 2):
        outcomes = await asyncio.gather(
            *(kept.save(SaveCheckpoint("x", start + 1, after=start)) for _ in range(9)),
            return_exceptions=True,
        )
        refused = [o for o in outcomes if isinstance(o, CheckpointError)]
        assert (outcomes.count(None), len(refused)) == (1, 8)
        assert await kept.load("x") == Checkpoint("x", start + 1)


async def takes_any_checkpoint(kept: Checkpoints) -> None:
    """Names are data, and a position has up to 63 bits."""
    for name in HOSTILE:
        await kept.save(SaveCheckpoint(name, 2**63 - 1))
        assert await kept.load(name) == Checkpoint(name, 2**63 - 1)


# Snapshots.


async def keeps_the_last_snapshot(kept: Snapshots) -> None:
    """A snapshot comes back as it was stored last, whatever bytes it holds."""
    assert await kept.load("x") is None
    for version, state in enumerate((b"one", b"\x00two\xff", b"", b"4" * 262_144)):
        snapshot = Snapshot(state, version, 2)
        await kept.save(SaveSnapshot("x", snapshot))
        assert await kept.load("x") == snapshot
    older = Snapshot(b"older", 1, 3)
    await kept.save(SaveSnapshot("x", older))
    assert await kept.load("x") == older


async def forgets_snapshots(kept: Snapshots) -> None:
    """A deleted snapshot is gone; others stay."""
    snapshot = Snapshot(b"one", 7, 2)
    for name in ("x", "y"):
        await kept.save(SaveSnapshot(name, snapshot))
    for _ in range(2):
        await kept.delete("x")
        assert await kept.load("x") is None
    assert await kept.load("y") == snapshot


# Dead letters.


async def keeps_dead_letters(kept: DeadLetters) -> None:
    """A dead letter comes back as it was stored last; the oldest are listed first."""
    letters = [letter(n) for n in (3, 1, 2)]
    assert await kept.get("reader", letters[0].event_id) is None
    for each in letters:
        await kept.save(SaveDeadLetter(each))
        assert await kept.get("reader", each.event_id) == each
    assert await kept.get("other", letters[0].event_id) is None
    elsewhere = replace(letters[0], subscription="other", position=9)
    await kept.save(SaveDeadLetter(elsewhere))
    third, first, second = letters
    assert await kept.list("reader") == (first, second, third)
    assert await kept.list("reader", limit=2) == (first, second)
    assert await kept.list() == (first, second, third, elsewhere)
    again = replace(first, error="é \0 \ud800 '\"", stacktrace=None, attempts=9)
    await kept.save(SaveDeadLetter(again))
    assert await kept.list("reader", status="failed") == (again, second, third)
    done = replace(again, status="resolved", resolved_at=NOW, resolved_by="\0ann")
    await kept.save(SaveDeadLetter(done))
    assert await kept.list("reader", status="resolved") == (done,)
    assert await kept.list(status="failed") == (second, third, elsewhere)
    assert await kept.list(status="retrying") == ()


async def changes_dead_letters_once(kept: DeadLetters) -> None:
    """Of many that take one letter one gets it; a new failure is not overwritten."""
    first = letter(1)
    await kept.save(SaveDeadLetter(first))
    taken = replace(first, status="retrying")
    done = await asyncio.gather(*(kept.update(taken, first) for _ in range(9)))
    assert sorted(done) == [False] * 8 + [True]
    assert not await kept.delete(first), "it is another one by now"
    worse = replace(first, attempts=9)
    await kept.save(SaveDeadLetter(worse))
    assert not await kept.update(replace(taken, status="resolved"), taken)
    assert await kept.get("reader", first.event_id) == worse
    done = await asyncio.gather(*(kept.delete(worse) for _ in range(9)))
    assert sorted(done) == [False] * 8 + [True]
    assert await kept.get("reader", first.event_id) is None
    assert not await kept.update(taken, worse), "an absent letter came back"
    assert await kept.list() == ()


# Leases.


async def leases_to_one_at_a_time(kept: Leases) -> None:
    """One of many gets a lease; it can be renewed, released, and taken when over."""
    over = timedelta(0)
    won = await asyncio.gather(*(kept.acquire("x", str(n), SOON) for n in range(9)))
    (first,) = [lease for lease in won if lease is not None]
    now = datetime.now(UTC)
    assert now - SOON < first.until < now + 2 * SOON
    assert first.owner == str(won.index(first))
    assert await kept.acquire("y", "other", SOON) is not None, "names are separate"
    longer = some(await kept.renew(first, 2 * SOON))
    assert (longer.token, longer.owner) == (first.token, first.owner)
    assert longer.until > first.until
    second = some(await kept.acquire("x", first.owner, over))
    assert second.token > first.token
    assert await kept.renew(longer, SOON) is None, "a lost lease was renewed"
    await kept.release(longer)
    assert await kept.renew(second, over) is not None, "over, but nobody took it"
    third = some(await kept.acquire("x", "thief", SOON))
    assert third.token > second.token
    await kept.release(second)
    assert await kept.acquire("x", first.owner, SOON) is None, "a thief lost his lease"
    await kept.release(third)
    await kept.release(third)
    assert await kept.renew(third, SOON) is None, "a released lease was renewed"
    fourth = some(await kept.acquire("x", first.owner, SOON))
    assert fourth.token > third.token


checkpoint_checks: Final = checks_of(__name__, "Checkpoints")
"""Each takes fresh `Checkpoints`."""
snapshot_checks: Final = checks_of(__name__, "Snapshots")
"""Each takes fresh `Snapshots`."""
dead_letter_checks: Final = checks_of(__name__, "DeadLetters")
"""Each takes fresh `DeadLetters`."""
lease_checks: Final = checks_of(__name__, "Leases")
"""Each takes fresh `Leases`, whose clock is that of the test."""
