"""Give tests stores of every kind, and real servers and databases for them.

`evsrc_store` is an empty store; a test that asks for it runs once for each back end:
those of `--evsrc-stores`, else of the ini option `evsrc_stores`, else all. It needs
pytest-asyncio; `evsrc_open_store` is what opens such stores, in any framework, and
`evsrc_back_end` the name of the back end in turn. Their codec is the fixture
`evsrc_codec`, which you may override.

`evsrc_postgres_url` is the DSN of a server that lives as long as the test run: that of
`EVSRC_TEST_POSTGRES_URL`, else a private one (`servers`), which the workers of
pytest-xdist share. `evsrc_postgres_database` is the DSN of a new, empty database on it,
`evsrc_shared_database` that of one database for the whole run of a worker. Where there
is no server, or no driver, tests that ask for one fail if the variable `CI` is set, and
are skipped with the reason elsewhere.

Every pytest session loads this module: it imports nothing that pytest has not.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

from . import BACK_ENDS

if TYPE_CHECKING:
    from ..core.codec import Codec
    from .back_ends import OpenStore
    from .servers import SharedFolder

_SHARED = "evsrc_postgres"
_shared: pytest.StashKey[SharedFolder] = pytest.StashKey()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let the back ends be chosen."""
    about = "back ends that evsrc_store runs on, with commas; default: all"
    parser.getgroup("evsrc").addoption("--evsrc-stores", help=about)
    parser.addini("evsrc_stores", help=about, default="")


def pytest_configure(config: pytest.Config) -> None:
    """Add the fixtures that await, if there is something to run them."""
    for name in _chosen(config):
        if name not in BACK_ENDS:
            known = ", ".join(BACK_ENDS)
            raise pytest.UsageError(f"evsrc has no back end {name!r}; it has {known}")
    if config.pluginmanager.hasplugin("asyncio"):
        from . import fixtures  # noqa: PLC0415 - see above

        config.pluginmanager.register(fixtures, "evsrc-fixtures")


def _chosen(config: pytest.Config) -> set[str]:
    said = config.getoption("--evsrc-stores") or config.getini("evsrc_stores")
    return {name.strip() for name in said.split(",") if name.strip()}


def pytest_collection_modifyitems(
    config: pytest.Config, items: list[pytest.Item]
) -> None:
    """Deselect what runs on a back end that was not chosen."""
    if not (chosen := _chosen(config)):
        return
    left_out: list[pytest.Item] = []
    for item in items:
        parameters = getattr(getattr(item, "callspec", None), "params", {})
        if parameters.get("evsrc_back_end", "") not in {"", *chosen}:
            left_out.append(item)
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


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


def _check_driver(back_end: str) -> None:
    from .back_ends import missing  # noqa: PLC0415 - see above

    if reason := missing(back_end):
        _missing(reason)


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


def _database(url: str) -> Iterator[str]:
    _check_driver("postgresql")
    from .databases import fresh_database  # noqa: PLC0415 - see above

    with fresh_database(url) as own:
        yield own


@pytest.fixture
def evsrc_postgres_database(evsrc_postgres_url: str) -> Iterator[str]:
    """Give the DSN of a new, empty database, which is dropped after the test."""
    yield from _database(evsrc_postgres_url)


@pytest.fixture(scope="session")
def evsrc_shared_database(evsrc_postgres_url: str) -> Iterator[str]:
    """Give the DSN of a database for all tests; each store has a prefix of its own."""
    yield from _database(evsrc_postgres_url)


@pytest.fixture(params=BACK_ENDS)
def evsrc_back_end(request: pytest.FixtureRequest) -> str:
    """Give the name of the back end in turn."""
    back_end: str = request.param
    _check_driver(back_end)
    return back_end


@pytest.fixture
def evsrc_codec() -> Codec[Any]:
    """Give the codec of the stores: that of the suites, unless you override this."""
    from ._bench import CODEC  # noqa: PLC0415 - see above

    return CODEC


@pytest.fixture
def evsrc_open_store(
    evsrc_back_end: str,
    evsrc_codec: Codec[Any],
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> OpenStore:
    """Give what opens the store of this test; await it; options go to the store."""
    from .back_ends import is_server, opener  # noqa: PLC0415 - see above

    url = ""
    if is_server(evsrc_back_end):
        url = request.getfixturevalue("evsrc_shared_database")
    return opener(evsrc_back_end, tmp_path, evsrc_codec, url=url)
