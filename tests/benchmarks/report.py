"""Turn what was measured into ratios, a table and JSON."""

from __future__ import annotations

import os
import platform
import sqlite3
from dataclasses import dataclass
from datetime import UTC, datetime
from statistics import median
from typing import Any, Final

from .bench import postgresql_version
from .rows import Metric, Row, Versus

Values = dict[str, list[float]]
"""For each contender what it measured, round by round."""

_VERSUS: Final[tuple[Versus, ...]] = (
    "ES",
    "PY",
    "PY functions",
    "UMA",
    "limit",
    "alone",
    "concurrent",
)
_OURS: Final = ("evsrc", "classes", "concurrent")


@dataclass(frozen=True)
class Ratio:
    """How many times better one contender was than another, within rounds."""

    median: float
    least: float
    most: float


def ratio(metric: Metric, values: Values, ours: str, versus: str) -> Ratio | None:
    """Compare two contenders round by round; None: one of them did not run."""
    mine, theirs = values.get(ours), values.get(versus)
    if not mine or not theirs:
        return None
    pairs = zip(mine, theirs, strict=True)
    each = [m / t if metric.more_is_better else t / m for m, t in pairs]
    return Ratio(median(each), min(each), max(each))


def _goal(metric: Metric, versus: Versus) -> tuple[float | None, float | None]:
    return metric.goals.get(versus), (metric.required or {}).get(versus)


def summary(row: Row, metric: Metric, values: Values) -> dict[str, Any]:
    """Give one metric as JSON values."""
    ratios: dict[str, Any] = {}
    for versus in _VERSUS:
        goal, required = _goal(metric, versus)
        compared = {
            ours: ratio(metric, values, ours, versus)
            for ours in _OURS
            if ours != versus
        }
        if any(compared.values()):
            ratios[versus] = {
                "goal": goal,
                "required": required,
                **{ours: vars(r) for ours, r in compared.items() if r},
            }
    medians = {who: median(each) for who, each in values.items()}
    return {
        "row": row.name,
        "metric": metric.name,
        "unit": metric.unit,
        "more_is_better": metric.more_is_better,
        "most": metric.most,
        "median": medians,
        "values": values,
        "times_better": ratios,
    }


async def environment(server: str) -> dict[str, Any]:
    """Say where this ran; *server*: the DSN of a PostgreSQL server, if there was one."""
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "postgresql": await postgresql_version(server) if server else None,
        "system": platform.platform(),
        "cores": os.cpu_count(),
    }


def short(value: float) -> str:
    """Write a number with three digits or so.

    >>> short(1234567), short(12345), short(12.345)
    ('1.23M', '12.3k', '12.3')
    """
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"


HEAD: Final = (
    f"{'workload':<50} {'unit':<8}{'evsrc':>8} {'versus':<12}{'other':>8}"
    f"{'times better':>13} {'(rounds)':<13}{'goal':>6} {'needed':>7}  "
    f"{'':<8}{'classes':>8}{'times':>7}"
)


def lines(metric: dict[str, Any]) -> str:
    """Write a metric below `HEAD`, one line for each comparison."""
    medians, most = metric["median"], metric["most"]
    evsrc = medians.get("evsrc")
    first = f"{metric['metric'][:50]:<50} {metric['unit']:<8}{_or_dash(evsrc):>8} "
    found: list[str] = []
    for versus, compared in metric["times_better"].items():
        found.append(first + _comparison(medians, versus, compared))
        first = " " * len(first)
    if most is not None:
        mark = "reached" if evsrc is not None and evsrc <= most else "SHORT"
        classes = _or_dash(medians.get("classes"))
        end = f"{'at most':<12}{most:>7g}{'':>28}{'':>14}  {mark:<8}{classes:>8}"
        found.append(first + end)
    return "\n".join(found or [first])


def _comparison(
    medians: dict[str, float], versus: str, compared: dict[str, Any]
) -> str:
    ours, classes = compared.get("evsrc"), compared.get("classes")
    goal, required = compared["goal"], compared["required"]
    times, spread, mark = "-", "", ""
    if ours:
        times = f"{ours['median']:.2f}"
        spread = f"({ours['least']:.3g}-{ours['most']:.3g})"
        mark = _mark(ours["median"], goal, required)
    of_classes = f"{classes['median']:.2f}" if classes else "-"
    return (
        f"{versus:<12}{_or_dash(medians.get(versus)):>8}{times:>13} {spread:<13}"
        f"{_or_blank(goal):>6} {_or_blank(required):>7}  {mark:<8}"
        f"{_or_dash(medians.get('classes')):>8}{of_classes:>7}"
    )


def _mark(times: float, goal: float | None, required: float | None) -> str:
    """Judge: enough is what acceptance needs, reached what performance.md wants."""
    if goal is None and required is None:
        return ""
    if required is not None and times < required:
        return "BELOW"
    if times >= (goal or 0):
        return "reached"
    return "SHORT" if required is None else "enough"


def _or_dash(value: float | None) -> str:
    return "-" if value is None else short(value)


def _or_blank(value: float | None) -> str:
    return "" if value is None else f"{value:g}"
