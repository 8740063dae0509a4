"""Who takes part: evsrc twice, its peers if they are installed, and the raw limit.

A contender is a module for rows that need nothing or SQLite, and perhaps one for those
that need PostgreSQL.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import Any, Final, cast

from . import processes
from .bench import Bench

_MODULES: Final = {
    "evsrc": ("evsrc_core", "evsrc_postgresql", "evsrc_boundaries"),
    "classes": ("evsrc_classes",),
    "ES": ("es", "es_postgresql"),
    "PY": ("pyes", "pyes_postgresql", "pyes_boundaries"),
    "UMA": ("uma",),
    "limit": ("raw", "raw_postgresql"),
}
_VARIANTS: Final = {
    "alone": ("evsrc", "_alone"),
    "concurrent": ("evsrc", "_concurrent"),
    "PY functions": ("PY", "_functions"),
}


@dataclass(frozen=True)
class Contender:
    """Modules whose functions are named like the rows, or *suffix* behind them."""

    key: str
    modules: tuple[ModuleType, ...]
    suffix: str = ""

    @property
    def module(self) -> ModuleType:
        """Give the first module, which names the contender."""
        return self.modules[0]

    def function(self, name: str) -> Callable[[Bench], Any] | None:
        """Give the function of a row, if there is one."""
        for module in self.modules:
            if (function := getattr(module, name + self.suffix, None)) is not None:
                return cast("Callable[[Bench], Any]", function)
        return None

    def row(self, name: str) -> Callable[[Bench], tuple[float, ...]] | None:
        """Give what measures the row of that name, if this contender has it."""
        if not self.suffix and name == "import_names":
            return lambda _: (processes.import_names(self.module),)
        function = self.function(name)
        if function is None:
            return None
        if name == "live_events":
            return lambda _: (processes.live_events(self.module),)
        return lambda bench: _measured(function, bench)

    def about(self, name: str) -> str:
        """Say what the contender does for a row."""
        return inspect.getdoc(self.function(name)) or ""


def _measured(function: Callable[[Bench], Any], bench: Bench) -> tuple[float, ...]:
    if inspect.iscoroutinefunction(function):
        with asyncio.Runner(loop_factory=bench.loop) as runner:
            found = runner.run(function(bench))
    else:
        found = function(bench)
    return found if isinstance(found, tuple) else (found,)


def contenders() -> tuple[list[Contender], dict[str, str]]:
    """Give those who are here, and why the others are not."""
    found: list[Contender] = []
    missing: dict[str, str] = {}
    for key, names in _MODULES.items():
        modules: list[ModuleType] = []
        for name in names:
            try:
                modules.append(import_module(f"{__package__}.{name}"))
            except ImportError as error:
                missing[key] = f"{name}: not installed ({error})"
        if not modules:
            continue
        found.append(Contender(key, tuple(modules)))
        found += [
            Contender(variant, tuple(modules), suffix)
            for variant, (of, suffix) in _VARIANTS.items()
            if of == key
        ]
    return found, missing
