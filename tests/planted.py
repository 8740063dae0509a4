"""Plant a defect in the real code for one test: a copy of a function with one change."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest


@dataclass(frozen=True)
class Defect:
    """A small change of one function, which makes it wrong.

    Args:
        function: gives the function; asked late, so that only its test fails if the
            code has moved on.
        right: a piece of its source, which is there exactly once.
        wrong: what is there instead.
    """

    name: str
    function: Callable[[], Any]
    right: str
    wrong: str

    def plant(self, patch: pytest.MonkeyPatch) -> None:
        """Put the changed code into the function itself, whoever has a reference to it."""
        function = self.function()
        source = textwrap.dedent(inspect.getsource(function))
        found = source.count(self.right)
        assert found == 1, f"{self.right!r} is in {function.__qualname__} {found} times"
        changed = source.replace(self.right, self.wrong)
        code = compile(
            f"from __future__ import annotations\n{changed}", self.name, "exec"
        )
        made: dict[str, Any] = {}
        exec(code, function.__globals__, made)
        patch.setattr(function, "__code__", made[function.__name__].__code__)
