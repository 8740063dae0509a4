"""Keep the trace context of an append with its events, and link to it later."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from msgspec import structs
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, SpanContext
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from ..core.event import E, NewEvent, Recorded
from ..ports import Write

_PROPAGATOR: Final = TraceContextTextMapPropagator()
_TRACEPARENT: Final = "traceparent"


def carrying(write: Write[E]) -> Write[E]:
    """Put the current trace context into the metadata of a write's events."""
    carrier: dict[str, str] = {}
    _PROPAGATOR.inject(carrier)
    if not carrier:
        return write
    return structs.replace(write, events=[_with(new, carrier) for new in write.events])


def _with(new: NewEvent[E], carrier: dict[str, str]) -> NewEvent[E]:
    extra = new.metadata.extra
    if _TRACEPARENT in extra:
        return new
    metadata = structs.replace(new.metadata, extra={**extra, **carrier})
    return structs.replace(new, metadata=metadata)


def links_to(batch: Sequence[Recorded[Any]]) -> list[Link]:
    """Link to the spans that appended these events, each once."""
    contexts: dict[tuple[int, int], SpanContext] = {}
    for recorded in batch:
        extra = recorded.metadata.extra
        if isinstance(extra.get(_TRACEPARENT), str):
            carried = trace.get_current_span(
                _PROPAGATOR.extract(
                    {k: v for k, v in extra.items() if isinstance(v, str)},
                    context=Context(),
                )
            ).get_span_context()
            if carried.is_valid:
                contexts[carried.trace_id, carried.span_id] = carried
    return [Link(context) for context in contexts.values()]
