"""Keep events in an SQLite file, or in memory with SQLite's rules."""

from .store import sqlite_store
from .transaction import SQLiteConnection

__all__ = ["SQLiteConnection", "sqlite_store"]
