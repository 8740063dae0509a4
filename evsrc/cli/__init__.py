"""The `evsrc` command."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path

from ..core.errors import MissingExtraError

_WEEK = Path(__file__).with_name("data") / "flights-week.csv.xz"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; give its exit code."""
    parser = _parser()
    parsed = parser.parse_args(arguments)
    if parsed.command is None:
        parser.print_help()
        return 0
    try:
        return _demo(parsed)
    except MissingExtraError as error:
        print(f"evsrc: {error}", file=sys.stderr)  # noqa: T201 - the command's own words
        return 2


def _parser() -> ArgumentParser:
    parser = ArgumentParser(prog="evsrc", description="Event sourcing with evsrc-py.")
    commands = parser.add_subparsers(dest="command", title="commands", metavar="")
    text = "record a week of real flights, build read models, lose a race, resume"
    demo = commands.add_parser("demo", help=text, description=text.capitalize() + ".")
    demo.add_argument(
        "--data",
        type=Path,
        default=_WEEK,
        metavar="FILE",
        help="flights as .csv, .csv.xz or .csv.gz; default: the week in the package",
    )
    demo.add_argument(
        "--db",
        metavar="PATH",
        help="keep the database here, and resume from it: a file, or a DSN such as "
        "postgresql://user@host/database; default: a temporary file",
    )
    demo.add_argument(
        "--aircraft",
        metavar="TAILNUM",
        help="whose history to show; default: the aircraft with the most legs",
    )
    return parser


def _demo(arguments: Namespace) -> int:
    try:
        from .demo import run  # noqa: PLC0415 - rich is an extra
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != "rich":
            raise
        raise MissingExtraError("the command 'evsrc demo'", "cli") from error
    return run(arguments)


__all__ = ["main"]
