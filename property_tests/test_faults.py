"""Whatever is planned for a store: decisions are recorded once, delivery loses nothing."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid5

import pytest
from hypothesis import find, given, settings
from hypothesis import strategies as st

from evsrc import (
    ANY,
    AppendOutcomeUnknownError,
    Decider,
    Delivery,
    NewEvent,
    StoreError,
    StreamName,
    SubscriptionError,
    Write,
    memory_store,
    subscribe,
    transact,
)
from evsrc.testing import (
    Cancel,
    Deafen,
    Delay,
    Duplicate,
    Fact,
    Fail,
    Fault,
    LoseReply,
    fault_plans,
    faulty,
    new_events,
    run_virtually,
)

STREAM = StreamName("s", "1")
NUMBERS: Decider[int, int, Fact] = Decider(
    lambda _, n: [Fact(n)], lambda count, _: count + 1, 0
)


@given(fault_plans(ports=["append", "load_events"]))
def test_a_retried_command_takes_effect_once(plan: Any) -> None:
    """A client that sends each command until it is answered has each recorded once."""

    async def send(store: Any, n: int) -> None:
        def envelop(event: Fact, metadata: Any) -> NewEvent[Fact]:
            return NewEvent(event, uuid5(UUID(int=1), str(n)), metadata)

        while True:
            try:
                await asyncio.create_task(
                    transact(store, NUMBERS, STREAM, n, envelop=envelop)
                )
            except (StoreError, asyncio.CancelledError):
                continue
            return

    async def main() -> None:
        kept = memory_store()
        store = faulty(kept, plan)
        for n in range(5):
            await send(store, n)
        assert (await kept.load_events(STREAM)).events == [Fact(n) for n in range(5)]

    run_virtually(main())


@given(plan=fault_plans(), count=st.integers(0, 12), page=st.integers(1, 4))
def test_a_restarted_subscription_handles_all(plan: Any, count: int, page: int) -> None:
    """Whatever fails, each event is handled, in order, if it is started again."""

    async def main() -> None:
        kept = memory_store()
        store, handled = faulty(kept, plan), list[int]()
        if count:
            await kept.append(
                *(_write(n) for n in range(count)),
            )

        async def handle(recorded: Any) -> None:
            if recorded.position not in handled:
                handled.append(recorded.position)

        while True:
            subscription = subscribe(store, "s", handle, Delivery(page=page))
            subscription.start()
            try:
                await subscription.wait_for(count, timedelta(hours=1))
            except (SubscriptionError, TimeoutError):
                continue
            finally:
                await subscription.stop()
            break
        assert handled == list(range(1, count + 1))

    run_virtually(main())


def _write(n: int) -> Any:
    return Write(StreamName("s", str(n % 2)), new_events(Fact(n)), ANY)


@given(fault_plans(most=8, calls=3))
def test_plans_are_what_they_say(plan: tuple[Fault, ...]) -> None:
    """A plan has one fault for a call, early calls, and errors that fit the function."""
    assert len({(fault.port, fault.call) for fault in plan}) == len(plan) <= 8
    for fault in plan:
        assert 1 <= fault.call <= 3
        match fault.effect:
            case Duplicate():
                assert not fault.port.endswith("save")
            case LoseReply(error):
                unknown = isinstance(error, AppendOutcomeUnknownError)
                assert unknown == (fault.port in ("append", "checkpoints.save"))
            case _:
                pass


@pytest.mark.parametrize("kind", [Fail, Delay, Duplicate, LoseReply, Cancel, Deafen])
def test_every_kind_is_drawn_and_shrinks(kind: Any) -> None:
    """Each kind of fault is found, and the smallest plan with it is one early fault."""
    plan = find(
        fault_plans(),
        lambda plan: any(isinstance(fault.effect, kind) for fault in plan),
        settings=settings(max_examples=2000, database=None),
    )
    (fault,) = plan
    assert fault.call == 1


@given(fault_plans(ports=["head", "append"], effects=[Fail], calls=1))
def test_ports_and_effects_are_those_asked_for(plan: tuple[Fault, ...]) -> None:
    """Only these functions are disturbed, in this way."""
    for fault in plan:
        assert fault.port in ("head", "append")
        assert isinstance(fault.effect, Fail)
        assert fault.call == 1
