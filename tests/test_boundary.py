"""Decisions on what a query finds: queries, conditions, tags, models, deciders."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from typing import Any
from uuid import uuid4

import pytest
from msgspec import Struct
from pyrsistent import PMap, pmap

from evsrc import (
    ALL,
    ANY,
    NO_STREAM,
    AppendCondition,
    Codec,
    Decider,
    DecisionModel,
    EventStoreRecord,
    EventTypeNotFoundError,
    InvalidEventError,
    InvalidExpectedVersionError,
    InvalidQueryError,
    Metadata,
    NewEvent,
    OptimisticLockError,
    Page,
    Query,
    QueryDecider,
    QueryItem,
    Recorded,
    StateCache,
    StreamName,
    Write,
    any_of,
    compose,
    compose_map,
    json_codec,
    json_snapshots,
    memory_store,
    new_event,
    query,
    satisfies,
    transact,
)
from evsrc import testing as kit
from evsrc.core.event import checked_tags, with_tags, without_tags
from evsrc.core.expectation import check_expected, matches
from evsrc.testing import specs_of
from tests.conftest import OpenStore

Store = EventStoreRecord[Any]


class Opened(Struct, frozen=True):
    course: str
    room: int


class Joined(Struct, frozen=True):
    student: str
    course: str


class Left(Struct, frozen=True):
    student: str
    course: str


class Join(Struct, frozen=True):
    student: str
    course: str


Event = Opened | Joined | Left
CODEC: Codec[Event] = json_codec(
    {"opened": Opened, "joined": Joined, "left": Left},
    tags={
        Opened: lambda e: [f"c:{e.course}"],
        Joined: lambda e: [f"c:{e.course}", f"s:{e.student}"],
        Left: lambda e: [f"c:{e.course}", f"s:{e.student}"],
    },
)
STREAM = StreamName("course", "x")


class Full(Exception):
    pass


def room(course: str) -> DecisionModel[int, Event]:
    return DecisionModel.handling(
        CODEC, 0, {Opened: lambda _, e: e.room}, tags=[f"c:{course}"]
    )


def members(*tags: str) -> DecisionModel[int, Event]:
    steps: dict[Any, Callable[[int, Any], int]] = {
        Joined: lambda n, _: n + 1,
        Left: lambda n, _: n - 1,
    }
    return DecisionModel.handling(CODEC, 0, steps, tags=tags)


class Known(Struct, frozen=True):
    room: int
    taken: int
    courses: int


def model(command: Join) -> DecisionModel[Known, Event]:
    return compose(
        Known,
        room=room(command.course),
        taken=members(f"c:{command.course}"),
        courses=members(f"s:{command.student}"),
    )


def decide(known: Known, command: Join) -> Sequence[Event]:
    if known.taken >= known.room:
        raise Full
    return [] if known.courses else [Joined(command.student, command.course)]


JOINING: QueryDecider[Known, Join, Event] = QueryDecider(decide, model)


def recorded(event: Event, position: int = 1) -> Recorded[Event]:
    """Show an event as a log with the codec above would."""
    assert CODEC.tags is not None
    where = StreamName("course", getattr(event, "course", "x"))
    return Recorded(
        *(event, CODEC.name(event), where, 1, position),
        *(position, None, 0, CODEC.tags(event)),
    )


def folded(model: DecisionModel[Any, Event], *events: Event) -> Any:
    """Fold what the model asks for, as `query` does."""
    state = model.initial
    for found in map(recorded, events):
        if matches(model.query, found.stream.category, found.type, found.tags):
            state = model.evolve(state, found)
    return state


# Queries and conditions.


def test_a_query_restricts_something() -> None:
    """An empty query or item is refused, and the way to say "all" is named."""
    with pytest.raises(InvalidQueryError, match="restricts nothing; use ALL"):
        QueryItem()
    with pytest.raises(InvalidQueryError, match="restricts nothing; use ALL"):
        Query.of()
    with pytest.raises(InvalidQueryError, match="matches nothing; use ALL"):
        Query(())
    with pytest.raises(InvalidQueryError):
        any_of()


@pytest.mark.parametrize("field", ["categories", "types", "tags"])
def test_the_names_of_a_query_are_several_texts(field: str) -> None:
    """One text is not taken for its characters; what is no text is refused."""
    with pytest.raises(InvalidQueryError, match=f"{field} are several, not the text"):
        Query.of(**{field: "ab"})  # type: ignore[arg-type]
    with pytest.raises(InvalidQueryError, match=f"{field} are a frozenset of str"):
        Query.of(**{field: ["a", 1]})  # type: ignore[arg-type]
    with pytest.raises(InvalidQueryError, match=f"{field} are a frozenset of str"):
        QueryItem(**{field: {"a"}})  # type: ignore[arg-type]


@pytest.mark.parametrize("field", ["categories", "types", "tags"])
@pytest.mark.parametrize("name", ["a\0b", "\0", "\ud800", "\ud83d" + "x" * 999])
def test_a_query_asks_for_names_that_there_can_be(field: str, name: str) -> None:
    """No store could look for them; they would spoil the appends they travel with."""
    with pytest.raises(
        InvalidQueryError, match=f"{field} hold .* no store has"
    ) as told:
        Query.of(**{field: ["a", name]})  # type: ignore[arg-type]
    assert len(str(told.value)) < 300


def test_a_query_asks_for_types_and_all_tags() -> None:
    """One of the types, one of the categories, every tag; more tags do no harm."""
    asked = Query.of(categories=["c", "d"], types=["t", "u"], tags=["x", "y", "x"])
    assert matches(asked, "c", "u", {"x", "y", "z"})
    assert not matches(asked, "e", "t", {"x", "y"})
    assert not matches(asked, "c", "v", {"x", "y"})
    assert not matches(asked, "c", "t", {"x"})
    assert matches(ALL, "c", "t")
    assert asked.items[0].tags == {"x", "y"}


def test_any_of_queries_joins_their_items() -> None:
    """Each once, in order; with ALL among them it is ALL."""
    x, y = Query.of(tags=["x"]), Query.of(tags=["y"])
    assert any_of(x, y, x) == Query((*x.items, *y.items))
    assert any_of(any_of(x, y), x) == any_of(x, y)
    assert any_of(x, ALL) == ALL


@pytest.mark.parametrize(
    ("arguments", "error", "told"),
    [
        ((None,), InvalidQueryError, "needs a query, not None"),
        (("everything",), InvalidQueryError, "needs a query, not 'everything'"),
        ((ALL, -1), InvalidQueryError, "is a position, not -1"),
        ((ALL, True), InvalidQueryError, "is a position, not True"),
        ((ALL, None), InvalidQueryError, "is a position, not None"),
        ((ALL, 2**63), InvalidQueryError, "is a position, not 9223372036854775808"),
        ((ALL, 0, -1), InvalidExpectedVersionError, "-1"),
        ((ALL, 0, "any"), InvalidExpectedVersionError, "any"),
        ((ALL, 0, AppendCondition(ALL)), InvalidExpectedVersionError, "AppendCond"),
    ],
)
def test_a_condition_says_what_is_wrong_with_it(
    arguments: Any, error: type[Exception], told: str
) -> None:
    """A query, a position and a version; nothing else will do."""
    with pytest.raises(error, match=told):
        AppendCondition(*arguments)


def test_a_condition_is_an_expectation() -> None:
    """Of the version alone, as far as a stream can tell."""
    condition = AppendCondition(ALL, 3, NO_STREAM)
    check_expected(condition)
    assert satisfies(condition, 0)
    assert not satisfies(condition, 1)
    assert satisfies(AppendCondition(ALL), 7)
    assert str(condition) == "nothing of all after position 3"


# Tags.


def test_tags_are_a_set_of_texts() -> None:
    """Duplicates are one; punctuation, spaces, emptiness and length are welcome."""
    strange = ["", " ", "a", "a", "a:b", "ä", "😀", '"', "\n", "x" * 65_536]
    assert checked_tags("t", strange) == frozenset(strange)


@pytest.mark.parametrize(
    ("tags", "told"),
    [
        ("ab", "tags are several, not the text 'ab'"),
        ([1], "tag 1 is not a str"),
        ([None], "tag None is not a str"),
        (["a\0"], "holds a NUL"),
        (["\ud800"], "is not valid Unicode"),
        (["x" * 65_537], "has 65537 bytes, 65536 are allowed"),
        (["ä" * 32_769], "has 65538 bytes, 65536 are allowed"),
    ],
)
def test_hostile_tags_are_refused(tags: Any, told: str) -> None:
    """With the event's name, the tag (or its beginning) and the reason."""
    with pytest.raises(InvalidEventError, match=told) as refused:
        checked_tags("joined", tags)
    assert "'joined'" in str(refused.value)
    assert len(str(refused.value)) < 400


