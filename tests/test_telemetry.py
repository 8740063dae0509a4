"""Spans and metrics: what they say, what they never say, and what they cost when off."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
from collections.abc import Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from evsrc import (
    ANY,
    NO_STREAM,
    AggregateRepository,
    Appended,
    Batched,
    Conflict,
    Decider,
    Delivery,
    InMemoryCheckpointRepository,
    InMemoryEventBus,
    InMemoryEventStore,
    Metadata,
    NewEvent,
    Park,
    SQLiteEventStore,
    Stop,
    StoreUnavailableError,
    StreamName,
    SubscriptionError,
    Transactional,
    Write,
    memory_store,
    new_id,
    postgresql_store,
    retry_then,
    transact,
)
from evsrc.ports import EventStore, SaveCheckpoint
from evsrc.subscriptions import SubscriptionManager
from evsrc.telemetry import traced, traced_subscribe, traced_transact
from evsrc.testing import CODEC, Fact, Note
from tests.facade_domain import REGISTRY, Account
from tests.test_facade_delivery import Recorder

Store = EventStore[Any]
STREAM = StreamName("s", "1")
SOON = timedelta(seconds=20)
CANARY = 987_654_321

COUNTER: Decider[int, int, Any] = Decider(
    decide=lambda state, n: [] if n == 0 else [Fact(n)],
    evolve=lambda state, event: state + event.n,
    initial=0,
)


class Telemetry:
    """Providers that keep everything in memory."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.tracers = TracerProvider()
        self.tracers.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.reader = InMemoryMetricReader()
        self.meters = MeterProvider([self.reader])
        self.both: dict[str, Any] = {
            "tracer_provider": self.tracers,
            "meter_provider": self.meters,
        }

    def spans(self, name: str | None = None) -> list[ReadableSpan]:
        done = self.exporter.get_finished_spans()
        return [span for span in done if name in (None, span.name)]

    def points(self) -> dict[str, list[tuple[dict[str, Any], Any]]]:
        data = self.reader.get_metrics_data()
        found: dict[str, list[tuple[dict[str, Any], Any]]] = {}
        for resource in [] if data is None else data.resource_metrics:
            for scope in resource.scope_metrics:
                for metric in scope.metrics:
                    for point in metric.data.data_points:
                        value = getattr(point, "value", None)
                        if value is None:
                            value = point.count
                        attributes = dict(point.attributes or {})
                        found.setdefault(metric.name, []).append((attributes, value))
        return found


@pytest.fixture
def telemetry() -> Telemetry:
    return Telemetry()


def write(*events: Any, stream: StreamName = STREAM, expected: Any = ANY) -> Write[Any]:
    return Write(stream, [NewEvent(event, new_id()) for event in events], expected)


async def test_what_a_store_does_is_seen(store: Store, telemetry: Telemetry) -> None:
    """Append, load, read and transaction: which stream, versions, types, outcome."""
    seen = traced(store, **telemetry.both)
    done = await seen.append(write(Fact(1), Note("x"), expected=NO_STREAM))
    assert isinstance(done, Appended)
    lost = await seen.append(write(Fact(2), expected=7))
    assert isinstance(lost, Conflict)
    assert len((await seen.load_events(STREAM)).events) == 2
    assert len((await seen.read_stream(STREAM, after=1)).events) == 1
    assert len((await seen.read_all(limit=1)).events) == 1
    async with seen.transaction() as tx:
        await tx.append(write(Fact(3)))
    names = [span.name for span in telemetry.spans()]
    assert names == [
        *["evsrc.append"] * 2,
        *("evsrc.load", "evsrc.read_stream", "evsrc.read_all"),
        *("evsrc.append", "evsrc.transaction"),
    ]
    first, conflict, load, read, log, inner, transaction = telemetry.spans()
    assert dict(first.attributes or {}) == {
        "evsrc.stream.category": "s",
        "evsrc.stream.id": "1",
        "evsrc.stream.count": 1,
        "evsrc.expected": str(NO_STREAM),
        "evsrc.event.count": 2,
        "evsrc.event.types": ("Fact", "Note"),
        "evsrc.outcome": "appended",
        "evsrc.version": 2,
        "evsrc.position": done.position,
    }
    assert conflict.attributes is not None
    assert conflict.attributes["evsrc.outcome"] == "conflict"
    assert conflict.attributes["evsrc.version"] == 2
    assert conflict.status.status_code is StatusCode.UNSET, "a lost race is no failure"
    for span, count in ((load, 2), (read, 1), (log, 1)):
        assert span.attributes is not None
        assert span.attributes["evsrc.event.count"] == count
        assert span.kind is SpanKind.CLIENT
    assert log.attributes is not None
    assert log.attributes["evsrc.head"] == done.position
    assert inner.parent is not None
    assert transaction.context is not None
    assert inner.parent.span_id == transaction.context.span_id
    assert telemetry.points()["evsrc.conflicts"] == [
        ({"evsrc.stream.category": "s"}, 1)
    ]
    appends = {a["evsrc.outcome"]: n for a, n in telemetry.points()["evsrc.appends"]}
    assert appends == {"appended": 2, "conflict": 1}


