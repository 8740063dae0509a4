"""The arrows of the architecture, the public names, and what an import costs."""

from __future__ import annotations

import ast
import doctest
import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import evsrc

ROOT = Path(evsrc.__file__).parent
MODULES = sorted(ROOT.rglob("*.py"))

# who may import whom, inside the package
ALLOWED = {
    "core": {"core"},
    "ports": {"core"},
    "runtime": {"core", "ports", "runtime"},
    "stores": {"core", "ports", "stores"},
    "facade": {"core", "ports", "runtime", "stores", "facade"},
    "projections": {"core", "facade"},
    "snapshots": {"core", "facade"},
    "subscriptions": {"core", "facade"},
    "telemetry": {"core", "ports", "runtime", "telemetry"},
    "testing": {"core", "ports", "runtime", "stores", "facade", "testing"},
}
DRIVERS = {
    "aiosqlite": "stores/sqlite",
    "sqlite3": ("stores/sqlite", "facade/tables"),
    "asyncpg": ("stores/postgresql", "testing/databases"),
    "opentelemetry": "telemetry",
    "rich": "cli",
}
NOT_IN_CORE = {"asyncio", "threading", "time", "random", "os", "socket", "sqlite3"}
OUTSIDE_CORE = {"msgspec", "pyrsistent"}


def imports(path: Path) -> list[tuple[str, ...]]:
    """Give the imported modules as paths; those of the package start with 'evsrc'."""
    here = ("evsrc", *path.relative_to(ROOT).with_suffix("").parts)
    found: list[tuple[str, ...]] = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [tuple(alias.name.split(".")) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = here[: -node.level] if node.level else ()
            found.append((*base, *(node.module or "").split(".")))
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_follow_the_arrows(path: Path) -> None:
    """A module imports only from the layers below its own."""
    layer = path.relative_to(ROOT).with_suffix("").parts[0]
    for target in imports(path):
        if target[0] == "evsrc" and layer in ALLOWED and len(target) > 1:
            assert target[1] in ALLOWED[layer], f"{layer} imports {'.'.join(target)}"


@pytest.mark.parametrize(
    "path", sorted((ROOT / "core").glob("*.py")), ids=lambda p: p.name
)
def test_the_core_is_pure(path: Path) -> None:
    """The core imports no I/O, clock, chance or concurrency, and two libraries only."""
    for target in imports(path):
        assert target[0] not in NOT_IN_CORE
        standard = target[0] in sys.stdlib_module_names
        assert standard or target[0] in OUTSIDE_CORE | {"evsrc"}


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_drivers_stay_in_their_adapters(path: Path) -> None:
    """A driver is imported in its own adapter only, except for type checkers."""
    source = path.read_text()
    for target in imports(path):
        home = DRIVERS.get(target[0])
        if home is not None and not str(path.relative_to(ROOT)).startswith(home):
            assert f"if TYPE_CHECKING:\n    import {target[0]}" in source


def test_sql_is_in_files_or_constant() -> None:
    """No SQL statement is put together from values."""
    verbs = ("SELECT ", "INSERT ", "UPDATE ", "DELETE ")
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                text = "".join(
                    part.value
                    for part in node.values
                    if isinstance(part, ast.Constant) and isinstance(part.value, str)
                )
                assert not text.startswith(verbs), f"{path}: {text}"


def test_public_names_are_there() -> None:
    """Every name in __all__ can be imported, and is what `dir` shows."""
    assert len(evsrc.__all__) == len(set(evsrc.__all__))
    for name in evsrc.__all__:
        assert getattr(evsrc, name) is not None
    assert set(dir(evsrc)) == set(evsrc.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        evsrc.nonsense  # noqa: B018


@pytest.mark.parametrize(
    "door", ["projections", "snapshots", "subscriptions", "telemetry", "testing"]
)
def test_doors_export_what_they_say(door: str) -> None:
    """The modules of the guide's import paths have complete lists of names."""
    module = importlib.import_module(f"evsrc.{door}")
    assert len(module.__all__) == len(set(module.__all__))
    assert all(hasattr(module, name) for name in module.__all__)


def test_every_public_thing_is_documented() -> None:
    """Modules, public classes and functions have docstrings."""
    for path in MODULES:
        tree = ast.parse(path.read_text())
        if path.name == "__init__.py" and not tree.body:
            continue
        assert ast.get_docstring(tree), path
        for node in tree.body:
            if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
                overload = any(
                    ast.unparse(d) == "overload" for d in node.decorator_list
                )
                private = node.name.startswith("_") or overload
                assert private or ast.get_docstring(node), node.name


def test_importing_loads_no_driver_and_is_quick() -> None:
    """`import evsrc` costs at most 150 ms and brings no database driver."""
    code = (
        "import sys, time; t = time.perf_counter(); import evsrc; "
        "took = time.perf_counter() - t; "
        "evsrc.DomainEvent, evsrc.AggregateRepository, evsrc.SQLiteEventStore; "
        "evsrc.InMemoryEventBus, evsrc.memory_store, evsrc.transact, evsrc.subscribe; "
        "import evsrc.projections, evsrc.snapshots, evsrc.subscriptions; "
        "loaded = {'aiosqlite', 'asyncpg', 'opentelemetry', 'rich', 'pydantic', 'sqlite3'} & set(sys.modules); "
        "print(took * 1000, *loaded)"
    )
    took = []
    for _ in range(3):
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        )
        milliseconds, *loaded = done.stdout.split()
        assert loaded == []
        took.append(float(milliseconds))
    assert min(took) <= 150


@pytest.mark.parametrize(
    "module",
    [
        name
        for _, name, _ in pkgutil.walk_packages([str(ROOT)], "evsrc.")
        if not name.startswith(("evsrc.cli", "evsrc.__main__"))
    ],
)
def test_doctests(module: str) -> None:
    """The examples in docstrings give what they say."""
    failed, _ = doctest.testmod(importlib.import_module(module))
    assert failed == 0
