"""eventsourcing's recorder for dynamic consistency boundaries on PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from itertools import count

from eventsourcing.dcb.api import (
    DCBAppendCondition,
    DCBEvent,
    DCBQuery,
    DCBQueryItem,
    DCBRecorder,
)
from eventsourcing.dcb.postgres_tt import PostgresTTDCBFactory
from eventsourcing.utils import Environment

from .bench import STREAM, Bench
from .pyes_postgresql import _environment

_unique = count(1)
_DATA = b'{"text":"' + b"x" * 100 + b'"}'
_AT_ONCE = 500


@contextmanager
def _open(dsn: str) -> Generator[DCBRecorder]:
    factory = PostgresTTDCBFactory(Environment("bench", _environment(dsn)))
    try:
        yield factory.dcb_recorder()
    finally:
        factory.close()


def _query(*tags: str) -> DCBQuery:
    return DCBQuery([DCBQueryItem(tags=[tag]) for tag in tags])


async def _built(dsn: str) -> None:
    with _open(dsn) as recorder:
        events = _built.events  # type: ignore[attr-defined]
        for first in range(0, events, _AT_ONCE):
            recorder.append(
                [
                    DCBEvent("placed", _DATA, [f"order:{n // STREAM}", "tenant:1"])
                    for n in range(first, min(first + _AT_ONCE, events))
                ]
            )


async def _rate(bench: Bench, step: Callable[[DCBRecorder], int]) -> float:
    _built.events = bench.events  # type: ignore[attr-defined]
    dsn = await bench.prepared_database("pyes-boundaries", _built)
    with _open(dsn) as recorder:
        return bench.rate_of(lambda: step(recorder))


def _append(recorder: DCBRecorder) -> int:
    key = f"unique:{next(_unique)}"
    recorder.append(
        [DCBEvent("unique", _DATA, [key])], DCBAppendCondition(_query(key), None)
    )
    return 1


async def boundary_append(bench: Bench) -> float:
    """`append` under a condition on a tag that nothing has."""
    return await _rate(bench, _append)


async def boundary_read(bench: Bench) -> float:
    """`read` of a tag that 10 events have."""
    orders = bench.events // STREAM

    def step(recorder: DCBRecorder) -> int:
        found = list(recorder.read(_query(f"order:{next(_unique) % orders}")))
        assert len(found) >= STREAM
        return 1

    return await _rate(bench, step)


async def boundary_decide(bench: Bench) -> float:
    """`read` of two items, then `append` under the condition of the same query."""
    orders = bench.events // STREAM

    def step(recorder: DCBRecorder) -> int:
        n = next(_unique)
        one = f"order:{n % orders}"
        query = _query(one, f"order:{(n + 7) % orders}")
        read = recorder.read(query)
        list(read)
        event = DCBEvent("placed", _DATA, [one, f"tenant:of-{n}"])
        recorder.append([event], DCBAppendCondition(query, read.head))
        return 1

    return await _rate(bench, step)


async def boundary_hot(bench: Bench) -> float:
    """A type that is not there, of a tag that all events have, from the beginning."""
    query = DCBQuery([DCBQueryItem(["unique"], ["tenant:1"])])

    def step(recorder: DCBRecorder) -> int:
        event = DCBEvent("placed", _DATA, ["order:hot", "tenant:1"])
        recorder.append([event], DCBAppendCondition(query, None))
        return 1

    return 1000 / await _rate(bench, step)
