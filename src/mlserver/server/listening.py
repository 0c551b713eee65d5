"""The listener that goes with the installed HTTP server."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from mlserver.server.leaning import supported
from mlserver.server.plain import PlainListener

if TYPE_CHECKING:
    from mlserver.server.connection import Sink
    from mlserver.server.exchange import ASGIApp
    from mlserver.server.limits import Limits
    from mlserver.server.listener import Listener
    from mlserver.serving.entry import Entry

    AnyListener = Listener | PlainListener

_logger = logging.getLogger("mlserver.http")


def listen(app: ASGIApp, *, limits: Limits, sink: Sink, entry: Entry | None = None) -> AnyListener:
    """Makes a `Listener`; with a uvicorn that it cannot work with, and a warning, a `PlainListener`.

    Args:
        app: the ASGI application.
        limits: of all its connections together.
        sink: answers what never becomes a request.
        entry: takes predictions, which then do not go through the application.
    """
    if fault := supported():
        _logger.warning(
            "%s Until then all requests take the slower way through ASGI, uvicorn's own limits hold in place "
            "of most of server.*, and what it refuses is neither counted nor logged.",
            fault,
        )
        return PlainListener(app, limits=limits)
    from mlserver.server.listener import Listener  # noqa: PLC0415  # it needs what was just looked for

    return Listener(app, limits=limits, sink=sink, entry=entry)
