"""Run workers against each other, crash them, and check what evsrc guarantees.

A scenario starts workers in a `World`: a memory store behind a slow and unreliable
network, on a clock that jumps. Everything that is up to chance comes from one seed, so
that a run that breaks an invariant is repeated exactly by `simulate(scenario, seed=n)`.
`simulations(scenario)` is the test: many runs, and the seed of the first that fails.

The method is that of FoundationDB (Zhou et al., "FoundationDB: A Distributed Unbundled
Transactional Key Value Store", 2021, section 4); leaving kinds of faults out at random
is swarm testing (Groce et al., 2012).
"""

from __future__ import annotations

import logging
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from typing import Final, TypeAlias

from msgspec import Struct

from .clock import StuckError, virtual_loop
from .history import History
from .invariants import broken
from .world import Chaos, World

Scenario: TypeAlias = Callable[[World], Awaitable[None]]
_STEP: Final = 0.0005
_LINES: Final = 25


class SimulationError(AssertionError):
    """A simulated run went wrong.

    Attributes:
        seed: give it to `simulate` to see the same run again.
        problems: what was wrong, one sentence each.
        trace: what happened, one line for each event of note, in order.
    """

    def __init__(self, seed: int, problems: list[str], trace: list[str]) -> None:
        shown = "\n  ".join(problems[:5])
        last = "\n  ".join(trace[-_LINES:])
        super().__init__(
            f"the run of seed {seed} went wrong; simulate(..., seed={seed}) repeats it"
            f"\n  {shown}\nthe end of it:\n  {last}"
        )
        self.seed = seed
        self.problems = problems
        self.trace = trace


class Run(Struct, frozen=True):
    """A run that went well."""

    seed: int
    history: History
    trace: list[str]
    seconds: float


def simulate(scenario: Scenario, *, seed: int, chaos: Chaos | None = None) -> Run:
    """Run *scenario* once, and check the invariants at its end.

    Args:
        scenario: `async def scenario(world)`: starts workers with `world.run` and
            `world.serve`. It may `await world.settle()` and then check what it likes.
        seed: of everything that is up to chance. The scenario takes its own chance
            from `world.chance`; ids and times that it makes itself are not repeated.
        chaos: which faults there are, and how many crashes.

    Raises:
        SimulationError: an invariant does not hold, a worker failed with an error that
            is not evsrc's, or somebody waits for ever. It says what and shows the end.
    """
    before = random.getstate()
    random.seed(seed)  # the jitter of the library itself
    try:
        with _quiet(), virtual_loop(seed, step=_STEP) as loop:
            loop.set_exception_handler(lambda _loop, _told: None)
            world = World(loop, seed, chaos or Chaos())
            try:
                loop.run_until_complete(_main(world, scenario))
            except (StuckError, AssertionError, TimeoutError) as error:
                world.problems.append(f"{type(error).__name__}: {error}")
    finally:
        random.setstate(before)
    problems = [*world.problems, *broken(world.history)]
    if problems:
        raise SimulationError(seed, problems, world.trace)
    return Run(seed, world.history, world.trace, loop.time())


async def _main(world: World, scenario: Scenario) -> None:
    await scenario(world)
    await world.settle()


@contextmanager
def _quiet() -> Generator[None]:
    """Keep failures that are meant to be out of the log."""
    logger = logging.getLogger("evsrc")
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


def simulations(
    scenario: Scenario, runs: int = 2000, *, first: int = 0, chaos: Chaos | None = None
) -> dict[str, int]:
    """Run *scenario* with *runs* seeds, from *first* on; the test in one line.

    Returns what happened in all runs together: events, commands, crashes, faults.

    Raises:
        SimulationError: of the first seed whose run goes wrong.
    """
    totals = Counter[str]()
    for seed in range(first, first + runs):
        history = simulate(scenario, seed=seed, chaos=chaos).history
        totals.update(
            runs=1,
            events=len(history.log),
            commands=len(history.decisions),
            crashes=history.crashes,
            faults=history.faults,
        )
    return dict(totals)
