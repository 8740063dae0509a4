"""Keep the databases of tests in memory, where there is enough of it.

Syncing a disk is most of what the tests would wait for. What they prove does not need
one: a process that is killed leaves its files, in memory or not, and no test cuts the
power. TMPDIR, if it is set, is respected.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

_MEMORY = Path("/dev/shm")
_ENOUGH = 4 * 2**30


def use_memory() -> None:
    """Have temporary folders of this process, and of those it starts, in memory."""
    if "TMPDIR" in os.environ or not os.access(_MEMORY, os.W_OK):
        return
    if shutil.disk_usage(_MEMORY).free > _ENOUGH:
        os.environ["TMPDIR"] = tempfile.tempdir = str(_MEMORY)
