"""Test domains and stores: sentences, laws, machines, suites, and real servers.

Each name is imported when it is first asked for: pytest loads `pytest_plugin`, and so
this module, in every session.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ._bench import CODEC, Check, Fact, Marked, Note, Tagged
    from ._law import LawBrokenError
    from .assertions import (
        assert_log,
        assert_stream,
        new_events,
        record,
        recorded,
        recorded_events,
    )
    from .back_ends import OpenStore
    from .buses import bus_checks
    from .clock import StuckError, run_virtually
    from .commands import commands_of, histories, states
    from .conformance import store_checks
    from .databases import fresh_database
    from .exhaustive import (
        InjectedError,
        Trap,
        Work,
        cancel_everywhere,
        fail_everywhere,
    )
    from .faults import (
        PORTS,
        Cancel,
        Deafen,
        Delay,
        Duplicate,
        Fail,
        Fault,
        LoseReply,
        fault_plans,
        faulty,
        intercepted,
    )
    from .laws import decider_laws, view_laws
    from .machines import InvariantBrokenError, decider_machine
    from .records import (
        checkpoint_checks,
        dead_letter_checks,
        lease_checks,
        snapshot_checks,
    )
    from .servers import (
        PostgresNotFoundError,
        PostgresServer,
        PostgresStartError,
        find_postgres,
        start_postgres,
    )
    from .simulation import Run, SimulationError, simulate, simulations
    from .specs import specs_of
    from .store_model import store_machine
    from .strategies import values
    from .upcasting import upcaster_laws
    from .worker import Worker
    from .world import Chaos, World

__all__ = [
    "BACK_ENDS",
    "CODEC",
    "PORTS",
    "Cancel",
    "Chaos",
    "Check",
    "Deafen",
    "Delay",
    "Duplicate",
    "Fact",
    "Fail",
    "Fault",
    "InjectedError",
    "InvariantBrokenError",
    "LawBrokenError",
    "LoseReply",
    "Marked",
    "Note",
    "OpenStore",
    "PostgresNotFoundError",
    "PostgresServer",
    "PostgresStartError",
    "Run",
    "SimulationError",
    "StuckError",
    "Tagged",
    "Trap",
    "Work",
    "Worker",
    "World",
    "assert_log",
    "assert_stream",
    "bus_checks",
    "cancel_everywhere",
    "checkpoint_checks",
    "commands_of",
    "dead_letter_checks",
    "decider_laws",
    "decider_machine",
    "fail_everywhere",
    "fault_plans",
    "faulty",
    "find_postgres",
    "fresh_database",
    "histories",
    "intercepted",
    "lease_checks",
    "new_events",
    "record",
    "recorded",
    "recorded_events",
    "run_virtually",
    "simulate",
    "simulations",
    "snapshot_checks",
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
    name: module
    for module, names in {
        "_law": "LawBrokenError",
        "assertions": (
            "assert_log assert_stream new_events record recorded recorded_events"
        ),
        "back_ends": "OpenStore",
        "buses": "bus_checks",
        "clock": "StuckError run_virtually",
        "commands": "commands_of histories states",
        "_bench": "CODEC Check Fact Marked Note Tagged",
        "conformance": "store_checks",
        "databases": "fresh_database",
        "exhaustive": "InjectedError Trap Work cancel_everywhere fail_everywhere",
        "faults": (
            "Cancel Deafen Delay Duplicate Fail Fault LoseReply PORTS fault_plans "
            "faulty intercepted"
        ),
        "laws": "decider_laws view_laws",
        "machines": "InvariantBrokenError decider_machine",
        "records": "checkpoint_checks dead_letter_checks lease_checks snapshot_checks",
        "servers": (
            "PostgresNotFoundError PostgresServer PostgresStartError find_postgres "
            "start_postgres"
        ),
        "simulation": "Run SimulationError simulate simulations",
        "specs": "specs_of",
        "store_model": "store_machine",
        "strategies": "values",
        "upcasting": "upcaster_laws",
        "worker": "Worker",
        "world": "Chaos World",
    }.items()
    for name in names.split()
}
BACK_ENDS = ("memory", "sqlite", "sqlite-memory", "postgresql", "postgresql-concurrent")
"""The kinds of stores that tests can have."""


if not TYPE_CHECKING:  # type checkers would take any name for one of ours

    def __getattr__(name: str) -> Any:
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(f".{_HOMES[name]}", __name__), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return __all__
