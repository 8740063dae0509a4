"""Print what the demo does and found; the only module that knows rich.

Lines that programs may look for are `name: key=value ...`, never wrapped.
"""

from __future__ import annotations

import csv
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars
from rich.table import Table

from .build import Built, OnProgress, Progress, Step
from .models import Tallies
from .race import Race

_AIRLINES: Final = Path(__file__).with_name("data") / "airlines.csv"
_STEPS: Final = 20


def line(console: Console, text: str) -> None:
    """Print one line as it is."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def heading(console: Console, text: str) -> None:
    """Start a part of the output."""
    console.print()
    console.print(text, style="bold", markup=False, highlight=False, soft_wrap=True)


@contextmanager
def progress(console: Console) -> Generator[OnProgress, None, None]:
    """Show progress: bars on a terminal, else a line for every twentieth."""
    if not console.is_terminal:
        yield _lines(console)
        return
    columns = (
        *(TextColumn("{task.description}"), BarColumn()),
        *(MofNCompleteColumn(), TimeElapsedColumn()),
    )
    with Bars(*columns, console=console) as bars:
        rows = bars.add_task("flights recorded", total=None)
        read = bars.add_task("events read by the read models", total=None)

        def show(now: Progress) -> None:
            bars.update(rows, completed=now.rows, total=now.of)
            bars.update(read, completed=now.position, total=now.head)

        yield show


def _lines(console: Console) -> OnProgress:
    shown: Progress | None = None

    def show(now: Progress) -> None:
        nonlocal shown
        done = now.rows == now.of and now != shown
        if done or shown is None or now.rows - shown.rows >= max(1, now.of // 20):
            shown, flights = now, f"flights={now.rows}/{now.of}"
            line(console, f"progress: {flights} read={now.position}/{now.head}")

    return show


def built(console: Console, title: str, it: Built) -> None:
    """Print what was recorded and read, and from where on."""
    heading(console, title)
    line(console, f"recorded: flights-skipped={it.skipped} events={it.events}")
    for reading in it.readings:
        line(
            console,
            f"read model: name={reading.name} resumed={reading.resumed} "
            f"reached={reading.reached} handled={reading.handled}",
        )


def tallies(
    console: Console, title: str, of: Tallies, names: Mapping[str, str]
) -> None:
    """Print departures, cancellations and mean delays, one row for each key."""
    table = Table(title=title, title_justify="left")
    table.add_column("")
    for column in ("departures", "cancelled", "mean delay out", "mean delay in"):
        table.add_column(column, justify="right")
    for key, tally in sorted(of.items(), key=lambda item: -item[1].departures):
        label = f"{key} {names[key]}" if key in names else key
        table.add_row(
            *(label, f"{tally.departures:,}", f"{tally.cancellations:,}"),
            _mean(tally.departure_delay, tally.departures),
            _mean(tally.arrival_delay, tally.arrivals),
        )
    console.print()
    console.print(table)


def _mean(total: int, count: int) -> str:
    return f"{total / count:.1f} min" if count else "-"


def airline_names() -> Mapping[str, str]:
    """Give the airlines' names by their codes."""
    with _AIRLINES.open(encoding="utf-8", newline="") as file:
        return {row["carrier"]: row["name"] for row in csv.DictReader(file)}


def history(console: Console, tailnum: str, steps: tuple[Step, ...]) -> None:
    """Print what an aircraft did last, and its state after each event."""
    shown = steps[-_STEPS:]
    part = f"its last {len(shown)} of " if len(shown) < len(steps) else ""
    title = f"aircraft {tailnum}: {part}{len(steps)} events, and its state after each"
    table = Table(title=title, title_justify="left")
    for column in ("version", "leg flown", "legs", "miles", "in the air", "at"):
        right = column in ("version", "legs", "miles", "in the air")
        table.add_column(column, justify="right" if right else "left")
    for step in shown:
        leg, after = step.leg, step.after
        hours, minutes = divmod(after.minutes, 60)
        table.add_row(
            *(str(step.version), f"{leg.flight} to {leg.dest}"),
            *(f"{after.legs:,}", f"{after.miles:,}", f"{hours}:{minutes:02} h"),
            after.place or "",
        )
    console.print()
    console.print(table)


def race(console: Console, it: Race) -> None:
    """Print how a race was lost and decided again."""
    heading(console, "a lost race: two flights see the same gate free")
    first, again = it.tried[0], it.tried[-1]
    line(console, f"{it.winner.flight} is quicker and takes {it.winner.gate}")
    line(
        console,
        f"{first.flight} decided for {first.gate}: refused, the stream was expected at "
        f"{it.lost.expected}, it is at {it.lost.actual}",
    )
    line(console, f"{again.flight} read the tail and decided again: {again.gate}")
    line(console, f"race: attempts={it.attempts} first={first.gate} then={again.gate}")
