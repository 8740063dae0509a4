"""The demo on real flights: what it counts, how it ends, and how it goes on."""

from __future__ import annotations

import asyncio
import csv
import gzip
import lzma
import re
import resource
import signal
import sqlite3
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from rich.console import Console

import evsrc.cli
from evsrc import fold, postgresql_store, sqlite_store
from evsrc.cli import main, models, show
from evsrc.cli.build import Progress
from evsrc.cli.log import CODEC
from evsrc.ports import EventStore

ROOT = Path(evsrc.__file__).parent.parent
WEEK = ROOT / "evsrc" / "cli" / "data" / "flights-week.csv.xz"
YEAR = ROOT.parent / "shared" / "data" / "flights-2013.csv.xz"
# The peak of a process counts that of the one that has started it, so ours, with a year
# of flights in memory, must not be that one.
MEASURE = """
import resource, subprocess, sys
code = subprocess.call(sys.argv[1:])
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024, file=sys.stderr)
sys.exit(code)
"""
COMMAND = (sys.executable, "-W", "error", "-m", "evsrc", "demo")
TOTALS = re.compile(r"^totals: (.*)$", re.MULTILINE)
READING = re.compile(
    r"^read model: name=(\S+) resumed=(\d+) reached=(\d+) handled=(\d+)$", re.MULTILINE
)
READ_MODELS = {
    models.TOTALS: models.OF_TOTALS,
    models.PUNCTUALITY: models.OF_PUNCTUALITY,
}


def rows(path: Path) -> list[dict[str, str]]:
    with lzma.open(path, "rt", newline="") as file:
        return list(csv.DictReader(file))


def expected_totals(path: Path) -> str:
    """Count with nothing but the csv module."""
    flights = departed = arrived = 0
    with lzma.open(path, "rt", newline="") as file:
        for row in csv.DictReader(file):
            flights += 1
            departed += row["dep_time"] != "NA"
            arrived += row["arr_time"] != "NA"
    return (
        f"scheduled={flights} departed={departed} arrived={arrived} "
        f"cancelled={flights - departed}"
    )


def write_csv(path: Path, of: Sequence[dict[str, str]]) -> Path:
    opener: Any = gzip.open if path.suffix == ".gz" else open
    with opener(path, "wt", newline="") as file:
        table = csv.DictWriter(file, list(of[0]))
        table.writeheader()
        table.writerows(of)
    return path


def demo(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """Run the demo in this process; give what it printed."""
    assert main(["demo", *map(str, arguments)]) == 0
    return capsys.readouterr().out


def totals_in(output: str) -> str:
    (totals,) = TOTALS.findall(output)
    return totals


def readings_in(output: str) -> list[tuple[str, int, int, int]]:
    """Give name, resumed, reached and handled of each subscription, run by run."""
    return [
        (name, int(resumed), int(reached), int(handled))
        for name, resumed, reached, handled in READING.findall(output)
    ]


Db = Path | str
"""A file, or the DSN of a PostgreSQL database."""


@pytest.fixture(params=["sqlite", "postgresql"])
def db(request, tmp_path) -> Db:
    if request.param == "sqlite":
        return tmp_path / "flights.db"
    return request.getfixturevalue("evsrc_postgres_database")


def head(db: Db) -> int:
    """Look at the log from outside; 0 if there is none yet."""
    if isinstance(db, str):
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(asyncio.run, postgresql_head(db)).result()
    if not db.exists():
        return 0
    try:
        uri = f"{db.as_uri()}?mode=ro"
        with closing(sqlite3.connect(uri, uri=True)) as connection:
            row = connection.execute("SELECT max(position) FROM evsrc_event").fetchone()
    except sqlite3.OperationalError:
        return 0
    return row[0] or 0


async def postgresql_head(url: str) -> int:
    connection: asyncpg.Connection[Any] = await asyncpg.connect(url)
    try:
        return await connection.fetchval("SELECT head FROM evsrc_log")
    except asyncpg.UndefinedTableError:
        return 0
    finally:
        await connection.close()


async def opened(db: Db) -> EventStore[Any]:
    if isinstance(db, str):
        return await postgresql_store(db, CODEC)
    return await sqlite_store(db, CODEC)


def interrupt(arguments: Sequence[object], db: Db, at: int, how: int) -> int:
    """Start the demo, signal it when its log reaches *at*; give the exit code."""
    command = [*COMMAND, *map(str, arguments), "--db", str(db)]
    pause = threading.Event()
    with subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        # a shell has what it starts with & ignore Ctrl-C, and so would we, and it
        preexec_fn=lambda: signal.signal(  # noqa: PLW1509 - no threads here
            signal.SIGINT, signal.default_int_handler
        ),
    ) as process:
        while head(db) < at:
            if process.poll() is not None:
                pytest.fail(f"it ended before position {at}: {process.communicate()}")
            pause.wait(0.002)
        process.send_signal(how)
        _, errors = process.communicate()
    assert "Traceback" not in errors
    return process.returncode


