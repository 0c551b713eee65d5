"""Where connections come from with a uvicorn that `Listener` cannot work with: its own server, by ASGI."""

from __future__ import annotations

import asyncio
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import uvicorn

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Hashable
    from contextlib import AbstractContextManager

    from mlserver.server.exchange import ASGIApp
    from mlserver.server.limits import Limits

_STARTED_S = 0.005
"""Between looks at whether a server accepts."""
_CUT_S = 1.0
"""For what is cut off to end."""


class PlainListener:
    """Does what `Listener` does, as far as uvicorn's public interface goes.

    What uvicorn refuses is not observed, and of the limits only that of connections holds.

    Args:
        limits: of each socket's connections.
    """

    def __init__(self, app: ASGIApp, *, limits: Limits) -> None:
        self._app = app
        self._limits = limits
        self._draining = False
        self._servers: dict[Hashable, _Server] = {}
        self._serving: set[asyncio.Task[None]] = set()

    @property
    def accepting(self) -> frozenset[Hashable]:
        """Keys of the sockets that connections are accepted on."""
        return frozenset(self._servers)

    async def accept(self, sock: socket.socket, key: Hashable) -> None:
        """Starts to accept on a duplicate of a listening socket, which itself stays open."""
        config = uvicorn.Config(
            self._answer,
            interface="asgi3",
            lifespan="off",
            ws="none",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            limit_concurrency=self._limits.max_connections,
            timeout_keep_alive=round(self._limits.keep_alive_s),
        )
        server = self._servers[key] = _Server(config)
        serving = asyncio.create_task(server.serve(sockets=[sock.dup()]))
        self._serving.add(serving)
        serving.add_done_callback(self._serving.discard)
        while not (server.started or serving.done()):  # noqa: ASYNC110  # it tells nobody
            await asyncio.sleep(_STARTED_S)

    def refuse(self, key: Hashable) -> None:
        """Stops to accept on a socket. What is being answered goes on, the connections then end."""
        self._servers.pop(key).should_exit = True

    def start_draining(self) -> None:
        """From now on each response is the last of its connection, and says so."""
        self._draining = True

    async def close(self, timeout: float, *, cut_off: Callable[[], None] | None = None) -> bool:
        """Stops accepting, answers what there is, then cuts what is left; see `Listener.close`."""
        self.start_draining()
        for key in self.accepting:
            self.refuse(key)
        if not self._serving:
            return True
        _, left = await asyncio.wait(self._serving, timeout=timeout)
        if left:
            if cut_off is not None:
                cut_off()
            await asyncio.wait(left, timeout=_CUT_S)
            for serving in left:
                serving.cancel()
        return not left

    async def _answer(self, scope: Any, receive: Any, send: Any) -> None:
        async def send_last(message: Any) -> None:
            if self._draining and message["type"] == "http.response.start":
                message = message | {"headers": [*message["headers"], (b"connection", b"close")]}
            await send(message)

        await self._app(scope, receive, send_last)


class _Server(uvicorn.Server):
    """Leaves signals alone: they are the supervisor's."""

    def capture_signals(self) -> AbstractContextManager[None]:  # type: ignore[override]
        """Captures none."""
        return nullcontext()