@pytest.mark.parametrize(
    "metadata",
    [
        None,
        b'{"actor_id":"ann"}',
        b'{"metadata":{"$tags":["fake"]}}',
        b'{"actor_id":"\\"$tags\\":[\\"fake\\"]"}',
        b'{"tenant_id":"]}"}',
    ],
)
def test_tags_go_into_metadata_and_out(metadata: bytes | None) -> None:
    """What was there is there afterwards, whatever it looks like."""
    for tags in ({"b", "a"}, {'"]}', '"$tags":["x"]}'}, {""}):
        stored = with_tags(metadata, frozenset(tags))
        assert stored is not None
        found = Recorded(None, "t", STREAM, 1, 1, 1, stored, 0)
        assert found.tags == tags
        assert without_tags(stored) == metadata
    assert with_tags(metadata, frozenset()) == metadata
    assert without_tags(metadata) == metadata
    assert Recorded(None, "t", STREAM, 1, 1, 1, metadata, 0).tags == frozenset()


def test_tags_are_declared_for_classes_that_have_a_name() -> None:
    """Anything else is a mistake, and found when the codec is made."""
    with pytest.raises(EventTypeNotFoundError, match=r"'Left'.*known types: joined"):
        json_codec({"joined": Joined}, tags={Left: lambda _: []})
    assert json_codec({"joined": Joined}).tags is None


