"""What is one more event in a known stream, and what is more than that."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

from evsrc import (
    ANY,
    NO_STREAM,
    AppendCondition,
    Appended,
    Conflict,
    DuplicateEventError,
    NewEvent,
    Query,
    SaveCheckpoint,
    StreamName,
    Write,
)
from evsrc.testing import Fact, Tagged

HERE, THERE, NEW = (StreamName("s", name) for name in ("1", "2", "3"))


def facts(*numbers: int) -> list[NewEvent[Any]]:
    return [NewEvent(Fact(n), uuid4()) for n in numbers]


USED = facts(7)
"""The one event in THERE; in HERE there are four others."""

CASES: list[tuple[list[Write[Any]], Any, bool, Any]] = [
    ([Write(HERE, facts(1), 4)], (), True, Appended),
    ([Write(HERE, facts(1), ANY)], (), True, Appended),
    ([Write(THERE, facts(1), 1)], (), True, Appended),
    ([Write(HERE, facts(1), 3)], (), False, Conflict),
    ([Write(HERE, facts(1), NO_STREAM)], (), False, Conflict),
    ([Write(NEW, facts(1), 0)], (), False, Appended),
    ([Write(HERE, facts(1, 2), 4)], (), False, Appended),
    ([Write(HERE, facts(1), 4), Write(THERE, facts(1), 1)], (), False, Appended),
    ([Write(HERE, facts(1), 4)], [SaveCheckpoint("p", 4)], False, Appended),
    ([Write(HERE, [NewEvent(Tagged(1, ("x",)), uuid4())], 4)], (), False, Appended),
    (
        [Write(HERE, facts(1), AppendCondition(Query.of(categories=["x"])))],
        (),
        False,
        Appended,
    ),
    ([Write(THERE, USED, ANY)], (), False, Appended),
    ([Write(HERE, USED, ANY)], (), False, DuplicateEventError),
]
"""Writes, what is written beside them, whether they are just that, the outcome."""
