"""How many examples a property is tried with: 500, or as many as `EVSRC_EXAMPLES` says.

`EVSRC_EXAMPLES=20000 pytest property_tests` is the long run, without time limits. A
test that usually takes fewer, because each of its examples is long, takes its share.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.disk import use_memory

USUAL = 500
EXAMPLES = int(os.environ.get("EVSRC_EXAMPLES", USUAL))


def share(of: int) -> int:
    """Give how many examples a test takes that takes *of* of `USUAL`."""
    return max(1, of * EXAMPLES // USUAL)


use_memory()
settings.register_profile(
    "evsrc",
    deadline=None,
    max_examples=EXAMPLES,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.load_profile("evsrc")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let the long run take as long as it takes."""
    here = Path(__file__).parent
    for item in items if EXAMPLES > USUAL else ():
        if item.path.is_relative_to(here):
            item.add_marker(pytest.mark.timeout(0))
