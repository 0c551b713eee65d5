"""What connections may take of a listener."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from mlserver.config.settings import ServerSettings


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of one listener, in bytes and seconds."""

    max_header_bytes: int = 32 * 2**10
    """Of one request's head: request line, headers and the empty line behind them."""
    header_timeout_s: float = 10.0
    """From the first byte of a head to its last; also for the first byte of a new connection."""
    max_connections: int = 10_000
    write_timeout_s: float = 30.0
    """Without any progress, while a client does not read what it was sent."""
    keep_alive_s: float = 75.0
    """Between a response and the next request on its connection."""
    linger_s: float = 2.0
    """For a client that is still sending to read the response that ends its connection."""
    linger_bytes: int = 16 * 2**20
    """Of such a client's input that are read and thrown away."""

    @classmethod
    def of(cls, server: ServerSettings) -> Self:
        """The limits that the ``server`` section of the configuration sets."""
        return cls(
            max_header_bytes=server.max_header_bytes,
            header_timeout_s=server.header_timeout_s,
            max_connections=server.max_connections,
            write_timeout_s=server.request_timeout_s,
        )
