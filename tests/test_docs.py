"""The documents are true: every block runs, every output, name and link is checked."""

from __future__ import annotations

import ast
import asyncio
import inspect
import io
import os
import re
import shlex
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, redirect_stdout
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
from hypothesis import settings

import evsrc
import evsrc.subscriptions
from evsrc import (
    StoreUnavailableError,
    default_registry,
    migration_sql,
    postgresql_store,
)
from evsrc.testing import CODEC, Check, find_postgres, store_checks
from evsrc.testing.databases import fresh_database

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
EXAMPLES = sorted((DOCS / "examples").glob("*.py"))
TEXTS = [
    ROOT / "CHANGELOG.md",
    *PAGES,
    *EXAMPLES,
    *sorted((ROOT / "evsrc").rglob("*.py")),
]

DEMO = (
    "python3 -m venv .venv && .venv/bin/pip install -e '.[cli]' && .venv/bin/evsrc demo"
)
TESTS = (
    "python3 -m venv .venv && .venv/bin/pip install -e '.[test]' && .venv/bin/pytest"
)

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A fenced piece of a page, and the output that is shown right below it."""

    page: Path
    language: str
    text: str
    line: int
    output: str | None

    @property
    def place(self) -> str:
        return f"{name_of(self.page)}:{self.line}"


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT) if page.is_relative_to(ROOT) else page)


def blocks_of(page: Path) -> list[Block]:
    """Give a page's blocks that are to be run or checked, in order."""
    source = page.read_text("utf-8")
    found = list(FENCE.finditer(source))
    blocks: list[Block] = []
    for here, after in zip_longest(found, found[1:]):
        between = "-" if after is None else source[here.end() : after.start()]
        shown = after is not None and after[1] in ("text", "output")
        output = (
            after[2] if after is not None and shown and not between.strip() else None
        )
        line = source.count("\n", 0, here.start(2)) + 1
        if here[1] not in ("text", "output"):
            blocks.append(Block(page, here[1], here[2], line, output))
    return blocks


class Session:
    """One namespace and one event loop, in which blocks of Python run one by one."""

    def __init__(self) -> None:
        self.names: dict[str, Any] = {"__name__": "__main__"}
        self.runner = asyncio.Runner()

    def run(self, source: str, place: str = "<block>", line: int = 1) -> str:
        """Run *source*, which may await at top level; give what it printed."""
        tree = ast.increment_lineno(ast.parse(source, place), line - 1)
        code = compile(
            tree, place, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True
        )
        printed = io.StringIO()
        with redirect_stdout(printed):
            # without awaits it may start a loop of its own, as a script does
            result = eval(code, self.names)
            if inspect.iscoroutine(result):
                self.runner.run(result)
        return printed.getvalue()

    def run_sql(self, *scripts: str) -> str:
        """Run SQL in one connection to the page's database; give rows as psql -At does.

        A script is a block of a page, or a whole program that has its own `;`.
        """

        async def run() -> list[str]:
            db: asyncpg.Connection[Any] = await asyncpg.connect(self.names["DSN"])
            try:
                lines: list[str] = []
                for statement in scripts:
                    if "BEGIN;" in statement:
                        await db.execute(statement)
                        continue
                    for row in await db.fetch(statement):
                        cells = ("" if cell is None else str(cell) for cell in row)
                        lines.append("|".join(cells) + "\n")
                return lines
            finally:
                await db.close()

        return "".join(self.runner.run(run()))


@pytest.fixture
def session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Session]:
    """Give a session in an empty directory, to which no event is known yet.

    What Hypothesis finds there depends on no earlier run.
    """
    monkeypatch.chdir(tmp_path)
    settings.register_profile("docs", settings(), derandomize=True)
    settings.load_profile("docs")
    monkeypatch.setattr(default_registry, "_classes", {})
    monkeypatch.setattr(default_registry, "_names", {})
    opened = Session()
    try:
        with opened.runner:
            yield opened
    finally:
        settings.load_profile("evsrc")


