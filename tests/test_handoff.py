"""A thread hands something to a task, whoever comes first, and only once."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar

import pytest

from evsrc.stores.handoff import Handoff

LIMIT = 10


def in_thread(work: Callable[[], object]) -> None:
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()


async def take(handoff: Handoff[int]) -> int:
    async with asyncio.timeout(LIMIT):
        return await handoff


@pytest.mark.parametrize("early", [True, False])
async def test_a_result_and_an_error_arrive(*, early: bool) -> None:
    """Before somebody waits for them, and while he does."""
    for raises in (False, True):
        handoff: Handoff[int] = Handoff()
        taking = None if early else asyncio.create_task(take(handoff))
        await asyncio.sleep(0)
        assert not handoff.done()
        if raises:
            in_thread(lambda: handoff.set_exception(KeyError("told")))  # noqa: B023
        else:
            in_thread(lambda: handoff.set_result(7))  # noqa: B023
        assert handoff.done()
        if raises:
            with pytest.raises(KeyError, match="told"):
                await (taking or take(handoff))
        else:
            assert await (taking or take(handoff)) == 7


async def test_a_task_that_begins_to_wait_too_late_is_woken() -> None:
    """The thread was faster, by a moment."""
    handoff, woken = Handoff[int](), list[object]()
    in_thread(lambda: handoff.set_result(7))
    handoff.add_done_callback(woken.append)
    await asyncio.sleep(0)
    assert woken == [handoff]


async def test_one_turn_of_the_loop_is_enough() -> None:
    """With a future of asyncio's own the task would run in the turn after it."""
    handoff: Handoff[int] = Handoff()
    taking = asyncio.create_task(take(handoff))
    await asyncio.sleep(0)
    in_thread(lambda: handoff.set_result(7))
    await asyncio.sleep(0)
    assert taking.done()


async def test_a_task_that_is_cancelled_takes_nothing() -> None:
    """What comes then is dropped; what came before is too late to be cancelled."""
    handoff: Handoff[int] = Handoff()
    taking = asyncio.create_task(take(handoff))
    await asyncio.sleep(0)
    taking.cancel()
    in_thread(lambda: handoff.done() or handoff.set_result(7))
    await asyncio.wait([taking])
    assert taking.cancelled()

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await Handoff[int]()

    handoff = Handoff()
    handoff.set_result(7)
    assert not handoff.cancel()
    assert await handoff == 7


async def test_the_task_keeps_its_context() -> None:
    """As with every other await."""
    name: ContextVar[str] = ContextVar("name", default="nobody")
    handoff: Handoff[int] = Handoff()

    async def named() -> str:
        name.set("ann")
        await take(handoff)
        return name.get()

    taking = asyncio.create_task(named())
    await asyncio.sleep(0)
    in_thread(lambda: handoff.set_result(7))
    assert await taking == "ann"


async def test_many_threads_and_a_task_that_gives_up_meet_in_any_order() -> None:
    """Each task ends once, with what a thread gave it or cancelled."""
    outcomes = {"taken": 0, "cancelled": 0}
    with ThreadPoolExecutor(4) as threads:
        for n in range(2000):
            handoff: Handoff[int] = Handoff()
            taking = asyncio.create_task(take(handoff))
            if n % 3:
                await asyncio.sleep(0)
            given = [threads.submit(handoff.set_result, each) for each in (n, n)]
            if n % 2:
                taking.cancel()
            async with asyncio.timeout(LIMIT):
                await asyncio.wait([taking])
            if taking.cancelled():
                outcomes["cancelled"] += 1
            else:
                assert taking.result() == n
                outcomes["taken"] += 1
            assert all(future.exception() is None for future in given)
    assert outcomes["taken"] >= 1000
    assert outcomes["cancelled"] > 0
