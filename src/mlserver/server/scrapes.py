"""A worker's part in scrapes: it tells the supervisor its user's metrics and asks it for those of all."""

from __future__ import annotations

import asyncio
import base64
import logging
from collections import defaultdict
from itertools import count
from typing import TYPE_CHECKING

from mlserver.exposition import Rendered
from mlserver.exposition.formats import accepts_gzip, choose_format
from mlserver.exposition.users.family import pack
from mlserver.pace import Pace
from mlserver.server.control import Scrape, Scraped, Snapshot

if TYPE_CHECKING:
    from mlserver.exposition import Exposition
    from mlserver.exposition.users.family import Family
    from mlserver.exposition.users.snapshot import Snapshots
    from mlserver.server.control import Channel

FRESH_S = 0.25
"""How long a scrape waits for the user's metrics as they are now; without, they are a second old."""
LAST_S = 0.5
"""How long the last snapshot may take."""
ANSWER_S = 2.0
"""How long the supervisor may take to answer, unless requests have less time themselves."""
MAX_ANSWER = 1 << 25
"""Bytes of an answer."""
SILENT = "the supervisor does not answer"
LARGE = f"all of them have more than {MAX_ANSWER} bytes. Use fewer labels, or scrape the management listener"
Kind = tuple[str, str]
"""What a scrape accepts: the format's content type, and gzip or nothing."""
_logger = logging.getLogger("mlserver.metrics")


class Scrapes:
    """Answers scrapes of the data port with what all processes together say.

    Args:
        snapshots: of the user's metrics in this process.
        alone: what to answer if the supervisor does not: of the pages only, which are those of all workers.
            With more it would show one worker's numbers for everybody's.
        timeout_s: of requests; a scrape that has to wait for another one is answered within it, too.
    """

    def __init__(
        self, channel: Channel, snapshots: Snapshots, *, alone: Exposition, timeout_s: float
    ) -> None:
        self._channel = channel
        self._snapshots = snapshots
        self._alone = alone
        self._fresh_s = min(FRESH_S, timeout_s / 8)
        self._patience_s = min(ANSWER_S, timeout_s / 4)
        self._numbers = count()
        self._asked: dict[int, asyncio.Future[Scraped]] = {}
        self._silent = False
        self._pace = Pace()
        self._next: dict[Kind, asyncio.Task[Rendered]] = {}
        self._turns: dict[Kind, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._sent: list[Family] | None = None

    async def send(self) -> None:
        """Tells the supervisor the user's metrics, if they have changed and it reads what it is told."""
        if not self._channel.congested:
            await self._tell(self._fresh_s)

    async def send_last(self) -> None:
        """Tells them for the last time."""
        await self._tell(LAST_S)

    async def _tell(self, timeout_s: float) -> None:
        families = await self._snapshots.take(timeout_s)
        if families != self._sent:
            self._sent = families
            self._channel.send(Snapshot(pack(families)))

    async def answer(self, accept: str, accept_encoding: str) -> Rendered:
        """What a scrape of this worker gets.

        Scrapes that come while another one of their kind is answered share the next answer, so that many of
        them cost the supervisor no more than a few.
        """
        kind = choose_format(accept).content_type.decode("ascii"), "gzip" * accepts_gzip(accept_encoding)
        if kind not in self._next:
            self._next[kind] = asyncio.create_task(self._take_turn(kind))
        return await asyncio.shield(self._next[kind])

    async def _take_turn(self, kind: Kind) -> Rendered:
        async with self._turns[kind]:
            del self._next[kind]  # whoever comes from now on may have seen what this answer does not have
            await self.send()
            scraped = None if self._silent else await self._ask(kind)
        if scraped is None or scraped.body is None:
            self._complain(SILENT if scraped is None else LARGE)
            return self._alone.render(*kind)
        encoding = scraped.encoding.encode("ascii") if scraped.encoding else None
        return Rendered(base64.b64decode(scraped.body), scraped.content_type.encode("ascii"), encoding)

    def _complain(self, why: str) -> None:
        if self._pace.due():
            _logger.warning("Scrapes have the server's own metrics only: %s", why)

    async def _ask(self, kind: Kind) -> Scraped | None:
        number = next(self._numbers)
        self._asked[number] = asyncio.get_running_loop().create_future()
        self._channel.send(Scrape(number, *kind))
        try:
            return await asyncio.wait_for(self._asked[number], self._patience_s)
        except TimeoutError:
            self._silent = True  # until it says something, it is not asked for more
            return None
        finally:
            del self._asked[number]

    def take_in(self, scraped: Scraped) -> None:
        """The supervisor's answer has come."""
        self._silent = False
        asked = self._asked.get(scraped.number)
        if asked is not None and not asked.done():
            asked.set_result(scraped)


def packed(number: int, rendered: Rendered) -> Scraped:
    """A rendered scrape as a message."""
    fits = len(rendered.body) <= MAX_ANSWER
    return Scraped(
        number,
        base64.b64encode(rendered.body).decode("ascii") if fits else None,
        rendered.content_type.decode("ascii"),
        rendered.encoding.decode("ascii") if rendered.encoding else None,
    )
