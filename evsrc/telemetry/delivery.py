"""Give a `subscribe` whose deliveries are spans, and are counted."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from opentelemetry.context import Context
from opentelemetry.metrics import MeterProvider
from opentelemetry.trace import SpanKind, TracerProvider

from ..core.event import E, Recorded
from ..core.policy import Failure, Outcome, Retry
from ..ports import EventStore, Transaction
from ..runtime.delivery import AnyHandler, Batched, Delivery, Transactional
from ..runtime.subscribe import Subscription, subscribe
from .context import links_to
from .instruments import Telemetry, of_stream, telemetry_of, types


def traced_subscribe(
    store: EventStore[E],
    name: str,
    handle: AnyHandler[E],
    delivery: Delivery[E] | None = None,
    *,
    tracer_provider: TracerProvider | None = None,
    meter_provider: MeterProvider | None = None,
) -> Subscription[E]:
    """Do what `subscribe` does, with a span for each call of *handle*.

    The span begins a trace of its own, and links to those of the appends: a delivery
    may come years later. Metrics: deliveries, failures, retries, parked events, the lag
    in positions, and how old events were when they were handled. All go to the given
    providers, by default the process's.
    """
    telemetry = telemetry_of(tracer_provider, meter_provider)
    delivery = delivery or Delivery()
    policy = delivery.on_failure

    def counted(failure: Failure) -> Outcome:
        outcome = policy(failure)
        if isinstance(outcome, Retry):
            telemetry.retries.add(1, {"evsrc.subscription": name})
        return outcome

    traced = _handler(telemetry, name, handle)
    subscription = subscribe(store, name, traced, replace(delivery, on_failure=counted))
    telemetry.watch(subscription)
    return subscription


def _handler(telemetry: Telemetry, name: str, handle: AnyHandler[E]) -> AnyHandler[E]:
    match handle:
        case Batched(handle=batched):

            async def many(batch: Sequence[Recorded[E]]) -> None:
                await _deliver(telemetry, name, batch, lambda: batched(batch))

            return Batched(many)
        case Transactional(apply=apply):

            async def within(tx: Transaction[E], batch: Sequence[Recorded[E]]) -> None:
                await _deliver(telemetry, name, batch, lambda: apply(tx, batch))

            return Transactional(within)
        case one:

            async def each(recorded: Recorded[E]) -> None:
                await _deliver(telemetry, name, (recorded,), lambda: one(recorded))

            return each


async def _deliver(
    telemetry: Telemetry,
    name: str,
    batch: Sequence[Recorded[E]],
    call: Callable[[], Awaitable[None]],
) -> None:
    told = {"evsrc.subscription": name}
    try:
        with telemetry.span(
            "evsrc.deliver",
            {**told, **_of_batch(batch)},
            SpanKind.CONSUMER,
            links=links_to(batch),
            context=Context(),
        ) as span:
            await call()
            span.set_attribute("evsrc.outcome", "handled")
    except Exception:
        telemetry.failures.add(1, told)
        raise
    telemetry.deliveries.add(len(batch), told)
    now = datetime.now(UTC)
    for recorded in batch:
        telemetry.delay.record(
            max((now - recorded.recorded_at).total_seconds(), 0), told
        )


def _of_batch(batch: Sequence[Recorded[Any]]) -> dict[str, Any]:
    """Describe what is delivered: where it is, and for a lone event, of what stream."""
    told: dict[str, Any] = {
        "evsrc.event.count": len(batch),
        "evsrc.event.types": types(batch),
        "evsrc.position": batch[-1].position,
    }
    if len(batch) == 1:
        told |= {**of_stream(batch[0].stream), "evsrc.version": batch[0].version}
        told["evsrc.event.id"] = str(batch[0].id)
    return told
