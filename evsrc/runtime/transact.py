"""Load a stream, decide a command on its state, append what was decided."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar, overload

from msgspec import Struct

from ..core.boundary import DecisionModel, QueryDecider
from ..core.decider import Decider, decided, fold
from ..core.errors import OptimisticLockError
from ..core.event import NO_METADATA, E, Metadata, NewEvent, StreamName
from ..core.expectation import AppendCondition
from ..core.snapshot import Snapshot, Snapshotting, restored
from ..ports import START, Also, Appended, EventStore, SaveSnapshot, Write
from .cache import StateCache
from .ids import new_event

S = TypeVar("S")
C = TypeVar("C")


class Decided(Struct, Generic[S, E], frozen=True, gc=False):
    """What a command led to.

    Args:
        state: the state after it; with a `QueryDecider` the one it was decided on.
        version: the stream's version after it; with a `QueryDecider` 0 if nothing was
            written.
        events: what happened; empty: nothing had to.
        position: where the log has the last of them; None: nothing was written.
        attempts: how often it was decided.
    """

    state: S
    version: int
    events: tuple[E, ...]
    position: int | None
    attempts: int


@overload
async def transact(
    store: EventStore[E],
    decider: Decider[S, C, E],
    stream: StreamName,
    command: C,
    *,
    metadata: Metadata = NO_METADATA,
    attempts: int = 3,
    cache: StateCache[S] | None = None,
    snapshots: Snapshotting[S] | None = None,
    envelop: Callable[[E, Metadata], NewEvent[E]] = new_event,
) -> Decided[S, E]: ...


@overload
async def transact(
    store: EventStore[E],
    decider: QueryDecider[S, C, E],
    stream: StreamName,
    command: C,
    *,
    metadata: Metadata = NO_METADATA,
    attempts: int = 3,
    envelop: Callable[[E, Metadata], NewEvent[E]] = new_event,
) -> Decided[S, E]: ...


async def transact(  # noqa: C901 - a further call would cost as much as a branch
    store: EventStore[E],
    decider: Decider[S, C, E] | QueryDecider[S, C, E],
    stream: StreamName,
    command: C,
    *,
    metadata: Metadata = NO_METADATA,
    attempts: int = 3,
    cache: StateCache[S] | None = None,
    snapshots: Snapshotting[S] | None = None,
    envelop: Callable[[E, Metadata], NewEvent[E]] = new_event,
) -> Decided[S, E]:
    """Decide *command* on the state of *stream* and record the events.

    When somebody else appended in between, only the tail is read and the command is
    decided again. A snapshot is stored in the transaction of the events that it
    contains, never before.

    A `QueryDecider` decides on what its query finds in the whole log. The events are
    recorded in *stream*, if nothing that the query asks for came in between.

    Args:
        store: where the stream is.
        decider: the domain.
        stream: which stream; for a `QueryDecider`, where the events go.
        command: what is wanted.
        metadata: recorded with every event.
        attempts: how often to decide at most.
        cache: states kept between calls.
        snapshots: how to keep states in the store.
        envelop: gives an event its id and metadata.

    Raises:
        OptimisticLockError: the stream (or what the query finds) moved each time.
        Exception: whatever the domain refuses the command with; nothing is written.
    """
    if attempts < 1:
        raise ValueError(f"attempts must be at least 1, not {attempts!r}")
    if isinstance(decider, QueryDecider):
        if cache is not None or snapshots is not None:
            raise ValueError("what a query finds is not kept: no cache, no snapshots")
        new = envelop, metadata
        return await _transact_query(store, decider, stream, command, attempts, new)
    decide, is_terminal = decider.decide, decider.is_terminal
    if cache is None and snapshots is None:
        loaded = await store.load_events(stream)
        state, version, certain = fold(decider, loaded.events), loaded.version, True
    else:
        state, version, certain = await _load(store, decider, stream, cache, snapshots)
    for attempt in range(1, attempts + 1):
        if not certain and not _decides(decider, state, command):
            # a kept state may be behind: nobody is refused on its word alone
            state, version = await _tail(store, decider, stream, state, version)
        events = () if is_terminal(state) else tuple(decide(state, command))
        if not events:
            return Decided(state, version, (), None, attempt)
        after, end = fold(decider, events, state), version + len(events)
        outcome = await store.append(
            Write(stream, [envelop(e, metadata) for e in events], version),
            also=()
            if snapshots is None
            else _due(snapshots, stream, after, version, end),
        )
        if isinstance(outcome, Appended):
            if outcome.repeated:  # it was recorded before, perhaps on another state
                after, end = await _tail(store, decider, stream, decider.initial, 0)
            if cache is not None:
                cache.put(stream, after, end)
            return Decided(after, end, events, outcome.position, attempt)
        if attempt == attempts:
            raise OptimisticLockError(
                stream, version, outcome.actual, attempts=attempts
            )
        state, version = await _tail(store, decider, stream, state, version)
        certain = True
    raise AssertionError("unreachable: the last attempt returns or raises")


async def _transact_query(
    store: EventStore[E],
    decider: QueryDecider[S, C, E],
    stream: StreamName,
    command: C,
    attempts: int,
    new: tuple[Callable[[E, Metadata], NewEvent[E]], Metadata],
) -> Decided[S, E]:
    """Decide on what a query finds; a lost race reads only what came in between."""
    envelop, metadata = new
    model = decider.model(command)
    state, head = await _fold_query(store, model, model.initial, START)
    for attempt in range(1, attempts + 1):
        events = tuple(decider.decide(state, command))
        if not events:
            return Decided(state, 0, (), None, attempt)
        condition = AppendCondition(model.query, head)
        outcome = await store.append(
            Write(stream, [envelop(e, metadata) for e in events], condition)
        )
        if isinstance(outcome, Appended):
            return Decided(state, outcome.version, events, outcome.position, attempt)
        if attempt == attempts:
            raise OptimisticLockError(
                stream, condition, outcome.actual, attempts=attempts
            )
        state, head = await _fold_query(store, model, state, head)
    raise AssertionError("unreachable: the last attempt returns or raises")


async def _fold_query(
    store: EventStore[E], model: DecisionModel[S, E], state: S, after: int
) -> tuple[S, int]:
    """Fold what a model's query finds after a position; give where the log ends."""
    evolve = model.evolve
    while True:
        page = await store.read_all(model.query, after=after)
        for found in page.events:
            state = evolve(state, found)
        after = page.reached
        if after >= page.head:
            return state, after