def kill_three_times(arguments: Sequence[object], db: Db, events: int) -> None:
    """Kill it on the way to *events*, each time after it recorded something new."""
    for share in (0, 1, 2):
        at = max(share * events // 4, head(db) + 1)
        assert interrupt(arguments, db, at, signal.SIGKILL) == -signal.SIGKILL


def finish(arguments: Sequence[object], db: Db) -> tuple[str, int]:
    """Run the demo to its end; give its output and its peak memory in MB."""
    command = [*COMMAND, *map(str, arguments), "--db", str(db)]
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, *command],
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout, int(done.stderr.splitlines()[-1])


async def check_log(db: Db, flights: Path, output: str) -> None:
    """Hold the log against the file, and the read models against the log."""
    first_run = readings_in(output)[: len(READ_MODELS)]
    totals, punctuality = models.totals.initial, models.punctuality.initial
    types: Counter[str] = Counter()
    new: Counter[str] = Counter()
    legs: set[str] = set()
    async with await opened(db) as store:
        position, end = 0, await store.head()
        while position < end:
            page = await store.read_all(after=position, limit=5000)
            position = page.reached
            totals = fold(models.totals, page.events, totals)
            punctuality = fold(models.punctuality, page.events, punctuality)
            types.update(recorded.type for recorded in page.events)
            legs |= {r.event.flight for r in page.events if r.type == "leg-flown"}
            for name, resumed, _, _ in first_run:
                (item,) = READ_MODELS[name].items
                new[name] += sum(
                    r.position > resumed and r.type in item.types for r in page.events
                )
        for name, keep, state in (
            (models.TOTALS, models.KEEP_TOTALS, totals),
            (models.PUNCTUALITY, models.KEEP_PUNCTUALITY, punctuality),
        ):
            kept = await store.snapshots.load(name)
            assert kept is not None
            assert keep.load(kept.state) == state, f"{name} is not the fold of the log"
        problems = await store.verify()
    assert problems == ()
    assert totals_in(output) == str(totals) == expected_totals(flights)
    assert new == {name: handled for name, _, _, handled in first_run}
    flown = sum(
        row["dep_time"] != "NA" and row["tailnum"] != "NA" for row in rows(flights)
    )
    assert types["leg-flown"] == len(legs) == flown


# The main job.


def test_the_week_is_counted(tmp_path, capsys, monkeypatch) -> None:
    """The demo's totals are those of the file, and it leaves nothing behind."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    output = demo(capsys)
    assert totals_in(output) == expected_totals(WEEK)
    assert "scheduled=6099" in output
    assert "cancelled=35" in output
    assert list(tmp_path.iterdir()) == []


async def test_airlines_and_airports_are_counted(tmp_path) -> None:
    """Departures, cancellations and delays of each are those of the file."""
    finish((), tmp_path / "flights.db")
    async with await sqlite_store(tmp_path / "flights.db", CODEC) as store:
        kept = await store.snapshots.load(models.PUNCTUALITY)
    assert kept is not None
    found = models.KEEP_PUNCTUALITY.load(kept.state)
    for column, tallies in zip(("carrier", "origin"), found, strict=True):
        expected: dict[str, Counter[str]] = {}
        for row in rows(WEEK):
            tally = expected.setdefault(row[column], Counter())
            if row["dep_time"] == "NA":
                tally["cancellations"] += 1
                continue
            tally["departures"] += 1
            tally["departure_delay"] += int(row["dep_delay"])
            if row["arr_delay"] != "NA":
                tally["arrivals"] += 1
                tally["arrival_delay"] += int(row["arr_delay"])
        assert tallies == {
            key: models.Tally(**{f: t[f] for f in models.Tally.__struct_fields__})
            for key, t in expected.items()
        }


def test_the_history_of_an_aircraft_is_shown(tmp_path, capsys, monkeypatch) -> None:
    """One aircraft's events are listed with its state after each."""
    monkeypatch.setenv("COLUMNS", "120")
    flown = [
        row
        for row in rows(WEEK)
        if row["tailnum"] == "N730MQ" and row["dep_time"] != "NA"
    ]
    data = write_csv(tmp_path / "one.csv", flown)
    output = demo(capsys, "--data", data, "--aircraft", "N730MQ")
    assert f"aircraft N730MQ: {len(flown)} events" in output
    miles = 0
    for version, row in enumerate(flown, 1):
        miles += int(row["distance"])
        line = rf"│ +{version} │ .*-{row['origin']} to {row['dest']} +│ +{version} │ +"
        assert re.search(rf"{line}{miles:,} │", output)


