"""Make a store fail, dawdle, stammer or fall silent, exactly as a plan says.

`faulty(store, plan)` is the store with some functions replaced; the plan is a value:
which call of which function meets which fault. `fault_plans()` lets Hypothesis draw
plans. `intercepted` is what all of it is made of: a function around every call.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import fields, is_dataclass, replace
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar, cast, get_args

from msgspec import Struct

from ..core.errors import AppendOutcomeUnknownError, StoreBusyError
from ..core.event import E
from ..ports import Checkpoints, DeadLetters, EventStore, Leases, Snapshots

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

R = TypeVar("R")
Call: TypeAlias = partial[Awaitable[Any]]
"""A call of a store's function that waits to be made; `args` and `keywords` are its."""

_RECORDS: Final[dict[str, type[Any]]] = {
    "checkpoints": Checkpoints,
    "snapshots": Snapshots,
    "dead_letters": DeadLetters,
    "leases": Leases,
}
_NOT_AWAITED: Final = {"concurrent", "encode", "transaction"}
PORTS: Final[tuple[str, ...]] = tuple(
    f"{field.name}.{inner.name}" if inner else field.name
    for field in fields(EventStore)
    if field.name not in _NOT_AWAITED
    for inner in (fields(_RECORDS[field.name]) if field.name in _RECORDS else (None,))
)
"""The functions of a store that are awaited, such as "append" or "checkpoints.save"."""


Around: TypeAlias = Callable[[str, Call], Awaitable[Any]]
"""What is done around a call of a store's function.

It gets the function's name (one of `PORTS`) and the call, ready to be awaited as often
as wanted; what it gives is the caller's result.
"""


def intercepted(record: R, around: Around, *, ports: Collection[str] = PORTS) -> R:
    """Give *record* with *around* around the calls of its functions.

    Args:
        record: a store, or one of its records alone, such as its checkpoints (whose
            functions are then called "load", "save" and "delete").
        around: see `Around`.
        ports: which functions; the others stay as they are. A name that the record
            does not have is not missed.
    """
    whole = hasattr(record, "append")

    def around_all(record: Any, prefix: str) -> Any:
        changes: dict[str, Any] = {}
        for field in fields(record):
            port, value = prefix + field.name, getattr(record, field.name)
            if is_dataclass(value):
                changes[field.name] = around_all(value, f"{port}.")
            elif port in ports or (not whole and ports is PORTS):
                changes[field.name] = _around(port, value, around)
        return replace(record, **changes)

    return cast("R", around_all(record, ""))


def _around(
    port: str, function: Callable[..., Awaitable[Any]], around: Around
) -> Callable[..., Awaitable[Any]]:
    async def call(*args: Any, **options: Any) -> Any:
        return await around(port, partial(function, *args, **options))

    return call


class Fail(Struct, frozen=True):
    """The call is not made; *error* is raised instead."""

    error: Exception


class Delay(Struct, frozen=True):
    """The call is made later."""

    by: timedelta


class Duplicate(Struct, frozen=True):
    """The call is made twice, as by a network that repeats it; the second reply counts.

    Functions that store something else the second time are not to be duplicated.
    """


class LoseReply(Struct, frozen=True):
    """The call takes effect, but the caller gets *error* instead of the reply."""

    error: Exception


class Cancel(Struct, frozen=True):
    """The calling task is cancelled: before the call takes effect, or *after* it."""

    after: bool = False


class Deafen(Struct, frozen=True):
    """From this call on nobody is woken: `changed` returns when its time is over.

    *forever*: not even then, which no store may do.
    """

    forever: bool = False


Effect: TypeAlias = Fail | Delay | Duplicate | LoseReply | Cancel | Deafen
EFFECTS: Final[tuple[type[Effect], ...]] = get_args(Effect)


class Fault(Struct, frozen=True):
    """What befalls the *call*-th call, counted from 1, of the function *port*.

    Raises:
        ValueError: no store has such a function, or the call is less than 1, or
            something else than `changed` is to be deafened.
    """

    port: str
    call: int
    effect: Effect

    def __post_init__(self) -> None:
        if self.port not in PORTS:
            raise ValueError(
                f"a store has no function {self.port!r}; it has {', '.join(PORTS)}"
            )
        if self.call < 1:
            raise ValueError(f"calls are counted from 1, not {self.call!r}")
        if isinstance(self.effect, Deafen) and self.port != "changed":
            raise ValueError(f"only 'changed' wakes anybody, {self.port!r} does not")


