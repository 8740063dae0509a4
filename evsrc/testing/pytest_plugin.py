"""Give tests real PostgreSQL servers and databases, by two fixtures.

`evsrc_postgres_url` is the DSN of a server that lives as long as the test run: that of
`EVSRC_TEST_POSTGRES_URL`, else a private one (`servers`), which the workers of
pytest-xdist share. `evsrc_postgres_database` is the DSN of a new, empty database on it.
Where there is no server, tests that ask for one fail if the variable `CI` is set, and
are skipped elsewhere.

Every pytest session loads this module: it imports nothing that pytest has not.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

if TYPE_CHECKING:
    from .servers import SharedFolder

_SHARED = "evsrc_postgres"
_shared: pytest.StashKey[SharedFolder] = pytest.StashKey()


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tell a worker of pytest-xdist where it finds the server of the run."""
    if os.name != "posix":
        return
    from .servers import SharedFolder  # noqa: PLC0415 - see above

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
    """Give the DSN of the run's PostgreSQL server; its role is the superuser."""
    if given := os.environ.get("EVSRC_TEST_POSTGRES_URL"):
        yield given
        return
    from . import servers  # noqa: PLC0415 - see above

    try:
        servers.find_postgres()
    except servers.PostgresNotFoundError as error:
        _missing(str(error))
    shared = Path(getattr(request.config, "workerinput", {}).get(_SHARED, ""))
    if (shared / "holder").exists():
        yield servers.start_shared(shared)
    else:
        with servers.start_postgres() as server:
            yield server.url


@pytest.fixture
def evsrc_postgres_database(evsrc_postgres_url: str) -> Iterator[str]:
    """Give the DSN of a new, empty database, which is dropped after the test."""
    if find_spec("asyncpg") is None:
        _missing("asyncpg is not installed: pip install 'evsrc-py[postgresql]'")
    from .databases import fresh_database  # noqa: PLC0415 - see above

    with fresh_database(evsrc_postgres_url) as url:
        yield url
