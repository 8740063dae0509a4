"""Tell how a manager was shut down."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from enum import Enum

from msgspec import Struct

from .subscription import Subscription


class ShutdownPhase(Enum):
    """Where a shutdown is; FORCED: a handler had to be cancelled."""

    RUNNING = "running"
    STOPPING = "stopping"
    STOPPED = "stopped"
    FORCED = "forced"


class ShutdownResult(Struct, frozen=True, kw_only=True):
    """How a shutdown went.

    Args:
        phase: STOPPED or FORCED.
        duration_seconds: how long it took.
        subscriptions_stopped: how many ran until then.
        checkpoints_saved: of how many the saved position is the one they were at.
        forced: whether a handler was cancelled; its event comes again.
        signal: what told the process to end; None: `request_shutdown`.
    """

    phase: ShutdownPhase
    duration_seconds: float
    subscriptions_stopped: int
    checkpoints_saved: int
    forced: bool
    signal: str | None


async def shut_down(
    subscriptions: Sequence[Subscription], seconds: float, signal: str | None
) -> ShutdownResult:
    """Stop *subscriptions* within so many seconds, all at once."""
    loop = asyncio.get_running_loop()
    began, running = loop.time(), [s for s in subscriptions if s.is_running]
    ended = await asyncio.gather(
        *(s.core.stop(timedelta(seconds=seconds)) for s in running)
    )
    return ShutdownResult(
        phase=ShutdownPhase.STOPPED if all(ended) else ShutdownPhase.FORCED,
        duration_seconds=loop.time() - began,
        subscriptions_stopped=len(running),
        checkpoints_saved=sum(
            s.core.status().checkpoint == s.core.position for s in running
        ),
        forced=not all(ended),
        signal=signal,
    )