@overload
async def query(
    store: EventStore[E],
    decider: Decider[S, C, E],
    stream: StreamName,
    *,
    cache: StateCache[S] | None = None,
    snapshots: Snapshotting[S] | None = None,
) -> tuple[S, int]: ...


@overload
async def query(
    store: EventStore[E], decider: DecisionModel[S, E]
) -> tuple[S, int]: ...


async def query(
    store: EventStore[E],
    decider: Decider[S, C, E] | DecisionModel[S, E],
    stream: StreamName | None = None,
    *,
    cache: StateCache[S] | None = None,
    snapshots: Snapshotting[S] | None = None,
) -> tuple[S, int]:
    """Give the state of *stream* and its version; nothing is written.

    A cached state is brought up to date by reading what came after it. A
    `DecisionModel` needs no stream: its state comes with the position up to which the
    log was read.
    """
    if isinstance(decider, DecisionModel):
        return await _fold_query(store, decider, decider.initial, START)
    if stream is None:
        raise TypeError("a decider's state is that of a stream: say which")
    state, version, certain = await _load(store, decider, stream, cache, snapshots)
    if not certain:
        state, version = await _tail(store, decider, stream, state, version)
    if cache is not None:
        cache.put(stream, state, version)
    return state, version


async def _load(
    store: EventStore[E],
    decider: Decider[S, C, E],
    stream: StreamName,
    cache: StateCache[S] | None,
    snapshots: Snapshotting[S] | None,
) -> tuple[S, int, bool]:
    """Give state and version, and whether they were read just now."""
    kept = None if cache is None else cache.get(stream)
    if kept is not None:
        return *kept, False
    state, version = decider.initial, 0
    if snapshots is not None:
        snapshot = restored(snapshots, await store.snapshots.load(str(stream)))
        if snapshot is not None:
            state, version = snapshot.state, snapshot.version
    return *await _tail(store, decider, stream, state, version), True


async def _tail(
    store: EventStore[E],
    decider: Decider[S, C, E],
    stream: StreamName,
    state: S,
    version: int,
) -> tuple[S, int]:
    """Fold what came after *version*; a state ahead of its stream is not believed."""
    loaded = await store.load_events(stream, after=version)
    if loaded.version < version:
        loaded = await store.load_events(stream)
        state = decider.initial
    return fold(decider, loaded.events, state), loaded.version


def _decides(decider: Decider[S, C, E], state: S, command: C) -> bool:
    """Tell whether *command* leads to events on *state*."""
    try:
        return bool(decided(decider, state, command))
    except Exception:  # noqa: BLE001 - it is decided again, on the state of now
        return False


def _due(
    plan: Snapshotting[S], stream: StreamName, state: S, before: int, after: int
) -> Sequence[Also]:
    if not plan.due(before, after):
        return ()
    snapshot = Snapshot(plan.dump(state), after, plan.schema)
    return (SaveSnapshot(str(stream), snapshot),)
