"""Check that a store reads by query and appends under conditions as it has to.

The contract is that of dynamic consistency boundaries (https://dcb.events), with the
defects of existing implementations in mind.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
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
    asks_for,
)
from ..ports import START, Appended, Conflict, SaveCheckpoint, Write
from ._bench import (
    ELSEWHERE,
    A,
    B,
    Fact,
    Marked,
    Note,
    Store,
    Tagged,
    accepted,
    checks_of,
    last_of,
    log_of,
    new,
    numbers_of,
    put,
    some,
)

__all__ = ["check_claims", "checks", "last_of"]

_STRANGE: Final = (
    *("", " ", ":", "&", "|", "(", ")", ",", "'", '"', "\\", "%", "{", "}", "_", "*"),
    *("a:b", "a-b", "a b", "a&b", "a,b", "{a}", "[a]", "a\\b", "%s", "$1", "?1"),
    *("NULL", "ä", "a\u0308", "😀", "\u202e", "A", "a", "a ", " a", "\n"),
    *("x" * 65_535, "x" * 65_536),
)


async def _refused(
    store: Store, expected: AppendCondition, *events: Any, to: StreamName = A
) -> Conflict:
    """Append under a condition that does not hold: nothing is written."""
    head = await store.head()
    added = new(*events or (0,))
    outcome = await store.append(Write(to, added, expected))
    assert isinstance(outcome, Conflict), f"accepted under {expected}"
    assert (outcome.stream, outcome.expected) == (to, expected)
    assert expected.after < outcome.actual <= head, "the event that stands against it"
    log = await log_of(store)
    (against,) = [r for r in log if r.position == outcome.actual]
    assert asks_for(expected.query, against)
    assert len(log) == len({r.id for r in log})
    assert not {each.id for each in added} & {r.id for r in log}, "nothing is written"
    return outcome


async def _history(store: Store) -> list[Recorded[Any]]:
    """Record events of many kinds, and give them."""
    await put(store, Tagged(1, ("x",)), Tagged(2, ("x", "y")), Tagged(3))
    await put(store, Marked(4, ("y",)), Marked(5, ("x", "y", "z")), to=B)
    await put(store, Fact(6), Tagged(7, ("z", "z")), to=ELSEWHERE)
    await put(store, Marked(8, ("x",)), Fact(9), to=ELSEWHERE)
    return await log_of(store)


_QUERIES: Final[tuple[tuple[AnyQuery, list[int]], ...]] = (
    (ALL, [1, 2, 3, 4, 5, 6, 7, 8, 9]),
    (Query.of(types=["tagged"]), [1, 2, 3, 7]),
    (Query.of(types=["tagged", "fact"]), [1, 2, 3, 6, 7, 9]),
    (Query.of(types=["unheard of"]), []),
    (Query.of(tags=["x"]), [1, 2, 5, 8]),
    (Query.of(tags=["z"]), [5, 7]),
    (Query.of(tags=["x", "y"]), [2, 5]),
    (Query.of(tags=["x", "y", "z"]), [5]),
    (Query.of(tags=["x", "unheard of"]), []),
    (Query.of(tags=["x"], types=["marked"]), [5, 8]),
    (Query.of(tags=["x", "y"], types=["marked", "tagged"]), [2, 5]),
    (Query.of(tags=["x"], types=["fact"]), []),
    (Query.of(categories=["elsewhere"]), [6, 7, 8, 9]),
    (Query.of(categories=["elsewhere"], tags=["x"]), [8]),
    (Query.of(categories=["suite"], tags=["x"], types=["marked"]), [5]),
    (any_of(Query.of(tags=["z"]), Query.of(tags=["y"])), [2, 4, 5, 7]),
    (any_of(Query.of(tags=["y"]), Query.of(tags=["z"])), [2, 4, 5, 7]),
    (any_of(Query.of(tags=["x"]), Query.of(tags=["x", "y"])), [1, 2, 5, 8]),
    (any_of(Query.of(tags=["z"]), Query.of(types=["fact"])), [5, 6, 7, 9]),
    (
        any_of(Query.of(tags=["y"], types=["marked"]), Query.of(tags=["x"])),
        [1, 2, 4, 5, 8],
    ),
    (any_of(Query.of(categories=["suite"]), Query.of(tags=["z"])), [1, 2, 3, 4, 5, 7]),
    (Query.of(categories=["elsewhere"], types=["fact"]), [6, 9]),
    (Query.of(categories=["unheard of", "suite"], types=["marked"]), [4, 5]),
    (Query.of(categories=["suite", "elsewhere"]), [1, 2, 3, 4, 5, 6, 7, 8, 9]),
)


# Reading.


async def reads_nothing_of_an_empty_log(store: Store) -> None:
    """Whatever is asked for, in either direction."""
    for query, _ in _QUERIES:
        for backward in (False, True):
            page = await store.read_all(query, backward=backward)
            assert (page.events, page.reached, page.head) == ((), START, START)


async def reads_what_a_query_asks_for(store: Store) -> None:
    """Each event once and in order, whatever the order of the items and the pages."""
    await _history(store)
    await put(store, *[Note("noise")] * 100, to=StreamName("noise", "x"))
    for query, wanted in _QUERIES:
        for page in (1, 2, 1000):
            for numbers, backward in ((wanted, False), (wanted[::-1], True)):
                log = await log_of(store, query, page=page, backward=backward)
                found = [r for r in log if r.stream.category != "noise"]
                assert numbers_of(found) == numbers, (query, page)
                assert len(log) == len(found) + 100 * (query == ALL)


async def shows_the_tags_of_events(store: Store) -> None:
    """In every read, duplicates once; an event without any has none."""
    log = await _history(store)
    wanted = ["x", "xy", "", "y", "xyz", "", "z", "x", ""]
    assert [r.tags for r in log] == list(map(frozenset, wanted))
    page = await store.read_stream(B)
    assert [r.tags for r in page.events] == [frozenset("y"), frozenset("xyz")]
    found = some(await store.find(log[4].id))
    assert found.tags == frozenset("xyz")
    assert (await store.load_events(B)).events == [r.event for r in log[3:5]]


async def keeps_tags_apart_from_metadata(store: Store) -> None:
    """Metadata are read back as they were given."""
    log = await _history(store)
    assert all(r.metadata == NO_METADATA for r in log)
    known = Metadata(actor_id="ann", extra={"$tags": ["fake"], "a": 1})
    given: tuple[Any, ...] = Tagged(10, ("x",)), Fact(1)
    events = [NewEvent(event, uuid4(), known) for event in given]
    await store.append(Write(A, events, ANY))
    *_, tagged, plain = await log_of(store)
    assert tagged.metadata == plain.metadata == known
    assert (tagged.tags, plain.tags) == (frozenset("x"), frozenset())


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


async def begins_and_ends_where_it_is_asked_to(store: Store) -> None:
    """After, before, and up to so many; no limit gives the store's head."""
    log = await _history(store)
    at = [recorded.position for recorded in log]
    head = await store.head()
    x = Query.of(tags=["x"])

    async def read(query: AnyQuery = x, **how: Any) -> tuple[list[int], int, int]:
        page = await store.read_all(query, **how)
        return numbers_of(page.events), page.reached, page.head

    assert await read(ALL) == ([1, 2, 3, 4, 5, 6, 7, 8, 9], head, head)
    assert await read(ALL, after=at[2], limit=2) == ([4, 5], at[4], head)
    assert await read(ALL, after=at[2], limit=0) == ([], at[2], head)
    assert await read(ALL, after=head) == ([], head, head)
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


