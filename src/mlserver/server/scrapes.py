"""A worker's part in scrapes: it tells the supervisor its user's metrics and asks it for those of all."""

from __future__ import annotations

import asyncio
import base64
import logging
from itertools import count
from typing import TYPE_CHECKING

from mlserver.exposition import Rendered
from mlserver.exposition.users.family import pack
from mlserver.server.control import Scrape, Scraped, Snapshot

if TYPE_CHECKING:
    from mlserver.exposition import Exposition
    from mlserver.exposition.users.family import Family
    from mlserver.exposition.users.snapshot import Snapshots
    from mlserver.server.control import Channel

FRESH_S = 0.25
"""How long a scrape waits for the user's metrics as they are now; without, they are a second old."""
ANSWER_S = 2.0
"""How long the supervisor may take to answer."""
_logger = logging.getLogger("mlserver.metrics")


class Scrapes:
    """Answers scrapes of the data port with what all processes together say.

    Args:
        snapshots: of the user's metrics in this process.
        alone: what to answer if the supervisor does not: of the pages only, which are those of all workers.
            With more it would show one worker's numbers for everybody's.
    """

    def __init__(self, channel: Channel, snapshots: Snapshots, *, alone: Exposition) -> None:
        self._channel = channel
        self._snapshots = snapshots
        self._alone = alone
        self._numbers = count()
        self._asked: dict[int, asyncio.Future[Scraped]] = {}
        self._sent: list[Family] | None = None

    async def beat(self) -> None:
        """Once a second: the user's metrics are told, and a collector that hangs is noticed."""
        self._snapshots.tick()
        await self.send()

    async def send(self, timeout_s: float = FRESH_S) -> None:
        """Tells the supervisor the user's metrics, if they have changed."""
        families = await self._snapshots.take(timeout_s)
        if families != self._sent and not self._channel.congested:
            self._sent = families
            self._channel.send(Snapshot(pack(families)))

    async def answer(self, accept: str, accept_encoding: str) -> Rendered:
        """What a scrape of this worker gets."""
        await self.send()
        number = next(self._numbers)
        self._asked[number] = asyncio.get_running_loop().create_future()
        self._channel.send(Scrape(number, accept, accept_encoding))
        try:
            scraped = await asyncio.wait_for(self._asked[number], ANSWER_S)
        except TimeoutError:
            _logger.warning("The supervisor does not answer: a scrape lacks all but the server's own metrics")
            return self._alone.render(accept, accept_encoding)
        finally:
            del self._asked[number]
        return _unpacked(scraped)

    def take_in(self, scraped: Scraped) -> None:
        """The supervisor's answer has come."""
        asked = self._asked.get(scraped.number)
        if asked is not None and not asked.done():
            asked.set_result(scraped)


def packed(number: int, rendered: Rendered) -> Scraped:
    """A rendered scrape as a message."""
    return Scraped(
        number,
        base64.b64encode(rendered.body).decode("ascii"),
        rendered.content_type.decode("ascii"),
        rendered.encoding.decode("ascii") if rendered.encoding else None,
    )


def _unpacked(scraped: Scraped) -> Rendered:
    encoding = scraped.encoding.encode("ascii") if scraped.encoding else None
    return Rendered(base64.b64decode(scraped.body), scraped.content_type.encode("ascii"), encoding)
