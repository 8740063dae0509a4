"""Keep events in PostgreSQL."""

from .schema import migration_sql
from .store import PostgreSQLStore, postgresql_store

__all__ = ["PostgreSQLStore", "migration_sql", "postgresql_store"]
