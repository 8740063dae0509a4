"""A TCP proxy before PostgreSQL that cuts connections at an append.

It reads what clients send as far as it has to: an append is the Bind message of a
statement that calls the store's append function, or moves a checkpoint.
"""

from __future__ import annotations

import asyncio
import random
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, Final, Literal, TypeAlias
from urllib.parse import urlsplit

How: TypeAlias = Literal["reset", "close", "silent"]
When: TypeAlias = Literal["half-way", "sent", "answered", "heard"]

_WITH_TLS: Final = struct.pack("!i", 80877103)  # a request that the server declines
_NO_LINGER: Final = struct.pack("ii", 1, 0)


class Cut:
    """What shall happen to one append.

    Args:
        how: the client sees a reset, an orderly end, or nothing any more.
        when: only a part of the append reaches the server; all of it; it has answered
            too, and the answer gets lost; or the client has heard the answer.
    """

    def __init__(self, how: How, when: When) -> None:
        self.how = how
        self.when = when


class _Statements:
    """The messages of one client, seen as they pass."""

    def __init__(self) -> None:
        self.rest = b""
        self.started = False
        self.appends: set[bytes] = set()

    def appends_in(self, data: bytes) -> bool:
        """Tell whether an append is complete with *data*."""
        self.rest += data
        found = False
        while len(self.rest) >= 5:
            head = 1 if self.started else 0  # the first message has no letter
            (length,) = struct.unpack_from("!i", self.rest, head)
            if len(self.rest) < head + length:
                break
            kind, body = self.rest[:head], self.rest[head + 4 : head + length]
            self.rest = self.rest[head + length :]
            self.started |= body[:4] != _WITH_TLS
            if kind == b"P":
                name, sql, _ = body.split(b"\0", 2)
                if b"_append" in sql or b"UPDATE" in sql:
                    self.appends.add(name)
            elif kind == b"B":
                _, name, _ = body.split(b"\0", 2)
                found |= name in self.appends
        return found


class Proxy:
    """Forwards connections, and asks before each append what shall become of it."""

    def __init__(self, url: str) -> None:
        self._target = urlsplit(url)
        self.choose: Callable[[], Cut | None] = lambda: None
        self.away = False  # refuse new connections
        self.cuts = 0
        self.seen = 0  # appends that came by
        self._port = 0
        self._tasks: set[asyncio.Task[Any]] = set()
        self._writers: set[asyncio.StreamWriter] = set()

    @property
    def url(self) -> str:
        at = self._target
        return at._replace(
            netloc=f"{at.username}:{at.password}@127.0.0.1:{self._port}"
        ).geturl()

    async def serve(self) -> asyncio.Server:
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self._port = server.sockets[0].getsockname()[1]
        return server

    async def _accept(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._writers.add(writer)
        try:
            if self.away:
                _reset(writer)
            else:
                await self._forward(reader, writer)
        except (OSError, asyncio.CancelledError):
            _reset(writer)
        finally:
            self._tasks.discard(task)
            self._writers.discard(writer)

    async def _forward(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        at = self._target
        upstream, server = await asyncio.open_connection(at.hostname, at.port)
        answers = asyncio.create_task(_copy(upstream, writer))
        try:
            statements = _Statements()
            while data := await reader.read(65536):
                cut = None
                if statements.appends_in(data):
                    self.seen += 1
                    cut = self.choose()
                if cut is None:
                    server.write(data)
                    await server.drain()
                    continue
                self.cuts += 1
                await self._cut(cut, data, answers, upstream, server, writer)
                return
            writer.close()
        finally:
            answers.cancel()
            await asyncio.wait([answers])
            server.close()

    async def _cut(
        self,
        cut: Cut,
        data: bytes,
        answers: asyncio.Task[None],
        upstream: asyncio.StreamReader,
        server: asyncio.StreamWriter,
        client: asyncio.StreamWriter,
    ) -> None:
        answers.cancel()  # whatever the server says from now on is lost
        await asyncio.wait([answers])
        server.write(data[: len(data) // 2] if cut.when == "half-way" else data)
        if self.away:
            self._reset_others()
        with suppress(OSError):
            await server.drain()
            if cut.when in ("answered", "heard"):
                answer = await upstream.read(65536)
                if cut.when == "heard":
                    client.write(answer)
                    await client.drain()
        match cut.how:
            case "reset":
                _reset(server)
                _reset(client)
            case "close":
                client.close()
            case "silent":
                await asyncio.get_running_loop().create_future()  # until `hang_up`

    def _reset_others(self) -> None:
        for task in self._tasks - {asyncio.current_task()}:
            task.cancel()

    async def hang_up(self) -> None:
        """Reset every connection."""
        tasks = set(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.close()


def _reset(writer: asyncio.StreamWriter) -> None:
    """End a connection with RST: what is not delivered yet gets lost."""
    sock: socket.socket = writer.get_extra_info("socket")
    with suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
    writer.transport.abort()


def some(
    chance: random.Random, share: float, *, silent: bool = False
) -> Callable[[], Cut | None]:
    """Choose a random cut for a *share* of the appends."""
    hows: list[How] = ["silent"] if silent else ["reset", "close"]
    whens: list[When] = ["half-way", "sent", "sent", "answered", "answered"]

    def choose() -> Cut | None:
        if chance.random() > share:
            return None
        return Cut(chance.choice(hows), chance.choice(whens))

    return choose


@asynccontextmanager
async def proxy_before(url: str) -> AsyncIterator[Proxy]:
    """Run a proxy before the server of a DSN; `Proxy.url` leads through it."""
    proxy = Proxy(url)
    server = await proxy.serve()
    try:
        yield proxy
    finally:
        server.close()
        await proxy.hang_up()
        await server.wait_closed()
