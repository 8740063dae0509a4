"""Check that a store reads by query and appends under conditions as it has to.

The contract is that of dynamic consistency boundaries (https://dcb.events), with the
defects of existing implementations in mind.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any, Final
from uuid import uuid4

from ..core.event import NO_METADATA, Metadata, NewEvent, Recorded, StreamName
from ..core.expectation import (
    ALL,
    ANY,
    NO_STREAM,
    AnyQuery,
    AppendCondition,
    Expected,
    Query,
    QueryItem,
    any_of,
    matches,
)
from ..ports import (
    START,
    Appended,
    Conflict,
    SaveCheckpoint,
    Write,
)
from .conformance import Check, Fact, Marked, Note, Store, Tagged

_A: Final = StreamName("suite", "a")
_B: Final = StreamName("suite", "b")
_ELSEWHERE: Final = StreamName("elsewhere", "a")
_STRANGE: Final = (
    *("", " ", ":", "&", "|", "(", ")", ",", "'", '"', "\\", "%", "{", "}", "_", "*"),
    *("a:b", "a-b", "a b", "a&b", "a,b", "{a}", "[a]", "a\\b", "%s", "$1", "?1"),
    *("NULL", "ä", "a\u0308", "😀", "\u202e", "A", "a", "a ", " a", "\n"),
    *("x" * 65_535, "x" * 65_536),
)
checks: list[Check] = []


def _check(check: Check) -> Check:
    checks.append(check)
    return check


def _query(*, tags: Iterable[str] = (), types: Iterable[str] = ()) -> Query:
    return Query.of(tags=tags, types=types)


async def _put(
    store: Store, *events: Any, to: StreamName = _A, expected: Expected = ANY
) -> Appended:
    new = [NewEvent(event, uuid4()) for event in events]
    outcome = await store.append(Write(to, new, expected))
    assert isinstance(outcome, Appended), f"refused: {outcome}"
    return outcome


async def _refused(
    store: Store, expected: AppendCondition, *events: Any, to: StreamName = _A
) -> Conflict:
    """Append under a condition that does not hold: nothing is written."""
    head = await store.head()
    new = [NewEvent(event, uuid4()) for event in events or (Fact(0),)]
    outcome = await store.append(Write(to, new, expected))
    assert isinstance(outcome, Conflict), f"accepted under {expected}"
    assert (outcome.stream, outcome.expected) == (to, expected)
    assert expected.after < outcome.actual <= head, "the event that stands against it"
    log = await _all(store)
    (against,) = [r for r in log if r.position == outcome.actual]
    assert _asked(expected.query, against)
    assert len(log) == len({r.id for r in log})
    assert not {each.id for each in new} & {r.id for r in log}, "nothing is written"
    return outcome


async def _all(
    store: Store, query: AnyQuery = ALL, *, page: int = 1000, backward: bool = False
) -> list[Recorded[Any]]:
    """Read what *query* finds, in pages, to the end (or the beginning)."""
    events: list[Recorded[Any]] = []
    after, before = START, START
    while True:
        read = await store.read_all(
            query, after=before if backward else after, limit=page, backward=backward
        )
        events += read.events
        if backward:
            if read.reached == START:
                return events
            assert not before or read.reached < before, "reading backward goes on"
            before = read.reached
        else:
            if read.reached >= read.head:
                return events
            assert read.reached > after, "reading goes on"
            after = read.reached


def _asked(query: AnyQuery, recorded: Recorded[Any]) -> bool:
    return matches(query, recorded.stream.category, recorded.type, recorded.tags)


def _numbers(events: Iterable[Recorded[Any]]) -> list[int]:
    return [recorded.event.n for recorded in events]


async def _history(store: Store) -> list[Recorded[Any]]:
    """Record events of many kinds, and give them."""
    await _put(store, Tagged(1, ("x",)), Tagged(2, ("x", "y")), Tagged(3))
    await _put(store, Marked(4, ("y",)), Marked(5, ("x", "y", "z")), to=_B)
    await _put(store, Fact(6), Tagged(7, ("z", "z")), to=_ELSEWHERE)
    await _put(store, Marked(8, ("x",)), Fact(9), to=_ELSEWHERE)
    return await _all(store)


_QUERIES: Final[tuple[tuple[AnyQuery, list[int]], ...]] = (
    (ALL, [1, 2, 3, 4, 5, 6, 7, 8, 9]),
    (_query(types=["tagged"]), [1, 2, 3, 7]),
    (_query(types=["tagged", "fact"]), [1, 2, 3, 6, 7, 9]),
    (_query(types=["unheard of"]), []),
    (_query(tags=["x"]), [1, 2, 5, 8]),
    (_query(tags=["z"]), [5, 7]),
    (_query(tags=["x", "y"]), [2, 5]),
    (_query(tags=["x", "y", "z"]), [5]),
    (_query(tags=["x", "unheard of"]), []),
    (_query(tags=["x"], types=["marked"]), [5, 8]),
    (_query(tags=["x", "y"], types=["marked", "tagged"]), [2, 5]),
    (_query(tags=["x"], types=["fact"]), []),
    (Query.of(categories=["elsewhere"]), [6, 7, 8, 9]),
    (Query.of(categories=["elsewhere"], tags=["x"]), [8]),
    (Query.of(categories=["suite"], tags=["x"], types=["marked"]), [5]),
    (any_of(_query(tags=["z"]), _query(tags=["y"])), [2, 4, 5, 7]),
    (any_of(_query(tags=["y"]), _query(tags=["z"])), [2, 4, 5, 7]),
    (any_of(_query(tags=["x"]), _query(tags=["x", "y"])), [1, 2, 5, 8]),
    (any_of(_query(tags=["z"]), _query(types=["fact"])), [5, 6, 7, 9]),
    (any_of(_query(tags=["y"], types=["marked"]), _query(tags=["x"])), [1, 2, 4, 5, 8]),
    (any_of(Query.of(categories=["suite"]), _query(tags=["z"])), [1, 2, 3, 4, 5, 7]),
)


# Reading.


@_check
async def reads_nothing_of_an_empty_log(store: Store) -> None:
    """Whatever is asked for, in either direction."""
    for query, _ in _QUERIES:
        for backward in (False, True):
            page = await store.read_all(query, backward=backward)
            assert (page.events, page.reached, page.head) == ((), START, START)


@_check
async def reads_what_a_query_asks_for(store: Store) -> None:
    """Each event once and in order, whatever the order of the items and the pages."""
    await _history(store)
    for query, wanted in _QUERIES:
        for page in (1, 2, 1000):
            assert _numbers(await _all(store, query, page=page)) == wanted, query
            found = await _all(store, query, page=page, backward=True)
            assert _numbers(found) == wanted[::-1], query


@_check
async def shows_the_tags_of_events(store: Store) -> None:
    """In every read, duplicates once; an event without any has none."""
    log = await _history(store)
    wanted = ["x", "xy", "", "y", "xyz", "", "z", "x", ""]
    assert [r.tags for r in log] == list(map(frozenset, wanted))
    page = await store.read_stream(_B)
    assert [r.tags for r in page.events] == [frozenset("y"), frozenset("xyz")]
    found = await store.find(log[4].id)
    assert found is not None
    assert found.tags == frozenset("xyz")
    assert (await store.load_events(_B)).events == [r.event for r in log[3:5]]


@_check
async def keeps_tags_apart_from_metadata(store: Store) -> None:
    """Metadata are read back as they were given."""
    log = await _history(store)
    assert all(r.metadata == NO_METADATA for r in log)
    known = Metadata(actor_id="ann", extra={"$tags": ["fake"], "a": 1})
    given: tuple[Any, ...] = Tagged(10, ("x",)), Fact(1)
    new = [NewEvent(event, uuid4(), known) for event in given]
    await store.append(Write(_A, new, ANY))
    *_, tagged, plain = await _all(store)
    assert tagged.metadata == plain.metadata == known
    assert (tagged.tags, plain.tags) == (frozenset("x"), frozenset())


@_check
async def keeps_what_is_strange_beside_tags(store: Store) -> None:
    """Metadata with any text does not hide the tags, from reads or from `verify`."""
    hostile = ['"$tags":["z"]}', "x\0y", "\\u0000", "]}"]
    metadata = Metadata(extra={"a": hostile, "$tags": ["z"]})
    tags = ('q"\\]}', '],"$tags":["z"]}')
    events = [NewEvent(Tagged(n, tags), uuid4(), metadata) for n in range(3)]
    await store.append(Write(StreamName("odd", "1"), events, ANY))
    for tag in tags:
        found = (await store.read_all(Query.of(tags=[tag]))).events
        assert [recorded.metadata for recorded in found] == [metadata] * 3
    assert await store.verify() == ()


@_check
async def begins_and_ends_where_it_is_asked_to(store: Store) -> None:
    """After, before, and up to so many; no limit gives the store's head."""
    log = await _history(store)
    at = [recorded.position for recorded in log]
    head = await store.head()
    x = _query(tags=["x"])

    async def read(**how: Any) -> tuple[list[int], int, int]:
        page = await store.read_all(x, **how)
        return _numbers(page.events), page.reached, page.head

    assert await read() == ([1, 2, 5, 8], head, head)
    assert await read(after=at[1]) == ([5, 8], head, head)
    assert await read(after=at[2]) == ([5, 8], head, head)
    assert await read(after=at[1], limit=1) == ([5], at[4], head)
    assert await read(after=head) == ([], head, head)
    assert (await read(limit=0))[::2] == ([], head)
    assert await read(backward=True) == ([8, 5, 2, 1], START, head)
    assert await read(backward=True, limit=1) == ([8], at[7], head)
    assert await read(backward=True, after=at[7]) == ([5, 2, 1], START, head)
    assert await read(backward=True, after=at[6], limit=2) == ([5, 2], at[1], head)
    assert await read(backward=True, after=at[0]) == ([], START, head)
    assert (await read(backward=True, limit=0))[::2] == ([], head)


