"""What the databases' schemas have in common: numbered migrations, known versions."""

from __future__ import annotations

from pathlib import Path

from ..core.errors import SchemaError


def numbered(folder: Path) -> dict[int, str]:
    """Give the migrations in *folder*, files such as `0001_initial.sql`, by version."""
    found = {
        int(file.name[:4]): file.read_text("utf-8")
        for file in folder.glob("[0-9][0-9][0-9][0-9]_*.sql")
    }
    return dict(sorted(found.items()))


def known_version(version: object, newest: int, what: str) -> int:
    """Give the version that *what* says it has.

    Raises:
        SchemaError: it is no version, or newer than *newest*.
    """
    if not isinstance(version, int):
        raise SchemaError(
            f"{what} has no schema version, but {version!r}: it was not made by evsrc"
        )
    if version > newest:
        raise SchemaError(
            f"{what} has schema version {version}, this evsrc knows up to {newest}; "
            "upgrade evsrc-py"
        )
    return version
