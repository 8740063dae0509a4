"""Print the SQL that makes a store: `python -m evsrc.stores.postgresql --help`."""

from __future__ import annotations

import argparse
import sys

from .schema import migration_sql


def main() -> int:
    """Run the command; give its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m evsrc.stores.postgresql",
        description="Print the SQL that makes or migrates a PostgreSQL event store.",
    )
    parser.add_argument("--schema", default="public", help="where its tables are")
    parser.add_argument("--prefix", default="evsrc", help="what their names begin with")
    parser.add_argument(
        "--ordering", default="serial", choices=["serial", "concurrent"]
    )
    parser.add_argument(
        "--after", type=int, default=0, help="the schema version that is there already"
    )
    asked = parser.parse_args()
    try:
        script = migration_sql(**vars(asked))
    except ValueError as error:
        parser.error(str(error))
    sys.stdout.write(script)
    return 0


if __name__ == "__main__":
    sys.exit(main())