async def tells_strange_tags_apart(store: Store) -> None:
    """Tags that differ only in punctuation, case, form or their end are different."""
    assert len(set(_STRANGE)) == len(_STRANGE)
    for n, tag in enumerate(_STRANGE):
        await put(store, Tagged(n, (tag,)))
    for n, tag in enumerate(_STRANGE):
        found = await log_of(store, Query.of(tags=[tag]))
        assert numbers_of(found) == [n], repr(tag[:9])
        assert found[0].tags == {tag}
        condition = AppendCondition(Query.of(tags=[tag]))
        assert (await _refused(store, condition)).actual == found[0].position


async def takes_queries_of_many_items(store: Store) -> None:
    """More than a thousand, and items with many tags and types."""
    tags = [f"t{n}" for n in range(1200)]
    for start in range(0, 1200, 300):
        numbers = range(start, start + 300)
        await put(store, *(Tagged(n, (tags[n],)) for n in numbers))
    items = [QueryItem(tags=frozenset([tag])) for tag in reversed(tags[100:])]
    assert numbers_of(await log_of(store, Query(tuple(items)))) == list(
        range(100, 1200)
    )
    missing = [QueryItem(tags=frozenset([f"m{n}"])) for n in range(1200)]
    condition = AppendCondition(Query(tuple(missing)))
    await put(store, Tagged(1, tuple(tags)), expected=condition)
    found = await log_of(store, Query.of(tags=tags))
    assert numbers_of(found) == [1]
    types = [f"type-{n}" for n in range(1000)]
    assert await log_of(store, Query.of(types=types, tags=["t1"])) == []


