"""The pure core: deciders, views, expectations, policies, codecs."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any
from uuid import UUID, uuid4

import msgspec
import pytest
from msgspec import Struct
from pydantic import BaseModel
from pyrsistent import PMap, PSet, PVector, pmap, pset, pvector

from evsrc import (
    Decider,
    Delivery,
    EventTypeNotFoundError,
    Failure,
    Metadata,
    NewEvent,
    Opaque,
    Park,
    Recorded,
    Retry,
    Skip,
    Stop,
    StreamName,
    View,
    adapt,
    both,
    enc_hook,
    every,
    fold,
    json_codec,
    many,
    merge,
    new_event,
    new_id,
    opaque_codec,
    retry_then,
    run,
)
from evsrc.core.expectation import (
    ANY,
    NO_STREAM,
    STREAM_EXISTS,
    Query,
    matches,
    satisfies,
)


def decide(total: int, amount: int) -> list[int]:
    if total + amount < 0:
        raise ValueError("too little")
    return [amount] if amount else []


COUNTER: Decider[int, int, int] = Decider(
    decide, lambda s, e: s + e, 0, is_terminal=lambda s: s >= 100
)


def test_commands_are_decided_one_after_the_other() -> None:
    """Each command sees the state that the one before it left."""
    assert run(COUNTER, 0, [5, 0, -3, -2]) == (0, (5, -3, -2))
    with pytest.raises(ValueError, match="too little"):
        run(COUNTER, 0, [5, -6])


def test_a_terminal_state_is_absorbing() -> None:
    """Nothing is decided once a state is final."""
    assert run(COUNTER, 0, [100, 1, 2]) == (100, (100,))


def test_folding_goes_on_from_any_state() -> None:
    """Without a state it starts from the initial one; None is a state."""
    view: View[Any, int] = View(None, lambda s, e: e if s is None else s + e)
    assert fold(view, [1, 2]) == 3
    assert fold(view, [2], None) == 2
    assert fold(view, [2], 5) == 7
    assert fold(view, []) is None


def test_adapted_deciders_leave_foreign_things_alone() -> None:
    """A foreign command decides nothing; a foreign event leaves the very same state."""
    wide = adapt(
        COUNTER,
        command=lambda c: c if isinstance(c, int) else None,
        event=lambda e: e[1] if e[0] == "counted" else None,
        out=lambda e: ("counted", e),
    )
    state = 500_000
    assert wide.decide(0, 7) == [("counted", 7)]
    assert list(wide.decide(0, "foreign")) == []
    assert wide.evolve(state, ("foreign", 1)) is state
    assert wide.evolve(1, ("counted", 2)) == 3
    assert wide.is_terminal(100)


def test_a_pair_decides_and_evolves_both() -> None:
    """Events of both, in order; final when both are."""
    slow: Decider[int, int, int] = Decider(lambda _, c: [c, c], lambda s, e: s - e, 0)
    pair = both(COUNTER, slow)
    assert run(pair, pair.initial, [1]) == ((3, -3), (1, 1, 1))
    assert not pair.is_terminal((100, 0))
    assert both(COUNTER, COUNTER).is_terminal((100, 100))
    assert list(both(COUNTER, slow).decide((100, 0), 3)) == [3, 3]


def test_a_family_keeps_its_members_apart() -> None:
    """One state a key; an unknown key starts at the initial state."""
    family = many(
        adapt(
            COUNTER,
            command=lambda c: c[1],
            event=lambda e: e[1],
            out=lambda amount: ("?", amount),
        ),
        command_key=lambda c: c[0],
        event_key=lambda e: e[0],
    )
    states = fold(family, [("a", 1), ("b", 2), ("a", 3)])
    assert states == pmap({"a": 4, "b": 2})
    assert list(family.decide(states, ("c", 9))) == [("?", 9)]
    with pytest.raises(ValueError, match="too little"):
        family.decide(states, ("b", -3))


def test_merged_views_see_the_same_events() -> None:
    """One pass folds both."""
    count: View[int, int] = View(0, lambda n, _: n + 1)
    total: View[int, int] = View(0, lambda n, e: n + e)
    assert fold(merge(count, total), [5, 6]) == (2, 11)


@pytest.mark.parametrize(
    ("expected", "accepted"),
    [
        (0, {0}),
        (1, {1}),
        (2, {2}),
        (NO_STREAM, {0}),
        (STREAM_EXISTS, {1, 2}),
        (ANY, {0, 1, 2}),
    ],
)
def test_expectations(expected: Any, accepted: set[int]) -> None:
    """Each accepts the versions that it names."""
    assert {v for v in range(3) if satisfies(expected, v)} == accepted


def test_queries_match_all_parts_of_any_item() -> None:
    """Within an item categories and types both count; items are alternatives."""
    query = Query.of(categories=["a"], types=["x", "y"])
    assert matches(query, "a", "x")
    assert not matches(query, "b", "x")
    assert not matches(query, "a", "z")
    assert matches(Query((*query.items, *Query.of(types=["z"]).items)), "b", "z")
    assert matches("all", "b", "z")


def test_retry_policies_grow_and_end() -> None:
    """Pauses grow by the factor up to the longest, then the last outcome comes."""
    policy = retry_then(
        Park(),
        retries=4,
        delay=timedelta(seconds=1),
        factor=3,
        longest=timedelta(seconds=10),
        jitter=0.2,
    )
    outcomes = [policy(Failure(ValueError(), n)) for n in range(1, 6)]
    assert outcomes == [
        *(Retry(timedelta(seconds=s), 0.2) for s in (1, 3, 9, 10)),
        Park(),
    ]
    assert retry_then(Skip(), retries=0)(Failure(ValueError(), 1)) == Skip()
    assert retry_then(Stop())(Failure(ValueError(), 10_000)) == Stop()


def test_snapshot_policies_fire_on_crossing() -> None:
    """An append of several events that jumps over a multiple counts."""
    due = every(5)
    assert [due(a, b) for a, b in ((0, 4), (4, 5), (3, 11), (5, 9))] == [
        False,
        True,
        True,
        False,
    ]
    with pytest.raises(ValueError, match="makes no sense"):
        every(0)


class Model(BaseModel):
    """A pydantic value."""

    x: int


class Rich(Struct, frozen=True):
    """An event of everything."""

    text: str
    id: UUID
    amount: Decimal
    at: datetime
    names: tuple[str, ...] = ()
    scores: PMap[str, int] = pmap()
    items: PVector[int] = pvector()
    tags: PSet[str] = pset()
    model: Model | None = None
    raw: bytes = b""


def test_codecs_keep_values() -> None:
    """Structs with persistent collections and pydantic values read back equal."""
    codec: Any = json_codec({"rich": Rich})
    event = Rich(
        "é", uuid4(), Decimal("1.50"), datetime.now(UTC), ("a",),
        pmap({"a": 1}), pvector([1, 2]), pset(["x"]), Model(x=3), b"\x00\xff",
    )  # fmt: skip
    assert codec.name(event) == "rich"
    assert codec.decode("rich", codec.encode(event)) == event
    assert isinstance(codec.decode("rich", codec.encode(event)).scores, PMap)


def test_a_check_is_made_for_each_combination_of_types() -> None:
    """That one event was fine says nothing about another of its class."""

    class Plain(Struct, frozen=True):
        n: int
        text: str | None

    codec: Any = json_codec({"plain": Plain})
    wrong: Any = "1"
    for _ in range(2):
        assert codec.name(Plain(1, None)) == "plain"
        assert codec.name(Plain(1, "x")) == "plain"
        with pytest.raises(ValueError, match="Expected `int`, got `str`"):
            codec.name(Plain(wrong, None))


class Limited(Struct, frozen=True):
    """An event with a limit."""

    n: Annotated[int, msgspec.Meta(ge=0)]


class Point:
    """A type that only the user's hooks know."""

    def __init__(self, x: int) -> None:
        self.x = x

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Point) and other.x == self.x

    def __hash__(self) -> int:
        return hash(self.x)


