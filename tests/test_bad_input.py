"""Bad input gets a clear error that says what was claimed and what is true."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec
import pytest
from msgspec import Struct

from evsrc import (
    ALL,
    ANY,
    CorruptionError,
    Delivery,
    DomainEvent,
    DuplicateEventTypeError,
    EmptyAppendError,
    EventRegistry,
    EventTypeNotFoundError,
    EvsrcError,
    InMemoryEventStore,
    InvalidEventError,
    InvalidExpectedVersionError,
    InvalidQueryError,
    InvalidStreamError,
    NewEvent,
    Query,
    QueryItem,
    SchemaError,
    SerializationError,
    SQLiteEventStore,
    StoreBusyError,
    StoreError,
    StoreUnavailableError,
    StreamName,
    Write,
    json_codec,
    register_event,
    sqlite_store,
    subscribe,
)
from evsrc.ports import EventStore
from evsrc.testing import CODEC, Fact
from tests.conftest import OpenStore

STREAM = StreamName("bad", "input")


def new(event: Any) -> NewEvent[Any]:
    return NewEvent(event, uuid4())


class Parts(Struct, frozen=True):
    """An event with all kinds of fields."""

    names: tuple[str, ...] = ()
    share: float = 0.0
    inner: Fact | None = None


PARTS: Any = json_codec({"parts": Parts})


@pytest.mark.parametrize(
    ("event", "message"),
    [
        (Parts(names=("a", 1)), r"Expected `str`, got `int` - at `\$.names\[1\]`"),  # type: ignore[arg-type]
        (Parts(names=["a"]), r"\['a'\] would read back as \('a',\) - at `\$.names`"),  # type: ignore[arg-type]
        (Parts(share=float("nan")), r"Expected `float`, got `null` - at `\$.share`"),
        (Parts(inner=Fact("x")), r"Expected `int`, got `str` - at `\$.inner.n`"),  # type: ignore[arg-type]
        (Parts(share="1"), r"Expected `float`, got `str` - at `\$.share`"),  # type: ignore[arg-type]
        (Parts(names=(object(),)), "cannot encode object"),  # type: ignore[arg-type]
    ],
)
async def test_wrong_field_types_are_refused_with_their_path(
    open_store: OpenStore, event: Parts, message: str
) -> None:
    """A field that does not fit its type is refused at the append, and named."""
    async with await open_store(PARTS) as store:
        with pytest.raises(InvalidEventError, match=message):
            await store.append(Write(STREAM, [new(Parts()), new(event)], ANY))
        assert await store.head() == 0


@pytest.mark.parametrize("field", ["plain", "class", "größe", "\ufb01eld"])
async def test_any_name_of_a_field_is_checked_on_every_append(
    open_store: OpenStore, field: str
) -> None:
    """Also one that Python's source could not spell; also after a good event."""
    kind = msgspec.defstruct("Odd", [(field, int)], frozen=True)
    codec: Any = json_codec({"odd": kind})
    async with await open_store(codec) as store:
        for number in range(3):
            await store.append(Write(STREAM, [new(kind(number))], ANY))
        with pytest.raises(InvalidEventError, match=rf"Expected `int`.*\$.{field}"):
            await store.append(Write(STREAM, [new(kind("1"))], ANY))
        assert await store.head() == 3


@pytest.mark.parametrize(
    "event", [Fact(1, "\ud800"), Fact(2**70)], ids=["surrogate", "huge"]
)
async def test_values_that_json_cannot_hold_are_refused(
    tmp_path: Path, event: Fact
) -> None:
    """A durable store refuses them also after others of the same types were fine."""
    async with await sqlite_store(tmp_path / "events.db", CODEC) as store:
        await store.append(Write(STREAM, [new(Fact(1, "x"))], ANY))
        with pytest.raises(InvalidEventError):
            await store.append(Write(STREAM, [new(Fact(1, "\ud800"))], ANY))
        assert await store.head() == 1


async def test_unknown_event_classes_are_refused(store: EventStore[Any]) -> None:
    """The error names the class, and what is known."""
    with pytest.raises(
        EventTypeNotFoundError, match="'Parts' is not registered.*fact, marked, note"
    ):
        await store.append(Write(STREAM, [new(Parts())], ANY))
    assert await store.head() == 0


def test_one_class_under_two_names_is_refused() -> None:
    """It could not be read back as what it was written."""
    with pytest.raises(DuplicateEventTypeError, match="a and b"):
        json_codec({"a": Fact, "b": Fact})