@_check
async def tells_strange_tags_apart(store: Store) -> None:
    """Tags that differ only in punctuation, case, form or their end are different."""
    assert len(set(_STRANGE)) == len(_STRANGE)
    for n, tag in enumerate(_STRANGE):
        await _put(store, Tagged(n, (tag,)))
    for n, tag in enumerate(_STRANGE):
        found = await _all(store, _query(tags=[tag]))
        assert _numbers(found) == [n], repr(tag[:9])
        assert found[0].tags == {tag}
        condition = AppendCondition(_query(tags=[tag]))
        assert (await _refused(store, condition)).actual == found[0].position


@_check
async def takes_queries_of_many_items(store: Store) -> None:
    """More than a thousand, and items with many tags and types."""
    tags = [f"t{n}" for n in range(1200)]
    for start in range(0, 1200, 300):
        numbers = range(start, start + 300)
        await _put(store, *(Tagged(n, (tags[n],)) for n in numbers))
    items = [QueryItem(tags=frozenset([tag])) for tag in reversed(tags[100:])]
    assert _numbers(await _all(store, Query(tuple(items)))) == list(range(100, 1200))
    missing = [QueryItem(tags=frozenset([f"m{n}"])) for n in range(1200)]
    condition = AppendCondition(Query(tuple(missing)))
    await _put(store, Tagged(1, tuple(tags)), expected=condition)
    found = await _all(store, _query(tags=tags))
    assert _numbers(found) == [1]
    types = [f"type-{n}" for n in range(1000)]
    assert await _all(store, _query(types=types, tags=["t1"])) == []