class Moved(Struct, frozen=True):
    """An event with such a value."""

    to: Point


def test_constraints_are_checked_each_time() -> None:
    """A field whose values are limited is checked by value, not by type."""
    codec: Any = json_codec({"limited": Limited})
    assert codec.name(Limited(1)) == "limited"
    with pytest.raises(ValueError, match="Expected `int` >= 0"):
        codec.name(Limited(-1))


def test_hooks_can_be_replaced() -> None:
    """A user's own types go through the user's own hooks."""
    codec: Any = json_codec(
        {"moved": Moved},
        enc_hook=lambda v: v.x if isinstance(v, Point) else enc_hook(v),
        dec_hook=lambda t, v: t(v),
    )
    assert codec.name(Moved(Point(3))) == "moved"
    assert codec.encode(Moved(Point(3))) == b'{"to":3}'
    assert codec.decode("moved", b'{"to":4}') == Moved(Point(4))


def test_opaque_events_pass_through() -> None:
    """What is not known is kept byte for byte, under its own name."""
    codec: Any = json_codec({"rich": Rich})
    opaque = codec.decode("later", b"whatever")
    assert opaque == Opaque("later", b"whatever")
    assert (codec.name(opaque), codec.encode(opaque)) == ("later", b"whatever")
    raw = opaque_codec()
    assert raw.decode("x", b"1") == Opaque("x", b"1")
    assert raw.name(Opaque("x", b"1")) == "x"
    assert raw.encode(Opaque("x", b"1")) == b"1"


