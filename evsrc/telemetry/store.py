"""Give a store whose functions are spans, and a `transact` that is one."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from time import time_ns
from typing import Any, TypeVar

from opentelemetry.metrics import MeterProvider
from opentelemetry.trace import Span, SpanKind, TracerProvider

from ..core.decider import Decider
from ..core.event import E, StreamName
from ..core.expectation import ALL, AnyQuery
from ..ports import (
    START,
    Also,
    Append,
    Appended,
    BeginTransaction,
    Conflict,
    EventStore,
    Loaded,
    Page,
    ReadAll,
    Transaction,
    Write,
)
from ..runtime.transact import Decided, transact
from .context import carrying
from .instruments import Telemetry, classes, of_stream, telemetry_of, types

S = TypeVar("S")
C = TypeVar("C")
T = TypeVar("T")


def traced(
    store: EventStore[E],
    *,
    tracer_provider: TracerProvider | None = None,
    meter_provider: MeterProvider | None = None,
) -> EventStore[E]:
    """Give *store* with a span for each append, transaction, load and read.

    An append puts its trace context (W3C `traceparent`) into the events' metadata, as
    `extra`, unless they have one; deliveries link to it. A checkpoint alone, and a read
    of the log that finds nothing, make no span: a waiting subscription makes many.
    Spans and metrics go to the given providers, by default the process's.
    """
    telemetry = telemetry_of(tracer_provider, meter_provider)
    return replace(
        store,
        append=_append(telemetry, store.append),
        transaction=_transaction(telemetry, store.transaction),
        read_stream=_reading(
            telemetry, "evsrc.read_stream", store.read_stream, _of_page
        ),
        load_events=_reading(telemetry, "evsrc.load", store.load_events, _of_loaded),
        read_all=_read_all(telemetry, store.read_all),
    )


async def traced_transact(
    store: EventStore[E],
    decider: Decider[S, C, E],
    stream: StreamName,
    command: C,
    *,
    tracer_provider: TracerProvider | None = None,
    **options: Any,
) -> Decided[S, E]:
    """Do what `transact` does, in a span; with a traced *store*, its load and append.

    The command is in no span. *options* are those of `transact`, and so are the errors;
    *tracer_provider* is by default the process's.
    """
    telemetry = telemetry_of(tracer_provider, None)
    with telemetry.span("evsrc.transact", of_stream(stream)) as span:
        done = await transact(store, decider, stream, command, **options)
        span.set_attributes(
            {
                "evsrc.outcome": "decided" if done.events else "nothing to do",
                "evsrc.attempts": done.attempts,
                "evsrc.version": done.version,
                "evsrc.event.count": len(done.events),
                "evsrc.event.types": classes(done.events),
            }
        )
        return done


def _append(telemetry: Telemetry, append: Append[E]) -> Append[E]:
    async def traced_append(
        *writes: Write[E], also: Sequence[Also] = ()
    ) -> Appended | Conflict:
        if not writes:
            return await append(also=also)
        asked, outcome = _of_append(writes), "error"
        try:
            with telemetry.span("evsrc.append", asked, SpanKind.PRODUCER) as span:
                done = await append(*map(carrying, writes), also=also)
                outcome = _told(span, done)
                return done
        finally:
            category = {"evsrc.stream.category": writes[0].stream.category}
            telemetry.appends.add(1, {**category, "evsrc.outcome": outcome})
            if outcome == "conflict":
                telemetry.conflicts.add(1, category)

    return traced_append


def _transaction(
    telemetry: Telemetry, begin: BeginTransaction[E]
) -> BeginTransaction[E]:
    @asynccontextmanager
    async def traced_transaction() -> AsyncGenerator[Transaction[E]]:
        with telemetry.span("evsrc.transaction", {}):
            async with begin() as tx:
                yield replace(tx, append=_append(telemetry, tx.append))

    return traced_transaction


def _reading(
    telemetry: Telemetry,
    name: str,
    read: Callable[..., Coroutine[Any, Any, T]],
    told: Callable[[T], dict[str, Any]],
) -> Callable[..., Coroutine[Any, Any, T]]:
    async def traced_read(stream: StreamName, *, after: int = 0, **options: Any) -> T:
        asked = {**of_stream(stream), "evsrc.after": after}
        with telemetry.span(name, asked, SpanKind.CLIENT) as span:
            found = await read(stream, after=after, **options)
            span.set_attributes(told(found))
            return found

    return traced_read


def _read_all(telemetry: Telemetry, read: ReadAll[E]) -> ReadAll[E]:
    async def traced_read(
        query: AnyQuery = ALL, *, after: int = START, **options: Any
    ) -> Page[E]:
        began, told = time_ns(), {"evsrc.after": after}
        try:
            page = await read(query, after=after, **options)
        except Exception:
            with telemetry.span("evsrc.read_all", {}, SpanKind.CLIENT, began=began):
                raise
        if page.events:
            told |= _of_page(page)
            with telemetry.span("evsrc.read_all", told, SpanKind.CLIENT, began=began):
                pass  # it is over
        return page

    return traced_read


def _told(span: Span, done: Appended | Conflict) -> str:
    """Say on a span what an append led to; give it in a word."""
    if isinstance(done, Conflict):
        outcome = "conflict"
        span.set_attribute("evsrc.version", done.actual)
    else:
        outcome = "repeated" if done.repeated else "appended"
        span.set_attribute("evsrc.version", done.version)
        span.set_attribute("evsrc.position", done.position)
    span.set_attribute("evsrc.outcome", outcome)
    return outcome


def _of_append(writes: Sequence[Write[Any]]) -> dict[str, Any]:
    """Describe an append by its first stream, its events by all."""
    events = [new.event for write in writes for new in write.events]
    return {
        **of_stream(writes[0].stream),
        "evsrc.stream.count": len(writes),
        "evsrc.expected": str(writes[0].expected),
        "evsrc.event.count": len(events),
        "evsrc.event.types": classes(events),
    }


def _of_loaded(loaded: Loaded[Any]) -> dict[str, Any]:
    return {
        "evsrc.version": loaded.version,
        "evsrc.event.count": len(loaded.events),
    }


def _of_page(page: Page[Any]) -> dict[str, Any]:
    return {
        "evsrc.event.count": len(page.events),
        "evsrc.event.types": types(page.events),
        "evsrc.reached": page.reached,
        "evsrc.head": page.head,
    }
