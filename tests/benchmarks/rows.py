"""The rows of performance.md: what is measured, in which unit, and the goals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Versus = Literal["ES", "PY", "PY functions", "UMA", "limit", "alone", "concurrent"]


@dataclass(frozen=True)
class Metric:
    """One number that a row gives.

    Args:
        name: what is measured.
        unit: of the number.
        goals: how many times better than a peer or the raw limit; or, for `most`, the
            greatest number that is good enough.
        more_is_better: whether it is a rate rather than a time or a size.
        required: like *goals*, the figures that acceptance asks for.
        most: an absolute bound.
    """

    name: str
    unit: str
    goals: dict[Versus, float]
    more_is_better: bool = True
    required: dict[Versus, float] | None = None
    most: float | None = None


@dataclass(frozen=True)
class Row:
    """A workload.

    Args:
        name: the function in the modules of the contenders.
        about: what it is called in performance.md.
        metrics: what it gives.
        rounds: how many are enough, for those that take long.
    """

    name: str
    about: str
    metrics: tuple[Metric, ...]
    rounds: int = 1000

    @property
    def computes(self) -> bool:
        """Whether it waits for nothing, so that its own CPU time is the fairer clock."""
        return self.name.startswith("memory_")


def _rate(
    name: str,
    about: str,
    *,
    es: float | None = None,
    py: float | None = None,
    limit: float | None = None,
    alone: float | None = None,
    required: dict[Versus, float] | None = None,
    unit: str = "ev/s",
    rounds: int = 1000,
) -> Row:
    found = {"ES": es, "PY": py, "limit": limit, "alone": alone}
    goals: dict[Versus, float] = {k: v for k, v in found.items() if v}  # type: ignore[misc]
    return Row(name, about, (Metric(about, unit, goals, required=required),), rounds)


def _boundary(name: str, about: str, goals: dict[Versus, float]) -> Row:
    return Row(name, about, (Metric(about, "/s", {}, required=goals),), rounds=5)


def _milliseconds(about: str, most: float) -> Metric:
    return Metric(about, "ms", {}, more_is_better=False, most=most)


def _live(name: str, where: str) -> Row:
    about = f"live latency, {where}"
    p50 = Metric(
        f"{about}, p50",
        "us",
        {"PY": 3.3},
        more_is_better=False,
        required={"PY": 2.5},
    )
    p99 = Metric(f"{about}, p99", "us", {"PY": 3.3}, more_is_better=False)
    return Row(name, f"live latency append -> handler, {where}", (p50, p99), rounds=5)


ROWS: tuple[Row, ...] = (
    _rate(
        "memory_commands",
        "memory: 3 commands + save",
        es=10,
        py=10,
        limit=0.35,
        required={"ES": 8, "PY": 8},
        unit="cmd/s",
    ),
    _rate(
        "memory_cycles",
        "memory: load + command + save each",
        es=10,
        py=25,
        required={"ES": 8, "PY": 8},
        unit="cmd/s",
    ),
    _rate("memory_rehydrate", "rehydrate 1,000 from memory", es=6, py=60, limit=0.9),
    _rate(
        "sqlite_rehydrate_1000",
        "rehydrate 1,000 from SQLite",
        es=8,
        py=18,
        limit=0.85,
        required={"ES": 6, "limit": 0.7},
    ),
    _rate(
        "sqlite_rehydrate_10000",
        "rehydrate 10,000 from SQLite",
        es=8,
        py=18,
        limit=0.85,
    ),
    _rate(
        "sqlite_load",
        "load a 10-event aggregate from SQLite",
        es=10,
        py=10,
        limit=0.5,
        unit="loads/s",
    ),
    _rate("sqlite_append_full", "SQLite append 1 event, FULL", es=4, py=1.2, limit=0.7),
    _rate(
        "sqlite_append_normal", "SQLite append 1 event, NORMAL", es=5, py=1.8, limit=0.5
    ),
    _rate(
        "sqlite_append_100",
        "SQLite append 100 events a call, FULL",
        es=8,
        py=2,
        limit=0.9,
    ),
    _rate(
        "sqlite_writers",
        "SQLite 32 concurrent writers, FULL",
        es=15,
        py=10,
        required={"ES": 8, "alone": 5},
    ),
    _rate(
        "sqlite_log",
        "SQLite read the log to a handler",
        es=8,
        py=5,
        limit=0.75,
        rounds=3,
    ),
    _rate(
        "sqlite_catch_up",
        "catch-up subscription on SQLite, durable checkpoint a page",
        es=14,
        required={"ES": 14},
        rounds=3,
    ),
    Row(
        "sqlite_live",
        "live latency append -> handler, SQLite",
        (
            Metric(
                "live latency, SQLite, p50",
                "us",
                {"ES": 2.5},
                more_is_better=False,
                required={"ES": 2.5},
            ),
            Metric(
                "live latency, SQLite, p99", "us", {"ES": 2.5}, more_is_better=False
            ),
        ),
        rounds=5,
    ),
    _rate(
        "postgresql_append",
        "PostgreSQL append 1 event",
        es=4,
        py=3,
        limit=0.8,
        required={"ES": 3, "PY": 2},
    ),
    _rate(
        "postgresql_append_100",
        "PostgreSQL append 100 events a call",
        es=30,
        py=3,
        limit=0.85,
        required={"ES": 20, "PY": 2.5},
    ),
    _rate(
        "postgresql_writers",
        "PostgreSQL 32 concurrent writers",
        es=20,
        py=20,
        required={"ES": 15, "PY": 15},
    ),
    _rate(
        "postgresql_processes",
        "PostgreSQL 4 processes of 32 writers",
        rounds=3,
    ),
    _rate(
        "postgresql_rehydrate_1000",
        "rehydrate 1,000 from PostgreSQL",
        es=8,
        py=15,
        limit=0.8,
        required={"ES": 6},
    ),
    _rate(
        "postgresql_log",
        "PostgreSQL read the log to a handler",
        es=8,
        py=4,
        limit=0.75,
        required={"ES": 6},
        rounds=3,
    ),
    _rate(
        "postgresql_catch_up",
        "catch-up subscription on PostgreSQL, checkpoint a page",
        py=4,
        required={"PY": 4},
        rounds=3,
    ),
    _live("postgresql_live", "PostgreSQL, one process"),
    _live("postgresql_live_across", "PostgreSQL, by NOTIFY"),
    _boundary(
        "boundary_append",
        "PostgreSQL conditional append of 1, unique tag",
        {"PY": 2, "UMA": 2},
    ),
    _boundary("boundary_read", "PostgreSQL read by tag, 10 events", {"PY": 3}),
    _boundary(
        "boundary_decide",
        "PostgreSQL read of 2 items, conditional append",
        {"PY": 3, "UMA": 1.5},
    ),
    Row(
        "boundary_hot",
        "PostgreSQL conditional append on a tag of all events",
        (_milliseconds("conditional append on a tag of all events", 2),),
        rounds=3,
    ),
    Row(
        "boundary_memory",
        "memory: conditional append at 20,000 events, at 200,000",
        (
            _milliseconds("memory: conditional append at 20,000 events", 0.05),
            _milliseconds("memory: conditional append at 200,000 events", 0.05),
        ),
        rounds=3,
    ),
    Row(
        "boundary_sqlite",
        "SQLite conditional append at NORMAL, short log, long log",
        (
            Metric("SQLite conditional append, short log", "/s", {}),
            Metric("SQLite conditional append, long log", "/s", {}),
        ),
        rounds=3,
    ),
    Row(
        "one_event",
        "construct, encode and decode one event",
        (
            Metric("construct one event", "us", {"ES": 12}, more_is_better=False),
            Metric("encode one event", "us", {"ES": 6}, more_is_better=False),
            Metric("decode one event", "us", {"ES": 6}, more_is_better=False),
        ),
    ),
    Row(
        "import_names",
        "import of the names used",
        (Metric("import of the names used", "ms", {}, more_is_better=False, most=150),),
    ),
    Row(
        "live_events",
        "memory of 100k live events",
        (
            Metric(
                "memory of 100k live events", "MB", {}, more_is_better=False, most=90
            ),
        ),
        rounds=2,
    ),
)