# Appending under a condition.


async def judges_conditions_of_every_shape(store: Store) -> None:
    """An append is refused exactly if something that is asked for came after."""
    log = await _history(store)
    head = await store.head()
    for query, _ in _QUERIES:
        found = [r.position for r in log if asks_for(query, r)]
        last = max(found, default=START)
        for after in sorted({START, *found, last - 1, last + 1, head, head + 7} - {-1}):
            condition = AppendCondition(query, after)
            if last > after:
                await _refused(store, condition)
            elif query != ALL:  # an accepted one would change what ALL finds
                unseen = Note("accepted"), StreamName("accepted", "a")
                await put(store, unseen[0], to=unseen[1], expected=condition)


async def accepts_what_is_new_to_the_whole_log(store: Store) -> None:
    """A condition over everything holds in an empty log, and after its head."""
    condition = AppendCondition(ALL)
    first = await put(store, Fact(1), expected=condition)
    await _refused(store, condition)
    await put(store, Fact(2), expected=AppendCondition(ALL, first.position))
    await _refused(store, AppendCondition(ALL, first.position))


async def does_not_hold_an_append_against_itself(store: Store) -> None:
    """Neither its own events nor the other writes of the call stand against it."""
    mine = AppendCondition(Query.of(tags=["mine"]))
    events = [Tagged(n, ("mine",)) for n in (1, 2, 3)]
    writes = Write(A, new(*events[:2]), mine), Write(B, new(events[2]), mine)
    assert (await accepted(store.append(*writes))).version == 1
    assert numbers_of(await log_of(store, mine.query)) == [1, 2, 3]
    await _refused(store, mine)


async def combines_conditions_and_versions(store: Store) -> None:
    """In one write, and in the writes of one call: all hold, or nothing is written."""
    await put(store, Tagged(1, ("x",)))
    free, taken = Query.of(tags=["free"]), Query.of(tags=["x"])

    async def attempt(*writes: tuple[StreamName, Expected]) -> Appended | Conflict:
        return await store.append(*[Write(to, new(0), ex) for to, ex in writes])

    outcome = await attempt((A, AppendCondition(free, version=2)))
    assert outcome == Conflict(A, 2, 1)
    outcome = await attempt((A, AppendCondition(taken, version=1)))
    assert isinstance(outcome, Conflict)
    assert outcome.expected == AppendCondition(taken, version=1)
    outcome = await attempt((A, 1), (B, AppendCondition(taken)))
    assert isinstance(outcome, Conflict)
    assert outcome.stream == B
    outcome = await attempt((A, AppendCondition(free)), (B, 3))
    assert outcome == Conflict(B, 3, 0)
    assert await store.head() == (await log_of(store))[0].position
    both = (A, AppendCondition(free, version=1)), (B, NO_STREAM)
    done = await accepted(attempt(*both))
    assert [placed.version for placed in done.placed] == [2, 1]


async def writes_nothing_of_a_refused_append(store: Store) -> None:
    """No event, no tag, no checkpoint; its ids can be used again."""
    await put(store, Tagged(1, ("x",)))
    lost = new(Tagged(2, ("x", "lost")))
    taken = AppendCondition(Query.of(tags=["x"]))
    outcome = await store.append(Write(B, lost, taken), also=[SaveCheckpoint("c", 1)])
    assert isinstance(outcome, Conflict)
    assert await log_of(store, Query.of(tags=["lost"])) == []
    assert await store.checkpoints.load("c") is None
    assert (await store.load_events(B)).version == 0
    free = AppendCondition(Query.of(tags=["lost"]))
    assert not (await accepted(store.append(Write(B, lost, free)))).repeated
    assert numbers_of(await log_of(store, Query.of(tags=["lost"]))) == [2]


