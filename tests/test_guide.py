"""The getting-started guide of eventsource-py runs here; only its import is changed."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.test_docs import FENCE, ROOT, Session
from tests.test_docs import session as session  # noqa: PLC0414 - a fixture

GUIDE = ROOT.parent / "shared" / "spec" / "getting-started.md"
STORES = ("memory", "sqlite-file", "sqlite-memory", "postgresql")
VARIANTS = {"sqlite-file": "File-based", "sqlite-memory": "In-memory"}


def guide() -> str:
    assert GUIDE.is_file(), (
        f"{GUIDE} is missing: the guide that the facade is held against lies beside the "
        "repository, in ../shared/spec"
    )
    return GUIDE.read_text("utf-8")


def ported(source: str) -> str:
    """Change the import, and nothing else."""
    return re.sub(r"^( *from )eventsource\b", r"\1evsrc", source, flags=re.MULTILINE)


def steps() -> dict[int, str]:
    """Give the code of each step, by its number."""
    parts = re.split(r"^## (?:Step (\d)|.*).*$", guide(), flags=re.MULTILINE)
    found = {
        int(number): ported(
            "".join(m[2] for m in FENCE.finditer(text) if m[1] == "python")
        )
        for number, text in zip(parts[1::2], parts[2::2], strict=True)
        if number
    }
    assert list(found) == list(range(1, 9))
    assert all(found.values())
    return found


def complete_example() -> tuple[str, str]:
    """Give the complete example, and the output that the guide shows for it."""
    text = guide().partition("## Complete Example")[2]
    (_, source), (_, output) = FENCE.findall(text)
    return ported(source), output


def commented_store(step: str, store: str) -> tuple[str, str]:
    """Take the code that step 4 has in comments: the import, and the opening."""
    (comments,) = re.findall(
        r"((?:^#.*\n)*^# from evsrc import SQLiteEventStore\n(?:^#.*\n)*)",
        step.replace("# from eventsource ", "# from evsrc "),
        flags=re.MULTILINE,
    )
    code = re.sub(r"^# ?", "", comments, flags=re.MULTILINE)
    imported = "from evsrc import SQLiteEventStore\n"
    assert imported in code
    variants = re.split(r"^# (?=File|In-memory)", code, flags=re.MULTILINE)
    (opening,) = [v for v in variants if v.startswith(VARIANTS[store])]
    return imported, opening.partition("\n")[2].rstrip() + "\n"


def commented_postgresql(step: str, url: str) -> str:
    """Take the code for PostgreSQL that step 4 has in comments, with our server in it."""
    _, comments = re.split(
        r"^# Production: PostgreSQL store\n", step, flags=re.MULTILINE
    )
    code = ported(re.sub(r"^# ?", "", comments, flags=re.MULTILINE))
    theirs = '"postgresql+asyncpg://user:pass@localhost/db"'
    assert theirs in code
    return code.replace(theirs, repr(url.replace("://", "+asyncpg://", 1)))


CLOSE = "await event_store.close()\nawait engine.dispose()\n"


def with_store(store: str, url: str) -> list[str]:
    """Give the steps as pieces to run one by one, on a store.

    In memory they are the guide's, untouched. On SQLite the store is open in a `with`,
    as the guide has it in its comments; the steps that use it stand inside, where a
    loop runs already, so step 6 awaits `main()` instead of running it.
    """
    code = steps()
    if store == "memory":
        return list(code.values())
    using = "".join(code[n] for n in range(5, 9))
    assert using.count("asyncio.run(main())") == 1
    using = using.replace("asyncio.run(main())", "await main()")
    imports = "from evsrc import AggregateRepository\n"
    if store == "postgresql":
        opening = commented_postgresql(code[4], url)
        return [code[1], code[2], code[3], imports + opening + using + CLOSE]
    imported, opening = commented_store(code[4], store)
    inside = imported + imports + opening + textwrap.indent(using, "    ")
    return [code[1], code[2], code[3], inside]


def url_for(store: str, request: pytest.FixtureRequest) -> str:
    if store != "postgresql":
        return ""
    url: str = request.getfixturevalue("evsrc_postgres_database")
    return url


@pytest.mark.parametrize("store", STORES)
def test_the_steps_of_the_guide(
    store: str, session: Session, request: pytest.FixtureRequest
) -> None:
    """Steps 1 to 8 print what they should, the last right after `save`, unslept."""
    assert "sleep" not in "".join(steps().values())
    printed = "".join(
        session.run(piece, f"guide, {store}")
        for piece in with_store(store, url_for(store, request))
    )
    created, status, reassigned, final, version, pending = printed.splitlines()
    task_id = re.fullmatch(r"Created task ([0-9a-f-]{36})", created)
    assert task_id is not None
    assert status == "Task status: pending"
    assert re.fullmatch(r"Reassigned to: [0-9a-f-]{36}", reassigned)
    assert final == "Final status: completed"
    assert version == "Version: 3"
    assert re.fullmatch(
        r"\[\{'id': UUID\('[0-9a-f-]{36}'\), 'title': 'New task', "
        r"'status': 'pending', 'assigned_to': None\}\]",
        pending,
    )
    tasks = session.names["projection"].tasks
    assert {str(id): task["status"] for id, task in tasks.items()} == {
        task_id[1]: "completed",
        str(session.names["task"].aggregate_id): "pending",
    }


@pytest.mark.parametrize("store", STORES)
def test_the_complete_example_of_the_guide(
    store: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Run as a script it prints exactly what the guide shows, and complains of nothing."""
    source, output = complete_example()
    if store == "postgresql":
        source = on_postgresql(source, url_for(store, request))
    elif store != "memory":
        source = on_sqlite(source, store)
    script = tmp_path / "example.py"
    script.write_text(source)
    done = subprocess.run(
        [sys.executable, "-W", "error", str(script)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT)},
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == output
    assert (tmp_path / "events.db").exists() == (store == "sqlite-file")


def on_sqlite(source: str, store: str) -> str:
    """Open the SQLite store around everything that uses the one in memory."""
    _, opening = commented_store(steps()[4], store)
    head, made, rest = source.partition("    store = InMemoryEventStore()\n")
    body, guard, end = rest.partition('\n\nif __name__ == "__main__":')
    assert made
    assert guard
    opened = opening.replace("    event_store = store\n", "")
    inside = textwrap.indent(opened, "    ") + textwrap.indent(body, "    ")
    head = head.replace("InMemoryEventStore,", "SQLiteEventStore,")
    return head + inside + guard + end


def on_postgresql(source: str, url: str) -> str:
    """Open the PostgreSQL store instead of the one in memory, and close it at the end."""
    opening = commented_postgresql(steps()[4], url) + "store = event_store\n"
    head, made, rest = source.partition("    store = InMemoryEventStore()\n")
    body, guard, end = rest.partition('\n\nif __name__ == "__main__":')
    assert made
    assert guard
    inside = textwrap.indent(opening, "    ") + body + textwrap.indent(CLOSE, "    ")
    return head + inside + guard + end
