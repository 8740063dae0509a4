"""Test domains and stores: sentences, laws, machines, suites, and real servers.

Each name is imported when it is first asked for: pytest loads `pytest_plugin`, and so
this module, in every session.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ._law import LawBrokenError
    from .commands import commands_of, histories, states
    from .conformance import CODEC, Check, Fact, Marked, Note, Tagged
    from .databases import fresh_database
    from .laws import decider_laws
    from .machines import InvariantBrokenError, decider_machine
    from .servers import (
        PostgresNotFoundError,
        PostgresServer,
        PostgresStartError,
        find_postgres,
        start_postgres,
    )
    from .specs import recorded, specs_of
    from .store_machine import store_machine
    from .strategies import values
    from .suite import store_checks
    from .upcaster_laws import upcaster_laws
    from .view_laws import view_laws

__all__ = [
    "CODEC",
    "Check",
    "Fact",
    "InvariantBrokenError",
    "LawBrokenError",
    "Marked",
    "Note",
    "PostgresNotFoundError",
    "PostgresServer",
    "PostgresStartError",
    "Tagged",
    "commands_of",
    "decider_laws",
    "decider_machine",
    "find_postgres",
    "fresh_database",
    "histories",
    "recorded",
    "specs_of",
    "start_postgres",
    "states",
    "store_checks",
    "store_machine",
    "upcaster_laws",
    "values",
    "view_laws",
]

_HOMES = {
    "InvariantBrokenError": ".machines",
    "LawBrokenError": "._law",
    "PostgresNotFoundError": ".servers",
    "PostgresServer": ".servers",
    "PostgresStartError": ".servers",
    "commands_of": ".commands",
    "decider_laws": ".laws",
    "decider_machine": ".machines",
    "find_postgres": ".servers",
    "fresh_database": ".databases",
    "histories": ".commands",
    "recorded": ".specs",
    "specs_of": ".specs",
    "start_postgres": ".servers",
    "states": ".commands",
    "store_machine": ".store_machine",
    "upcaster_laws": ".upcaster_laws",
    "values": ".strategies",
    "view_laws": ".view_laws",
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
