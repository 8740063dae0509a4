"""Stores of one database, which take turns, judge as one store in memory does."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path
from random import Random
from typing import Any
from uuid import uuid4

import pytest

from evsrc import (
    ANY,
    NO_STREAM,
    EvsrcError,
    NewEvent,
    SaveCheckpoint,
    StreamName,
    Write,
    memory_store,
)
from evsrc.ports import EventStore
from evsrc.testing import CODEC, Tagged
from evsrc.testing.back_ends import opener

Store = EventStore[Any]
NAMES = [StreamName("s", "1"), StreamName("s", "2"), StreamName("t", "1")]
KINDS = {"one": 12, "several": 4, "two streams": 1, "used before": 2, "beside": 1}


def news(draw: Random, count: int) -> list[NewEvent[Any]]:
    tags = draw.choices([(), ("x",)], (9, 1), k=count)
    return [NewEvent(Tagged(draw.randrange(9), each), uuid4()) for each in tags]


async def step(draw: Random, model: Store, used: list[Write[Any]]) -> dict[str, Any]:
    """Draw what to append: mostly one more event to a stream."""
    name, *others = draw.sample(NAMES, len(NAMES))
    version = (await model.load_events(name)).version
    expected = draw.choice([version, version, version, ANY, version + 1, NO_STREAM])
    (kind,) = draw.choices(list(KINDS), list(KINDS.values()))
    write = Write(name, news(draw, 2 if kind == "several" else 1), expected)
    asked: dict[str, Any] = {"writes": [write], "whole": draw.random() < 0.05}
    if kind == "two streams":
        asked["writes"].append(Write(others[0], news(draw, 1), ANY))
    elif kind == "used before" and used:
        asked["writes"] = [Write(name, draw.choice(used).events, ANY)]
    elif kind == "beside":
        asked["also"] = [SaveCheckpoint("p", draw.randrange(9))]
    used.append(write)
    return asked


async def outcome(
    store: Store, writes: list[Write[Any]], *, also: Any = (), whole: bool
) -> Any:
    """Append, perhaps in a transaction; give the verdict, or the kind of error."""
    try:
        if not whole:
            return await store.append(*writes, also=also)
        async with store.transaction() as tx:
            return await tx.append(*writes, also=also)
    except EvsrcError as error:
        return type(error)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("back_end", ["sqlite", "postgresql"])
async def test_stores_that_take_turns_judge_as_one(
    back_end: str, seed: int, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Each relies on what it has written itself, and sees what the other has."""
    draw, used = Random(seed), list[Write[Any]]()
    needs_server = back_end == "postgresql"
    url = request.getfixturevalue("evsrc_postgres_url") if needs_server else ""
    open_store = opener(back_end, tmp_path, CODEC, url=url)
    async with AsyncExitStack() as opened:
        model: Store = await opened.enter_async_context(memory_store(CODEC))
        stores = [
            await opened.enter_async_context(await open_store()) for _ in range(2)
        ]
        mostly = draw.random()
        for n in range(80):
            store = stores[draw.random() > mostly]
            asked = await step(draw, model, used)
            assert await outcome(store, **asked) == await outcome(model, **asked), n
        expected = [
            (recorded.position, recorded.stream, recorded.version, recorded.id)
            for recorded in (await model.read_all(limit=1000)).events
        ]
        for store in stores:
            assert expected == [
                (recorded.position, recorded.stream, recorded.version, recorded.id)
                for recorded in (await store.read_all(limit=1000)).events
            ]
            assert await store.verify() == ()
