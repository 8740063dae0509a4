"""The tracer and the instruments that all of it uses, and what every span says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any
from weakref import ref

from opentelemetry import metrics, trace
from opentelemetry.context import Context
from opentelemetry.metrics import CallbackOptions, MeterProvider, Observation
from opentelemetry.trace import Link, Span, SpanKind, StatusCode, TracerProvider

from ..core.event import Recorded, StreamName
from ..runtime.subscribe import Subscription


@lru_cache(maxsize=16)
def telemetry_of(
    tracer_provider: TracerProvider | None, meter_provider: MeterProvider | None
) -> Telemetry:
    """Give what belongs to the providers; the same ones for the same."""
    return Telemetry(tracer_provider, meter_provider)


class Telemetry:
    """The tracer, the instruments, and the functions that use them."""

    def __init__(
        self,
        tracer_provider: TracerProvider | None,
        meter_provider: MeterProvider | None,
    ) -> None:
        self.tracer = trace.get_tracer("evsrc", tracer_provider=tracer_provider)
        meter = metrics.get_meter("evsrc", meter_provider=meter_provider)
        self._seen: tuple[ref[Subscription[Any]], ...] = ()
        counter = meter.create_counter
        self.appends = counter("evsrc.appends", "{append}", "Appends, by outcome")
        self.conflicts = counter(
            "evsrc.conflicts", "{append}", "Appends that lost a race"
        )
        self.deliveries = counter(
            "evsrc.deliveries", "{event}", "Events that were handled"
        )
        self.failures = counter(
            "evsrc.failures", "{call}", "Calls of handlers that failed"
        )
        self.retries = counter(
            "evsrc.retries", "{event}", "Failed events that are tried again"
        )
        self.delay = meter.create_histogram(
            "evsrc.delay", "s", "The age of events when they were handled"
        )
        meter.create_observable_counter(
            "evsrc.parked", [self._parked], "{event}", "Events that were put aside"
        )
        meter.create_observable_gauge(
            "evsrc.lag", [self._lags], "{position}", "Positions behind the log's head"
        )

    def watch(self, subscription: Subscription[Any]) -> None:
        """Measure a subscription for as long as somebody has it."""
        known = [seen for seen in self._seen if seen() is not None]
        self._seen = (*known, ref(subscription))  # one step: readers are other threads

    def _watched(self) -> list[Subscription[Any]]:
        return [found for seen in self._seen if (found := seen()) is not None]

    def _parked(self, _: CallbackOptions) -> Iterable[Observation]:
        parked: Counter[str] = Counter()
        for subscription in self._watched():
            parked[subscription.name] += subscription.parked
        return [Observation(n, {"evsrc.subscription": s}) for s, n in parked.items()]

    def _lags(self, _: CallbackOptions) -> Iterable[Observation]:
        running = [seen for seen in self._watched() if seen.running]
        return [Observation(s.lag, {"evsrc.subscription": s.name}) for s in running]

    @contextmanager
    def span(
        self,
        name: str,
        attributes: dict[str, Any],
        kind: SpanKind = SpanKind.INTERNAL,
        *,
        links: Sequence[Link] = (),
        context: Context | None = None,
        began: int | None = None,
    ) -> Generator[Span]:
        """Open a span, now or as of *began* (nanoseconds).

        One that an exception ends tells its type, not its text: that may quote a
        payload.
        """
        with self.tracer.start_as_current_span(
            name,
            context=context,
            kind=kind,
            attributes=attributes,
            links=links,
            start_time=began,
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            try:
                yield span
            except BaseException as error:
                span.set_attribute("evsrc.outcome", "error")
                span.set_attribute("error.type", type(error).__qualname__)
                span.set_status(StatusCode.ERROR)
                raise


def of_stream(stream: StreamName) -> dict[str, Any]:
    """Name a stream on a span."""
    return {"evsrc.stream.category": stream.category, "evsrc.stream.id": stream.id}


def classes(events: Sequence[object]) -> tuple[str, ...]:
    """Name the classes of new events, each once."""
    return tuple(sorted({type(event).__name__ for event in events}))


def types(events: Sequence[Recorded[Any]]) -> tuple[str, ...]:
    """Name the types of recorded events, each once, as they are stored."""
    return tuple(sorted({recorded.type for recorded in events}))
