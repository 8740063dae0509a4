"""Run the `evsrc` command as `python -m evsrc`."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
