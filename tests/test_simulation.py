"""Simulations pass with the real code, and find what is planted in copies of it."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from evsrc import StreamName, Write, new_event
from evsrc.core.expectation import ANY
from evsrc.ports import SaveCheckpoint
from evsrc.runtime.handling import _Progress
from evsrc.runtime.loop import Loop
from evsrc.runtime.transact import transact
from evsrc.stores.memory import memory_store
from evsrc.stores.records import MemoryRecords
from evsrc.testing import (
    Chaos,
    Fact,
    SimulationError,
    Worker,
    World,
    simulate,
    simulations,
)
from tests.planted import Defect
from tests.simulated import ACCOUNT, bank, desk

SCENARIOS = [bank, desk]
PLANTS: list[tuple[Callable[[World], Any], str, Defect]] = [
    (bank, "I9: the checkpoint of", Defect(
        "checkpoint before handling",
        lambda: Loop._deliver,
        "        await self._way.deliver(page, self._ours(page.events))",
        "        before, run.position = run.position, page.reached\n"
        "        await saver.commit(None)\n"
        "        run.position = before\n"
        "        await self._way.deliver(page, self._ours(page.events))",
    )),
    (bank, "I9: .* never handled", Defect(
        "wake-up lost for good",
        lambda: Loop._wait_for_more,
        "timeout=self._delivery.poll",
        "timeout=__import__('datetime').timedelta(days=999)",
    )),
    (bank, "I8: ", Defect(
        "conflict ignored",
        lambda: transact,
        "for e in events], version)",
        "for e in events], __import__('evsrc').ANY)",
    )),
    (desk, "I11: an append with token", Defect(
        "two owners of one lease",
        lambda: MemoryRecords.check,
        "if lease is None or lease.token != fence.token:",
        "if False:",
    )),
    (bank, "I9: 'ledger' in ledger", Defect(
        "two workers on one stream",
        lambda: _Progress.__init__,
        "streams.setdefault(recorded.stream, deque())",
        "streams.setdefault(index, deque())",
    )),
    (bank, "I8: ", Defect(
        "cache not invalidated",
        lambda: transact,
        "if not certain and not _decides(decider, state, command):",
        "if False:",
    )),
    (bank, "I3: command .* took effect 2 times", Defect(
        "retry without dedup",
        lambda: transact,
        "envelop(e, metadata)",
        "new_event(e, metadata)",
    )),
    (bank, "I9: .* handled .* after", Defect(
        "page boundary skipped",
        lambda: Loop._next_page,
        "self._read(page.reached)",
        "self._read(page.reached + 1)",
    )),
    (bank, "I5: the page after", Defect(
        "head read after rows",
        lambda: memory_store().read_all.__func__,  # type: ignore[attr-defined]
        "return self.page(query, after, limit, self.visible(), backward=backward)",
        "page = self.page(query, after, limit, self.visible(), backward=backward)\n"
        "    await __import__('asyncio').sleep(0.01)\n"
        "    head = len(self.log)\n"
        "    reached = head if page.reached == page.head else page.reached\n"
        "    return Page(page.events, reached, head)",
    )),
]  # fmt: skip


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_the_real_code_passes(scenario: Any) -> None:
    """300 runs, with crashes, lost replies, deafness and races: nothing is broken."""
    done = simulations(scenario, 300)
    print(f"{scenario.__name__}: {done}")
    assert done["runs"] == 300
    assert min(done["events"], done["crashes"], done["faults"]) > 300


@pytest.mark.soak
@pytest.mark.timeout(600)
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_the_real_code_passes_for_long(scenario: Any) -> None:
    """The same for 2,000 further seeds."""
    print(f"{scenario.__name__}: {simulations(scenario, 2000, first=300)}")


@pytest.mark.parametrize(
    ("scenario", "problem", "defect"), PLANTS, ids=[p[2].name for p in PLANTS]
)
def test_planted_defects_are_found(
    scenario: Any, problem: str, defect: Defect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some seed finds the defect and repeats it exactly; the real code passes there."""
    with monkeypatch.context() as patch:
        defect.plant(patch)
        with pytest.raises(SimulationError, match=problem) as caught:
            simulations(scenario, 300)
        found = caught.value
        with pytest.raises(SimulationError) as again:
            simulate(scenario, seed=found.seed)
    assert again.value.trace == found.trace
    assert again.value.problems == found.problems
    assert f"seed={found.seed}" in str(found)
    simulate(scenario, seed=found.seed)
    print(f"{defect.name}: seed {found.seed}: {found.problems[0]}")