def faulty(
    store: EventStore[E],
    plan: Sequence[Fault],
    *,
    struck: Callable[[Fault], object] = lambda _: None,
) -> EventStore[E]:
    """Give *store* with the faults of *plan*; calls that it does not name go through.

    Args:
        store: stays as it is; look into it afterwards.
        plan: the faults, in any order, at most one for a call.
        struck: is told of each fault when its call comes, as by `list.append`.

    Raises:
        ValueError: two faults for one call.

    >>> from evsrc import memory_store
    >>> store = faulty(memory_store(), [Fault("head", 2, Fail(OSError("no disk")))])
    >>> async def main():
    ...     print(await store.head())
    ...     print(await store.head())
    >>> asyncio.run(main())
    Traceback (most recent call last):
    ...
    OSError: no disk
    """
    planned = {(fault.port, fault.call): fault for fault in plan}
    if len(planned) < len(plan):
        raise ValueError("two faults are planned for one call")
    calls: Counter[str] = Counter()
    deaf: Deafen | None = None

    async def around(port: str, call: Call, /) -> Any:
        nonlocal deaf
        calls[port] += 1
        fault = planned.get((port, calls[port]))
        effect = None if fault is None else fault.effect
        if fault is not None:
            struck(fault)
        if isinstance(effect, Deafen):
            deaf = effect
        if port != "changed" or deaf is None:
            return await befall(effect, call)
        return await befall(effect, partial(_hear_nothing, deaf, call))

    return intercepted(store, around, ports={fault.port for fault in plan})


async def _hear_nothing(deaf: Deafen, call: Call) -> None:
    if deaf.forever:
        await asyncio.get_running_loop().create_future()
    await asyncio.sleep(call.keywords["timeout"].total_seconds())


async def befall(effect: Effect | None, call: Callable[[], Awaitable[Any]]) -> Any:
    """Make *call*, unless *effect* prevents it."""
    match effect:
        case Fail(error):
            raise error
        case LoseReply(error):
            await call()
            raise error
        case Delay(by):
            await asyncio.sleep(by.total_seconds())
        case Duplicate():
            await call()
        case Cancel(after):
            if after:
                await call()
            await _cancel()
        case _:
            pass
    return await call()


async def _cancel() -> None:
    """Cancel the calling task in earnest: it is told at this very await."""
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    await asyncio.sleep(0)


FAULTY_PORTS: Final = (
    *("append", "load_events", "read_stream", "read_all", "head", "changed"),
    *("checkpoints.load", "checkpoints.save"),
)
"""The functions that `fault_plans` disturbs if it is not told which."""
_UNKNOWN: Final = AppendOutcomeUnknownError("a store under test")
_BUSY: Final = StoreBusyError("a store under test is busy")


def fault_plans(
    *,
    ports: Sequence[str] = FAULTY_PORTS,
    effects: Sequence[type[Effect]] = EFFECTS,
    calls: int = 20,
    most: int = 5,
) -> SearchStrategy[tuple[Fault, ...]]:
    """Give a Hypothesis strategy for plans; it shrinks to few and early faults.

    Args:
        ports: whose calls.
        effects: which kinds; only appends and reads are duplicated, and only `changed`
            is deafened.
        calls: faults befall the first so many calls of each function.
        most: no plan has more faults.

    A failed call raises StoreBusyError. A lost reply of a function that writes is an
    AppendOutcomeUnknownError, of one that reads a StoreBusyError.
    """
    from hypothesis import strategies as st  # noqa: PLC0415 - for those who draw plans

    def faults(port: str) -> SearchStrategy[Fault]:
        writes = port == "append" or port.endswith(("save", "delete", "update"))
        known: dict[type[Effect], SearchStrategy[Any]] = {
            Fail: st.just(Fail(_BUSY)),
            Delay: st.timedeltas(timedelta(0), timedelta(seconds=5)).map(Delay),
            Duplicate: st.just(Duplicate()),
            LoseReply: st.just(LoseReply(_UNKNOWN if writes else _BUSY)),
            Cancel: st.booleans().map(Cancel),
            Deafen: st.just(Deafen()),
        }
        if writes and port != "append":
            del known[Duplicate]
        if port != "changed":
            del known[Deafen]
        of_port = [made for kind, made in known.items() if kind in effects]
        return st.builds(
            Fault, st.just(port), st.integers(1, calls), st.one_of(of_port)
        )

    return st.lists(
        st.one_of([faults(port) for port in ports]),
        max_size=most,
        unique_by=lambda fault: (fault.port, fault.call),
    ).map(tuple)
