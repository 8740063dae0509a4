"""The plugin gives tests stores of all back ends, and says which it cannot give."""

from __future__ import annotations

from collections.abc import Callable

import pytest

# a session that runs in this process forgets what only it has imported: not these
from evsrc.testing import assertions, back_ends, conformance

__all__ = ["assertions", "back_ends", "conformance"]
pytest_plugins = ["pytester"]

TESTS = """
from evsrc import StreamName
from evsrc.testing import Fact, assert_stream, record

async def test_it(evsrc_store, evsrc_back_end):
    stream = StreamName("s", "1")
    await record(evsrc_store, stream, Fact(1))
    await assert_stream(evsrc_store, stream, [Fact(1)])
"""
Inner = Callable[..., pytest.RunResult]


@pytest.fixture
def inner(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Inner:
    """Run tests in a session of their own, in this process if that is no matter."""
    monkeypatch.delenv("CI", raising=False)

    def run(
        tests: str,
        *options: str,
        ini: str = "asyncio_mode = auto",
        process: bool = False,
    ) -> pytest.RunResult:
        pytester.makeini(
            "[pytest]\nfilterwarnings = error\n"
            f"asyncio_default_fixture_loop_scope = function\n{ini}\n"
        )
        pytester.makepyfile(tests)
        here, apart = pytester.runpytest_inprocess, pytester.runpytest_subprocess
        run = apart if process else here
        return run("-p", "no:xdist", "-v", "-rs", *options)

    return run


def test_a_test_runs_on_each_chosen_back_end(inner: Inner) -> None:
    """The option names back ends; the test's id has their names."""
    chosen = "--evsrc-stores=memory, sqlite,sqlite-memory"
    result = inner(TESTS, chosen, process=True)
    result.assert_outcomes(passed=3)
    for back_end in ("memory", "sqlite", "sqlite-memory"):
        result.stdout.fnmatch_lines([f"*test_it[[]{back_end}[]] PASSED*"])


def test_the_ini_file_chooses_and_the_option_wins(inner: Inner) -> None:
    """What a project wrote down holds, unless the command line says something else."""
    ini = "asyncio_mode = auto\nevsrc_stores = memory,sqlite"
    inner(TESTS, ini=ini).assert_outcomes(passed=2)
    inner(TESTS, "--evsrc-stores=memory", ini=ini).assert_outcomes(passed=1)


def test_by_default_it_is_all_of_them(inner: Inner) -> None:
    """Without a choice each test is collected for all back ends."""
    result = inner(TESTS, "--collect-only", "-q")
    result.stdout.fnmatch_lines(
        [
            f"*test_it[[]{back_end}[]]*"
            for back_end in (
                "memory", "sqlite", "sqlite-memory",
                "postgresql", "postgresql-concurrent",
            )
        ]
    )  # fmt: skip


def test_unknown_back_ends_are_refused(inner: Inner) -> None:
    """A name that means nothing is an error that lists those that do."""
    result = inner(TESTS, "--evsrc-stores=memory,oracle")
    assert result.ret != 0
    result.stderr.fnmatch_lines(["*no back end 'oracle'; it has memory, sqlite,*"])


@pytest.mark.parametrize(("ci", "outcome"), [("", "skipped"), ("true", "errors")])
def test_what_cannot_run_says_why(
    inner: Inner,
    pytester: pytest.Pytester,
    monkeypatch: pytest.MonkeyPatch,
    ci: str,
    outcome: str,
) -> None:
    """Without a driver a back end is skipped with the reason; in CI that is an error."""
    pytester.makeconftest(
        "from evsrc.testing import back_ends\nback_ends.find_spec = lambda name: None\n"
    )
    monkeypatch.setenv("CI", ci)
    result = inner(TESTS, "--evsrc-stores=memory,postgresql", process=True)
    result.assert_outcomes(passed=1, **{outcome: 1})
    result.stdout.fnmatch_lines(["*asyncpg is not installed*"])


def test_a_module_may_say_itself_which(inner: Inner) -> None:
    """A fixture of the module's own takes the place of the plugin's."""
    own = """
import pytest

@pytest.fixture(params=["sqlite", "memory"])
def evsrc_back_end(request):
    return request.param
"""
    inner(own + TESTS).assert_outcomes(passed=2)
    result = inner(own + TESTS, "--evsrc-stores=memory")
    result.assert_outcomes(passed=1, deselected=1)


def test_a_test_may_say_itself_which(inner: Inner) -> None:
    """Its own parametrization wins."""
    tests = f"""
import pytest
{TESTS.replace("async def", "@pytest.mark.parametrize('evsrc_back_end', ['sqlite'])" + chr(10) + "async def")}
"""
    result = inner(tests)
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*test_it[[]sqlite[]] PASSED*"])


def test_stores_have_the_user_s_codec(inner: Inner) -> None:
    """An overridden codec is that of the store, and options reach the store."""
    result = inner(
        """
import pytest
from msgspec import Struct
from evsrc import EventTypeNotFoundError, StreamName, json_codec
from evsrc.testing import Fact, assert_stream, record

class Lit(Struct, frozen=True):
    lumen: int

@pytest.fixture
def evsrc_codec():
    return json_codec({"lit": Lit})

async def test_it(evsrc_store, evsrc_open_store, evsrc_back_end):
    lamp = StreamName("lamp", "1")
    await record(evsrc_store, lamp, Lit(5))
    await assert_stream(evsrc_store, lamp, [Lit(5)])
    with pytest.raises(EventTypeNotFoundError):
        await record(evsrc_store, lamp, Fact(1))
    if evsrc_back_end == "sqlite":
        async with await evsrc_open_store() as again:
            await assert_stream(again, lamp, [Lit(5)])
""",
        "--evsrc-stores=memory,sqlite",
    )
    result.assert_outcomes(passed=2)


def test_the_strict_mode_of_pytest_asyncio_works(inner: Inner) -> None:
    """The fixture needs no automatic mode."""
    tests = TESTS.replace("async def", "import pytest\n@pytest.mark.asyncio\nasync def")
    result = inner(tests, "--evsrc-stores=memory", ini="asyncio_mode = strict")
    result.assert_outcomes(passed=1)


def test_other_frameworks_open_stores_themselves(inner: Inner) -> None:
    """Without pytest-asyncio everything but `evsrc_store` is there."""
    tests = """
import asyncio

def test_it(evsrc_open_store):
    async def main():
        async with await evsrc_open_store() as store:
            assert await store.head() == 0
    asyncio.run(main())
"""
    options = ("-p", "no:asyncio", "--evsrc-stores=sqlite", "-W", "ignore")
    inner(tests, *options).assert_outcomes(passed=1)
