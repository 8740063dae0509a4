"""Keep events in an SQLite file, or in memory with SQLite's rules."""

from .store import sqlite_store

__all__ = ["sqlite_store"]
