"""evsrc's conditional appends; the log has 10 events an order, all of one tenant."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Any

from msgspec import Struct

from evsrc import (
    ANY,
    AppendCondition,
    Appended,
    Query,
    StreamName,
    Write,
    any_of,
    json_codec,
    memory_store,
    new_event,
    postgresql_store,
    sqlite_store,
)
from evsrc.ports import EventStore

from .bench import STREAM, Bench

_unique = count(1)
_AT_ONCE = 500


class Placed(Struct, frozen=True):
    """An event of an order."""

    text: str
    order: str
    tenant: str = "tenant:1"


class Unique(Struct, frozen=True):
    """An event that is alone with its tag."""

    text: str
    key: str


def _tags(event: Any) -> tuple[str, ...]:
    return event.order, event.tenant


_codec = json_codec(
    {"placed": Placed, "unique": Unique},
    tags={Placed: _tags, Unique: lambda event: (event.key,)},
)
Store = EventStore[Any]
_TEXT = "x" * 100


def _order(n: int) -> str:
    return f"order:{n}"


async def _fill(store: Store, events: int) -> None:
    for first in range(0, events, _AT_ONCE):
        batch = [
            new_event(Placed(_TEXT, _order(n // STREAM)))
            for n in range(first, min(first + _AT_ONCE, events))
        ]
        await store.append(Write(StreamName("order", str(first)), batch, ANY))


async def _put(store: Store, event: Any, condition: AppendCondition) -> None:
    stream = StreamName("placed", str(next(_unique)))
    done = await store.append(Write(stream, [new_event(event)], condition))
    assert isinstance(done, Appended)


def _appending(store: Store) -> Callable[[], Any]:
    async def step() -> int:
        key = f"unique:{next(_unique)}"
        await _put(store, Unique(_TEXT, key), AppendCondition(Query.of(tags=[key])))
        return 1

    return step


def _reading(store: Store, orders: int) -> Callable[[], Any]:
    async def step() -> int:
        query = Query.of(tags=[_order(next(_unique) % orders)])
        page = await store.read_all(query)
        assert len(page.events) >= STREAM
        return 1

    return step


def _deciding(store: Store, orders: int) -> Callable[[], Any]:
    async def step() -> int:
        n = next(_unique)
        one, other = _order(n % orders), _order((n + 7) % orders)
        query = any_of(Query.of(tags=[one]), Query.of(tags=[other]))
        page = await store.read_all(query)
        event = Placed(_TEXT, one, f"tenant:of-{n}")
        await _put(store, event, AppendCondition(query, page.head))
        return 1

    return step


def _hot(store: Store) -> Callable[[], Any]:
    condition = AppendCondition(Query.of(types=["unique"], tags=["tenant:1"]))

    async def step() -> int:
        await _put(store, Placed(_TEXT, "order:hot"), condition)
        return 1

    return step


async def _built(dsn: str) -> None:
    async with await postgresql_store(dsn, _codec, accept_loss=True) as store:
        await _fill(store, _built.events)  # type: ignore[attr-defined]


async def _postgresql(bench: Bench, step: Callable[[Store], Any]) -> float:
    _built.events = bench.events  # type: ignore[attr-defined]
    dsn = await bench.prepared_database("core-boundaries", _built)
    async with await postgresql_store(dsn, _codec) as store:
        return await bench.rate(step(store))


async def boundary_append(bench: Bench) -> float:
    """`append` under a condition on a tag that nothing has."""
    return await _postgresql(bench, _appending)


async def boundary_read(bench: Bench) -> float:
    """`read_all` of a tag that 10 events have."""
    orders = bench.events // STREAM
    return await _postgresql(bench, lambda store: _reading(store, orders))


async def boundary_decide(bench: Bench) -> float:
    """`read_all` of two items, then `append` under the condition of the same query."""
    orders = bench.events // STREAM
    return await _postgresql(bench, lambda store: _deciding(store, orders))


async def boundary_hot(bench: Bench) -> float:
    """A type that is not there, of a tag that all events have, from the beginning."""
    return 1000 / await _postgresql(bench, _hot)


async def _memory(bench: Bench, events: int) -> float:
    store: Store = memory_store(_codec)
    await _fill(store, events)
    return 1000 / await bench.rate(_appending(store))


async def boundary_memory(bench: Bench) -> tuple[float, ...]:
    """`append` under a condition at 20,000 events, and at ten times as many."""
    return await _memory(bench, 20_000), await _memory(bench, 200_000)


async def _sqlite(bench: Bench, events: int) -> float:
    async def build(path: str) -> None:
        async with await sqlite_store(path, _codec, synchronous="NORMAL") as store:
            await _fill(store, events)

    path = await bench.prepared(f"boundaries-{events}", build)
    async with await sqlite_store(path, _codec, synchronous="NORMAL") as store:
        return await bench.rate(_appending(store))


async def boundary_sqlite(bench: Bench) -> tuple[float, ...]:
    """`append` under a condition at NORMAL: few events, and as many as ten logs have."""
    return await _sqlite(bench, 10_000), await _sqlite(bench, 10 * bench.events)
