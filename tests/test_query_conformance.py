"""The suite fails stores whose queries or conditions are broken on purpose."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from msgspec import structs

from evsrc import (
    ALL,
    ANY,
    AppendCondition,
    Conflict,
    Page,
    Query,
    QueryItem,
    Write,
    memory_store,
    sqlite_store,
)
from evsrc.ports import EventStore
from evsrc.stores.sqlite import checks as sqlite_checks
from evsrc.stores.sqlite import queries, reader, writer
from evsrc.testing import CODEC, store_checks
from evsrc.testing.query_checks import checks

Store = EventStore[Any]


def judging(
    store: Store, judge: Callable[[AppendCondition], Any], *, pause: int = 0
) -> Store:
    """Replace what a store does with conditions; *judge* gives the expectation."""

    async def append(*writes: Write[Any], also: Any = ()) -> Any:
        judged = []
        for write in writes:
            expected = write.expected
            if isinstance(expected, AppendCondition):
                expected = judge(expected)
                if asyncio.iscoroutine(expected):
                    expected = await expected
                if isinstance(expected, Conflict):
                    return structs.replace(
                        expected, stream=write.stream, expected=write.expected
                    )
            judged.append(Write(write.stream, write.events, expected))
        for _ in range(pause):
            await asyncio.sleep(0)
        return await store.append(*judged, also=also)

    return replace(store, append=append)


def asking(store: Store, ask: Callable[[Query], Any]) -> Store:
    """Replace what a store is asked for."""

    async def read_all(query: Any = ALL, **how: Any) -> Any:
        return await store.read_all(
            ask(query) if isinstance(query, Query) else query, **how
        )

    return replace(store, read_all=read_all)


def ignores_conditions(store: Store) -> Store:
    return judging(store, lambda _: ANY)


def judges_without_a_lock(store: Store) -> Store:
    """Reads, and then appends, while others append in between."""

    async def judge(condition: AppendCondition) -> Any:
        page = await store.read_all(condition.query, limit=1, backward=True)
        last = page.events[0].position if page.events else 0
        if last > condition.after:
            return Conflict(None, condition, last)  # type: ignore[arg-type]
        return condition.version

    return judging(store, judge, pause=1)


def takes_after_as_inclusive(store: Store) -> Store:
    def judge(condition: AppendCondition) -> AppendCondition:
        return structs.replace(condition, after=max(condition.after - 1, 0))

    return judging(store, judge)


def ignores_after(store: Store) -> Store:
    return judging(store, lambda condition: structs.replace(condition, after=0))


def ignores_the_version_beside(store: Store) -> Store:
    return judging(store, lambda condition: structs.replace(condition, version=ANY))


def any_tag_will_do(store: Store) -> Store:
    def ask(query: Query) -> Query:
        return Query(
            tuple(
                QueryItem(item.categories, item.types, frozenset([tag]))
                if tag
                else item
                for item in query.items
                for tag in item.tags or ("",)
            )
        )

    return asking(store, ask)


def all_items_must_match(store: Store) -> Store:
    def ask(query: Query) -> Query:
        tags = frozenset[str]().union(*(item.tags for item in query.items))
        (first, *_) = query.items
        return Query((QueryItem(first.categories, first.types, tags),))

    return asking(store, ask)


def forgets_the_types(store: Store) -> Store:
    def ask(query: Query) -> Any:
        if any(not item.tags and not item.categories for item in query.items):
            return query
        items = [QueryItem(item.categories, tags=item.tags) for item in query.items]
        return Query(tuple(items))

    return asking(store, ask)


def doubles_what_two_items_find(store: Store) -> Store:
    async def read_all(query: Any = ALL, **how: Any) -> Any:
        page = await store.read_all(query, **how)
        if not isinstance(query, Query) or len(query.items) == 1:
            return page
        twice = tuple(event for event in page.events for _ in query.items)
        return Page(twice, page.reached, page.head)

    return replace(store, read_all=read_all)


def folds_case(store: Store) -> Store:
    def ask(query: Query) -> Query:
        items = [
            QueryItem(i.categories, i.types, frozenset(t.lower() for t in i.tags))
            for i in query.items
        ]
        return Query(tuple(items))

    return asking(store, ask)


def reads_backward_in_forward_order(store: Store) -> Store:
    async def read_all(query: Any = ALL, **how: Any) -> Any:
        page = await store.read_all(query, **how)
        if not how.get("backward"):
            return page
        return Page(page.events[::-1], page.reached, page.head)

    return replace(store, read_all=read_all)


def gives_the_last_event_as_head(store: Store) -> Store:
    async def read_all(query: Any = ALL, **how: Any) -> Any:
        page = await store.read_all(query, **how)
        if not page.events or query == ALL:
            return page
        last = max(event.position for event in page.events)
        return Page(page.events, page.reached, last)

    return replace(store, read_all=read_all)


@pytest.mark.parametrize(
    "broken",
    [
        ignores_conditions,
        judges_without_a_lock,
        takes_after_as_inclusive,
        ignores_after,
        ignores_the_version_beside,
        any_tag_will_do,
        all_items_must_match,
        forgets_the_types,
        doubles_what_two_items_find,
        folds_case,
        reads_backward_in_forward_order,
        gives_the_last_event_as_head,
    ],
    ids=lambda broken: broken.__name__,
)
async def test_suite_fails_broken_queries(broken: Callable[[Store], Store]) -> None:
    """The checks of queries and conditions find it, whatever the other checks do."""
    failed = []
    for check in checks:
        try:
            await asyncio.wait_for(check(broken(memory_store(CODEC))), 15)
        except AssertionError:
            failed.append(check.__name__)
    assert failed, "the suite let it pass"


async def test_a_store_without_a_lock_fails_the_races() -> None:
    """It is right as long as it is alone, and caught as soon as it is not."""
    failed = []
    for check in checks:
        try:
            await check(judges_without_a_lock(memory_store(CODEC)))
        except AssertionError:
            failed.append(check.__name__)
    assert {"lets_one_win_for_a_boundary", "keeps_a_capacity"} <= set(failed)
    assert "is_a_log_that_verifies_itself" in failed


async def test_tags_with_one_hash_are_told_apart(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """SQLite's index only gives candidates: the checks pass if all tags collide.

    But a page may then have fewer events than its limit.
    """
    for module in (sqlite_checks, queries, reader, writer):
        monkeypatch.setattr(module, "tag_key", lambda tag: len(tag) % 2)
    left_out = "takes_queries_of_many_items", "begins_and_ends_where_it_is_asked_to"
    for check in store_checks:
        if check.__name__ not in left_out:
            async with await sqlite_store(":memory:", CODEC) as store:
                await check(store)
