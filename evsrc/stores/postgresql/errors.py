"""Turn what PostgreSQL and its driver report into evsrc's errors.

No message carries a password, a parameter or a row: of the server's report only the
first line is used.
"""

from __future__ import annotations

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
_AGAIN: Final = (
    asyncpg.SerializationError,
    asyncpg.DeadlockDetectedError,
    asyncpg.TooManyConnectionsError,
)


def connection_is_lost(error: BaseException) -> bool:
    """Tell whether *error* means that the connection is of no more use."""
    return isinstance(error, _LOST) or (
        isinstance(error, asyncpg.InterfaceError) and "closed" in str(error)
    )


def may_be_repeated(error: BaseException) -> bool:
    """Tell whether the same may work a moment later."""
    return connection_is_lost(error) or isinstance(error, _AGAIN)


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


def place_of(dsn: str) -> str:
    """Give host and database of a DSN, without its user and password."""
    try:
        parts = urlsplit(dsn)
        return f"{parts.hostname or 'localhost'}:{parts.port or 5432}{parts.path}"
    except ValueError:
        return "PostgreSQL"


def translated(error: BaseException, where: str) -> BaseException:  # noqa: PLR0911 - a table in the form of code
    """Give the error to raise for one that came out of the driver."""
    if isinstance(error, EvsrcError):
        return error
    told = _first_line(error)
    match getattr(error, "sqlstate", None):
        case "EV001":
            return StoreUnavailableError(
                f"{where} has synchronous_commit=off: an acknowledged append could be "
                "lost; turn it on for this role, or open the store with "
                "accept_loss=True"
            )
        case "EV002":
            return SchemaError(f"store {where} has no serial ordering any more")
        case "EV003":
            return StoreUnavailableError(
                f"{told} at {where}; an append needs READ COMMITTED, to see what it "
                "waited for"
            )
        case "42501":
            return StoreUnavailableError(f"the role has no right: {told} ({where})")
        case "42P01" | "42883" | "3F000" | "42703":
            return SchemaError(f"store {where} is not complete: {told}")
        case "53100":
            return StoreFullError(f"no space left at {where}: {told}")
        case "XX001" | "XX002":
            return CorruptionError(f"{where} is damaged: {told}")
        case "22021" | "22P05":
            return InvalidEventError("event", f"text that cannot be stored: {told}")
        case "53300" | "55P03" | "57014" | "40001" | "40P01" | "23505":
            return StoreBusyError(f"{where} is busy: {told}")
        case _:
            pass
    if may_be_repeated(error) or isinstance(error, asyncpg.InvalidAuthorizationSpecificationError | asyncpg.InvalidCatalogNameError):
        return StoreUnavailableError(f"{where} cannot be reached: {told}")
    if isinstance(error, asyncpg.PostgresError | asyncpg.InterfaceError | asyncpg.exceptions.InternalClientError):
        return StoreError(f"{where}: {told}")
    return error


def _first_line(error: BaseException) -> str:
    lines = str(error).splitlines()
    return lines[0] if lines else type(error).__name__
