"""Name a store's objects, create or migrate them, or refuse what is not ours."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, get_args

from asyncpg import UndefinedColumnError, UndefinedFunctionError

from ...core.errors import SchemaError
from ..schemas import known_version, numbered

if TYPE_CHECKING:
    from asyncpg import Connection

Ordering: TypeAlias = Literal["serial", "concurrent"]

_IDENTIFIER: Final = re.compile(r"[a-z_][a-z0-9_]{0,39}")
_OBJECT: Final = re.compile(r"@(@?)evsrc(_\w+)")
_TABLE: Final = re.compile(r"CREATE TABLE @evsrc_(\w+)")
_MIGRATIONS: Final = Path(__file__).parent / "migrations"
_SQL: Final = Path(__file__).parent / "sql"
_APPLIED: Final = "\nINSERT INTO @evsrc_schema (version) VALUES (%d);\n"
_MIGRATING: Final = 7702  # the class of the advisory lock that migrations take


@dataclass(frozen=True, slots=True)
class Names:
    """What the objects of one store are called: `schema.prefix_event` and so on.

    Raises:
        ValueError: *schema* or *prefix* is no plain lower-case identifier.
    """

    schema: str
    prefix: str

    def __post_init__(self) -> None:
        for what, name in (("schema", self.schema), ("prefix", self.prefix)):
            if not isinstance(name, str) or not _IDENTIFIER.fullmatch(name):
                raise ValueError(
                    f"{what} {name!r} is not 1 to 40 lower-case letters, digits and _"
                )

    def __str__(self) -> str:
        return f"{self.schema}.{self.prefix}"

    def qualified(self, name: str) -> str:
        """Give the qualified name of one object, such as `"public"."evsrc_event"`."""
        return f'"{self.schema}"."{self.prefix}_{name}"'

    def fill(self, template: str) -> str:
        """Put this store's names where a script says @evsrc_... (@@: unqualified)."""

        def name(found: re.Match[str]) -> str:
            bare = f'"{self.prefix}{found[2]}"'
            return bare if found[1] else f'"{self.schema}".{bare}'

        return _OBJECT.sub(name, template)

    def sql(self, name: str) -> str:
        """Give the statement of one file in `sql/`."""
        return self.fill((_SQL / f"{name}.sql").read_text("utf-8"))


class Statements:
    """The statements in `sql/`, as they are prepared for a log of a certain length.

    A connection keeps the plan of a prepared statement, and what is best for a young
    log is to look at all of it. So each time that the log is four times as long,
    statements get another text, and with it a plan. (Functions have settings for that.)
    """

    def __init__(self, names: Names) -> None:
        self._texts = {path.stem: names.sql(path.stem) for path in _SQL.glob("*.sql")}
        self._length = 0
        self._now = self._texts

    def reached(self, position: int) -> None:
        """Take note of a position that the log has."""
        length = position.bit_length() // 2
        if length > self._length:
            self._length = length
            comment = f"-- for a log of 4^{length} events\n"
            self._now = {name: sql + comment for name, sql in self._texts.items()}

    def __getitem__(self, name: str) -> str:
        return self._now[name]


def migrations() -> dict[int, str]:
    """Give the numbered migrations, by version."""
    return numbered(_MIGRATIONS)


def migration_sql(
    *,
    schema: str = "public",
    prefix: str = "evsrc",
    ordering: Ordering = "serial",
    after: int = 0,
) -> str:
    """Give the SQL that makes a store's objects, for those who run it by other means.

    Args:
        schema: where they are; it has to exist.
        prefix: what their names begin with.
        ordering: as given to `postgresql_store`.
        after: the schema version that is there already; 0: nothing is.

    Raises:
        ValueError: a name is no plain identifier, or there is no such ordering.
    """
    names = Names(schema, prefix)
    if ordering not in get_args(Ordering):
        raise ValueError(f"ordering is serial or concurrent, not {ordering!r}")
    scripts = [
        names.fill(script.replace("@ordering", ordering) + _APPLIED % version)
        for version, script in migrations().items()
        if version > after
    ]
    return "\n".join(("BEGIN;\n", *scripts, "COMMIT;\n")) if scripts else ""


async def recognise(db: Connection[Any], names: Names) -> int:
    """Tell the schema version of a store; 0: it is not there.

    Raises:
        SchemaError: it belongs to something else, or to a newer evsrc.
    """
    table = names.qualified("schema")
    # not to_regclass, which may answer from before the lock of migrations was granted
    found = await db.fetch(
        "SELECT c.relname FROM pg_class AS c "
        "JOIN pg_namespace AS n ON n.oid = c.relnamespace "
        "WHERE n.nspname = $1 AND c.relname = ANY ($2)",
        names.schema,
        [f"{names.prefix}_{name}" for name in _tables()],
    )
    there = sorted(row["relname"] for row in found)
    if f"{names.prefix}_schema" not in there:
        if there:
            bare = there[0].removeprefix(f"{names.prefix}_")
            raise SchemaError(
                f"{names.qualified(bare)} is there without {table}: it is not a "
                "table of evsrc; choose another schema or prefix"
            )
        return 0
    try:
        version = await db.fetchval(names.sql("schema_version"))
    except (UndefinedColumnError, UndefinedFunctionError) as error:
        raise SchemaError(
            f"{table} is not a table of evsrc ({error}); choose another schema or "
            "prefix"
        ) from error
    return known_version(version, max(migrations()), f"store {names}")


def _tables() -> list[str]:
    return [name for script in migrations().values() for name in _TABLE.findall(script)]


async def migrate(db: Connection[Any], names: Names, ordering: Ordering) -> None:
    """Bring a store to the newest schema; of many processes, one does it."""
    newest = max(migrations())
    if await recognise(db, names) == newest:
        return
    async with db.transaction():
        await db.execute(
            "SELECT pg_advisory_xact_lock($1, hashtext($2))", _MIGRATING, str(names)
        )
        have = await recognise(db, names)  # again, under the lock
        if have == newest:
            return
        there = "SELECT 1 FROM pg_namespace WHERE nspname = $1"
        if not await db.fetchval(there, names.schema):
            await db.execute(f'CREATE SCHEMA "{names.schema}"')
        script = migration_sql(
            schema=names.schema, prefix=names.prefix, ordering=ordering, after=have
        )
        await db.execute(script.removeprefix("BEGIN;\n").removesuffix("COMMIT;\n"))


async def check(db: Connection[Any], names: Names, ordering: Ordering) -> None:
    """See that the store is there, complete, and gives out positions as expected.

    Raises:
        SchemaError: it is missing, older than this evsrc, or of the other ordering.
    """
    version, newest = await recognise(db, names), max(migrations())
    if version < newest:
        state = f"has schema version {version}" if version else "does not exist"
        raise SchemaError(
            f"store {names} {state}, this evsrc needs {newest}; open it with "
            "migrate=True, or run the SQL that migration_sql() gives"
        )
    found = await db.fetchval(names.sql("ordering"))
    if found != ordering:
        raise SchemaError(
            f"store {names} has {found} ordering, it was opened with {ordering}"
        )