def test_unknown_types_can_be_an_error() -> None:
    """A codec that must know every type says which it does not."""
    strict: Any = json_codec({"fact": Fact}, unknown="error")
    with pytest.raises(EventTypeNotFoundError, match="'other' is not registered"):
        strict.decode("other", b"{}")


def test_stored_bytes_that_do_not_fit_are_an_error() -> None:
    """An event that lost a field is not read as something else."""
    with pytest.raises(SerializationError, match="'fact'.*missing required field `n`"):
        CODEC.decode("fact", b"{}")


@pytest.mark.parametrize("expected", [-1, True, 1.0, "3", None, "any"])
def test_unknown_expected_versions_are_refused(expected: Any) -> None:
    """Only numbers from 0 up and the named expectations mean something."""
    with pytest.raises(InvalidExpectedVersionError, match="means nothing"):
        Write(STREAM, [new(Fact(1))], expected)


def test_empty_appends_are_refused() -> None:
    """An append without events would record nothing."""
    with pytest.raises(
        EmptyAppendError, match="nothing to append to stream 'bad-input'"
    ):
        Write(STREAM, [], ANY)


@pytest.mark.parametrize(
    ("category", "id", "message"),
    [
        ("", "x", "category is empty"),
        ("x", "", "id is empty"),
        ("x", 3, "id must be a str, got 3"),
        ("x", "a\0b", "holds a NUL"),
        ("x", "\ud800", "not valid Unicode"),
        ("x" * 256, "x", "256 characters, 255 are allowed"),
        ("x", "y" * 1025, "1025 characters, 1024 are allowed"),
    ],
)
def test_stream_names_are_checked(category: Any, id: Any, message: str) -> None:
    """A name that a store could not keep is refused when it is made."""
    with pytest.raises(InvalidStreamError, match=message):
        StreamName(category, id)


def test_queries_that_mean_nothing_are_refused() -> None:
    """An accidentally empty query is not everything."""
    with pytest.raises(InvalidQueryError, match="use ALL"):
        Query(())
    with pytest.raises(InvalidQueryError, match="use ALL"):
        QueryItem()
    with pytest.raises(InvalidQueryError, match="use ALL"):
        Query.of()
    assert ALL == "all"


async def test_a_page_has_at_least_one_event(store: EventStore[Any]) -> None:
    """A subscription cannot read pages of nothing."""

    async def handle(_: Any) -> None: ...

    with pytest.raises(ValueError, match="at least 1 event"):
        subscribe(store, "x", handle, Delivery(page=0))


# SQLite files.


async def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    """The error says which directory is missing."""
    path = tmp_path / "missing" / "events.db"
    with pytest.raises(StoreUnavailableError, match="directory '.*missing' is missing"):
        await sqlite_store(path, CODEC)
    assert not path.parent.exists()


async def test_a_file_that_is_no_database_is_left_alone(tmp_path: Path) -> None:
    """A text file is refused and stays as it is."""
    path = tmp_path / "notes.txt"
    path.write_text("not a database, but somebody's notes\n" * 50)
    before = path.read_bytes()
    with pytest.raises(SchemaError, match="is not an SQLite database"):
        await sqlite_store(path, CODEC)
    assert path.read_bytes() == before
    assert sorted(tmp_path.iterdir()) == [path]


async def test_a_foreign_database_is_left_alone(tmp_path: Path) -> None:
    """A database of something else is refused, named by its tables, unchanged."""
    path = tmp_path / "shop.db"
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE orders (id)")
        db.commit()
    before = path.read_bytes()
    with pytest.raises(SchemaError, match="not an evsrc database.*orders"):
        await sqlite_store(path, CODEC)
    assert path.read_bytes() == before
    assert sorted(tmp_path.iterdir()) == [path]


async def test_a_newer_schema_is_left_alone(tmp_path: Path) -> None:
    """A database of a later evsrc is refused with both versions named."""
    path = tmp_path / "events.db"
    async with await sqlite_store(path, CODEC):
        pass
    with closing(sqlite3.connect(path)) as db:
        db.execute("INSERT INTO evsrc_schema VALUES (99, 0)")
        db.commit()
    with pytest.raises(
        SchemaError, match="schema version 99, this evsrc knows up to 3"
    ):
        await sqlite_store(path, CODEC)