def give_database(page: Path, session: Session, url: str) -> Iterator[None]:
    """Let `DSN` be a new database's while a page runs; its roles go with it."""
    with fresh_database(url) as session.names["DSN"]:
        yield
    session.names["DSN"] = url
    for role in re.findall(
        r"^CREATE ROLE (\w+)", page.read_text("utf-8"), re.MULTILINE
    ):
        session.run_sql(f"DROP ROLE IF EXISTS {role}")


@pytest.fixture
def database(
    page: Path, session: Session, request: pytest.FixtureRequest
) -> Iterator[None]:
    """Give a page that speaks of `DSN` a PostgreSQL database under that name."""
    if re.search(r"\bDSN\b", page.read_text("utf-8")):
        url = request.getfixturevalue("evsrc_postgres_url")
        yield from give_database(page, session, url)
    else:
        yield


def run_shell(command: str, session: Session) -> str:
    """Run one command of a page the way its reader would, or refuse to know it."""
    words = shlex.split(command.replace("$DSN", session.names.get("DSN", "$DSN")))
    match words:
        case ["python", "-m", module, *options, "|", "psql", _, "-c", role, "-f", "-"]:
            script = run_program([sys.executable, "-m", module, *options])
            assert "COMMIT;" in script
            return session.run_sql(role, script)
        case ["python", "-m", module, *options]:
            return run_program([sys.executable, "-m", module, *options])
        case ["pg_dump" | "pg_restore", *_] if "EVSRC_TEST_POSTGRES_URL" in os.environ:
            return ""  # of another version, perhaps, than that server
        case ["pg_dump" | "pg_restore" as program, *options]:
            return run_program([str(find_postgres() / program), *options])
        case ["python", script]:
            return run_script(ROOT / script)
        case ["sqlite3", path, statement]:
            assert Path(path).is_file(), path
            with closing(sqlite3.connect(path)) as db:
                rows = db.execute(statement).fetchall()
            return "".join("|".join(map(str, row)) + "\n" for row in rows)
        case _:
            pytest.fail(f"nobody checks the command {command!r}")


def run_script(script: Path) -> str:
    return run_program([sys.executable, "-W", "error", str(script)])


def run_program(command: list[str]) -> str:
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    return done.stdout


@pytest.mark.parametrize("page", PAGES, ids=name_of)
@pytest.mark.usefixtures("database")
def test_blocks_give_the_output_that_is_shown(page: Path, session: Session) -> None:
    """Each block runs after those before it, and prints what stands below it.

    Of SQL, what it gives is compared if it is shown; an ellipsis is what differs.
    """
    for block in blocks_of(page):
        match block.language:
            case "python":
                printed = session.run(block.text, block.place, block.line)
            case "bash" if block.text.strip() in (DEMO, TESTS):
                continue  # CI runs these in a fresh clone
            case "bash":
                commands = block.text.splitlines()
                printed = "".join(run_shell(each, session) for each in commands)
            case "sql":
                printed = session.run_sql(*re.split(r"(?<=;)\n", block.text.strip()))
                if block.output is None:
                    continue  # sizes and such; that it runs is what is checked
                wanted = re.escape(block.output).replace("…", ".+")
                assert re.fullmatch(wanted, printed), f"{block.place}: {printed}"
                continue
            case _:
                pytest.fail(f"{block.place}: nobody checks {block.language!r} blocks")
        assert printed == (block.output or ""), block.place


@pytest.mark.parametrize("example", EXAMPLES, ids=name_of)
def test_examples_are_shown_with_their_output(example: Path) -> None:
    """Each example has a `main` and stands in a page, which runs it."""
    tree = ast.parse(example.read_text("utf-8"))
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    assert "main" in [n.name for n in tree.body if isinstance(n, functions)]
    shown = [b for page in PAGES for b in blocks_of(page) if b.output is not None]
    assert f"python {name_of(example)}\n" in [b.text for b in shown]


RECORDS = ("tag", "checkpoint", "snapshot", "dead_letter", "lease")
WRITING = [
    check
    for check in store_checks
    if any(word in check.__name__ for word in ("numbers", *RECORDS))
]


def about(right: str) -> list[Check]:
    """Give the checks that should notice the loss of a right."""
    record = [word for word in RECORDS if f"evsrc_{word}" in right] or ["numbers"]
    return [check for check in WRITING if record[0] in check.__name__]