async def test_a_bad_tag_writes_nothing(store: Store) -> None:
    """Not even the event before it, or the other write."""
    codec: Codec[Event] = json_codec(
        {"joined": Joined}, tags={Joined: lambda e: [e.student * 65_537]}
    )
    opened = memory_store(codec)
    good, bad = new_event(Joined("", "c")), new_event(Joined("a", "c"))
    for writes in (
        [Write(STREAM, [good, bad], ANY)],
        [Write(STREAM, [good], ANY), Write(StreamName("c", "y"), [bad], ANY)],
    ):
        with pytest.raises(InvalidEventError, match="65537 bytes"):
            await opened.append(*writes)
    assert await opened.head() == 0


# Models.


def test_a_model_asks_for_what_it_handles() -> None:
    """Its types are those of its steps, under every name; its tags are the given."""
    assert members("c:x").query == Query.of(types=["joined", "left"], tags=["c:x"])
    renamed = replace(CODEC, types={**CODEC.types, "entered": Joined})
    asked = DecisionModel.handling(renamed, 0, {Joined: lambda n, _: n + 1})
    assert asked.query == Query.of(types=["joined", "entered"])
    assert (
        folded(members("c:x"), Joined("a", "x"), Joined("b", "x"), Left("a", "x")) == 1
    )


def test_a_model_handles_something_that_is_known() -> None:
    """A class without a name and a model without a step are refused."""
    with pytest.raises(EventTypeNotFoundError, match="'Full'.*joined, left, opened"):
        DecisionModel.handling(CODEC, 0, {Full: lambda n, _: n})
    with pytest.raises(InvalidQueryError, match="without steps handles no event"):
        DecisionModel.handling(CODEC, 0, {}, tags=["x"])


def test_a_model_may_look_at_the_whole_record() -> None:
    """`of` hides it, the constructor does not."""
    asked = Query.of(types=["joined"])
    names: DecisionModel[str, Event] = DecisionModel.of(
        asked, "", lambda text, event: text + event.course
    )
    where: DecisionModel[int, Event] = DecisionModel(
        asked, 0, lambda _, found: found.position
    )
    found = recorded(Joined("a", "x"), 7)
    assert names.evolve("w", found) == "wx"
    assert where.evolve(0, found) == 7


