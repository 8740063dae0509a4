"""Keep events in PostgreSQL; needs the extra `postgresql`."""

from ...core.errors import MissingExtraError

try:
    from .schema import migration_sql
    from .store import PostgreSQLStore, postgresql_store
except ModuleNotFoundError as error:
    if error.name != "asyncpg":
        raise
    raise MissingExtraError("PostgreSQL", "postgresql") from error

__all__ = ["PostgreSQLStore", "migration_sql", "postgresql_store"]
