"""Where connections come from: listening sockets, and what their connections share."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Any

import uvicorn

from mlserver.server.connection import State
from mlserver.server.protocol import Protocol
from mlserver.server.sockets import BACKLOG

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Hashable

    from mlserver.server.connection import Sink
    from mlserver.server.exchange import ASGIApp
    from mlserver.server.limits import Limits
    from mlserver.serving.entry import Entry

_TURNS = 5
"""Of the event loop, in which a connection is taken from the kernel's queue and its first bytes are read."""


class Listener:
    """Serves an ASGI application on sockets that other processes may be serving, too.

    The installed uvicorn has to be `leaning.supported`.

    Args:
        limits: of all its connections together.
        sink: answers what never becomes a request.
        entry: takes predictions, which then do not go through the application.
        app_state: what each request finds in its ASGI scope as ``state``.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        limits: Limits,
        sink: Sink,
        entry: Entry | None = None,
        app_state: dict[str, Any] | None = None,
    ) -> None:
        config = uvicorn.Config(
            app,
            http=Protocol,
            interface="asgi3",
            lifespan="off",
            ws="none",
            workers=1,
            log_config=None,
            proxy_headers=False,
            forwarded_allow_ips="",
        )
        config.load()
        self._state = State()
        self._protocol = partial(
            Protocol, config, self._state, app_state or {}, limits=limits, sink=sink, entry=entry
        )
        self._servers: dict[Hashable, asyncio.Server] = {}
        self._ticker: asyncio.TimerHandle | None = None

    @property
    def accepting(self) -> frozenset[Hashable]:
        """Keys of the sockets that connections are accepted on."""
        return frozenset(self._servers)

    async def accept(self, sock: socket.socket, key: Hashable) -> None:
        """Starts to accept on a duplicate of a listening socket, which itself stays open."""
        if self._ticker is None:
            self._tick()
        duplicate = sock.dup()
        try:
            server = await asyncio.get_running_loop().create_server(
                self._protocol, sock=duplicate, backlog=BACKLOG
            )
        except BaseException:
            duplicate.close()
            raise
        self._servers[key] = server

    def refuse(self, key: Hashable) -> None:
        """Stops to accept on a socket. Whoever shares it goes on, and so do the connections made."""
        server = self._servers.pop(key)
        loop = asyncio.get_running_loop()
        # asyncio drops a connection that it has accepted a moment before its server closes, so that comes
        # later, and it stops accepting first. uvloop takes connections at once, and ignores the removal.
        for listening in server.sockets:
            loop.remove_reader(listening)
        loop.call_soon(loop.call_soon, server.close)

    def start_draining(self) -> None:
        """From now on each response is the last of its connection, and says so."""
        self._state.draining = True

    async def close(self, timeout: float, *, cut_off: Callable[[], None] | None = None) -> bool:
        """Stops accepting, closes idle connections, answers the rest, then cuts what is left.

        Args:
            timeout: seconds for the answers.
            cut_off: called before anything is cut, to answer it with an error.

        Returns:
            whether all were answered.
        """
        self.start_draining()
        await _turns()
        for key in self.accepting:
            self.refuse(key)
        await _turns()
        for connection in self._connections():
            connection.shutdown()
        try:
            async with asyncio.timeout(timeout):
                await self._emptied()
        except TimeoutError:
            pass
        answered = not any(connection.unanswered for connection in self._connections())
        if not answered and cut_off is not None:
            cut_off()
            await _turns()
        await self._cut()
        return answered

    def _connections(self) -> list[Protocol]:
        known = (*self._state.connections, *self._state.refused)
        return [connection for connection in known if isinstance(connection, Protocol)]

    async def _emptied(self) -> None:
        while self._state.connections or self._state.refused:
            self._state.lost.clear()
            await self._state.lost.wait()

    async def _cut(self) -> None:
        for connection in self._connections():
            connection.transport.abort()
        if self._ticker is not None:
            self._ticker.cancel()
            self._ticker = None
        await _turns()

    def _tick(self) -> None:
        """Sets the time that responses carry."""
        self._state.set_date()
        self._ticker = asyncio.get_running_loop().call_later(1.0, self._tick)


async def _turns() -> None:
    for _ in range(_TURNS):
        await asyncio.sleep(0)