def test_each_part_sees_only_events_of_its_own_query() -> None:
    """Members of other courses, and other courses of others, are not counted."""
    whole = model(Join("a", "x"))
    history: list[Event] = [
        Opened("x", 3),
        Joined("b", "x"),
        Joined("a", "y"),
        Joined("b", "y"),
        Joined("c", "x"),
        Joined("a", "z"),
    ]
    assert folded(whole, *history) == Known(room=3, taken=2, courses=2)
    assert folded(whole) == Known(0, 0, 0)
    assert whole.query == any_of(
        room("x").query, members("c:x").query, members("s:a").query
    )


def test_composed_models_compose() -> None:
    """A part may itself have parts; what is not asked for keeps its default."""

    class Outer(Struct, frozen=True):
        inner: Known
        other: int = 0
        never: str = "default"

    outer = compose(Outer, inner=model(Join("a", "x")), other=members("c:y"))
    found = folded(outer, Opened("x", 3), Joined("b", "y"), Joined("a", "y"))
    assert found == Outer(Known(3, 0, 1), 2)
    with pytest.raises(InvalidQueryError):
        compose(Outer)


def test_the_newest_event_counts_alone_in_a_part() -> None:
    """A part is what it is by itself: its step starts afresh at each event."""
    newest: DecisionModel[str, Event] = DecisionModel.handling(
        CODEC, "-", {Joined: lambda text, e: text + e.student}, newest=True
    )

    class Both(Struct, frozen=True):
        last: str
        joined: int

    both = compose(Both, last=newest, joined=members("c:x"))
    events = Joined("a", "x"), Joined("b", "x"), Left("a", "x")
    assert folded(both, *events) == Both("-b", 1)
    assert folded(compose_map({"last": newest}), *events) == {"last": "-b"}


def test_a_map_of_models_keeps_them_apart() -> None:
    """One state for each key; each sees the events of its own query."""
    counted = compose_map({c: members(f"c:{c}") for c in ("x", "y")})
    history: list[Event] = [Joined("a", "x"), Joined("a", "z"), Joined("b", "x")]
    assert counted.initial == pmap({"x": 0, "y": 0})
    assert folded(counted, *history) == pmap({"x": 2, "y": 0})
    assert counted.query == any_of(members("c:x").query, members("c:y").query)
    with pytest.raises(InvalidQueryError):
        compose_map(dict[str, DecisionModel[int, Event]]())


# Deciding.


@pytest.fixture
async def log(open_store: OpenStore) -> AsyncIterator[Store]:
    opened = await open_store(CODEC)
    yield opened
    await opened.close()


async def put(store: Store, *events: Event) -> None:
    await store.append(Write(STREAM, [new_event(event) for event in events], ANY))


def overtaken(store: Store, *rivals: Event) -> tuple[Store, list[tuple[int, int]]]:
    """Let an event come first before each append; note where reads begin and end."""
    left, reads = list(rivals), list[tuple[int, int]]()

    async def append(*writes: Write[Any], also: Any = ()) -> Any:
        if left:
            await put(store, left.pop(0))
        return await store.append(*writes, also=also)

    async def read_all(asked: Any = ALL, **how: Any) -> Any:
        page = await store.read_all(asked, **how)
        reads.append((how.get("after", 0), len(page.events)))
        return page

    return replace(store, append=append, read_all=read_all), reads


async def test_a_decision_is_recorded_in_the_given_stream(log: Store) -> None:
    """With tags and metadata; the state is the one that it was decided on."""
    await put(log, Opened("x", 2), Joined("b", "x"))
    to, known = StreamName("student", "a"), Metadata(actor_id="ann")
    done = await transact(log, JOINING, to, Join("a", "x"), metadata=known)
    assert (done.state, done.events) == (Known(2, 1, 0), (Joined("a", "x"),))
    assert (done.version, done.position, done.attempts) == (1, await log.head(), 1)
    (found,) = (await log.read_stream(to)).events
    assert (found.tags, found.metadata) == ({"c:x", "s:a"}, known)


