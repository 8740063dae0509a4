"""Who takes part: evsrc twice, two peers if they are installed, and the raw limit."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import Any, Final

from . import processes
from .bench import Bench

_MODULES: Final = {
    "evsrc": "evsrc_core",
    "classes": "evsrc_classes",
    "ES": "es",
    "PY": "pyes",
    "limit": "raw",
}


@dataclass(frozen=True)
class Contender:
    """A module whose functions are named like the rows, or *suffix* behind them."""

    key: str
    module: ModuleType
    suffix: str = ""

    def row(self, name: str) -> Callable[[Bench], tuple[float, ...]] | None:
        """Give what measures the row of that name, if this contender has it."""
        if not self.suffix and name == "import_names":
            return lambda _: (processes.import_names(self.module),)
        function = getattr(self.module, name + self.suffix, None)
        if function is None:
            return None
        if name == "live_events":
            return lambda _: (processes.live_events(self.module),)
        return lambda bench: _measured(function, bench)

    def about(self, name: str) -> str:
        """Say what the contender does for a row."""
        function = getattr(self.module, name + self.suffix, None)
        return inspect.getdoc(function) or ""


def _measured(function: Callable[[Bench], Any], bench: Bench) -> tuple[float, ...]:
    if inspect.iscoroutinefunction(function):
        found = asyncio.run(function(bench))
    else:
        found = function(bench)
    return found if isinstance(found, tuple) else (found,)


def contenders() -> tuple[list[Contender], dict[str, str]]:
    """Give those who are here, and why the others are not."""
    found: list[Contender] = []
    missing: dict[str, str] = {}
    for key, name in _MODULES.items():
        try:
            module = import_module(f"{__package__}.{name}")
        except ImportError as error:
            missing[key] = f"not installed ({error})"
            continue
        found.append(Contender(key, module))
        if key == "evsrc":
            found.append(Contender("alone", module, "_alone"))
    return found, missing
