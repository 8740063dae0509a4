"""Check that an event bus keeps what `evsrc.EventBus` promises.

Each check is a coroutine function that takes a fresh bus and raises AssertionError
where it breaks a promise:

    @pytest.mark.parametrize("check", bus_checks, ids=lambda check: check.__name__)
    async def test_my_bus(check):
        await check(MyBus())

A bus may deliver late and more than once, as brokers do; never out of order.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final
from uuid import uuid4

from ..facade.bus import EventBus
from ..facade.events import DomainEvent, register_event
from ._bench import checks_of

_SOON: Final = 5.0


@register_event
class Rang(DomainEvent):
    """An event of the checks."""

    event_type: str = "evsrc-check-rang"
    aggregate_type: str = "Bell"
    n: int


@register_event
class Fell(DomainEvent):
    """Another event of the checks."""

    event_type: str = "evsrc-check-fell"
    aggregate_type: str = "Bell"
    n: int


def _rang(*numbers: int) -> list[DomainEvent]:
    return [Rang(aggregate_id=uuid4(), n=n) for n in numbers]


class _Ear:
    """A handler that remembers what it heard, and can be waited for."""

    def __init__(self, wants: Sequence[type[DomainEvent]] = ()) -> None:
        self.heard: list[DomainEvent] = []
        self.wants = wants
        self._news = asyncio.Event()

    def subscribed_to(self) -> Sequence[type[DomainEvent]]:
        return self.wants

    async def handle(self, event: DomainEvent) -> None:
        if event not in self.heard:  # a repetition is allowed
            self.heard.append(event)
        self._news.set()

    async def has_heard(self, events: Sequence[DomainEvent]) -> None:
        """Wait until all of *events*, and nothing else, was heard in this order."""
        with suppress(TimeoutError):  # what is missing is shown below
            async with asyncio.timeout(_SOON):
                while len(self.heard) < len(events):
                    self._news.clear()
                    await self._news.wait()
        assert self.heard == list(events), f"heard {self.heard}, published {events}"


async def tells_those_who_asked(bus: EventBus) -> None:
    """A handler gets the events of exactly its class; one for all events gets all."""
    rang, fell, everything = _Ear(), _Ear(), _Ear()
    bus.subscribe(Rang, rang)
    bus.subscribe(Fell, fell)
    bus.subscribe(DomainEvent, base := _Ear())
    bus.subscribe_to_all_events(everything)
    events = [*_rang(1, 2), Fell(aggregate_id=uuid4(), n=3), *_rang(4)]
    await bus.publish(events)
    await everything.has_heard(events)
    await rang.has_heard([events[0], events[1], events[3]])
    await fell.has_heard([events[2]])
    assert base.heard == [], "a handler got events of a subclass"


async def takes_handlers_of_any_kind(bus: EventBus) -> None:
    """Functions and objects with `handle`, sync or not, and those that name classes."""
    calls: list[Any] = []
    bus.subscribe(Rang, calls.append)
    bus.subscribe_all(ear := _Ear([Rang, Fell]))
    events = [*_rang(1), Fell(aggregate_id=uuid4(), n=2)]
    await bus.publish(events)
    await ear.has_heard(events)
    await bus.publish(last := _rang(3))
    await ear.has_heard([*events, *last])
    assert [event.n for event in calls][:2] == [1, 3]


async def keeps_the_order(bus: EventBus) -> None:
    """Each handler gets the events in the order of `publish`, in any case."""
    ear = _Ear()
    bus.subscribe_to_all_events(ear)
    batches = [_rang(*range(n, n + 5)) for n in range(0, 50, 5)]
    for n, batch in enumerate(batches):
        await bus.publish(batch, background=n % 2 == 0)
    await ear.has_heard([event for batch in batches for event in batch])


async def stops_telling(bus: EventBus) -> None:
    """After it is unsubscribed a handler gets nothing; whether it was there is told."""
    once, always, gone = _Ear(), _Ear(), _Ear()
    bus.subscribe(Rang, once)
    bus.subscribe(Rang, always)
    bus.subscribe_to_all_events(gone)
    await bus.publish(first := _rang(1))
    for ear in (once, always, gone):
        await ear.has_heard(first)
    assert bus.unsubscribe(Rang, once), "it was subscribed"
    assert not bus.unsubscribe(Rang, once), "it no longer was"
    assert not bus.unsubscribe(Fell, always), "it never was"
    assert bus.unsubscribe_from_all_events(gone), "it was subscribed"
    assert not bus.unsubscribe_from_all_events(gone), "it no longer was"
    await bus.publish(second := _rang(2))
    await always.has_heard([*first, *second])
    assert once.heard == gone.heard == first, "a handler that is gone was told"


async def survives_failing_handlers(bus: EventBus) -> None:
    """A handler that raises disturbs neither the publisher nor other handlers."""
    tried: list[DomainEvent] = []

    def fail(event: DomainEvent) -> None:
        tried.append(event)
        raise ValueError(event)

    bus.subscribe(Rang, fail)
    bus.subscribe(Rang, ear := _Ear())
    events = _rang(1, 2, 3)
    for event in events:
        await bus.publish([event])
    await ear.has_heard(events)
    assert tried, "the failing handler was never asked"


async def does_not_wait_for_ever(bus: EventBus) -> None:
    """A handler that hangs keeps neither the publisher nor other handlers waiting."""
    release = asyncio.Event()

    async def hang(_: DomainEvent) -> None:
        await release.wait()

    bus.subscribe(Rang, hang)
    bus.subscribe(Rang, ear := _Ear())
    events = _rang(1, 2, 3)
    try:
        for event in events:
            await asyncio.wait_for(bus.publish([event]), _SOON)
        await ear.has_heard(events)
    finally:
        release.set()
        await asyncio.sleep(0)


bus_checks: Final = checks_of(__name__, "EventBus")
"""All checks; each takes a fresh bus."""
