"""eventsourcing ("PY"), by its documented classes: `Aggregate`, `Application`.

Its code is synchronous; writers are threads. Its JSON transcoder is the default one.
Its SQLite connections have SQLite's default, synchronous=FULL, unless a row says
NORMAL. It has no subscriptions on SQLite.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from decimal import Decimal
from functools import partial
from importlib.metadata import version
from typing import Any
from uuid import UUID, uuid5

from eventsourcing.application import Application
from eventsourcing.domain import Aggregate, event

from .bench import PAGE, STREAM, WRITERS, Bench
from .domain import Fields, fresh_values, values

NAME = f"eventsourcing {version('eventsourcing')}"
IMPORTS = (
    "import eventsourcing.sqlite; "
    "from eventsourcing.application import Application; "
    "from eventsourcing.domain import Aggregate, event"
)


class Account(Aggregate):
    """The account, as the tutorial writes it."""

    @event("Opened")
    def __init__(self, owner: str, note: str, reference: UUID, amount: Decimal) -> None:
        self.owner = owner
        self.events = 1
        self.balance = amount

    @event("Deposited")
    def deposit(self, owner: str, note: str, reference: UUID, amount: Decimal) -> None:
        """Pay money in."""
        self.owner = owner
        self.events += 1
        self.balance += amount


class Accounts(Application[UUID]):
    """The application."""


def _memory() -> Accounts:
    return Accounts()


def _application(path: str, synchronous: str = "FULL") -> Accounts:
    application = Accounts(
        env={"PERSISTENCE_MODULE": "eventsourcing.sqlite", "SQLITE_DBNAME": path}
    )
    pool = application.factory.datastore.pool  # type: ignore[attr-defined]
    create = pool._create_connection

    def created() -> Any:
        connection = create()
        connection.cursor().execute(f"PRAGMA synchronous = {synchronous}")
        return connection

    pool._create_connection = created
    for connection in [pool.get_connection(is_writer=True)]:
        connection.cursor().execute(f"PRAGMA synchronous = {synchronous}")
        pool.put_connection(connection)
    return application


def _id(number: int) -> UUID:
    return uuid5(UUID(int=0), str(number))


def _events(
    id: UUID, start: int, count: int, values: Callable[[], Fields] = values
) -> list[Any]:
    found: list[Any] = []
    for number in range(start + 1, start + count + 1):
        owner, note, reference, amount = values()
        found.append(
            Account.Deposited(  # type: ignore[attr-defined]
                originator_id=id,
                originator_version=number,
                timestamp=Aggregate.Event.create_timestamp(),
                owner=owner,
                note=note,
                reference=reference,
                amount=amount,
            )
        )
    return found


def memory_commands(bench: Bench) -> float:
    """A new aggregate, two more command methods, `save`."""
    application = _memory()

    def step() -> int:
        account = Account(*values())
        account.deposit(*values())
        account.deposit(*values())
        application.save(account)
        return 3

    return bench.rate_of(step)


def memory_cycles(bench: Bench) -> float:
    """Ten commands on a new aggregate, each with `get` and `save` of its own."""
    application = _memory()

    def step() -> int:
        account = Account(*values())
        application.save(account)
        for _ in range(STREAM - 1):
            account = application.repository.get(account.id)
            account.deposit(*values())
            application.save(account)
        return STREAM

    return bench.rate_of(step)


def _long(application: Accounts, count: int) -> UUID:
    account = Account(*values())
    for _ in range(count - 1):
        account.deposit(*values())
    application.save(account)
    return account.id


def _rehydrate(bench: Bench, application: Accounts, id: UUID, count: int) -> float:
    def step() -> int:
        account: Account = application.repository.get(id)
        assert account.events == count
        return count

    return bench.rate_of(step)


def memory_rehydrate(bench: Bench) -> float:
    """`repository.get` of an aggregate of 1,000 events."""
    application = _memory()
    return _rehydrate(bench, application, _long(application, 1000), 1000)


_ids: dict[int, UUID] = {}


async def _one_stream(count: int, path: str) -> None:
    application = _application(path, "NORMAL")
    _ids[count] = _long(application, count)
    application.close()


async def _sqlite_rehydrate(bench: Bench, count: int) -> float:
    path = await bench.prepared(f"pyes-{count}", partial(_one_stream, count))
    application = _application(path)
    try:
        return _rehydrate(bench, application, _ids[count], count)
    finally:
        application.close()


async def sqlite_rehydrate_1000(bench: Bench) -> float:
    """`repository.get` of an aggregate of 1,000 events."""
    return await _sqlite_rehydrate(bench, 1000)


async def sqlite_rehydrate_10000(bench: Bench) -> float:
    """`repository.get` of an aggregate of 10,000 events."""
    return await _sqlite_rehydrate(bench, 10_000)


_log_ids: list[UUID] = []


async def _log(events: int, path: str) -> None:
    application = _application(path, "NORMAL")
    for _ in range(events // STREAM):
        _log_ids.append(_long(application, STREAM))
    application.close()


def _prepared_log(bench: Bench) -> Awaitable[str]:
    return bench.prepared("pyes-log", partial(_log, bench.events))


async def sqlite_load(bench: Bench) -> float:
    """`repository.get` of a random aggregate of the log."""
    draw = random.Random(1)
    application = _application(await _prepared_log(bench))

    def step() -> int:
        account: Account = application.repository.get(draw.choice(_log_ids))
        assert account.events == STREAM
        return 1

    try:
        return bench.rate_of(step)
    finally:
        application.close()


def _append_to(bench: Bench, application: Accounts, size: int) -> float:
    versions = dict.fromkeys(range(100), 0)
    draw = random.Random(2)
    ids = [_id(n) for n in range(100)]

    def step() -> int:
        number = draw.randrange(100)
        application.events.put(_events(ids[number], versions[number], size))
        versions[number] += size
        return size

    return bench.rate_of(step)


def _append(bench: Bench, size: int, synchronous: str) -> float:
    application = _application(bench.file(), synchronous)
    try:
        return _append_to(bench, application, size)
    finally:
        application.close()


def sqlite_append_full(bench: Bench) -> float:
    """`events.put` of one event to one of 100 aggregates."""
    return _append(bench, 1, "FULL")


def sqlite_append_normal(bench: Bench) -> float:
    """The same, synchronous=NORMAL."""
    return _append(bench, 1, "NORMAL")


def sqlite_append_100(bench: Bench) -> float:
    """`events.put` of a hundred events to one of 100 aggregates."""
    return _append(bench, 100, "FULL")


@contextmanager
def _writing(application: Accounts, first: int) -> Generator[Callable[[], int]]:
    ids = [_id(n) for n in range(first, first + WRITERS)]
    rounds = iter(range(10**9))

    def write(id: UUID, start: int) -> None:
        for known in range(start, start + 5):
            application.events.put(_events(id, known, 1))

    with ThreadPoolExecutor(WRITERS) as pool:

        def step() -> int:
            start = next(rounds) * 5
            list(pool.map(write, ids, [start] * WRITERS))
            return WRITERS * 5

        yield step


def sqlite_writers(bench: Bench) -> float:
    """32 threads, each puts one event after the other to an aggregate of its own."""
    application = _application(bench.file())
    try:
        with _writing(application, 0) as step:
            return bench.rate_of(step)
    finally:
        application.close()


def _read_log(bench: Bench, application: Accounts) -> float:
    seen = 0

    def handle(event: Any) -> None:
        nonlocal seen
        seen += event.amount is not None

    recorder, decode = application.recorder, application.mapper.to_domain_event
    after: int | None = None
    began = bench.start()
    while True:
        page = recorder.select_notifications(after, PAGE, inclusive_of_start=False)
        for notification in page:
            handle(decode(notification))
        if not page:
            break
        after = page[-1].id
    passed = bench.clock() - began
    assert seen == bench.events
    return seen / passed


async def sqlite_log(bench: Bench) -> float:
    """`select_notifications` by pages of 1,000, decoded, to a function."""
    application = _application(await _prepared_log(bench))
    try:
        return _read_log(bench, application)
    finally:
        application.close()


def one_event(bench: Bench) -> tuple[float, ...]:
    """The event; the mapper's way to a stored event and back."""
    fields: Sequence[Any] = values()
    owner, note, reference, amount = fields
    id, mapper = _id(0), _memory().mapper

    def construct() -> Any:
        return Account.Deposited(  # type: ignore[attr-defined]
            originator_id=id,
            originator_version=7,
            timestamp=Aggregate.Event.create_timestamp(),
            owner=owner,
            note=note,
            reference=reference,
            amount=amount,
        )

    made = construct()
    stored = mapper.to_stored_event(made)
    return (
        bench.microseconds(construct),
        bench.microseconds(lambda: mapper.to_stored_event(made)),
        bench.microseconds(lambda: mapper.to_domain_event(stored)),
    )


async def live_events(count: int) -> object:
    """Fill a store in memory with aggregates of 100."""
    application = _memory()
    for number in range(count // 100):
        application.events.put(_events(_id(number), 0, 100, fresh_values))
    return application
