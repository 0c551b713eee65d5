"""Listening sockets: one per worker slot, all on one address."""

from __future__ import annotations

import errno
import socket
from typing import Any

from mlserver.errors import MLServerError

BACKLOG = 2048
"""Connections that may wait for a worker; the kernel caps it at net.core.somaxconn."""
_REASONS = {
    errno.EADDRINUSE: "another program is listening there: stop it, or choose another port",
    errno.EACCES: "no permission: choose a port above 1023, or grant CAP_NET_BIND_SERVICE",
    errno.EADDRNOTAVAIL: "no interface of this machine has that address: check the host",
}


class BindError(MLServerError):
    """An address cannot be listened on. The message is one line for the user."""


def bind(host: str, port: int, *, count: int, what: str) -> list[socket.socket]:
    """Opens listening sockets that share one port, between which the kernel spreads new connections.

    Args:
        host: an IPv4 or IPv6 address, or a name.
        port: 0 for any that is free.
        count: how many sockets.
        what: the configuration section the address comes from, for the message: ``server``.

    Raises:
        BindError: it is not possible.
    """
    opened: list[socket.socket] = []
    try:
        family, address = _resolve(host, port)
        opened.append(_listen(family, address, claim=True))
        while len(opened) < count:
            opened.append(_listen(family, opened[0].getsockname(), claim=False))
    except OSError as error:
        for listening in opened:
            listening.close()
        reason = _REASONS.get(error.errno or 0, error.strerror or str(error))
        raise BindError(f"Cannot listen on {host}:{port} ({what}.host, {what}.port): {reason}.") from error
    return opened


def url(listening: socket.socket) -> str:
    """The address of a socket as a URL that can be opened on this machine."""
    host, port = listening.getsockname()[:2]
    if host in {"0.0.0.0", "::"}:  # noqa: S104  # compared, not bound
        host = "localhost"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _resolve(host: str, port: int) -> tuple[socket.AddressFamily, Any]:
    """The first address of a name, IPv4 before IPv6: that is what ``localhost`` means to most clients."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, _, _, _, address = min(found, key=lambda entry: entry[0] != socket.AF_INET)
    return family, address


def _listen(family: socket.AddressFamily, address: Any, *, claim: bool) -> socket.socket:
    """One listening socket. One that claims the address fails if anybody listens there already."""
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Set before `bind`, it would let a second server of the same user silently share the port.
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, not claim)
        listening.bind(address)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listening.listen(BACKLOG)
        listening.setblocking(False)  # noqa: FBT003
    except OSError:
        listening.close()
        raise
    return listening