# Appending under a condition.


@_check
async def judges_conditions_of_every_shape(store: Store) -> None:
    """An append is refused exactly if something that is asked for came after."""
    log = await _history(store)
    head = await store.head()
    for query, _ in _QUERIES:
        found = [r.position for r in log if _asked(query, r)]
        last = max(found, default=START)
        for after in sorted({START, *found, last - 1, last + 1, head, head + 7} - {-1}):
            condition = AppendCondition(query, after)
            if last > after:
                await _refused(store, condition)
            elif query != ALL:  # an accepted one would change what ALL finds
                unseen = Note("accepted"), StreamName("accepted", "a")
                await _put(store, unseen[0], to=unseen[1], expected=condition)


@_check
async def accepts_what_is_new_to_the_whole_log(store: Store) -> None:
    """A condition over everything holds in an empty log, and after its head."""
    condition = AppendCondition(ALL)
    first = await _put(store, Fact(1), expected=condition)
    await _refused(store, condition)
    await _put(store, Fact(2), expected=AppendCondition(ALL, first.position))
    await _refused(store, AppendCondition(ALL, first.position))


@_check
async def does_not_hold_an_append_against_itself(store: Store) -> None:
    """Neither its own events nor the other writes of the call stand against it."""
    mine = AppendCondition(_query(tags=["mine"]))
    writes = [
        Write(_A, [NewEvent(Tagged(n, ("mine",)), uuid4()) for n in (1, 2)], mine),
        Write(_B, [NewEvent(Tagged(3, ("mine",)), uuid4())], mine),
    ]
    outcome = await store.append(*writes)
    assert isinstance(outcome, Appended)
    assert outcome.version == 1
    assert _numbers(await _all(store, mine.query)) == [1, 2, 3]
    await _refused(store, mine)