async def test_memory_names_values_by_tag_or_class() -> None:
    """Without a codec an event is known by its tag, else by its class; and checked."""
    from evsrc import ANY, Write, memory_store, new_event

    class Tagged(Struct, frozen=True, tag="tagged-it"):
        n: int

    store: Any = memory_store()
    wrong: Any = "x"
    stream = StreamName("any", "1")
    await store.append(Write(stream, [new_event(Tagged(1)), new_event("text")], ANY))
    with pytest.raises(ValueError, match="Expected `int`"):
        await store.append(Write(stream, [new_event(Tagged(wrong))], ANY))
    page = await store.read_all()
    assert [r.type for r in page.events] == ["tagged-it", "str"]
    assert page.events[0].event == Tagged(1)
    with pytest.raises(EventTypeNotFoundError):
        await memory_store(json_codec({"rich": Rich})).append(
            Write(stream, [new_event(Tagged(1))], ANY)  # type: ignore[arg-type]
        )


def test_recorded_converts_when_asked() -> None:
    """Packed and plain forms of ids and metadata give the same."""
    id, stream = uuid4(), StreamName("a", "b")
    packed: Recorded[int] = Recorded(
        1, "t", stream, 1, 1, id.bytes, b'{"actor_id":"x"}', 5
    )
    plain: Recorded[int] = Recorded(1, "t", stream, 1, 1, id, Metadata(actor_id="x"), 5)
    assert packed.id == plain.id == id
    assert packed.metadata == plain.metadata == Metadata(actor_id="x")
    assert packed.recorded_at == datetime(1970, 1, 1, microsecond=5, tzinfo=UTC)
    assert Recorded(1, "t", stream, 1, 1, id, None, 5).metadata == Metadata()


def test_ids_are_unique_and_rise() -> None:
    """Ids are of version 7, each greater than the one before."""
    ids = [new_id() for _ in range(5000)]
    assert len(set(ids)) == 5000
    assert {(id.version, id.variant) for id in ids} == {(7, "specified in RFC 4122")}
    assert ids == sorted(ids)
    assert UUID(str(ids[0])) == ids[0]
    new, given = new_event("fact"), NewEvent("fact", ids[0])
    assert (new.id.version, new.id.int) == (7, new.number)
    assert (given.id, given.number) == (ids[0], ids[0].int)


def test_no_two_threads_or_processes_make_one_id() -> None:
    """Threads that count on from one millisecond get different ids; so does a fork."""
    with ThreadPoolExecutor(4) as pool:
        made = pool.map(lambda _: [new_id() for _ in range(5000)], range(4))
        assert len({id for ids in made for id in ids}) == 20_000
    if hasattr(os, "fork"):
        script = (
            "import os; from evsrc import new_id; r, w = os.pipe(); new_id()\n"
            "if child := os.fork():\n"
            "    mine = {new_id().hex for _ in range(999)}; os.waitpid(child, 0)\n"
            "    print(len(mine | set(os.read(r, 65536).decode().split())))\n"
            "else:\n"
            "    ids = ' '.join(new_id().hex for _ in range(999))\n"
            "    os.write(w, ids.encode())"
        )
        done = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, check=True
        )
        assert done.stdout == "1998\n"


def test_records_can_be_made_with_their_types_spelled_out() -> None:
    """`Delivery[int]()` and its like work on every Python (slots broke them on 3.11)."""
    assert Delivery[int]().page == 1000
    assert View[int, int](0, lambda s, e: s + e).initial == 0
    assert Decider[int, int, int](decide, lambda s, e: s + e, 0).initial == 0
