"""Test domains and stores: sentences, laws, machines, suites, and real servers.

Each name is imported when it is first asked for: pytest loads `pytest_plugin`, and so
this module, in every session.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ._law import LawBrokenError
    from .assertions import (
        assert_log,
        assert_stream,
        new_events,
        record,
        recorded_events,
    )
    from .back_ends import OpenStore
    from .buses import BUS_EVENTS, bus_checks
    from .clock import StuckError, run_virtually
    from .commands import commands_of, histories, states
    from .conformance import CODEC, Check, Fact, Marked, Note, Tagged
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
    from .laws import decider_laws
    from .logs import recorded
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
    from .store_machine import store_machine
    from .strategies import values
    from .suite import store_checks
    from .upcaster_laws import upcaster_laws
    from .view_laws import view_laws
    from .worker import Worker
    from .world import Chaos, World

__all__ = [
    "BACK_ENDS",
    "BUS_EVENTS",
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
    "BUS_EVENTS": ".buses",
    "Cancel": ".faults",
    "Chaos": ".world",
    "Deafen": ".faults",
    "Delay": ".faults",
    "Duplicate": ".faults",
    "Fail": ".faults",
    "Fault": ".faults",
    "InjectedError": ".exhaustive",
    "InvariantBrokenError": ".machines",
    "LawBrokenError": "._law",
    "LoseReply": ".faults",
    "OpenStore": ".back_ends",
    "PORTS": ".faults",
    "PostgresNotFoundError": ".servers",
    "PostgresServer": ".servers",
    "PostgresStartError": ".servers",
    "Run": ".simulation",
    "SimulationError": ".simulation",
    "StuckError": ".clock",
    "Trap": ".exhaustive",
    "Work": ".exhaustive",
    "Worker": ".worker",
    "World": ".world",
    "assert_log": ".assertions",
    "assert_stream": ".assertions",
    "bus_checks": ".buses",
    "cancel_everywhere": ".exhaustive",
    "checkpoint_checks": ".records",
    "commands_of": ".commands",
    "dead_letter_checks": ".records",
    "decider_laws": ".laws",
    "decider_machine": ".machines",
    "fail_everywhere": ".exhaustive",
    "fault_plans": ".faults",
    "faulty": ".faults",
    "find_postgres": ".servers",
    "fresh_database": ".databases",
    "histories": ".commands",
    "intercepted": ".faults",
    "lease_checks": ".records",
    "new_events": ".assertions",
    "record": ".assertions",
    "recorded": ".logs",
    "recorded_events": ".assertions",
    "run_virtually": ".clock",
    "simulate": ".simulation",
    "simulations": ".simulation",
    "snapshot_checks": ".records",
    "specs_of": ".specs",
    "start_postgres": ".servers",
    "states": ".commands",
    "store_checks": ".suite",
    "store_machine": ".store_machine",
    "upcaster_laws": ".upcaster_laws",
    "values": ".strategies",
    "view_laws": ".view_laws",
}


BACK_ENDS = (
    "memory",
    "sqlite",
    "sqlite-memory",
    "postgresql",
    "postgresql-concurrent",
)
"""The kinds of stores that tests can have."""


if not TYPE_CHECKING:  # type checkers would take any name for one of ours

    def __getattr__(name: str) -> Any:
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(_HOMES.get(name, ".conformance"), __name__), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return __all__
