"""Turn what PostgreSQL and its driver report into evsrc's errors.

No message carries a password, a parameter or a row: of the server's report only the
first line is used.
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import urlsplit

import asyncpg

from ...core.errors import (
    CorruptionError,
    EvsrcError,
    InvalidEventError,
    SchemaError,
    StoreBusyError,
    StoreError,
    StoreFullError,
    StoreUnavailableError,
)

_LOST: Final = (
    OSError,  # a TimeoutError is one
    EOFError,
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.IdleInTransactionSessionTimeoutError,
    asyncpg.ReadOnlySQLTransactionError,  # the primary is somewhere else now
)
_BROKEN: Final = re.compile(r"\bstate\b|not connected")
_DRIVER: Final = (
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.exceptions.InternalClientError,
)
_AGAIN: Final = (
    asyncpg.SerializationError,
    asyncpg.DeadlockDetectedError,
    asyncpg.TooManyConnectionsError,
)


def connection_is_lost(error: BaseException) -> bool:
    """Tell whether *error* means that the connection is of no more use.

    The driver has two more ways to say so: a connection that was ended between two
    statements left its pool at once, and one that was ended while it was idle is in a
    protocol state from which no operation can begin.
    """
    told = str(error)
    if isinstance(error, asyncpg.exceptions.InternalClientError):
        return bool(_BROKEN.search(told))
    return isinstance(error, _LOST) or (
        isinstance(error, asyncpg.InterfaceError)
        and ("closed" in told or "released back to the pool" in told)
    )


def may_be_repeated(error: BaseException) -> bool:
    """Tell whether the same may work a moment later."""
    return connection_is_lost(error) or isinstance(error, _AGAIN)


def is_an_answer(error: BaseException) -> bool:
    """Tell whether the server itself refused, so that nothing was written."""
    return isinstance(error, asyncpg.PostgresError) and (
        not connection_is_lost(error)
        or isinstance(error, asyncpg.ReadOnlySQLTransactionError)
    )


def concerns_one_job(error: BaseException) -> bool:
    """Tell whether other appends of the same flight can still succeed."""
    return (
        isinstance(error, asyncpg.DataError)
        or (
            isinstance(error, asyncpg.PostgresError)
            and str(error.sqlstate or "")[:2] in {"22", "23", "54"}
        )
        or isinstance(error, asyncpg.exceptions.InternalClientError)
    )


def is_too_large(error: BaseException | None) -> bool:
    """Tell whether the server could have given less than it was asked for."""
    return isinstance(
        error, asyncpg.ProgramLimitExceededError | asyncpg.OutOfMemoryError
    )


def place_of(dsn: str) -> str:
    """Give host and database of a DSN, without its user and password."""
    try:
        parts = urlsplit(dsn)
        port = parts.port or 5432
    except ValueError:
        return "PostgreSQL"
    if "@" in parts.path:  # a password with an unquoted / in it
        return "PostgreSQL"
    return f"{parts.hostname or 'localhost'}:{port}{parts.path}"


LOSSY: Final = (
    "{where} has {setting}=off: an acknowledged append could be lost; turn it on for "
    "this role, or open the store with accept_loss=True"
)
_INCOMPLETE: Final = (SchemaError, "store {where} is not complete: {told}")
_IN_THE_WAY: Final = (
    SchemaError,
    "store {where} needs a name that is taken: {told}; choose another schema or prefix",
)
_DAMAGED: Final = (CorruptionError, "{where} is damaged: {told}")
_BUSY: Final = (StoreBusyError, "{where} is busy: {told}")
_AWAY: Final = (StoreUnavailableError, "{where} cannot be reached: {told}")

_BY_STATE: Final[dict[str, tuple[type[StoreError], str]]] = {
    "EV001": (
        StoreUnavailableError,
        LOSSY.replace("{setting}", "synchronous_commit"),
    ),
    "EV002": (SchemaError, "store {where} has no serial ordering any more"),
    "EV003": (
        StoreUnavailableError,
        "{told} ({where}); evsrc needs READ COMMITTED, to see what it waited for",
    ),
    "42501": (StoreUnavailableError, "the role has no right: {told} ({where})"),
    "42P01": _INCOMPLETE,  # no such table
    "42883": _INCOMPLETE,  # function
    "42703": _INCOMPLETE,  # column
    "3F000": _INCOMPLETE,  # schema
    "42P07": _IN_THE_WAY,  # a table, a view, an index, a sequence
    "42723": _IN_THE_WAY,  # a function
    "25006": (StoreUnavailableError, "{where} takes no writes: {told}"),
    "53100": (StoreFullError, "no space left at {where}: {told}"),
    "XX001": _DAMAGED,
    "XX002": _DAMAGED,
    "53300": _BUSY,  # too many connections
    "55P03": _BUSY,  # lock not available
    "57014": _BUSY,  # query cancelled
    "40001": _BUSY,  # serialization failure
    "40P01": _BUSY,  # deadlock
    "23505": _BUSY,  # lost one race after the other
    "28000": _AWAY,  # the role may not log in
    "28P01": _AWAY,  # wrong password
    "3D000": _AWAY,  # no such database
}


def translated(error: BaseException, where: str) -> BaseException:
    """Give the error to raise for one that came out of the driver."""
    if isinstance(error, EvsrcError):
        return error
    told = next(iter(str(error).splitlines()), type(error).__name__)
    state = str(getattr(error, "sqlstate", None))
    if isinstance(error, UnicodeDecodeError):  # the server checks what it takes in
        told, state = "a stored text is not UTF-8", "XX001"
    if state in {"22021", "22P05"}:
        return InvalidEventError("event", f"text that cannot be stored: {told}")
    if state in _BY_STATE:
        cls, message = _BY_STATE[state]
        return cls(message.format(where=where, told=told))
    if may_be_repeated(error):
        return StoreUnavailableError(f"{where} cannot be reached: {told}")
    if isinstance(error, _DRIVER):
        return StoreError(f"{where}: {told}")
    return error
