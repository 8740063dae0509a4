"""The builders and assertions for users' tests say what they should, on every store."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from evsrc import NO_STREAM, Metadata, Query, StreamName
from evsrc.ports import EventStore
from evsrc.testing import (
    Fact,
    Note,
    assert_log,
    assert_stream,
    new_events,
    record,
    recorded_events,
)

A, B = StreamName("suite", "a"), StreamName("suite", "b")


async def test_what_is_there_passes(store: EventStore[Any]) -> None:
    """Streams and logs that hold what was expected pass, also from a place on."""
    await record(store, A, Fact(1), Fact(2))
    first = await record(store, B, Note("x"), expected=NO_STREAM)
    await record(store, A, Fact(3))
    await assert_stream(store, A, [Fact(1), Fact(2), Fact(3)])
    await assert_stream(store, A, [Fact(3)], after=2)
    await assert_stream(store, StreamName("suite", "none"), [])
    log = [(A, Fact(1)), (A, Fact(2)), (B, Note("x")), (A, Fact(3))]
    await assert_log(store, log)
    await assert_log(store, log[3:], after=first.position)
    await assert_log(store, [log[2]], query=Query.of(types=["note"]))


async def test_a_long_log_is_compared_to_its_end(store: EventStore[Any]) -> None:
    """More than a page is read, and the last event counts."""
    await record(store, A, *(Fact(n) for n in range(1500)))
    await assert_log(store, [(A, Fact(n)) for n in range(1500)])
    with pytest.raises(AssertionError, match="1500 events, 1499 were expected"):
        await assert_log(store, [(A, Fact(n)) for n in range(1499)])


async def test_both_sides_are_shown(store: EventStore[Any]) -> None:
    """What is missing, what is too much, and what is right, line by line."""
    await record(store, A, Fact(1), Fact(2))
    with pytest.raises(AssertionError) as caught:
        await assert_stream(store, A, [Fact(1), Fact(3)])
    assert str(caught.value) == (
        "stream 'suite-a' has 2 events, 2 were expected (- missing, + too much):\n"
        "    Fact(n=1, text='')\n"
        "  - Fact(n=3, text='')\n"
        "  + Fact(n=2, text='')"
    )
    with pytest.raises(AssertionError, match=r"\+ 'suite-a' Fact\(n=2"):
        await assert_log(store, [(A, Fact(1))])


async def test_a_preparation_that_fails_is_seen(store: EventStore[Any]) -> None:
    """A conflict in the preparation fails the test there."""
    await record(store, A, Fact(1))
    with pytest.raises(AssertionError, match="the test's own append failed: Conflict"):
        await record(store, A, Fact(2), expected=NO_STREAM)


def test_events_are_built_as_a_log_has_them() -> None:
    """Versions and positions go on from where they are told; values are equal again."""
    at = datetime(2026, 5, 4, tzinfo=UTC)

    def build() -> list[Any]:
        by_ann = Metadata(actor_id="ann")
        first = recorded_events(A, Fact(1), Fact(2), metadata=by_ann, at=at)
        second = recorded_events(B, Note("x"), position=2, metadata=by_ann, at=at)
        third = recorded_events(
            A, Fact(3), version=2, position=3, metadata=by_ann, at=at
        )
        return [*first, *second, *third]

    built = build()
    places = [(r.stream, r.version, r.position) for r in built]
    assert places == [(A, 1, 1), (A, 2, 2), (B, 1, 3), (A, 3, 4)]
    assert [r.type for r in built] == ["Fact", "Fact", "Note", "Fact"]
    assert {r.recorded_at for r in built} == {at}
    assert {r.metadata.actor_id for r in built} == {"ann"}
    assert built == build()
    assert len({r.id for r in built}) == len(built)
    assert len({new.id for new in new_events(Fact(1), Fact(1))}) == 2
