"""Name everything that a store has to pass."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

from . import conformance, query_checks, records


def _on(record: str, check: Callable[[Any], Awaitable[None]]) -> conformance.Check:
    """Run the check of a record on that of a store."""

    async def run(store: conformance.Store) -> None:
        await check(getattr(store, record))

    run.__name__, run.__doc__ = check.__name__, check.__doc__
    return run


store_checks: Final[tuple[conformance.Check, ...]] = (
    *conformance.checks,
    *query_checks.checks,
    *(_on("checkpoints", check) for check in records.checkpoint_checks),
    *(_on("snapshots", check) for check in records.snapshot_checks),
    *(_on("dead_letters", check) for check in records.dead_letter_checks),
    *(_on("leases", check) for check in records.lease_checks),
)
"""All checks; each takes a fresh, empty store made with `CODEC`."""
