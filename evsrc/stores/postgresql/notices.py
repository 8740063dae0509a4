"""Tell readers of all processes that there is more to read, on a connection of its own.

A notice is a hint. Whoever waits is also told by a look at the log at short intervals,
so a lost notice, or a connection that cannot listen (a transaction pooler, a replica),
costs a fraction of a second.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import Final
from zlib import crc32

import asyncpg

from ..wakeup import Wakeup
from .connections import Again, Db, Server
from .errors import connection_is_lost
from .schema import Names

_log: Final = logging.getLogger("evsrc")
_POLL: Final = 0.2
_PAUSES: Final = 0.001, 0.01  # between notices: of a few commits, of many
_FOR_EVER: Final = float("inf")


class Notices:
    """One task: listens, gives notice of our own commits, and looks at the log."""

    def __init__(self, server: Server, names: Names, wakeup: Wakeup, head: str) -> None:
        self.server = server
        self.channel = f"evsrc_{crc32(str(names).encode()):08x}"
        self.wakeup = wakeup
        self.head = head
        self.task: asyncio.Task[None] | None = None
        self.stir = asyncio.Event()
        self.look = False  # the log may have grown
        self.notice = False  # others are to be told
        self.served = False  # the connection has been of use
        self.pause = _PAUSES[0]

    def committed(self, *, look: bool) -> None:
        """Give notice of a commit; *look*: it is not yet known to be final."""
        self.notice = True
        self.look |= look
        self._start()
        self.stir.set()

    def waiting(self) -> None:
        """Look at the log from time to time: somebody waits for it."""
        self._start()
        self.stir.set()

    def _start(self) -> None:
        if self.task is None:
            self.task = asyncio.create_task(self._run(), name="evsrc:notices")

    def _heard(self, db: Db, pid: int, _channel: str, _payload: object) -> None:
        if pid != db.get_server_pid():
            self.wakeup.rouse()  # whoever waits reads at once
            self.look = True  # for those who are just reading
            self.stir.set()

    def _lost(self, _: object) -> None:
        self.stir.set()

    async def _run(self) -> None:
        again = Again(_FOR_EVER)
        while True:
            try:
                async with self.server.lend() as db:
                    await self._serve(db)
            except Exception as error:  # noqa: BLE001 - it is tried again, for ever
                _log.info("notices of %s interrupted: %r", self.server.where, error)
            if self.served:
                again = Again(_FOR_EVER)
            await again.pause()

    async def _serve(self, db: Db) -> None:
        self.served = False
        db.add_termination_listener(self._lost)
        try:
            await self._listen(db)
            self.look = True  # what happened before we listened
            while not db.is_closed():
                self.stir.clear()
                if self.look:
                    self.look = False
                    head = await db.fetchval(self.head, timeout=self.server.timeout)
                    self.wakeup.advance(head)
                self.served = True
                if self.notice:
                    await self._give_notice(db)
                try:
                    async with asyncio.timeout(_POLL if self.wakeup.awaited else None):
                        await self.stir.wait()
                except TimeoutError:
                    self.look = True
        finally:
            with suppress(asyncpg.InterfaceError):  # closed, so no longer lent
                db.remove_termination_listener(self._lost)
                if not db.is_closed():
                    await db.remove_listener(self.channel, self._heard)

    async def _give_notice(self, db: Db) -> None:
        """Give notice at once; gather what follows, for longer while there is more."""
        self.notice = False
        await db.execute(
            "SELECT pg_notify($1, '')", self.channel, timeout=self.server.timeout
        )
        await asyncio.sleep(self.pause)
        shortest, longest = _PAUSES
        self.pause = min(2 * self.pause, longest) if self.notice else shortest

    async def _listen(self, db: Db) -> None:
        try:
            await db.add_listener(self.channel, self._heard)
        except asyncpg.PostgresError as error:
            if connection_is_lost(error):
                raise
            _log.warning(
                "%s cannot listen, readers look every %g s: %s",
                self.server.where,
                _POLL,
                error,
            )

    async def close(self) -> None:
        """End the task, after a notice that is due."""
        if self.task is not None:
            self.task.cancel()
            await asyncio.wait([self.task])