def single_rights(grants: list[str]) -> Iterator[str]:
    """Give what takes back each single right that the grants give to the writer."""
    for grant in grants:
        found = re.fullmatch(r"GRANT (.+?)\s+ON (.+) TO (.+);?", grant, re.DOTALL)
        assert found, grant
        what, where, whom = found.groups()
        writer = next((role for role in whom.split(", ") if "writer" in role), None)
        kind = "SEQUENCE " if where.startswith("SEQUENCE") else ""
        if writer:
            for right in what.split(", "):
                for thing in where.removeprefix(kind).split(", "):
                    yield f"REVOKE {right} ON {kind}{thing} FROM {writer.strip(';')}"


async def refused(url: str, login: dict[str, str]) -> None:
    """See that a writer changes nothing but what an append changes."""
    writer: asyncpg.Connection[Any] = await asyncpg.connect(url, **login)
    for statement in (
        "UPDATE shop.evsrc_event SET at = 0",
        "DELETE FROM shop.evsrc_event",
        "TRUNCATE shop.evsrc_event",
        "ALTER TABLE shop.evsrc_event DISABLE TRIGGER ALL",
        "UPDATE shop.evsrc_log SET ordering = 'concurrent'",
        "INSERT INTO shop.evsrc_schema (version) VALUES (2)",
        "CREATE TABLE shop.other (n int)",
    ):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await writer.execute(statement)
    await writer.close()


@pytest.mark.parametrize("ordering", ["serial", "concurrent"])
async def test_the_rights_of_the_guide(
    ordering: Any, evsrc_postgres_database: str
) -> None:
    """With the rights of its writer a store does all that it does; without one, not."""
    blocks = blocks_of(DOCS / "postgresql.md")
    roles, grants = (
        next(b.text for b in blocks if b.language == "sql" and b.text.startswith(first))
        for first in ("CREATE ROLE", "GRANT")
    )
    unique = f"d{uuid4().hex[:8]}"
    roles, *rights = (
        text.replace("shop_", f"{unique}_")
        for text in (roles, *grants.strip().split(";\n"))
    )
    password = re.findall(r"writer LOGIN PASSWORD '(.*)'", roles)[0]
    login = {"user": f"{unique}_writer", "password": password}
    table = migration_sql(schema="shop", ordering=ordering)
    db: asyncpg.Connection[Any] = await asyncpg.connect(evsrc_postgres_database)
    await db.execute(roles)

    async def passes(check: Check, rights: list[str]) -> bool:
        await db.execute(
            f"DROP SCHEMA shop CASCADE; CREATE SCHEMA shop; GRANT ALL ON SCHEMA shop "
            f"TO {unique}_owner; SET ROLE {unique}_owner"
        )
        await db.execute(table)
        await db.execute("RESET ROLE")
        await db.execute(";".join(rights))
        try:
            async with await postgresql_store(
                evsrc_postgres_database,
                CODEC,
                schema="shop",
                ordering=ordering,
                migrate=False,
                max_connections=4,
                connect=login,
            ) as store:
                await check(store)
        except StoreUnavailableError as error:
            if "the role has no right" not in str(error):
                raise
            return False
        return True

    try:
        assert [check for check in WRITING if not await passes(check, rights)] == []
        await refused(evsrc_postgres_database, login)
        spare = "evsrc_position" if ordering == "serial" else "evsrc_log"
        for without in single_rights(rights):
            if spare in without:
                continue
            for check in about(without):
                if not await passes(check, [*rights, without]):
                    break
            else:
                pytest.fail(f"not needed: {without}")
    finally:
        gone = ", ".join(f"{unique}_{who}" for who in ("owner", "writer", "reader"))
        await db.execute(f"DROP OWNED BY {gone} CASCADE; DROP ROLE {gone}")
        await db.close()


def test_the_readme_has_the_two_commands() -> None:
    """A fresh clone is set up and shown by one line, and tested by another."""
    commands = [b.text for b in blocks_of(ROOT / "README.md") if b.language == "bash"]
    assert f"{DEMO}\n" in commands
    assert f"{TESTS}\n" in commands