async def test_nothing_is_written_if_nothing_is_decided(log: Store) -> None:
    """An empty decision is a success, a refusal is the domain's own error."""
    await put(log, Opened("x", 9), Joined("a", "y"))
    head = await log.head()
    done = await transact(log, JOINING, STREAM, Join("a", "x"))
    assert (done.events, done.version, done.position) == ((), 0, None)
    with pytest.raises(Full):
        await transact(log, JOINING, STREAM, Join("b", "closed"))
    assert await log.head() == head


async def test_a_lost_race_is_decided_again_on_the_tail(log: Store) -> None:
    """Only what came in between is read, and it counts."""
    await put(log, Opened("x", 3), *(Joined(f"o{n}", "other") for n in range(5)))
    await put(log, Joined("b", "x"))
    head = await log.head()
    raced, reads = overtaken(log, Joined("c", "x"))
    done = await transact(raced, JOINING, STREAM, Join("a", "x"))
    assert (done.attempts, done.state.taken) == (2, 2)
    assert reads == [(0, 2), (head, 1)]
    raced, reads = overtaken(log, Joined("d", "x"), Joined("e", "x"))
    with pytest.raises(Full):
        await transact(raced, JOINING, STREAM, Join("f", "x"))


async def test_what_is_not_asked_for_disturbs_nobody(log: Store) -> None:
    """Events beside the boundary, in the same stream too, cost no second attempt."""
    await put(log, Opened("x", 3))
    raced, _ = overtaken(log, Joined("b", "y"))
    assert (await transact(raced, JOINING, STREAM, Join("a", "x"))).attempts == 1


async def test_attempts_are_used_up(log: Store) -> None:
    """Then the error says what stood against it, and nothing was written."""
    await put(log, Opened("x", 99))
    raced, reads = overtaken(log, *(Joined(f"r{n}", "x") for n in range(9)))
    with pytest.raises(OptimisticLockError, match="changed 2 times") as lost:
        await transact(raced, JOINING, STREAM, Join("a", "x"), attempts=2)
    assert lost.value.attempts == len(reads) == 2
    condition = lost.value.expected_version
    assert isinstance(condition, AppendCondition)
    assert condition.query == JOINING.query(Join("a", "x"))
    assert lost.value.actual_version == await log.head() > condition.after
    assert (await query(log, members("s:a")))[0] == 0


async def test_many_pages_are_read_to_the_end(log: Store) -> None:
    """A boundary of more events than one page has."""
    for n in range(0, 2500, 500):
        await put(log, *(Joined(f"s{n + m}", "x") for m in range(500)))
    await put(log, Opened("x", 2500))
    assert await query(log, members("c:x")) == (2500, await log.head())
    with pytest.raises(Full):
        await transact(log, JOINING, STREAM, Join("a", "x"))


async def test_a_model_can_be_queried(log: Store) -> None:
    """Its state, and the position up to which the log was read."""
    assert await query(log, members("c:x")) == (0, 0)
    await put(log, Joined("a", "x"), Joined("a", "y"))
    assert await query(log, members("c:x")) == (1, await log.head())
    everything: DecisionModel[int, Event] = DecisionModel.of(ALL, 0, lambda n, _: n + 1)
    assert await query(log, everything) == (2, await log.head())


async def test_a_model_of_the_newest_event_reads_no_other(log: Store) -> None:
    """Not in the first attempt, and not in the next; the step starts afresh."""

    def newest(_: str) -> DecisionModel[str, Event]:
        steps: dict[Any, Callable[[str, Any], str]] = {
            Joined: lambda text, e: text + e.student
        }
        return DecisionModel.handling(CODEC, "-", steps, newest=True)

    follow: QueryDecider[str, str, Event] = QueryDecider(
        lambda last, student: [Joined(last + student, "x")], newest
    )
    assert await query(log, newest("")) == ("-", 0)
    await put(log, Joined("a", "x"), Joined("b", "x"), Left("z", "x"))
    raced, reads = overtaken(log, Joined("c", "x"))
    done = await transact(raced, follow, STREAM, "d")
    assert (done.events, done.attempts) == ((Joined("-cd", "x"),), 2)
    assert [count for _, count in reads] == [1, 1]
    assert await query(log, newest("")) == ("--cd", await log.head())


