"""One timer limits calls that follow one another, each by its own time."""

from __future__ import annotations

import asyncio

import pytest

from evsrc.stores.postgresql.connections import Limit
from evsrc.testing import run_virtually


async def call(limit: Limit, seconds: float) -> None:
    with limit:
        await asyncio.sleep(seconds)


async def test_a_call_that_takes_too_long_is_ended() -> None:
    """By a TimeoutError, which leaves nothing of the cancellation behind."""
    limit, task = Limit(0.05), asyncio.current_task()
    assert task is not None
    for _ in range(2):
        with pytest.raises(TimeoutError):
            await call(limit, 3600)
        assert not task.cancelling()
    await call(limit, 0)


def test_each_call_has_the_whole_time() -> None:
    """Also the one that runs when the timer of the first goes off."""

    async def calls() -> None:
        limit, loop = Limit(1), asyncio.get_running_loop()
        for _ in range(4):
            await call(limit, 0.4)
        began = loop.time()
        with pytest.raises(TimeoutError):
            await call(limit, 3600)
        assert loop.time() - began == pytest.approx(1)

    run_virtually(calls())


async def test_nobody_is_cancelled_after_a_call() -> None:
    """The timer finds nobody."""
    limit = Limit(0.05)
    await call(limit, 0)
    await asyncio.sleep(0.2)
    await call(limit, 0)


async def test_a_cancellation_by_others_goes_on() -> None:
    """Also if the call was too late as well."""
    limit = Limit(0.05)
    calling = asyncio.create_task(call(limit, 3600))
    await asyncio.sleep(0)
    calling.cancel()
    await asyncio.wait([calling])
    assert calling.cancelled()

    both = asyncio.create_task(call(limit, 3600))
    await asyncio.sleep(0)
    limit._ends = 0
    limit._look(asyncio.get_running_loop())
    both.cancel()
    await asyncio.wait([both])
    assert both.cancelled()