async def test_a_waiting_subscription_makes_no_spans(
    store: Store, telemetry: Telemetry
) -> None:
    """Reads that find nothing, and checkpoints alone, are not worth one."""
    seen = traced(store, **telemetry.both)
    await seen.read_all()
    await seen.append(also=[SaveCheckpoint("s", 0)])
    assert telemetry.spans() == []


async def test_a_decision_is_a_span_over_its_load_and_append(
    store: Store, telemetry: Telemetry
) -> None:
    """Attempts, version and outcome; its parts are below it, and below the caller's."""
    seen, tracers = traced(store, **telemetry.both), telemetry.tracers
    with tracers.get_tracer("test").start_as_current_span("request"):
        done = await traced_transact(seen, COUNTER, STREAM, 3, tracer_provider=tracers)
    await traced_transact(seen, COUNTER, STREAM, 0, tracer_provider=tracers)
    assert (done.version, done.state) == (1, 3)
    one, nothing = telemetry.spans("evsrc.transact")
    assert dict(one.attributes or {}) == {
        "evsrc.stream.category": "s",
        "evsrc.stream.id": "1",
        "evsrc.outcome": "decided",
        "evsrc.attempts": 1,
        "evsrc.version": 1,
        "evsrc.event.count": 1,
        "evsrc.event.types": ("Fact",),
    }
    assert (nothing.attributes or {})["evsrc.outcome"] == "nothing to do"
    (request,) = telemetry.spans("request")
    (append,) = telemetry.spans("evsrc.append")
    load, _ = telemetry.spans("evsrc.load")
    assert one.context is not None
    assert request.context is not None
    assert [s.parent and s.parent.span_id for s in (load, append, one)] == [
        *[one.context.span_id] * 2,
        request.context.span_id,
    ]


KINDS = ["events", "batches", "streams", "transactions"]


@pytest.mark.parametrize("kind", KINDS)
async def test_deliveries_link_to_their_appends(
    store: Store, telemetry: Telemetry, kind: str
) -> None:
    """Each call of a handler is a trace of its own, with links to the events' appends.

    What the handler opens itself is below it; a subscription that was started inside a
    span does not hang all that it ever delivers on that one.
    """
    tracer = telemetry.tracers.get_tracer("test")
    seen, count = traced(store, **telemetry.both), 0

    def work() -> None:
        with tracer.start_as_current_span("work"):
            pass

    async def one(_: Any) -> None:
        work()

    async def many(_: Sequence[Any]) -> None:
        work()

    async def within(_: Any, __: Sequence[Any]) -> None:
        work()

    kinds: dict[str, Any] = {
        "batches": Batched(many),
        "transactions": Transactional(within),
    }
    for n in range(3):
        await seen.append(write(Fact(n), Fact(n), stream=StreamName("s", str(n))))
    appends = {s.context.span_id for s in telemetry.spans("evsrc.append") if s.context}
    delivery: Delivery[Any] = Delivery(max_streams=3 if kind == "streams" else 1)
    with tracer.start_as_current_span("start"):
        subscription = traced_subscribe(
            store, "d", kinds.get(kind, one), delivery, **telemetry.both
        )
        subscription.start()
    await subscription.caught_up(SOON)
    await subscription.stop(SOON)
    spans = telemetry.spans("evsrc.deliver")
    assert len(spans) == (6 if kind in ("events", "streams") else 1)
    assert {link.context.span_id for span in spans for link in span.links} == appends
    traces = set()
    for span in spans:
        assert span.context is not None
        assert span.parent is None
        assert span.kind is SpanKind.CONSUMER
        traces.add(span.context.trace_id)
        told = dict(span.attributes or {})
        assert (told["evsrc.subscription"], told["evsrc.outcome"]) == ("d", "handled")
        count += told["evsrc.event.count"]
        assert ("evsrc.stream.id" in told) == (len(spans) == 6)
    assert (len(traces), count) == (len(spans), 6)
    for span in telemetry.spans("work"):
        assert span.parent is not None
        assert span.parent.span_id in {s.context.span_id for s in spans if s.context}


