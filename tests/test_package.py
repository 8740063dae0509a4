"""What is built is what was tested: the wheel has everything, and works without sources."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

SCRIPT = """
import asyncio, pathlib, evsrc, evsrc.testing
assert "site" in evsrc.__file__, evsrc.__file__

async def main():
    for check in evsrc.testing.store_checks[:6]:
        async with await evsrc.sqlite_store(":memory:", evsrc.testing.CODEC) as store:
            await check(store)

asyncio.run(main())
print("works")
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    command = [
        sys.executable,
        "-m",
        "hatchling",
        "build",
        "-t",
        "wheel",
        "-d",
        str(folder),
    ]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    return built


def test_the_wheel_has_everything(wheel: Path) -> None:
    """Every file of the package that git knows is in the wheel, and the licence."""
    tracked = subprocess.run(
        ["git", "ls-files", "evsrc"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    archive = zipfile.ZipFile(wheel)
    names = set(archive.namelist())
    assert set(tracked) <= names
    (entries,) = (name for name in names if name.endswith("entry_points.txt"))
    plugin = "[pytest11]\nevsrc = evsrc.testing.pytest_plugin"
    assert plugin in archive.read(entries).decode()
    assert any(name.endswith("py.typed") for name in names)
    assert any("licenses/LICENSE" in name for name in names)
    assert not any(name.startswith(("tests", "docs")) for name in names)


def test_the_wheel_works_without_sources(wheel: Path, tmp_path: Path) -> None:
    """Unpacked elsewhere, with the sources out of reach, a store passes checks."""
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout == "works\n", done.stderr


def test_the_lock_is_of_these_dependencies() -> None:
    """`uv.lock` was made for what pyproject.toml asks for, bounds and extras alike."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lock = tomllib.loads((ROOT / "uv.lock").read_text())
    (ours,) = (each for each in lock["package"] if each["name"] == project["name"])
    assert lock["requires-python"] == project["requires-python"]
    assert ours["version"] == project["version"]
    extras = project["optional-dependencies"]
    assert ours["metadata"]["provides-extras"] == list(extras)
    asked = {(_spelled(each), None) for each in project["dependencies"]}
    for extra, needed in extras.items():
        for each in needed:
            requirement, _, marker = map(str.strip, each.partition(";"))
            only = f"{marker} and " if marker else ""
            asked.add((_spelled(requirement), f"{only}extra == '{extra}'"))
    locked = {
        (each["name"] + each.get("specifier", ""), each.get("marker"))
        for each in ours["metadata"]["requires-dist"]
    }
    assert locked == asked


def _spelled(requirement: str) -> str:
    """Give a requirement the way the lock spells it, without its extras."""
    return re.sub(r"\[.*\]", "", requirement)