def test_a_plant_that_no_longer_fits_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """When the code has moved on, a plant says so, and changes nothing."""
    before = transact.__code__
    with pytest.raises(AssertionError, match="'no such code' is in transact 0 times"):
        Defect("old", lambda: transact, "no such code", "").plant(monkeypatch)
    assert transact.__code__ is before


REPLAY = """
import hashlib
from evsrc.testing import simulate
from tests.simulated import bank
print(hashlib.sha1(repr([simulate(bank, seed=n).trace for n in range(20)]).encode()).hexdigest())
"""


def test_a_seed_means_the_same_in_every_process() -> None:
    """Neither the hashes of strings nor the addresses of objects change a run."""
    said = {
        subprocess.run(
            [sys.executable, "-c", REPLAY],
            cwd=Path(__file__).parent.parent,
            env={"PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for hash_seed in ("1", "2", "3")
    }
    assert len(said) == 1


CALM = Chaos(crashes=0, failing=0, losing=0, doubling=0, deafness=0)


@pytest.mark.parametrize(
    ("chaos", "seen"),
    [
        (CALM, set()),
        (Chaos(crashes=3, failing=0, losing=0, doubling=0, deafness=0), {"crashes"}),
        (Chaos(crashes=0, failing=0.2, losing=0, doubling=0), {"Fail"}),
        (Chaos(crashes=0, failing=0, losing=0.2, doubling=0), {"LoseReply", "late"}),
        (Chaos(crashes=0, failing=0, losing=0, doubling=0.2), {"Duplicate"}),
    ],
)
def test_chaos_is_what_was_asked_for(chaos: Chaos, seen: set[str]) -> None:
    """Each kind of fault comes if it has a share, and only then."""
    words = ("crashes", "Fail", "LoseReply", "late", "Duplicate")
    lines = [
        line
        for seed in range(20)
        for line in simulate(bank, seed=seed, chaos=chaos).trace
    ]
    assert {
        word for word in words if any(line.endswith(word) for line in lines)
    } == seen


def test_deafness_and_latency_cost_time_only() -> None:
    """A run in which no wake-up arrives, or replies are slow, takes longer."""

    def seconds(**chaos: Any) -> float:
        options = {"crashes": 0, "failing": 0, "losing": 0, "doubling": 0, **chaos}
        return sum(
            simulate(bank, seed=seed, chaos=Chaos(**options)).seconds
            for seed in range(20)
        )

    quick = seconds(deafness=0)
    assert seconds(deafness=1.0) > quick * 1.1
    assert seconds(deafness=0, latency=timedelta(seconds=2)) > quick * 3


def test_crashes_come_within_the_time_they_are_given() -> None:
    """The last crash comes when the scenario says at the latest."""
    chaos = Chaos(crashes=9, within=timedelta(seconds=0.3))
    times = [
        float(line.split()[0])
        for seed in range(20)
        for line in simulate(bank, seed=seed, chaos=chaos).trace
        if line.endswith("crashes")
    ]
    assert len(times) > 40
    assert max(times) < 0.4


def test_a_crash_does_not_call_requests_back() -> None:
    """What a worker had sent before it crashed may still take effect afterwards."""
    late = 0
    for seed in range(50):
        crashed: set[str] = set()
        for line in simulate(bank, seed=seed).trace:
            _, who, what = line.split(maxsplit=2)
            if what == "crashes":
                crashed.add(who)
            elif what == "begins":
                crashed.discard(who)
            late += what.startswith("appends") and who in crashed
    assert late > 0


def test_a_worker_s_own_error_fails_the_run() -> None:
    """An error that is not evsrc's is the scenario's bug; the seed is reported."""

    async def scenario(world: World) -> None:
        async def buggy(_: Worker) -> None:
            raise ZeroDivisionError("oh")

        world.run("buggy", buggy)

    with pytest.raises(SimulationError, match=r"worker 'buggy' raised ZeroDivisionErr"):
        simulate(scenario, seed=7, chaos=CALM)


def test_a_worker_that_never_ends_fails_the_run() -> None:
    """Work that takes longer than the patience is a problem, not an endless test."""

    async def scenario(world: World) -> None:
        async def waits(_: Worker) -> None:
            await asyncio.Event().wait()

        world.run("waits", waits)

    chaos = Chaos(patience=timedelta(hours=3))
    with pytest.raises(SimulationError, match="worker 'waits' is at work for 3:00:00"):
        simulate(scenario, seed=1, chaos=chaos)


def test_names_of_workers_are_unique() -> None:
    """Two workers of one name are a mistake that is reported."""

    async def scenario(world: World) -> None:
        async def idle(_: Worker) -> None: ...

        world.run("same", idle)
        world.serve("same", idle)

    with pytest.raises(ValueError, match="a worker 'same' already"):
        simulate(scenario, seed=1)


def test_a_scenario_checks_what_it_likes() -> None:
    """After `settle` all is done and delivered; a failed assertion has the seed."""
    seen: list[int] = []

    async def scenario(world: World) -> None:
        stream = StreamName("s", "1")
        await world.store.append(Write(stream, [new_event(Fact(0))], ANY))
        handled: set[int] = set()

        async def work(worker: Worker) -> None:
            for n in range(1, 5):
                await worker.transact(
                    ACCOUNT, StreamName("account", "a"), n, key=f"{n}"
                )

        async def read(worker: Worker) -> None:
            async def handle(recorded: Any) -> None:
                handled.add(recorded.position)

            await worker.subscribe("all", handle)

        world.run("work", work)
        world.serve("read", read)
        await world.settle()
        assert await world.store.head() == 5
        assert handled == set(range(1, 6))
        seen.append(len(handled))
        assert len(seen) < 3, "enough"

    with pytest.raises(SimulationError, match="seed 2 went wrong.*\n.*enough"):
        simulations(scenario, 9)
    assert seen == [5, 5, 5]


async def test_a_simulation_has_a_loop_of_its_own() -> None:
    """Inside a running loop it is refused, with what to do instead."""
    with pytest.raises(RuntimeError, match="call this from a plain function"):
        simulate(bank, seed=1)


@pytest.mark.parametrize("due", ["skipped", "parked", "letters", "held"])
def test_events_put_aside_are_not_missed(due: str) -> None:
    """An event that the policy skips or parks counts as dealt with, in its order."""
    from evsrc import Delivery, Park, Skip

    async def scenario(world: World) -> None:
        parked: list[int] = []

        async def work(worker: Worker) -> None:
            for n in range(1, 7):
                await worker.transact(ACCOUNT, StreamName("account", "a"), n)

        async def read(worker: Worker) -> None:
            async def handle(recorded: Any) -> None:
                if recorded.event.amount % 3 == 0:
                    raise ValueError(recorded.event.amount)

            async def park(event: Any) -> None:
                parked.append(event.recorded.position)

            outcome = Skip() if due == "skipped" else Park()
            delivery: Delivery[Any] = Delivery(
                page=2,
                on_failure=lambda _: outcome,
                park=None if due in ("letters", "held") else park,
                hold_streams=due == "held",
            )
            await worker.subscribe("picky", handle, delivery)

        world.run("work", work)
        world.serve("read", read)
        await world.settle()
        assert set(parked) == ({3, 6} if due == "parked" else set())
        letters = {letter.position for letter in await world.store.dead_letters.list()}
        held = set(range(3, 7)) if due == "held" else set()
        assert letters == ({3, 6} if due == "letters" else held)

    simulations(scenario, 30)


def test_checkpoints_that_go_ahead_are_seen() -> None:
    """A handler that moves its own checkpoint forward breaks an invariant."""

    async def scenario(world: World) -> None:
        async def work(worker: Worker) -> None:
            for n in range(1, 4):
                await worker.transact(ACCOUNT, StreamName("account", "a"), n)

        async def read(worker: Worker) -> None:
            async def handle(recorded: Any) -> None:
                ahead = SaveCheckpoint("hasty", recorded.position + 1)
                await worker.store.checkpoints.save(ahead)

            await worker.subscribe("hasty", handle)

        world.run("work", work)
        world.serve("read", read)

    with pytest.raises(SimulationError, match="was not handled"):
        simulations(scenario, 20)
