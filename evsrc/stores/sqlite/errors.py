"""Turn what SQLite reports, and damaged rows, into evsrc's errors."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Final

from ...core.errors import (
    CorruptionError,
    EvsrcError,
    SchemaError,
    StoreBusyError,
    StoreError,
    StoreFullError,
    StoreUnavailableError,
)
from ...core.event import StreamName
from ..rows import number_crc
from .checks import name_crc, stream_crc

_BUSY: Final = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
_CORRUPT: Final = {sqlite3.SQLITE_CORRUPT}
_FATAL: Final = {
    *_BUSY,
    *_CORRUPT,
    sqlite3.SQLITE_NOTADB,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_INTERRUPT,
    sqlite3.SQLITE_PROTOCOL,
    sqlite3.SQLITE_SCHEMA,
}


def _code(error: BaseException) -> int:
    return int(getattr(error, "sqlite_errorcode", 0) or 0) & 0xFF


def is_busy(error: BaseException) -> bool:
    """Tell whether it is another connection that is in the way."""
    return _code(error) in _BUSY


def is_fatal(error: BaseException) -> bool:
    """Tell whether no append of the transaction can succeed after *error*."""
    return _code(error) in _FATAL or isinstance(error, CorruptionError)


def translated(  # noqa: PLR0911 - a table in the form of code
    error: Exception, path: str, *, busy_timeout: float
) -> Exception:
    """Give the error to raise for one that came out of SQLite."""
    if isinstance(error, EvsrcError):
        return error
    code = _code(error)
    if is_busy(error):
        return StoreBusyError(
            f"database {path!r} stayed locked by another process for {busy_timeout:g} s"
        )
    if code == sqlite3.SQLITE_NOTADB:
        return SchemaError(f"file {path!r} is not an SQLite database, or is encrypted")
    if code in _CORRUPT or isinstance(error, (UnicodeDecodeError, OverflowError)):
        return CorruptionError(f"database {path!r} is damaged: {error}")
    if isinstance(error, sqlite3.OperationalError) and "decode to UTF-8" in str(error):
        return CorruptionError(f"database {path!r} is damaged: {error}")
    if code == sqlite3.SQLITE_FULL:
        return StoreFullError(f"no space left for database {path!r}: {error}")
    if code == sqlite3.SQLITE_CANTOPEN:
        return StoreUnavailableError(_cannot_open(path, error))
    if code == sqlite3.SQLITE_READONLY:
        return StoreUnavailableError(f"database {path!r} cannot be written: {error}")
    if isinstance(error, sqlite3.Error):
        return StoreError(f"database {path!r}: {error}")
    return error


def _cannot_open(path: str, error: Exception) -> str:
    folder = Path(path).parent
    if not folder.is_dir():
        return (
            f"database {path!r} cannot be opened: directory {str(folder)!r} is missing"
        )
    return f"database {path!r} cannot be opened: {error}"


def checked_name(key: object, name: object, crc: object) -> str:
    """Give a stored name, if its checksum holds."""
    if (
        not isinstance(key, int)
        or not isinstance(name, str)
        or crc != name_crc(key, name)
    ):
        raise CorruptionError(f"the stored name {name!r} (key {key!r}) is damaged")
    return name


def checked_stream(
    key: int, category: object, id: object, version: object, content: int, crc: object
) -> tuple[StreamName, int]:
    """Give a stored stream's name and version, if its checksum holds."""
    if (
        not isinstance(category, str)
        or not isinstance(id, str)
        or not isinstance(version, int)
        or crc != stream_crc(key, category, id, version, content)
    ):
        raise CorruptionError(f"the stored stream {category!r} {id!r} is damaged")
    return StreamName(category, id), version


def checked_number(what: str, name: str, number: object, crc: object) -> int:
    """Give a stored number, if its checksum holds."""
    if not isinstance(number, int) or crc != number_crc(name, number):
        raise CorruptionError(f"the stored {what} {name!r} is damaged")
    return number