async def test_the_trace_context_is_kept_as_metadata(
    store: Store, telemetry: Telemetry
) -> None:
    """As a W3C traceparent beside what is there; one that is there already stays."""
    seen = traced(store, **telemetry.both)
    mine = {"traceparent": f"00-{'a' * 32}-{'b' * 16}-01"}
    events = [
        NewEvent(Fact(1), new_id(), Metadata(actor_id="ann", extra={"k": [1]})),
        NewEvent(Fact(2), new_id(), Metadata(extra=mine)),
    ]
    await seen.append(Write(STREAM, events, ANY))
    first, second = (await store.read_stream(STREAM)).events
    (span,) = telemetry.spans()
    assert span.context is not None
    ids = f"{span.context.trace_id:032x}-{span.context.span_id:016x}"
    parent = f"00-{ids}-{span.context.trace_flags:02x}"
    assert first.metadata.extra == {"k": [1], "traceparent": parent}
    assert first.metadata.actor_id == "ann"
    assert second.metadata.extra == mine


async def test_without_a_provider_nothing_is_added(store: Store) -> None:
    """A process that has set up no tracing stores no trace context."""
    await traced(store).append(write(Fact(1)))
    (recorded,) = (await store.read_stream(STREAM)).events
    assert recorded.metadata.extra == {}


async def test_deliveries_failures_and_lag_are_counted(
    store: Store, telemetry: Telemetry
) -> None:
    """What the metrics say is what the subscription has done."""
    await store.append(write(*map(Fact, range(10))))
    gate, hangs = asyncio.Event(), asyncio.Event()

    async def handle(recorded: Any) -> None:
        if recorded.event.n == 3:
            raise ValueError
        if recorded.event.n == 8 and not gate.is_set():
            hangs.set()
            await gate.wait()

    policy = retry_then(Park(), retries=2, delay=timedelta(microseconds=1))
    delivery: Delivery[Any] = Delivery(on_failure=policy)
    whose = {"evsrc.subscription": "m"}
    async with traced_subscribe(store, "m", handle, delivery, **telemetry.both) as it:
        await asyncio.wait_for(hangs.wait(), 20)
        points = telemetry.points()
        assert points["evsrc.lag"] == [(whose, 2)]
        gate.set()
        await it.caught_up(SOON)
        points = telemetry.points()
        assert points["evsrc.lag"] == [(whose, 0)]
    for name, value in (
        ("evsrc.deliveries", 9),
        ("evsrc.failures", 3),
        ("evsrc.retries", 2),
        ("evsrc.parked", 1),
        ("evsrc.delay", 9),
    ):
        assert points[name] == [(whose, value)], name
    assert "evsrc.lag" not in telemetry.points(), "it has stopped"


async def test_failures_tell_their_type_and_nothing_else(
    store: Store, telemetry: Telemetry, caplog: pytest.LogCaptureFixture
) -> None:
    """No payload, and no text of an error, is in a span, a metric or a log record."""
    caplog.set_level(logging.DEBUG, "evsrc")
    seen = traced(store, **telemetry.both)

    def refuse(state: Any, command: Any) -> Any:
        raise PermissionError(f"{command} is not allowed")

    refusing: Decider[Any, Any, Any] = Decider(
        decide=refuse, evolve=lambda s, e: s, initial=None
    )
    with pytest.raises(PermissionError):
        await traced_transact(
            seen, refusing, STREAM, CANARY, tracer_provider=telemetry.tracers
        )
    bad: Any = Fact(f"canary {CANARY}")  # type: ignore[arg-type]
    with pytest.raises(Exception, match="Fact|fact"):
        await seen.append(write(bad))
    await seen.append(write(Fact(CANARY), Note(f"secret {CANARY}")))
    await seen.load_events(STREAM)
    await seen.read_all()

    async def fail(recorded: Any) -> None:
        raise ValueError(f"cannot handle {recorded.event}")

    once: Delivery[Any] = Delivery(on_failure=retry_then(Stop(), retries=0))
    async with traced_subscribe(seen, "f", fail, once, **telemetry.both) as failing:
        with pytest.raises(SubscriptionError):
            await failing.caught_up(SOON)
    refused, append, *_, delivered = (
        span
        for span in telemetry.spans()
        if span.status.status_code is StatusCode.ERROR
    )
    for span, error in ((refused, "PermissionError"), (delivered, "ValueError")):
        assert (span.attributes or {})["error.type"] == error
        assert (span.attributes or {})["evsrc.outcome"] == "error"
    assert append.name == "evsrc.append"
    everything = [span.to_json() for span in telemetry.spans()]
    everything += [str(telemetry.points()), caplog.text]
    everything += [str(vars(record)) + record.getMessage() for record in caplog.records]
    assert len(everything) > 8
    assert not [text for text in everything if str(CANARY) in text]