async def test_tables_of_the_user_may_be_added(tmp_path: Path) -> None:
    """An evsrc database may hold other tables beside its own."""
    path = tmp_path / "events.db"
    async with await sqlite_store(path, CODEC):
        pass
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE read_model (id)")
        db.commit()
    async with await sqlite_store(path, CODEC) as store:
        assert await store.head() == 0


async def test_a_broken_page_is_an_error(tmp_path: Path) -> None:
    """A file whose pages were overwritten is damaged, not empty."""
    path = tmp_path / "events.db"
    async with await sqlite_store(path, CODEC) as store:
        events = [new(Fact(n)) for n in range(500)]
        await store.append(Write(STREAM, events, ANY))
    raw = path.read_bytes()
    path.write_bytes(raw[:4096] + b"\xff" * (len(raw) - 4096))
    with pytest.raises(CorruptionError, match="damaged"):
        async with await sqlite_store(path, CODEC) as store:
            await store.read_all()


async def test_a_busy_file_is_waited_for_then_reported(tmp_path: Path) -> None:
    """While another connection writes an append waits its time, then says so."""
    from datetime import timedelta

    path = tmp_path / "events.db"
    wait = timedelta(milliseconds=50)
    async with await sqlite_store(path, CODEC, busy_timeout=wait) as store:
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(
                StoreBusyError, match="locked by another process for 0.05 s"
            ):
                await store.append(Write(STREAM, [new(Fact(1))], ANY))
            assert (await store.load_events(STREAM)).version == 0
            other.execute("ROLLBACK")
        await store.append(Write(STREAM, [new(Fact(1))], ANY))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anything")
async def test_a_read_only_file_is_named(tmp_path: Path) -> None:
    """A file without write permission cannot be opened as a store."""
    path = tmp_path / "events.db"
    async with await sqlite_store(path, CODEC):
        pass
    path.chmod(0o400)
    with pytest.raises(StoreError):
        await sqlite_store(path, CODEC)


async def test_options_are_checked(tmp_path: Path) -> None:
    """An unknown durability, or a commit of nothing, is refused."""
    level: Any = "OFF"
    with pytest.raises(ValueError, match="FULL or NORMAL, not 'OFF'"):
        await sqlite_store(tmp_path / "a.db", CODEC, synchronous=level)
    with pytest.raises(ValueError, match="at least 1"):
        await sqlite_store(tmp_path / "a.db", CODEC, largest_commit=0)
    assert not list(tmp_path.iterdir())


# The facade.


class Renamed(DomainEvent):
    """A class whose name is taken."""

    event_type: str = "Taken"
    aggregate_type: str = "T"


def test_a_name_belongs_to_one_class() -> None:
    """Registering another class under it names both."""
    registry = EventRegistry()
    register_event(registry=registry)(Renamed)
    register_event(registry=registry)(Renamed)

    class Other(DomainEvent):
        event_type: str = "Taken"
        aggregate_type: str = "T"

    with pytest.raises(
        DuplicateEventTypeError, match="'Taken' already belongs to .*Renamed"
    ):
        registry.register(Other)
    assert registry.get("Taken") is Renamed


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
async def test_unregistered_domain_events_are_refused(kind: str) -> None:
    """The stores of the facade refuse what they could not read back."""
    registry = EventRegistry()
    store: Any = (
        InMemoryEventStore(event_registry=registry)
        if kind == "memory"
        else SQLiteEventStore(":memory:", registry)
    )
    async with store:
        id = uuid4()
        event = Renamed(aggregate_id=id)
        with pytest.raises(EventTypeNotFoundError, match="'Renamed' is not registered"):
            await store.append_events(id, "T", [event], 0)
        registry.register(Renamed)
        with pytest.raises(InvalidExpectedVersionError):
            await store.append_events(id, "T", [event], -7)
        assert await store.get_global_position() == 0


def test_one_root_catches_everything() -> None:
    """Every exception of the package is an EvsrcError, whatever else it is."""
    from evsrc.core import errors

    found = [e for e in vars(errors).values() if isinstance(e, type)]
    ours = [e for e in found if e.__module__ == errors.__name__]
    assert len(ours) > 30
    assert all(issubclass(e, EvsrcError) for e in ours)
    tree = errors.__doc__ or ""
    assert [e.__name__ for e in ours if e.__name__ not in tree] == []


def test_a_missing_extra_is_named() -> None:
    """Using a part whose extra is not installed says which extra it is."""
    code = "import sys; sys.modules['rich'] = None; from evsrc.cli import main; sys.exit(main(['demo']))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert "evsrc-py[cli]" in done.stderr + done.stdout