@_check
async def combines_conditions_and_versions(store: Store) -> None:
    """In one write, and in the writes of one call: all hold, or nothing is written."""
    await _put(store, Tagged(1, ("x",)))
    free, taken = _query(tags=["free"]), _query(tags=["x"])

    async def attempt(*writes: tuple[StreamName, Expected]) -> Appended | Conflict:
        return await store.append(
            *[Write(to, [NewEvent(Fact(0), uuid4())], ex) for to, ex in writes]
        )

    outcome = await attempt((_A, AppendCondition(free, version=2)))
    assert outcome == Conflict(_A, 2, 1)
    outcome = await attempt((_A, AppendCondition(taken, version=1)))
    assert isinstance(outcome, Conflict)
    assert outcome.expected == AppendCondition(taken, version=1)
    outcome = await attempt((_A, 1), (_B, AppendCondition(taken)))
    assert isinstance(outcome, Conflict)
    assert outcome.stream == _B
    outcome = await attempt((_A, AppendCondition(free)), (_B, 3))
    assert outcome == Conflict(_B, 3, 0)
    assert await store.head() == (await _all(store))[0].position
    outcome = await attempt((_A, AppendCondition(free, version=1)), (_B, NO_STREAM))
    assert isinstance(outcome, Appended)
    assert [placed.version for placed in outcome.placed] == [2, 1]


@_check
async def writes_nothing_of_a_refused_append(store: Store) -> None:
    """No event, no tag, no checkpoint; its ids can be used again."""
    await _put(store, Tagged(1, ("x",)))
    new = [NewEvent(Tagged(2, ("x", "lost")), uuid4())]
    taken = AppendCondition(_query(tags=["x"]))
    outcome = await store.append(Write(_B, new, taken), also=[SaveCheckpoint("c", 1)])
    assert isinstance(outcome, Conflict)
    assert await _all(store, _query(tags=["lost"])) == []
    assert await store.checkpoints.load("c") is None
    assert (await store.load_events(_B)).version == 0
    done = await store.append(Write(_B, new, AppendCondition(_query(tags=["lost"]))))
    assert isinstance(done, Appended)
    assert not done.repeated
    assert _numbers(await _all(store, _query(tags=["lost"]))) == [2]


@_check
async def repeats_a_conditional_append_harmlessly(store: Store) -> None:
    """The same ids again are a success with the first positions, whatever came."""
    condition = AppendCondition(_query(tags=["x"]))
    write = Write(_A, [NewEvent(Tagged(1, ("x",)), uuid4())], condition)
    first = await store.append(write)
    assert isinstance(first, Appended)
    await _put(store, Tagged(2, ("x",)), to=_B)
    again = await store.append(write)
    assert isinstance(again, Appended)
    assert (again.placed, again.repeated) == (first.placed, True)
    assert _numbers(await _all(store, condition.query)) == [1, 2]


@_check
async def sees_appends_of_every_kind(store: Store) -> None:
    """Stream appends and unconditional ones stand against a condition as well."""
    query = _query(tags=["x"])
    after = START
    for expected in (ANY, 1, AppendCondition(query, version=2), NO_STREAM):
        to = _B if expected is NO_STREAM else _A
        if isinstance(expected, AppendCondition):
            expected = AppendCondition(query, after, 2)  # noqa: PLW2901
        done = await _put(store, Tagged(1, ("x",)), to=to, expected=expected)
        await _refused(store, AppendCondition(query, after))
        after = done.position
    await _put(store, Fact(0), expected=AppendCondition(query, after))


