"""Run the benchmarks: `python -m tests.benchmarks [growth] [--rows NAME ...] ...`.

Contenders take turns within each round, in another order each time; only ratios taken
within a round count, because the machine is never quiet.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

from evsrc.testing.servers import PostgresNotFoundError, start_postgres

from . import growth, report
from .bench import Bench
from .contenders import Contender, contenders
from .rows import ROWS, Row


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks")
    parser.add_argument("what", nargs="?", choices=("rows", "growth"), default="rows")
    names = [row.name for row in ROWS]
    parser.add_argument("--rows", nargs="+", choices=names, metavar="NAME")
    parser.add_argument("--list", action="store_true", help="name the rows, run none")
    parser.add_argument("--rounds", type=int, help="default 9; quick 2")
    parser.add_argument("--seconds", type=float, help="a rate is measured; default 0.4")
    parser.add_argument("--events", type=int, help="in the log; default 100,000")
    parser.add_argument("--without", nargs="+", default=[], metavar="CONTENDER")
    parser.add_argument("--json", type=Path, default=Path("benchmarks.json"))
    parser.add_argument("--folder", type=Path, help="for databases; on a real disk")
    parser.add_argument(
        "--programs",
        type=Path,
        metavar="FOLDER",
        help="of another PostgreSQL than the tests run with",
    )
    parser.add_argument(
        "--uvloop", action="store_true", help="all who use asyncio run on uvloop"
    )
    parser.add_argument(
        "--cpu", action="store_true", help="measure all rates by CPU time"
    )
    parser.add_argument(
        "--quick", action="store_true", help="small, to see that it runs"
    )
    parser.add_argument(
        "--sizes", nargs=2, type=int, help="growth: events, small, large"
    )
    parser.add_argument(
        "--stores",
        nargs="+",
        choices=growth.STORES,
        default=growth.STORES,
        help="growth: which",
    )
    return parser.parse_args()


@contextmanager
def _server(arguments: argparse.Namespace) -> Generator[str]:
    """Run a PostgreSQL server for the rows that need one; without, those fail."""
    names = arguments.rows or [row.name for row in ROWS]
    if arguments.what == "growth":
        names = arguments.stores
    with ExitStack() as stack:
        url = ""
        if any(name.startswith(("postgresql", "boundary")) for name in names):
            try:
                server = stack.enter_context(
                    start_postgres(programs=arguments.programs)
                )
                url = server.url
            except PostgresNotFoundError as error:
                print(error)
        yield url


def _bench(arguments: argparse.Namespace, folder: str, server: str) -> Bench:
    quick, loop = arguments.quick, None
    if arguments.uvloop:
        import uvloop

        loop = uvloop.new_event_loop
    return Bench(
        Path(folder),
        seconds=arguments.seconds or (0.2 if quick else 0.4),
        events=arguments.events or (10_000 if quick else 100_000),
        latencies=50 if quick else 300,
        server=server,
        loop=loop,
    )


def _measure(
    row: Row, who: list[Contender], bench: Bench, rounds: int
) -> tuple[dict[str, list[tuple[float, ...]]], dict[str, str]]:
    """Run one row; give what each contender measured, and who failed how."""
    runs = {c.key: run for c in who if (run := c.row(row.name)) is not None}
    found: dict[str, list[tuple[float, ...]]] = {key: [] for key in runs}
    failed: dict[str, str] = {}
    order = list(runs)
    for number in range(min(rounds, row.rounds)):
        turn = number % len(order)
        for key in order[turn:] + order[:turn]:
            if key in failed:
                continue
            try:
                found[key].append(runs[key](bench))
            except Exception as error:
                failed[key] = repr(error)
    for key in failed:
        del found[key]
    return found, failed


def _rows(arguments: argparse.Namespace, bench: Bench) -> dict[str, Any]:
    who, missing = contenders()
    who = [contender for contender in who if contender.key not in arguments.without]
    for key, why in missing.items():
        print(f"{key}: {why}")
    rounds = arguments.rounds or (2 if arguments.quick else 9)
    metrics: list[dict[str, Any]] = []
    notes: dict[str, Any] = {}
    print(report.HEAD)
    for row in ROWS:
        if arguments.rows and row.name not in arguments.rows:
            continue
        clock = process_time if row.computes or arguments.cpu else perf_counter
        found, failed = _measure(row, who, replace(bench, clock=clock), rounds)
        notes[row.name] = {c.key: c.about(row.name) for c in who if c.key in found}
        for index, metric in enumerate(row.metrics):
            values = {key: [one[index] for one in all] for key, all in found.items()}
            metrics.append(report.summary(row, metric, values))
            print(report.lines(metrics[-1]), flush=True)
        for key, error in failed.items():
            print(f"{row.name}: {key} failed: {error}")
    names = {contender.key: contender.module.NAME for contender in who}
    settings = {"rounds": rounds, "seconds": bench.seconds, "events": bench.events}
    settings["loop"] = "asyncio" if bench.loop is None else "uvloop"
    return {
        "contenders": {**names, **missing},
        "settings": settings,
        "metrics": metrics,
        "what_they_do": notes,
    }


def main() -> None:
    """Run what the command line asks for."""
    arguments = _arguments()
    if arguments.list:
        for row in ROWS:
            print(f"{row.name:<26}{row.about}")
        return
    if arguments.folder:
        tempfile.tempdir = str(arguments.folder)  # the server's files, too
    with tempfile.TemporaryDirectory() as folder, _server(arguments) as server:
        if arguments.what == "growth":
            sizes = growth.QUICK if arguments.quick else growth.SIZES
            sizes = arguments.sizes or sizes
            found = growth.run(Path(folder), server, arguments.stores, *sizes)
        else:
            found = _rows(arguments, _bench(arguments, folder, server))
        where = asyncio.run(report.environment(server))
    _keep(arguments.json, arguments.what, {**where, **found})


def _keep(path: Path, what: str, found: dict[str, Any]) -> None:
    """Write what was found beside what the other command found before."""
    kept = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**kept, what: found}, indent=1))
    print(f"written to {path}")


main()
