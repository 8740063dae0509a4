"""Stores: records of functions over memory, SQLite, and later PostgreSQL."""
