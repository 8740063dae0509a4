"""The SQL of the SQLite store, one statement a file."""

from functools import cache
from pathlib import Path
from typing import Final

_FOLDER: Final = Path(__file__).parent


@cache
def sql(name: str) -> str:
    """Give the statement of *name*.sql."""
    return (_FOLDER / f"{name}.sql").read_text("utf-8")