def test_a_lost_race_is_decided_again(tmp_path, capsys) -> None:
    """The slower of two writers is refused, and decides for the other gate."""
    output = demo(capsys, "--data", write_csv(tmp_path / "some.csv", rows(WEEK)[:9]))
    assert "the stream was expected at 0, it is at 1" in output
    assert "race: attempts=2 first=C71 then=C72" in output


@pytest.mark.parametrize("name", ["flights.csv", "flights.csv.gz"])
def test_plain_and_gzipped_files_are_read(tmp_path, capsys, name) -> None:
    """A csv file may be compressed or not, with its columns in any order."""
    some = [dict(sorted(row.items())) for row in rows(WEEK)[:50]]
    output = demo(capsys, "--data", write_csv(tmp_path / name, some))
    assert "scheduled=50" in totals_in(output)


def test_progress_on_a_terminal_is_bars() -> None:
    """A terminal gets bars that end full."""
    console = Console(force_terminal=True, width=100)
    with console.capture() as captured, show.progress(console) as on_progress:
        on_progress(Progress(50, 100, 10, 200))
        on_progress(Progress(100, 100, 400, 400))
    assert "100/100" in captured.get()
    assert "400/400" in captured.get()


# Resuming.


def test_a_second_run_handles_nothing_again(tmp_path, capsys) -> None:
    """A second run starts where the first one ended, and ends with the same totals."""
    db = tmp_path / "flights.db"
    outputs = [demo(capsys, "--db", db) for _ in range(2)]
    first, *later = (readings_in(output) for output in outputs)
    assert {handled > 0 for _, _, _, handled in first[:2]} == {True}
    again = [reading for readings in (first[2:], *later) for reading in readings]
    assert {handled for _, _, _, handled in again} == {0}
    assert all(resumed > 0 for _, resumed, _, _ in again)
    assert "recorded: flights-skipped=6099 events=0" in outputs[0]
    assert totals_in(outputs[0]) == totals_in(outputs[1]) == expected_totals(WEEK)


async def test_a_longer_file_adds_what_is_new(tmp_path) -> None:
    """Flights known from another file are not recorded, nor counted, again."""
    db = tmp_path / "flights.db"
    part = write_csv(tmp_path / "part.csv", rows(WEEK)[1000:3000])
    before, _ = finish(("--data", part), db)
    after, _ = finish((), db)
    await check_log(db, WEEK, after)
    handled = Counter[str]()
    for name, _, _, count in readings_in(before) + readings_in(after):
        handled[name] += count
    week = expected_totals(WEEK)
    numbers = [int(number) for number in re.findall(r"\d+", week)]
    assert handled[models.TOTALS] == sum(numbers)
    assert handled[models.PUNCTUALITY] == sum(numbers[1:])


def test_what_became_of_a_flight_is_added(tmp_path, capsys) -> None:
    """A flight that was in the air gets its arrival; its departure stays one."""
    db, (row, *_) = tmp_path / "flights.db", rows(WEEK)
    airborne = {**row, "arr_time": "NA", "arr_delay": "NA"}
    for state in (airborne, row, row):
        data = write_csv(tmp_path / "one.csv", [state])
        output = demo(capsys, "--data", data, "--db", db)
    assert totals_in(output) == "scheduled=1 departed=1 arrived=1 cancelled=0"


