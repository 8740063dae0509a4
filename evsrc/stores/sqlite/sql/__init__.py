"""The SQL of the SQLite store, one statement a file."""

from functools import cache
from importlib.resources import files


@cache
def sql(name: str) -> str:
    """Give the statement of *name*.sql."""
    return files(__name__).joinpath(f"{name}.sql").read_text("utf-8")
