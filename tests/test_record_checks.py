"""The suites of single records and of buses pass real ones, and fail broken ones."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from msgspec import structs

from evsrc import DomainEvent, EventBus, InMemoryEventBus, memory_store
from evsrc.core.errors import CheckpointError
from evsrc.core.snapshot import Snapshot
from evsrc.ports import (
    Checkpoint,
    Checkpoints,
    DeadLetter,
    DeadLetters,
    Leases,
    SaveCheckpoint,
    SaveDeadLetter,
    SaveSnapshot,
    Snapshots,
)
from evsrc.testing import (
    bus_checks,
    checkpoint_checks,
    dead_letter_checks,
    lease_checks,
    snapshot_checks,
)

MAKERS: dict[str, tuple[Any, Callable[[], Any]]] = {
    "checkpoints": (checkpoint_checks, lambda: memory_store().checkpoints),
    "snapshots": (snapshot_checks, lambda: memory_store().snapshots),
    "dead letters": (dead_letter_checks, lambda: memory_store().dead_letters),
    "leases": (lease_checks, lambda: memory_store().leases),
    "bus": (bus_checks, InMemoryEventBus),
}
CASES = [
    pytest.param(check, make, id=f"{kind}-{check.__name__}")
    for kind, (checks, make) in MAKERS.items()
    for check in checks
]


@pytest.mark.parametrize(("check", "make"), CASES)
async def test_real_ones_pass(check: Any, make: Callable[[], Any]) -> None:
    """Each check passes with the real thing, by itself."""
    await check(make())


# Broken checkpoints.


def moves_from_anywhere(kept: Checkpoints) -> Checkpoints:
    async def save(change: SaveCheckpoint) -> None:
        await kept.save(SaveCheckpoint(change.name, change.position))

    return replace(kept, save=save)


def never_goes_back(kept: Checkpoints) -> Checkpoints:
    async def save(change: SaveCheckpoint) -> None:
        known = await kept.load(change.name)
        if known is None or known.position < change.position:
            await kept.save(change)

    return replace(kept, save=save)


def reads_before_it_writes(kept: Checkpoints) -> Checkpoints:
    async def save(change: SaveCheckpoint) -> None:
        known = await kept.load(change.name)
        actual = known.position if known else 0
        if change.after is not None and change.after != actual:
            raise CheckpointError(change.name, change.after, actual)
        await asyncio.sleep(0)
        await kept.save(SaveCheckpoint(change.name, change.position))

    return replace(kept, save=save)


def keeps_deleted_ones(kept: Checkpoints) -> Checkpoints:
    async def delete(_: str) -> None: ...

    return replace(kept, delete=delete)


def deletes_to_start(kept: Checkpoints) -> Checkpoints:
    async def delete(name: str) -> None:
        await kept.save(SaveCheckpoint(name, 0))

    return replace(kept, delete=delete)


def has_32_bits(kept: Checkpoints) -> Checkpoints:
    async def load(name: str) -> Checkpoint | None:
        found = await kept.load(name)
        return found and Checkpoint(name, found.position % 2**32)

    return replace(kept, load=load)


# Broken snapshots.


def keeps_text_only(kept: Snapshots) -> Snapshots:
    async def load(name: str) -> Snapshot[bytes] | None:
        found = await kept.load(name)
        state = found and found.state.decode(errors="replace").encode()
        return found and structs.replace(found, state=state)

    return replace(kept, load=load)


def keeps_the_highest_version(kept: Snapshots) -> Snapshots:
    async def save(change: SaveSnapshot) -> None:
        known = await kept.load(change.name)
        if known is None or known.version < change.snapshot.version:
            await kept.save(change)

    return replace(kept, save=save)


def forgets_the_schema(kept: Snapshots) -> Snapshots:
    async def save(change: SaveSnapshot) -> None:
        snapshot = structs.replace(change.snapshot, schema=1)
        await kept.save(SaveSnapshot(change.name, snapshot))

    return replace(kept, save=save)


def never_forgets(kept: Snapshots) -> Snapshots:
    async def delete(_: str) -> None: ...

    return replace(kept, delete=delete)


# Broken dead letters.


def keeps_the_first_failure(kept: DeadLetters) -> DeadLetters:
    async def save(change: SaveDeadLetter) -> None:
        letter = change.letter
        if await kept.get(letter.subscription, letter.event_id) is None:
            await kept.save(change)

    return replace(kept, save=save)


def mixes_subscriptions(kept: DeadLetters) -> DeadLetters:
    async def every(_: str | None = None, **asked: Any) -> Any:
        return await kept.list(None, **asked)

    return replace(kept, list=every)


def brings_letters_back(kept: DeadLetters) -> DeadLetters:
    async def update(letter: DeadLetter, was: DeadLetter) -> bool:
        if await kept.update(letter, was):
            return True
        if await kept.get(was.subscription, was.event_id) is None:
            await kept.save(SaveDeadLetter(letter))
            return True
        return False

    return replace(kept, update=update)


def ignores_the_limit(kept: DeadLetters) -> DeadLetters:
    async def every(subscription: str | None = None, **asked: Any) -> Any:
        return await kept.list(subscription, **{**asked, "limit": 100})

    return replace(kept, list=every)


# Broken leases.


def gives_every_lease(kept: Leases) -> Leases:
    async def acquire(name: str, _: str, ttl: Any) -> Any:
        return await kept.acquire(name, "everyone", ttl)

    return replace(kept, acquire=acquire)


def has_one_lease(kept: Leases) -> Leases:
    async def acquire(_: str, owner: str, ttl: Any) -> Any:
        return await kept.acquire("the one", owner, ttl)

    return replace(kept, acquire=acquire)


def renews_what_is_lost(kept: Leases) -> Leases:
    async def renew(lease: Any, ttl: Any) -> Any:
        return await kept.renew(lease, ttl) or lease

    return replace(kept, renew=renew)


def never_releases(kept: Leases) -> Leases:
    async def release(_: Any) -> None: ...

    return replace(kept, release=release)


# Broken buses.


class TellsSubclasses(InMemoryEventBus):
    async def publish(self, events: Any, background: bool = False) -> None:
        await super().publish(events, background)
        for event in events:
            for outlet in self._by_type.get(DomainEvent, ()):
                outlet.queue.append(event)
                await self._working(outlet)


class ForgetsEvents(InMemoryEventBus):
    async def publish(self, events: Any, background: bool = False) -> None:
        await super().publish(events[:4], background)


class TurnsEventsRound(InMemoryEventBus):
    async def publish(self, events: Any, background: bool = False) -> None:
        await super().publish(events[::-1], background)


class NeverUnsubscribes(InMemoryEventBus):
    def unsubscribe(self, *_: Any) -> bool:
        return True


class KeepsWildcards(InMemoryEventBus):
    def unsubscribe_from_all_events(self, handler: Any) -> bool:
        return any(outlet.handler == handler for outlet in self._wildcards)


class RaisesWhatHandlersRaise(InMemoryEventBus):
    async def publish(self, events: Any, background: bool = False) -> None:
        await super().publish(events, background)
        if self.get_stats()["handler_errors"]:
            raise ValueError


class WaitsForEver(InMemoryEventBus):
    async def publish(self, events: Any, background: bool = False) -> None:
        await super().publish(events, background)
        while self.get_background_task_count():
            await asyncio.sleep(0.01)


class AwaitsHandlersOnly(InMemoryEventBus):
    def subscribe(self, event_type: Any, handler: Any) -> None:
        if not hasattr(handler, "append"):
            super().subscribe(event_type, getattr(handler, "handle", None))


BROKEN: dict[str, list[Any]] = {
    "checkpoints": [
        moves_from_anywhere,
        never_goes_back,
        reads_before_it_writes,
        keeps_deleted_ones,
        deletes_to_start,
        has_32_bits,
    ],
    "snapshots": [
        keeps_text_only,
        keeps_the_highest_version,
        forgets_the_schema,
        never_forgets,
    ],
    "dead letters": [
        keeps_the_first_failure,
        mixes_subscriptions,
        brings_letters_back,
        ignores_the_limit,
    ],
    "leases": [gives_every_lease, has_one_lease, renews_what_is_lost, never_releases],
    "bus": [
        TellsSubclasses,
        ForgetsEvents,
        TurnsEventsRound,
        NeverUnsubscribes,
        KeepsWildcards,
        RaisesWhatHandlersRaise,
        WaitsForEver,
        AwaitsHandlersOnly,
    ],
}


@pytest.mark.parametrize(
    ("kind", "broken"),
    [(kind, broken) for kind, all in BROKEN.items() for broken in all],
    ids=lambda value: getattr(value, "__name__", value),
)
async def test_broken_ones_fail(
    kind: str, broken: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that is broken on purpose fails at least one check, with a reason."""
    monkeypatch.setattr("evsrc.testing.buses._SOON", 0.2)
    checks, make = MAKERS[kind]
    failed: list[str] = []
    for check in checks:
        bus = isinstance(broken, type) and issubclass(broken, EventBus)
        try:
            await check(broken() if bus else broken(make()))
        except Exception:  # the first reason is enough
            failed.append(check.__name__)
            break
    assert failed, "the suite let it pass"