# At the same time.


async def _race(
    store: Store, conditions: Iterable[AppendCondition], tags: Callable[[int], str]
) -> list[Appended | Conflict]:
    async def one(n: int, condition: AppendCondition) -> Appended | Conflict:
        new = [NewEvent(Tagged(n, (tags(n),)), uuid4())]
        return await store.append(Write(StreamName("race", str(n)), new, condition))

    return list(await asyncio.gather(*(one(n, c) for n, c in enumerate(conditions))))


@_check
async def lets_one_win_for_a_boundary(store: Store) -> None:
    """Of forty appends under the same condition, one."""
    condition = AppendCondition(_query(tags=["seat"]), await store.head())
    done = await _race(store, [condition] * 40, lambda _: "seat")
    won = [outcome for outcome in done if isinstance(outcome, Appended)]
    lost = [outcome for outcome in done if isinstance(outcome, Conflict)]
    assert (len(won), len(lost)) == (1, 39)
    assert {outcome.actual for outcome in lost} == {won[0].position}


@_check
async def lets_all_win_for_disjoint_boundaries(store: Store) -> None:
    """Appends that do not concern one another do not disturb one another."""
    conditions = [AppendCondition(_query(tags=[f"seat-{n}"])) for n in range(40)]
    done = await _race(store, conditions, lambda n: f"seat-{n}")
    assert all(isinstance(outcome, Appended) for outcome in done)


@_check
async def keeps_a_capacity(store: Store) -> None:
    """Of fifty tasks that read, decide and append, as many win as there is room for."""
    room, query = 7, _query(tags=["course"])

    async def join(n: int) -> bool:
        for _ in range(100):  # each lost race is another's success: seven are enough
            page = await store.read_all(query)
            if len(page.events) >= room:
                return False
            new = [NewEvent(Tagged(n, ("course", f"student-{n}")), uuid4())]
            to = StreamName("student", str(n))
            condition = AppendCondition(query, page.head)
            if isinstance(await store.append(Write(to, new, condition)), Appended):
                return True
        raise AssertionError("refused again and again, and nobody was faster")

    joined = await asyncio.gather(*map(join, range(50)))
    assert sum(joined) == len(await _all(store, query)) == room


@_check
async def is_a_log_that_verifies_itself(store: Store) -> None:
    """Each append records what it knew of its boundary; the log tells if it was so."""
    kinds = [_query(tags=[f"k{n}"]) for n in range(3)]

    async def write(n: int) -> None:
        for turn in range(6):
            k = (n + turn) % 3
            last, head = await last_of(store, kinds[k])
            claim: tuple[str, ...] = f"k{k}", f"last:{last}"
            expected: Expected = AppendCondition(kinds[k], head)
            if turn % 3 == 2:
                claim, expected = (f"k{k}",), ANY
            new = [NewEvent(Tagged(n, claim), uuid4())]
            await store.append(Write(StreamName("log", str(n % 4)), new, expected))

    await asyncio.gather(*map(write, range(12)))
    check_claims(await _all(store))
    assert await store.verify() == ()


async def last_of(store: Store, query: AnyQuery) -> tuple[int, int]:
    """Give the position of the last event of *query*, and the head at that time."""
    page = await store.read_all(query, backward=True, limit=1)
    head = page.head
    while not page.events and page.reached != START:
        page = await store.read_all(query, backward=True, limit=1, after=page.reached)
    return (page.events[0].position if page.events else START), head


def check_claims(log: Iterable[Recorded[Any]]) -> int:
    """Hold each event's claim `last:POSITION` against the log, and count the claims.

    An event that claims something was appended under the condition that the last event
    before it with the same `k...` tag is at that position.
    """
    last: dict[str, int] = {}
    claims = 0
    for recorded in log:
        kinds = {tag for tag in recorded.tags if tag.startswith("k")}
        for tag in recorded.tags - kinds:
            claims += 1
            claimed = int(tag.removeprefix("last:"))
            true = max(last.get(kind, START) for kind in kinds)
            assert claimed == true, f"{recorded.position}: {claimed}, it was {true}"
        last |= dict.fromkeys(kinds, recorded.position)
    return claims