async def test_no_credential_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """A server that cannot be reached is named without the password to it."""
    caplog.set_level(logging.DEBUG)
    url = f"postgresql://ann:pw{CANARY}@127.0.0.1:9/db"
    with pytest.raises(StoreUnavailableError) as refused:
        await postgresql_store(url, CODEC, patience=timedelta(milliseconds=50))
    records = [str(vars(record)) + record.getMessage() for record in caplog.records]
    assert str(CANARY) not in "".join([*records, caplog.text, str(refused.value)])


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
async def test_classes_are_traced_the_same_way(
    telemetry: Telemetry, kind: str, tmp_path: Path
) -> None:
    """A store uses the tracing, a manager subscribes with it: spans, links, lag."""
    store = (
        InMemoryEventStore(event_registry=REGISTRY)
        if kind == "memory"
        else SQLiteEventStore(str(tmp_path / "events.db"), REGISTRY)
    )
    await store.use(partial(traced, **telemetry.both))
    bus, seen = InMemoryEventBus(), Recorder()
    manager = SubscriptionManager(
        store,
        bus,
        InMemoryCheckpointRepository(),
        subscribe=partial(traced_subscribe, **telemetry.both),
    )
    await manager.subscribe(seen, name="s")
    async with manager:
        repo = AggregateRepository(store, Account, "Account", bus)
        account = repo.create_new(uuid4())
        account.open("ann")
        await repo.save(account)
        assert len(seen.seen) == 1
        assert telemetry.points()["evsrc.lag"] == [({"evsrc.subscription": "s"}, 0)]
    await repo.load(account.aggregate_id)
    (append,) = telemetry.spans("evsrc.append")
    (delivered,) = telemetry.spans("evsrc.deliver")
    assert (append.attributes or {})["evsrc.event.types"] == ("Opened",)
    (link,) = delivered.links
    assert append.context is not None
    assert (link.context.trace_id, link.context.span_id) == (
        append.context.trace_id,
        append.context.span_id,
    )
    assert len(telemetry.spans("evsrc.load")) == 1
    await store.close()


# What it costs when it is off.


async def calls_of_a_command(store: Store) -> int:
    """Count the calls of functions that a command and a read cost, at the least.

    A command in a new millisecond begins a new series of ids, which is one call more.
    """
    return min([await calls_of_one(store) for _ in range(9)])


async def calls_of_one(store: Store) -> int:
    count, stream = 0, StreamName("s", str(new_id()))

    def note(_: Any, event: str, __: Any) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(note)
    try:
        await transact(store, COUNTER, stream, 1)
        await store.read_all(limit=1)
    finally:
        sys.setprofile(None)
    return count


async def test_what_is_not_traced_costs_nothing(telemetry: Telemetry) -> None:
    """Not one call more, though the same process traces another store."""
    off, on = memory_store(CODEC), memory_store(CODEC)
    before = await calls_of_a_command(off)
    seen = traced(on, **telemetry.both)
    subscription = traced_subscribe(on, "x", lambda _: asyncio.sleep(0))
    assert await calls_of_a_command(seen) > 2 * before, "the count counts"
    assert await calls_of_a_command(off) == before
    assert await calls_of_a_command(on) == before, (
        "it is composition: it changed nothing"
    )
    assert subscription.position == 0


def test_without_the_extra_it_says_which_is_missing() -> None:
    """Nothing else needs it; using it names the extra."""
    code = (
        "import sys; sys.modules['opentelemetry'] = None; import evsrc\n"
        "evsrc.subscribe, evsrc.transact, evsrc.memory_store\n"
        "try:\n    import evsrc.telemetry\n"
        "except evsrc.MissingExtraError as error: print(error.extra, '|', error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("telemetry | ")
    assert "pip install 'evsrc-py[telemetry]'" in done.stdout
