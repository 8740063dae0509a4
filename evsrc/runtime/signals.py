"""Run subscriptions until the process is told to end, then stop them in order."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Generator
from contextlib import contextmanager
from datetime import timedelta
from signal import Signals
from typing import Any, Final

from .run import log
from .subscribe import Subscription

SIGNALS: Final = (Signals.SIGTERM, Signals.SIGINT)


async def run_until_signal(
    *subscriptions: Subscription[Any], timeout: timedelta = timedelta(seconds=30)
) -> Signals | None:
    """Run *subscriptions* until SIGTERM or SIGINT comes, then stop them all.

    They are started if they were not. Told to end, each finishes what it has in hand,
    saves its checkpoint and stops, all at once and within *timeout*; then this returns
    and the program goes on to its end. Meanwhile another signal has the effect that it
    had before, which is to end the process at once.

    Returns:
        the signal; None: all of them had ended by themselves, see their `error`.
    """
    for subscription in subscriptions:
        if not subscription.running and not subscription.ended:
            subscription.start()
    told: asyncio.Future[Signals] = asyncio.get_running_loop().create_future()

    def tell(number: Signals) -> None:
        if not told.done():
            told.set_result(number)

    ends = [asyncio.ensure_future(one.join()) for one in subscriptions]
    ended = asyncio.gather(*ends)
    try:
        with on_signals(tell):
            await asyncio.wait((told, ended), return_when=asyncio.FIRST_COMPLETED)
    finally:
        ended.cancel()
        await asyncio.gather(*(one.stop(timeout) for one in subscriptions))
    return told.result() if told.done() else None


@contextmanager
def on_signals(tell: Callable[[Signals], None]) -> Generator[None]:
    """Have the first SIGTERM or SIGINT do no more than to call *tell*, in the loop.

    From then on, and after the block, signals have the effect that they had before.
    """
    loop = asyncio.get_running_loop()
    before: dict[Signals, Any] = {}

    def restore() -> None:
        for number, handler in before.items():
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        before.clear()

    def come(number: Signals) -> None:
        log.info("told to end by %s", number.name)
        restore()
        tell(number)

    for number in SIGNALS:
        before[number] = signal.getsignal(number)
        loop.add_signal_handler(number, come, number)
    try:
        yield
    finally:
        restore()
