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
from collections.abc import Iterator, Sequence
from datetime import date
from pathlib import Path
from typing import IO, Final

from msgspec import Struct

from .flights import Arrive, Cancel, Depart, FlightCommand, FlyLeg, Schedule

COLUMNS: Final = (
    *("year", "month", "day", "carrier", "flight", "origin", "dest", "tailnum"),
    *("sched_dep_time", "dep_time", "dep_delay", "arr_time", "arr_delay"),
    *("distance", "air_time"),
)
_MISSING: Final = ("NA", "")
_LONGEST: Final = 100


class DataError(Exception):
    """The file is not flights data."""


class Row(Struct, frozen=True):
    """One flight of the file: what led to what it reports, and the leg that was flown.

    Its id is unique, and the same whenever the row is read again.
    """

    id: str
    commands: tuple[FlightCommand, ...]
    aircraft: str | None
    leg: FlyLeg | None


class Data(Struct, frozen=True):
    """A file that was read to its end and found good; `legs` counts by aircraft.

    Progress is kept by the digest of its bytes, not by the path.
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
            header = _checked(path, next(lines, list[str]()))
            for values in lines:
                line = lines.line_num
                yield _row(_Line(header, values))
    except FileNotFoundError as error:
        raise DataError(f"data file '{path}' does not exist") from error
    except OSError as error:
        reason = error.strerror or str(error)
        raise DataError(f"cannot read data file '{path}': {reason}") from error
    except (EOFError, lzma.LZMAError, zlib.error) as error:
        raise DataError(f"data file '{path}' is damaged: {error}") from error
    except (ValueError, csv.Error) as error:
        raise DataError(f"data file '{path}', line {line}: {error}") from error


def _opened(path: Path) -> IO[str]:
    match path.suffix:
        case ".xz":
            return lzma.open(path, "rt", encoding="utf-8", newline="")
        case ".gz":
            return gzip.open(path, "rt", encoding="utf-8", newline="")
        case _:
            return path.open(encoding="utf-8", newline="")


def _checked(path: Path, header: Sequence[str]) -> Sequence[str]:
    missing = [column for column in COLUMNS if column not in header]
    if missing:
        found = ", ".join(header[:20]) or "nothing"
        raise DataError(
            f"data file '{path}' is not flights data: its first line has no "
            f"{', '.join(missing)}; it has {found}"
        )
    return header


class _Line(dict[str, str]):
    """The values of one line by their columns; what does not fit is a ValueError."""

    def __init__(self, header: Sequence[str], values: Sequence[str]) -> None:
        found, wanted = len(values), len(header)
        if found != wanted:
            raise ValueError(f"has {found} fields, the header has {wanted}")
        super().__init__(zip(header, values, strict=True))

    def word(self, column: str) -> str:
        if not self[column].isalnum():
            raise ValueError(f"{column} is {self[column]!r}, not letters and digits")
        return self[column]

    def number(self, column: str) -> int:
        try:
            return int(self[column])
        except ValueError:
            problem = f"{column} is {self[column]!r}, not a whole number"
            raise ValueError(problem) from None

    def known(self, column: str) -> int | None:
        return None if self[column] in _MISSING else self.number(column)

    def aircraft(self) -> str | None:
        tail = self["tailnum"]
        if not tail.isprintable() or len(tail) > _LONGEST:
            raise ValueError(f"tailnum is {tail!r}, not a tail number")
        return None if tail in _MISSING else tail


def _row(line: _Line) -> Row:
    carrier, origin, dest = map(line.word, ("carrier", "origin", "dest"))
    day = date(*map(line.number, ("year", "month", "day"))).isoformat()
    number, aircraft = line.number("flight"), line.aircraft()
    id = f"{day}-{carrier}-{number}-{origin}"
    at = line.number("sched_dep_time")
    schedule = Schedule(carrier, number, origin, dest, day, at, aircraft)
    leg = FlyLeg(id, origin, dest, line.number("distance"), line.known("air_time"))
    left, came = line.known("dep_time"), line.known("arr_time")
    if left is None:
        if came is not None:
            raise ValueError(
                f"arr_time is {line['arr_time']!r}, but dep_time is "
                f"{line['dep_time']!r}"
            )
        return Row(id, (schedule, Cancel()), aircraft, None)
    depart = Depart(left, line.number("dep_delay"))
    if came is None:
        return Row(id, (schedule, depart), aircraft, leg)
    arrive = Arrive(came, line.known("arr_delay"))
    return Row(id, (schedule, depart, arrive), aircraft, leg)
