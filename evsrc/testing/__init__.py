"""Test stores and domains: the suite every store must pass, and real servers for it.

Each name is imported when it is first asked for: pytest loads `pytest_plugin`, and so
this module, in every session.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .boundary_specs import boundary_specs
    from .conformance import CODEC, Check, Fact, Marked, Note, Tagged
    from .databases import fresh_database
    from .servers import (
        PostgresNotFoundError,
        PostgresServer,
        PostgresStartError,
        find_postgres,
        start_postgres,
    )
    from .suite import store_checks

__all__ = [
    "CODEC",
    "Check",
    "Fact",
    "Marked",
    "Note",
    "PostgresNotFoundError",
    "PostgresServer",
    "PostgresStartError",
    "Tagged",
    "boundary_specs",
    "find_postgres",
    "fresh_database",
    "start_postgres",
    "store_checks",
]

_HOMES = {
    "PostgresNotFoundError": ".servers",
    "PostgresServer": ".servers",
    "PostgresStartError": ".servers",
    "boundary_specs": ".boundary_specs",
    "find_postgres": ".servers",
    "fresh_database": ".databases",
    "start_postgres": ".servers",
    "store_checks": ".suite",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOMES.get(name, ".conformance"), __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
