"""Read flights from a file, checked in full before anything is recorded.

A row becomes the commands that lead to what it reports, and the leg its aircraft flew.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import lzma
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from datetime import date
from operator import itemgetter
from pathlib import Path
from typing import IO, Final, TypeAlias

from msgspec import Struct

from .flights import Arrive, Cancel, Depart, FlightCommand, FlyLeg, Schedule

COLUMNS: Final = (
    *("year", "month", "day", "carrier", "flight", "origin", "dest", "tailnum"),
    *("sched_dep_time", "dep_time", "dep_delay", "arr_time", "arr_delay"),
    *("distance", "air_time"),
)
_MISSING: Final = ("NA", "")
_NUMBERS: Final = ("year", "month", "day", "flight", "sched_dep_time", "distance")
_LONGEST: Final = 100


class DataError(Exception):
    """The file is not flights data."""


class Row(Struct, frozen=True):
    """One flight of the file.

    Args:
        id: unique, and the same whenever the row is read again.
        commands: what led to what the row reports.
        aircraft: its tail number, if it is known.
        leg: what the aircraft flew, if it did.
    """

    id: str
    commands: tuple[FlightCommand, ...]
    aircraft: str | None
    leg: FlyLeg | None


class Data(Struct, frozen=True):
    """A file that was read to its end and found good.

    Args:
        path: where it is.
        digest: of its bytes; progress is kept by it, not by the path.
        rows: how many flights it has.
        legs: how many of them each aircraft flew.
    """

    path: Path
    digest: str
    rows: int
    legs: dict[str, int]

    @property
    def busiest(self) -> str | None:
        """The aircraft with the most legs; None if nothing flew."""
        return max(self.legs, key=lambda tail: (self.legs[tail], tail), default=None)


def check(path: Path) -> Data:
    """Read the whole of *path*.

    Raises:
        DataError: it cannot be read, or it is not flights data; the message says where.
    """
    legs: Counter[str] = Counter()
    count = 0
    for row in read(path):
        count += 1
        if row.leg is not None and row.aircraft is not None:
            legs[row.aircraft] += 1
    if not count:
        raise DataError(f"data file '{path}' has a header, but no flights")
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return Data(path, digest, count, dict(legs))


def read(path: Path) -> Iterator[Row]:
    """Give the flights of *path*, in its order.

    Raises:
        DataError: see `check`.
    """
    line = 1
    try:
        with _opened(path) as file:
            lines = csv.reader(file, strict=True)
            pick, width = _header(path, next(lines, list[str]()))
            for values in lines:
                line = lines.line_num
                yield parse(pick(_whole(values, width)))
    except FileNotFoundError as error:
        raise DataError(f"data file '{path}' does not exist") from error
    except OSError as error:
        reason = error.strerror or str(error)
        raise DataError(f"cannot read data file '{path}': {reason}") from error
    except (EOFError, lzma.LZMAError, zlib.error) as error:
        raise DataError(f"data file '{path}' is damaged: {error}") from error
    except (ValueError, csv.Error) as error:
        raise DataError(f"data file '{path}', line {line}: {error}") from error


def _whole(values: Sequence[str], width: int) -> Sequence[str]:
    if len(values) != width:
        raise ValueError(f"has {len(values)} fields, the header has {width}")
    return values


_Pick: TypeAlias = Callable[[Sequence[str]], Sequence[str]]


def _opened(path: Path) -> IO[str]:
    match path.suffix:
        case ".xz":
            return lzma.open(path, "rt", encoding="utf-8", newline="")
        case ".gz":
            return gzip.open(path, "rt", encoding="utf-8", newline="")
        case _:
            return path.open(encoding="utf-8", newline="")


def _header(path: Path, header: Sequence[str]) -> tuple[_Pick, int]:
    missing = [column for column in COLUMNS if column not in header]
    if missing:
        found = ", ".join(header[:20]) or "nothing"
        raise DataError(
            f"data file '{path}' is not flights data: its first line has no "
            f"{', '.join(missing)}; it has {found}"
        )
    return itemgetter(*map(header.index, COLUMNS)), len(header)


def parse(values: Sequence[str]) -> Row:
    """Turn the values of `COLUMNS` into commands.

    Raises:
        ValueError: a value is not what its column holds.
    """
    try:
        return _parsed(*values)
    except ValueError as error:
        raise _explained(values) or error from error


def _parsed(
    year: str,
    month: str,
    day: str,
    carrier: str,
    number: str,
    origin: str,
    dest: str,
    tailnum: str,
    *rest: str,
) -> Row:
    at, left, late, came, delay, miles, minutes = rest
    if not tailnum.isprintable() or len(tailnum) > _LONGEST:
        raise ValueError(f"tailnum is {tailnum!r}, not a tail number")
    if not (carrier.isalnum() and origin.isalnum() and dest.isalnum()):
        raise ValueError("carrier, origin and dest are letters and digits")
    when = date(int(year), int(month), int(day)).isoformat()
    id = f"{when}-{carrier}-{int(number)}-{origin}"
    aircraft = None if tailnum in _MISSING else tailnum
    schedule = Schedule(carrier, int(number), origin, dest, when, int(at), aircraft)
    leg = FlyLeg(id, origin, dest, int(miles), _number(minutes))
    if left in _MISSING:
        if came not in _MISSING:
            raise ValueError(f"arr_time is {came!r}, but dep_time is {left!r}")
        return Row(id, (schedule, Cancel()), aircraft, None)
    depart = Depart(int(left), int(late))
    if came in _MISSING:
        return Row(id, (schedule, depart), aircraft, leg)
    arrive = Arrive(int(came), _number(delay))
    return Row(id, (schedule, depart, arrive), aircraft, leg)


def _number(text: str) -> int | None:
    return None if text in _MISSING else int(text)


def _explained(values: Sequence[str]) -> ValueError | None:
    """Name the column whose value is not a number, if that is what is wrong."""
    row = dict(zip(COLUMNS, values, strict=True))
    for column in ("carrier", "origin", "dest"):
        if not row[column].isalnum():
            return ValueError(f"{column} is {row[column]!r}, not letters and digits")
    cancelled = row["dep_time"] in _MISSING
    required = _NUMBERS if cancelled else (*_NUMBERS, "dep_delay")
    for column in (*required, "dep_time", "arr_time", "arr_delay", "air_time"):
        value = row[column]
        if column not in required and value in _MISSING:
            continue
        try:
            int(value)
        except ValueError:
            return ValueError(f"{column} is {value!r}, not a whole number")
    return None