async def test_the_newest_event_may_be_some_pages_away(log: Store) -> None:
    """A page that has no event is not the beginning of the log."""
    await put(log, Joined("a", "x"), Left("a", "x"), Left("b", "x"))
    _, head = await query(log, members("c:x"))

    async def read_all(asked: Any = ALL, *, after: int = 0, **how: Any) -> Any:
        page = await log.read_all(ALL, after=after, **how)
        fitting = [r for r in page.events if matches(asked, "", r.type, r.tags)]
        return Page(tuple(fitting), page.reached, head if after == 0 else 0)

    short = replace(log, read_all=read_all)
    steps: dict[Any, Callable[[str, Any], str]] = {Joined: lambda _, e: e.student}
    newest = DecisionModel.handling(CODEC, "-", steps, newest=True)
    assert await query(short, newest) == ("a", head)
    none = DecisionModel.handling(CODEC, "-", steps, tags=["c:z"], newest=True)
    assert await query(short, none) == ("-", head)


async def test_a_query_decider_keeps_no_state(log: Store) -> None:
    """Neither cache nor snapshots, nor a number of attempts that is none."""
    keep: Any = {"cache": StateCache[Any]()}
    snap: Any = {"snapshots": json_snapshots(Known)}
    for kept in (keep, snap):
        with pytest.raises(ValueError, match="no cache, no snapshots"):
            await transact(log, JOINING, STREAM, Join("a", "x"), **kept)
    with pytest.raises(ValueError, match="at least 1"):
        await transact(log, JOINING, STREAM, Join("a", "x"), attempts=0)
    counter: Decider[int, int, Event] = Decider(lambda *_: [], lambda n, _: n, 0)
    with pytest.raises(TypeError, match="say which"):
        await query(log, counter)  # type: ignore[call-overload]


async def test_one_of_many_gets_the_last_place(log: Store) -> None:
    """Each decides until it is in or the course is full."""
    await put(log, Opened("x", 5))

    async def join(n: int) -> bool:
        to = StreamName("student", str(n))
        try:
            await transact(log, JOINING, to, Join(f"s{n}", "x"), attempts=99)
        except Full:
            return False
        return True

    joined = await asyncio.gather(*map(join, range(25)))
    assert sum(joined) == (await query(log, members("c:x")))[0] == 5


async def test_a_repeated_decision_is_written_once(log: Store) -> None:
    """With ids of their own, the same events again are where they were."""
    ids = {"a": uuid4()}
    always: QueryDecider[Any, str, Event] = QueryDecider(
        lambda _, student: [Joined(student, "x")], lambda _: members("c:none")
    )

    def envelop(event: Event, metadata: Metadata) -> NewEvent[Event]:
        assert isinstance(event, Joined)
        return NewEvent(event, ids[event.student], metadata)

    first = await transact(log, always, STREAM, "a", envelop=envelop)
    again = await transact(log, always, STREAM, "a", envelop=envelop)
    assert first.position == again.position == await log.head()


# The specs.

given = specs_of(JOINING, codec=CODEC)


def test_a_spec_claims_what_happens() -> None:
    """What is not so fails, and both are shown."""
    known = given(Opened("x", 2))
    after = known.when(Join("a", "x")).then(Joined("a", "x"))
    after.when(Join("a", "x")).nothing()
    given(Opened("x", 0)).when(Join("a", "x")).rejected(Full)
    with pytest.raises(
        AssertionError, match=r"expected Joined\(student='b'.*\n.*got Joined"
    ):
        known.when(Join("a", "x")).then(Joined("b", "x"))
    with pytest.raises(AssertionError, match="expected nothing"):
        known.when(Join("a", "x")).nothing()
    with pytest.raises(AssertionError, match="expected Full, got Joined"):
        known.when(Join("a", "x")).rejected(Full)
    with pytest.raises(AssertionError, match=r"expected Joined.*got Full"):
        given().when(Join("a", "x")).then(Joined("a", "x"))