def test_the_functional_example_is_short() -> None:
    """What the README shows first fits on one screen."""
    first = next(b for b in blocks_of(ROOT / "README.md") if b.language == "python")
    assert len(code_lines(first.text)) <= 35


def test_the_tutorial_is_short() -> None:
    """It builds an aggregate, a read model and a subscription in 120 lines."""
    blocks = [b for b in blocks_of(DOCS / "tutorial.md") if b.language == "python"]
    assert sum(len(code_lines(block.text)) for block in blocks) <= 120


def code_lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.strip()]


def test_nobody_is_told_to_install_another_project() -> None:
    """The name evsrc on PyPI is somebody else's: the distribution is evsrc-py."""
    wrong = re.compile(r"\b(?:install|add)(?:\s+-\S+)*\s+['\"]?evsrc(?!-py)\b")
    assert wrong.search("pip install evsrc")
    assert wrong.search("uv pip install -U 'evsrc[all]'")
    assert not wrong.search("pip install 'evsrc-py[cli]' and then evsrc")
    for text in TEXTS:
        found = wrong.search(text.read_text("utf-8"))
        assert found is None, f"{name_of(text)}: {found[0]}"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    """A link inside the project names a file, and a heading that it has."""
    for link in re.findall(r"\]\(([^)\s]+)\)", FENCE.sub("", page.read_text("utf-8"))):
        if link.startswith(("https://", "http://")):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", page.read_text("utf-8"), re.MULTILINE)
    return {
        re.sub(r"[^\w\- ]", "", h).strip().lower().replace(" ", "-") for h in headings
    }


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CHANGELOG.md"], ids=name_of)
def test_tests_that_are_named_are_there(page: Path) -> None:
    """A document that says what proves it names files, and functions in them."""
    source = page.read_text("utf-8")
    for path, test in re.findall(
        r"((?:property_)?tests/[\w/]+\.py)(?:::(\w+))?", source
    ):
        assert (ROOT / path).is_file(), path
        if test:
            pattern = rf"^(?:async )?def {test}\("
            found = re.search(pattern, (ROOT / path).read_text("utf-8"), re.MULTILINE)
            assert found is not None, f"{path}::{test}"


def test_every_guarantee_names_a_test() -> None:
    """A line of the table without a proof would be a wish."""
    rows = re.findall(
        r"^\| ([A-Z]\d+) \|(.+)\|(.+)\|$",
        (DOCS / "guarantees.md").read_text("utf-8"),
        re.MULTILINE,
    )
    assert {"A1", "A2", "A3", "A4", "A5", "A6", "A8", "R1", "R2", "R3", "R4"} <= {
        id for id, _, _ in rows
    }
    assert {"S1", "S3", "S5", "S7", "C2"} <= {id for id, _, _ in rows}
    for id, promise, proof in rows:
        assert promise.strip(), id
        assert re.search(r"`(?:property_)?tests/[\w/]+\.py", proof), id


def test_options_that_are_said_not_to_exist_do_not() -> None:
    """The page on classes names options of eventsource-py that nothing here takes."""
    text = (DOCS / "classes.md").read_text("utf-8")
    (row,) = re.findall(r"^\| Options \| (.*) do not exist\.", text, re.MULTILINE)
    absent = [name.rstrip("*") for name in re.findall(r"`(\w+\*?)`", row)]
    assert len(absent) > 5
    for name in evsrc.__all__ + evsrc.subscriptions.__all__:
        thing = getattr(evsrc, name, None) or getattr(evsrc.subscriptions, name)
        if isinstance(thing, type) and not issubclass(thing, Exception):
            taken = inspect.signature(thing.__init__).parameters
            assert not [t for t in taken if t.startswith(tuple(absent))], name


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_modules_that_are_named_can_be_run(page: Path) -> None:
    """`python -m ...` names a module that is there."""
    for module in re.findall(r"python -m ([\w.]+)", page.read_text("utf-8")):
        if module in sys.stdlib_module_names or module == "venv":
            continue
        path = ROOT.joinpath(*module.split("."))
        assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file()
