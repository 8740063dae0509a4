"""Give tests real PostgreSQL servers and databases, by two fixtures.

`evsrc_postgres_url` is the DSN of a server that lives as long as the test run: that of
`EVSRC_TEST_POSTGRES_URL`, else a private one (`servers`), which the workers of
pytest-xdist share. `evsrc_postgres_database` is the DSN of a new, empty database on it.
Where there is no server, tests that ask for one fail if the variable `CI` is set, and
are skipped elsewhere.

Every pytest session loads this module: it imports nothing that pytest has not.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import urlsplit
from uuid import uuid4

import pytest

if TYPE_CHECKING:
    from .servers import SharedFolder

_SHARED = "evsrc_postgres"
_shared: pytest.StashKey[SharedFolder] = pytest.StashKey()


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tell a worker of pytest-xdist where it finds the server of the run."""
    from .servers import SharedFolder  # noqa: PLC0415 - for those who have xdist

    stash = node.config.stash
    if _shared not in stash:
        stash[_shared] = SharedFolder.make()
    node.workerinput[_SHARED] = str(stash[_shared].path)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Stop the server that the workers shared."""
    if _shared in config.stash:
        config.stash[_shared].close()
        del config.stash[_shared]


def _missing(reason: str) -> NoReturn:
    if os.environ.get("CI", "").lower() in {"", "0", "false"}:
        pytest.skip(reason)
    pytest.fail(reason, pytrace=False)


@pytest.fixture(scope="session")
def evsrc_postgres_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """Give the DSN of a PostgreSQL server for the run, as a superuser of it."""
    if given := os.environ.get("EVSRC_TEST_POSTGRES_URL"):
        yield given
        return
    from . import servers  # noqa: PLC0415 - for those who use it

    try:
        servers.find_postgres()
    except servers.PostgresNotFoundError as error:
        _missing(str(error))
    folder = Path(getattr(request.config, "workerinput", {}).get(_SHARED, ""))
    if (folder / "holder").exists():
        yield servers.start_shared(folder)
    else:
        with servers.start_postgres() as server:
            yield server.url


@pytest.fixture
def evsrc_postgres_database(evsrc_postgres_url: str) -> Iterator[str]:
    """Give the DSN of a new, empty database, which is dropped after the test."""
    name = f"evsrc_{uuid4().hex}"
    url = urlsplit(evsrc_postgres_url)._replace(path=f"/{name}").geturl()
    new = "TEMPLATE template0 ENCODING 'UTF8' LOCALE 'C'"
    _run(evsrc_postgres_url, f"CREATE DATABASE {name} {new}")
    yield url
    prepared = _run(
        evsrc_postgres_url,
        f"SELECT gid FROM pg_prepared_xacts WHERE database = '{name}'",
    )
    _run(url, *(f"ROLLBACK PREPARED '{gid}'" for (gid,) in prepared))
    _run(evsrc_postgres_url, f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


def _run(url: str, *statements: str) -> list[Any]:
    """Run statements one after the other; give the rows of the last.

    In a thread, with a loop of its own: that of the test may run or not be there yet.
    """
    try:
        import asyncpg  # noqa: PLC0415 - for those who use it
    except ImportError:
        _missing("asyncpg is not installed: pip install 'evsrc-py[postgresql]'")

    async def run() -> list[Any]:
        connection = await asyncpg.connect(url)
        try:
            rows: list[Any] = []
            for statement in statements:
                rows = await connection.fetch(statement)
            return rows
        finally:
            await connection.close()

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, run()).result()