async def test_killed_three_times_it_ends_the_same(db) -> None:
    """After three kill -9 on the way the log and the read models are complete."""
    kill_three_times((), db, events=24_000)
    output, _ = finish((), db)
    await check_log(db, WEEK, output)


async def test_interrupted_by_hand_it_says_how_to_go_on(db) -> None:
    """Ctrl-C ends it without a traceback, and the next start goes on."""
    assert interrupt((), db, 1, signal.SIGINT) == 130
    output, _ = finish((), db)
    await check_log(db, WEEK, output)


async def test_a_full_disk_is_said_and_survived(tmp_path) -> None:
    """When the file cannot grow it ends in one sentence, and goes on with more room."""
    db = tmp_path / "flights.db"
    done = subprocess.run(
        [*COMMAND, "--db", str(db)],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (2**21, 2**21)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("evsrc demo: ")
    assert str(db) in done.stderr.splitlines()[-1]
    output, _ = finish((), db)
    await check_log(db, WEEK, output)


@pytest.mark.soak
@pytest.mark.timeout(3600)
async def test_the_year_killed_three_times(db) -> None:
    """A year of flights ends with its totals, in bounded memory, whatever happens."""
    assert YEAR.is_file(), f"{YEAR} is missing: flights of 2013, beside the repository"
    data = ("--data", YEAR)
    kill_three_times(data, db, events=1_330_000)
    output, megabytes = finish(data, db)
    await check_log(db, YEAR, output)
    assert totals_in(output).startswith("scheduled=336776 ")
    assert totals_in(output).endswith(" cancelled=8255")
    assert megabytes < 400


@pytest.mark.soak
@pytest.mark.timeout(3600)
async def test_the_year_in_one_go(db) -> None:
    """A year of flights is counted from the first to the last in bounded memory."""
    output, megabytes = finish(("--data", YEAR), db)
    await check_log(db, YEAR, output)
    assert megabytes < 400


# Bad input.


def changed(path: Path, **values: str) -> Path:
    """Write three flights, the last one with other values."""
    first, second, third = rows(WEEK)[:3]
    return write_csv(path, [first, second, {**third, **values}])


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def truncated(path: Path, source: bytes) -> Path:
    path.write_bytes(source[: len(source) // 2])
    return path


BAD_DATA = {
    "missing": (lambda folder: folder / "no.csv", "no.csv' does not exist"),
    "directory": (lambda folder: folder, "Is a directory"),
    "empty": (
        lambda folder: write(folder / "a.csv", ""),
        "a.csv' is not flights data: its first line has no year, month",
    ),
    "columns": (
        lambda folder: write(folder / "a.csv", "faa,name,lat\n04G,Lansdowne,41\n"),
        "it has faa, name, lat",
    ),
    "no-flights": (
        lambda folder: write(folder / "a.csv", ",".join(rows(WEEK)[0]) + "\n"),
        "a.csv' has a header, but no flights",
    ),
    "short": (
        lambda folder: write(folder / "a.csv", ",".join(rows(WEEK)[0]) + "\n2013,1\n"),
        "a.csv', line 2: has 2 fields, the header has 19",
    ),
    "number": (
        lambda folder: changed(folder / "a.csv", dep_time="5:17"),
        "a.csv', line 4: dep_time is '5:17', not a whole number",
    ),
    "required": (
        lambda folder: changed(folder / "a.csv", flight="NA"),
        "line 4: flight is 'NA', not a whole number",
    ),
    "delay": (
        lambda folder: changed(folder / "a.csv", dep_delay="NA"),
        "line 4: dep_delay is 'NA', not a whole number",
    ),
    "date": (
        lambda folder: changed(folder / "a.csv", month="2", day="30"),
        "line 4: day is out of range for month",
    ),
    "arrival": (
        lambda folder: changed(folder / "a.csv", dep_time="NA"),
        "line 4: arr_time is '923', but dep_time is 'NA'",
    ),
    "airport": (
        lambda folder: changed(folder / "a.csv", origin=""),
        "line 4: origin is '', not letters and digits",
    ),
    "tail": (
        lambda folder: changed(folder / "a.csv", tailnum="N\x00"),
        "line 4: tailnum is 'N\\x00', not a tail number",
    ),
    "not-text": (
        lambda folder: write(folder / "a.csv", lzma.compress(b"x")),
        "a.csv', line 1: 'utf-8' codec can't decode",
    ),
    "xz": (
        lambda folder: truncated(folder / "a.csv.xz", WEEK.read_bytes()),
        "a.csv.xz' is damaged: Compressed file ended before",
    ),
    "not-xz": (
        lambda folder: write(folder / "a.csv.xz", "year,month"),
        "a.csv.xz' is damaged: Input format not supported",
    ),
    "gz": (
        lambda folder: truncated(folder / "a.csv.gz", gzip.compress(b"x" * 9999)),
        "a.csv.gz' is damaged: Compressed file ended before",
    ),
    "not-gz": (
        lambda folder: write(folder / "a.csv.gz", "year,month"),
        "a.csv.gz': Not a gzipped file",
    ),
}


@pytest.mark.parametrize("bad", BAD_DATA)
def test_bad_data_is_refused_before_anything_is_written(tmp_path, capsys, bad) -> None:
    """The message says where and what; there is no database afterwards."""
    make, message = BAD_DATA[bad]
    db = tmp_path / "flights.db"
    assert main(["demo", "--data", str(make(tmp_path)), "--db", str(db)]) == 2
    errors = capsys.readouterr().err
    assert errors.startswith("evsrc demo: ")
    assert message in errors
    assert not db.exists()


def test_an_aircraft_that_never_flew_is_refused(tmp_path, capsys) -> None:
    """A tail number that the file does not have is no history."""
    db = tmp_path / "flights.db"
    assert main(["demo", "--aircraft", "N0", "--db", str(db)]) == 2
    assert "no aircraft 'N0' flew in data file" in capsys.readouterr().err
    assert not db.exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("notes.txt", b"not a database, but notes\n" * 99, "notes.txt"),
        ("missing/flights.db", None, "missing/flights.db"),
    ],
    ids=["foreign", "no-directory"],
)
def test_a_bad_database_is_refused(tmp_path, capsys, name, content, message) -> None:
    """A file that is something else stays as it is; a missing directory is not made."""
    db = tmp_path / name
    if content is not None:
        db.write_bytes(content)
    assert main(["demo", "--db", str(db)]) == 2
    assert message in capsys.readouterr().err
    assert not db.exists() if content is None else db.read_bytes() == content
    assert len(list(tmp_path.iterdir())) == (content is not None)


def test_a_server_that_is_not_there_is_said_without_the_password(capsys) -> None:
    """A DSN is a place too; what is wrong with it is one sentence."""
    place = "postgresql://me:hidden@127.0.0.1:1/flights"
    assert main(["demo", "--db", place]) == 2
    said = capsys.readouterr()
    assert "127.0.0.1:1/flights cannot be reached" in said.err
    assert "Traceback" not in said.err
    assert "hidden" not in said.err + said.out


def test_a_flight_recorded_otherwise_is_refused(tmp_path, capsys) -> None:
    """A file that contradicts the log is told so; the log stays as it is."""
    db, flown = tmp_path / "flights.db", rows(WEEK)[0]
    cancelled = {**flown, "dep_time": "NA", "arr_time": "NA"}
    data = write_csv(tmp_path / "one.csv", [flown])
    demo(capsys, "--data", data, "--db", db)
    before = head(db)
    write_csv(data, [cancelled])
    assert main(["demo", "--data", str(data), "--db", str(db)]) == 2
    assert (
        "flight '2013-01-01-UA-1545-EWR' is recorded otherwise: "
        "a flight that is landed cannot cancel" in capsys.readouterr().err
    )
    assert head(db) == before


# The command itself.


def test_without_a_command_it_shows_help(capsys) -> None:
    """`evsrc` alone says what there is."""
    assert main([]) == 0
    assert "demo" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "code"), [(["demo"], 2), (["demo", "--help"], 0), ([], 0)]
)
def test_without_rich_the_extra_is_named(arguments, code) -> None:
    """Without rich the demo names the extra, and help still works."""
    script = (
        "import sys; sys.modules['rich'] = None; from evsrc.cli import main; "
        f"sys.exit(main({arguments}))"
    )
    command = [sys.executable, "-W", "error", "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == code
    named = "evsrc: the command 'evsrc demo' needs the extra 'cli'"
    assert done.stderr.startswith(named) if code else not done.stderr
    assert "Traceback" not in done.stderr