async def repeats_a_conditional_append_harmlessly(store: Store) -> None:
    """The same ids again are a success with the first positions, whatever came."""
    condition = AppendCondition(Query.of(tags=["x"]))
    write = Write(A, new(Tagged(1, ("x",))), condition)
    first = await accepted(store.append(write))
    await put(store, Tagged(2, ("x",)), to=B)
    again = await accepted(store.append(write))
    assert (again.placed, again.repeated) == (first.placed, True)
    assert numbers_of(await log_of(store, condition.query)) == [1, 2]


async def sees_appends_of_every_kind(store: Store) -> None:
    """Stream appends and unconditional ones stand against a condition as well."""
    query = Query.of(tags=["x"])
    after = START
    for expected in (ANY, 1, AppendCondition(query, version=2), NO_STREAM):
        to = B if expected is NO_STREAM else A
        if isinstance(expected, AppendCondition):
            expected = AppendCondition(query, after, 2)  # noqa: PLW2901
        done = await put(store, Tagged(1, ("x",)), to=to, expected=expected)
        await _refused(store, AppendCondition(query, after))
        after = done.position
    await put(store, Fact(0), expected=AppendCondition(query, after))


# At the same time.


async def _race(store: Store, tags: Iterable[str]) -> list[Appended | Conflict]:
    writes = [
        Write(
            StreamName("race", str(n)),
            new(Tagged(n, (tag,))),
            AppendCondition(Query.of(tags=[tag])),
        )
        for n, tag in enumerate(tags)
    ]
    return await asyncio.gather(*map(store.append, writes))


async def lets_one_win_for_a_boundary(store: Store) -> None:
    """Of forty appends under the same condition, one."""
    done = await _race(store, ["seat"] * 40)
    won = [outcome for outcome in done if isinstance(outcome, Appended)]
    lost = [outcome for outcome in done if isinstance(outcome, Conflict)]
    assert (len(won), len(lost)) == (1, 39)
    assert {outcome.actual for outcome in lost} == {won[0].position}


async def lets_all_win_for_disjoint_boundaries(store: Store) -> None:
    """Appends that do not concern one another do not disturb one another."""
    done = await _race(store, [f"seat-{n}" for n in range(40)])
    assert all(isinstance(outcome, Appended) for outcome in done)


async def keeps_a_capacity(store: Store) -> None:
    """Of fifty tasks that read, decide and append, as many win as there is room for."""
    room, query = 7, Query.of(tags=["course"])

    async def join(n: int) -> bool:
        for _ in range(100):  # each lost race is another's success: seven are enough
            page = await store.read_all(query)
            if len(page.events) >= room:
                return False
            joining = new(Tagged(n, ("course", f"student-{n}")))
            to = StreamName("student", str(n))
            condition = AppendCondition(query, page.head)
            if isinstance(await store.append(Write(to, joining, condition)), Appended):
                return True
        raise AssertionError("refused again and again, and nobody was faster")

    joined = await asyncio.gather(*map(join, range(50)))
    assert sum(joined) == len(await log_of(store, query)) == room


async def is_a_log_that_verifies_itself(store: Store) -> None:
    """Each append records what it knew of its boundary; the log tells if it was so."""
    kinds = [Query.of(tags=[f"k{n}"]) for n in range(3)]

    async def write(n: int) -> None:
        for turn in range(6):
            k = (n + turn) % 3
            last, head = await last_of(store, kinds[k])
            claim: tuple[str, ...] = f"k{k}", f"last:{last}"
            expected: Expected = AppendCondition(kinds[k], head)
            if turn % 3 == 2:
                claim, expected = (f"k{k}",), ANY
            to = StreamName("log", str(n % 4))
            await store.append(Write(to, new(Tagged(n, claim)), expected))

    await asyncio.gather(*map(write, range(12)))
    check_claims(await log_of(store))
    assert await store.verify() == ()


def check_claims(log: Iterable[Recorded[Any]]) -> int:
    """Hold each event's claim `last:POSITION` against the log, and count the claims.

    The claim: the last event before it with the same `k...` tag is at that position.
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


checks: Final = checks_of(__name__, "Store")
"""The checks of this module; `evsrc.testing.store_checks` are all."""
