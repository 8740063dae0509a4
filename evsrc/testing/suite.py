"""Name everything that a store has to pass."""

from __future__ import annotations

from typing import Final

from . import conformance, query_checks

store_checks: Final[tuple[conformance.Check, ...]] = (
    *conformance.checks,
    *query_checks.checks,
)
"""All checks; each takes a fresh, empty store made with `CODEC`."""
