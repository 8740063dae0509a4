"""Faults befall the calls that were planned, on every store, and no others."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from datetime import timedelta
from typing import Any

import pytest

from evsrc import ANY, AppendOutcomeUnknownError, StoreBusyError, StreamName, Write
from evsrc.ports import Appended, EventStore, SaveCheckpoint
from evsrc.testing import (
    PORTS,
    Cancel,
    Deafen,
    Delay,
    Duplicate,
    Fact,
    Fail,
    Fault,
    InjectedError,
    LoseReply,
    StuckError,
    Trap,
    Work,
    cancel_everywhere,
    fail_everywhere,
    faulty,
    intercepted,
    new_events,
    run_virtually,
)

Store = EventStore[Any]
STREAM = StreamName("s", "1")
HOUR = timedelta(hours=1)


def write(n: int) -> Write[Any]:
    return Write(STREAM, new_events(Fact(n)), ANY)


async def version(store: Store) -> int:
    return (await store.load_events(STREAM)).version


async def test_a_failing_call_is_not_made(store: Store) -> None:
    """The planned call raises, and has no effect; those around it are as ever."""
    struck: list[Fault] = []
    plan = [Fault("append", 2, Fail(StoreBusyError("busy")))]
    bad = faulty(store, plan, struck=struck.append)
    await bad.append(write(1))
    assert struck == []
    with pytest.raises(StoreBusyError, match="busy"):
        await bad.append(write(2))
    await bad.append(write(3))
    assert [e.n for e in (await store.load_events(STREAM)).events] == [1, 3]
    assert struck == plan


async def test_a_lost_reply_hides_what_was_done(store: Store) -> None:
    """The effect is there, the caller has an error; sending it again is harmless."""
    lost = LoseReply(AppendOutcomeUnknownError("here"))
    bad = faulty(store, [Fault("append", 1, lost)])
    first = write(1)
    with pytest.raises(AppendOutcomeUnknownError):
        await bad.append(first)
    assert await version(store) == 1
    again = await bad.append(first)
    assert isinstance(again, Appended)
    assert again.repeated
    assert await version(store) == 1


async def test_a_doubled_call_gives_the_second_reply(store: Store) -> None:
    """The store sees it twice, and the caller what it said the second time."""
    bad = faulty(store, [Fault("append", 1, Duplicate())])
    done = await bad.append(write(1))
    assert isinstance(done, Appended)
    assert done.repeated
    assert await version(store) == 1


@pytest.mark.parametrize("after", [False, True])
async def test_a_cancelled_caller_is_cancelled_in_earnest(
    store: Store, after: bool
) -> None:
    """The calling task ends as cancelled, before or after the call took effect."""
    bad = faulty(store, [Fault("append", 1, Cancel(after=after))])
    task = asyncio.create_task(bad.append(write(1)))
    await asyncio.wait([task])
    assert task.cancelled()
    assert await version(store) == after


async def test_functions_of_records_are_meant_by_their_path(store: Store) -> None:
    """'checkpoints.save' is that function; its neighbours are left alone."""
    plan = [Fault("checkpoints.save", 1, Fail(StoreBusyError("busy")))]
    bad = faulty(store, plan)
    assert bad.append is store.append
    assert bad.checkpoints.load is store.checkpoints.load
    with pytest.raises(StoreBusyError):
        await bad.checkpoints.save(SaveCheckpoint("x", 1))
    assert await store.checkpoints.load("x") is None


def test_plans_that_mean_nothing_are_refused() -> None:
    """No such function, no such call, two faults at once, a deaf append."""
    with pytest.raises(ValueError, match="no function 'apend'; it has append, "):
        Fault("apend", 1, Duplicate())
    with pytest.raises(ValueError, match="counted from 1, not 0"):
        Fault("append", 0, Duplicate())
    with pytest.raises(ValueError, match="only 'changed' wakes anybody"):
        Fault("append", 1, Deafen())
    from evsrc import memory_store

    with pytest.raises(ValueError, match="two faults are planned for one call"):
        faulty(memory_store(), [Fault("head", 1, Duplicate())] * 2)


async def test_every_function_can_be_intercepted(store: Store) -> None:
    """What is around a store sees each of its functions by name, and its arguments."""
    seen: list[tuple[str, Any]] = []

    async def note(port: str, call: Any, /) -> None:
        seen.append((port, call.args))

    hollow: Any = intercepted(store, note)
    for port in PORTS:
        record, _, name = port.rpartition(".")
        await getattr(getattr(hollow, record) if record else hollow, name)(port)
    assert seen == [(port, (port,)) for port in PORTS]
    await intercepted(store.leases, note).release("x")  # type: ignore[arg-type]
    assert seen[-1] == ("release", ("x",))


# Time that jumps.


def test_delays_and_deafness_take_virtual_time() -> None:
    """Hours of delay and of deafness pass at once; a wake-up is not heard."""
    from evsrc import memory_store

    async def main() -> list[float]:
        loop = asyncio.get_running_loop()
        plan = [
            Fault("append", 1, Delay(3 * HOUR)),
            Fault("changed", 2, Deafen()),
            Fault("changed", 4, Deafen(forever=True)),
        ]
        store = faulty(memory_store(), plan)
        await store.append(write(1))
        times = [loop.time()]
        for _ in range(3):
            await store.changed(0, timeout=HOUR)
            times.append(loop.time())
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(24 * 3600):
                await store.changed(0, timeout=HOUR)
        return [*times, loop.time()]

    assert run_virtually(main()) == [10800, 10800, 14400, 18000, 104400]


def test_who_waits_for_ever_is_told() -> None:
    """When nothing can ever happen, the loop says who waits, and where."""

    async def waits() -> None:
        await asyncio.Event().wait()

    with pytest.raises(StuckError, match="nothing can ever happen again.*wait"):
        run_virtually(waits())


def test_chance_orders_what_is_ready() -> None:
    """Without a seed first come is first served; with one it is shuffled, repeatably."""

    async def main() -> tuple[int, ...]:
        order: list[int] = []

        async def note(n: int) -> None:
            order.append(n)

        async with asyncio.TaskGroup() as tasks:
            for n in range(6):
                tasks.create_task(note(n))
        return tuple(order)

    assert run_virtually(main()) == tuple(range(6))
    orders = [run_virtually(main(), seed=seed) for seed in range(20)]
    assert len(set(orders)) > 10
    assert orders == [run_virtually(main(), seed=seed) for seed in range(20)]


def test_callbacks_take_time_if_they_are_told_to() -> None:
    """A step moves the clock on with each callback, by at most so much."""

    async def main() -> float:
        for _ in range(100):
            await asyncio.sleep(0)
        return asyncio.get_running_loop().time()

    assert run_virtually(main(), seed=1) == 0
    assert 10 < run_virtually(main(), seed=1, step=1) < 110


def test_a_virtual_loop_has_no_threads() -> None:
    """What would need real time is refused rather than hanging."""

    async def main() -> None:
        await asyncio.to_thread(print)

    with pytest.raises(RuntimeError, match="no threads and no I/O"):
        run_virtually(main())


def test_what_is_left_over_is_cleaned_up() -> None:
    """Tasks and generators that the work leaves behind end with it."""
    ended: list[str] = []

    async def hangs() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("task")

    async def numbers() -> AsyncGenerator[int, None]:
        try:
            yield 1
        finally:
            await asyncio.sleep(0)
            ended.append("generator")

    async def main() -> asyncio.Task[None]:
        task = asyncio.create_task(hangs())
        kept.append(generator := numbers())
        await anext(generator)
        await asyncio.sleep(1)
        return task

    kept: list[Any] = []
    assert run_virtually(main()).cancelled()
    assert sorted(ended) == ["generator", "task"]


# Everywhere.


async def test_work_is_cut_at_each_await_once() -> None:
    """The n-th trial is cut at its n-th await; the last one runs through."""
    reached: list[int] = []

    async def trial(n: int) -> AsyncGenerator[Work, None]:
        steps: list[int] = []

        async def work() -> None:
            for step in range(5):
                await asyncio.sleep(0)
                steps.append(step)

        yield work()
        reached.append(len(steps))

    assert await cancel_everywhere(trial) == 5
    assert reached == [0, 1, 2, 3, 4, 5]


async def test_a_check_that_fails_is_the_trial_s() -> None:
    """What is not true after some cut fails the test."""

    async def trial(n: int) -> AsyncGenerator[Work, None]:
        done: list[str] = []

        async def work() -> None:
            done.append("half")
            await asyncio.sleep(0)
            done.append("whole")

        yield work()
        assert len(done) != 1, "half done"

    with pytest.raises(AssertionError, match="half done"):
        await cancel_everywhere(trial)


async def test_errors_of_the_work_itself_are_not_swallowed() -> None:
    """Only what was injected, or raised because of it, is expected."""

    async def breaks(trap: Trap) -> None:
        await trap.step(lambda: asyncio.sleep(0))
        raise ZeroDivisionError

    async def wraps(trap: Trap) -> None:
        try:
            await trap.step(lambda: asyncio.sleep(0))
        except InjectedError as error:
            raise ValueError("wrapped") from error

    async def bad(trap: Trap) -> AsyncGenerator[Work, None]:
        yield breaks(trap)

    async def good(trap: Trap) -> AsyncGenerator[Work, None]:
        yield wraps(trap)

    with pytest.raises(ZeroDivisionError):
        await fail_everywhere(bad)
    assert await fail_everywhere(good) == 2

    async def twice(trap: Trap) -> AsyncGenerator[Work, None]:
        yield wraps(trap)
        yield wraps(trap)

    with pytest.raises(TypeError, match="yields its work once"):
        await fail_everywhere(twice)


async def test_a_retried_append_is_there_once_wherever_it_failed(store: Store) -> None:
    """At each step of append and retry a failure leaves none or one; the retry, one."""
    done: list[int] = []

    async def trial(trap: Trap) -> AsyncGenerator[Work, None]:
        stream = StreamName("trial", str(trap.n))
        new = Write(stream, new_events(Fact(1), Fact(2)), ANY)
        yield trap.over(store).append(new)
        done.append((await store.load_events(stream)).version)
        assert isinstance(await store.append(new), Appended)
        assert (await store.load_events(stream)).version == 2

    assert await fail_everywhere(trial) == 2
    assert done == [0, 2, 2]