def test_a_spec_claims_the_words_of_a_refusal() -> None:
    """A pattern that the error's text contains."""

    def refuse(*_: object) -> Sequence[Event]:
        raise ValueError("no room at all")

    refusing = specs_of(QueryDecider(refuse, model), codec=CODEC)
    refusing().when(Join("a", "x")).rejected(ValueError, match="no room")
    with pytest.raises(AssertionError, match="'no room at all'"):
        refusing().when(Join("a", "x")).rejected(ValueError, match="no time")


def test_a_spec_gives_the_model_what_it_asks_for() -> None:
    """An event beyond the boundary fails, unless it is said to be there."""
    with pytest.raises(
        AssertionError, match=r"does not ask for Joined\(student='b', course='y'\)"
    ):
        given(Opened("x", 2), Joined("b", "y")).when(Join("a", "x"))
    given(Opened("x", 1)).beside(Joined("b", "y")).when(Join("a", "x")).then(
        Joined("a", "x")
    )
    with pytest.raises(
        AssertionError, match=r"asks for Joined\(student='b', course='x'\)"
    ):
        given(Opened("x", 2)).beside(Joined("b", "x")).when(Join("a", "x"))


def test_a_spec_refuses_what_no_store_would_take() -> None:
    """A decided event without a name, or with fields that do not fit."""
    for event, error in (
        (Join("a", "x"), EventTypeNotFoundError),
        (Joined(1, "x"), InvalidEventError),  # type: ignore[arg-type]
    ):
        wrong: QueryDecider[Any, Any, Any] = QueryDecider(
            lambda *_, e=event: [e], model
        )
        with pytest.raises(AssertionError, match=error.__name__):
            specs_of(wrong, codec=CODEC)().when(Join("a", "x")).nothing()


def test_a_spec_claims_what_always_holds() -> None:
    """Of the model's state after each event that it asks for, and of all events."""

    def few(state: Any, events: tuple[Event, ...]) -> bool:
        return (state.taken, len(events)) < (2, 3)

    known = given(Opened("x", 9), Joined("b", "x")).beside(Joined("c", "y"))
    with pytest.raises(AssertionError, match="few does not hold"):
        known.when(Join("a", "x")).holds(few)
    assert known.when(Join("b", "x")).holds(few).events == known.events


def test_recorded_events_have_the_names_and_tags_of_a_codec() -> None:
    """As a log with that codec would show them."""
    joined, opened = kit.recorded(Joined("a", "x"), Opened("x", 1), codec=CODEC)
    assert (joined.type, joined.tags) == ("joined", {"c:x", "s:a"})
    assert (opened.type, opened.tags) == ("opened", {"c:x"})
    assert kit.recorded("a")[0].tags == frozenset()


def test_a_spec_needs_a_codec() -> None:
    """Without it there are no names and no tags to ask for."""
    with pytest.raises(TypeError, match="codec="):
        specs_of(JOINING)  # type: ignore[call-overload]


def test_a_spec_knows_streams_and_the_newest_event() -> None:
    """Categories are those of the given streams; a newest event stands alone."""
    first: DecisionModel[str, Event] = DecisionModel.of(
        Query.of(categories=["course"]), "-", lambda s, e: s + e.course, newest=True
    )
    decider: QueryDecider[str, Join, Event] = QueryDecider(
        lambda text, _: [Opened(text, 1)], lambda _: first
    )
    there = specs_of(
        decider, codec=CODEC, stream=lambda e: StreamName("course", e.course)
    )
    there(Opened("x", 1), Opened("y", 1)).when(Join("a", "x")).then(Opened("-y", 1))
    with pytest.raises(AssertionError, match="does not ask for"):
        specs_of(decider, codec=CODEC)(Opened("x", 1)).when(Join("a", "x"))


def test_a_map_of_models_is_a_persistent_map() -> None:
    """It can be shared and changed without a copy."""
    counted = compose_map({"x": members("c:x")})
    state: PMap[str, int] = counted.initial
    later = counted.evolve(state, recorded(Joined("a", "x")))
    assert (state["x"], later["x"]) == (0, 1)
