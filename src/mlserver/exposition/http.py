"""A scrape as HTTP: what a request asks for, and the response to it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlserver.serving.call import Response

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mlserver.exposition.scrape import Rendered

VARY = (b"vary", b"accept, accept-encoding")


def asked_for(headers: Mapping[bytes, bytes]) -> tuple[str, str]:
    """The headers ``Accept`` and ``Accept-Encoding``, or "" for each."""
    return (
        headers.get(b"accept", b"").decode("latin-1"),
        headers.get(b"accept-encoding", b"").decode("latin-1"),
    )


def scraped(rendered: Rendered) -> Response:
    """The response that carries what was rendered."""
    encoded = ((b"content-encoding", rendered.encoding),) if rendered.encoding else ()
    return Response(200, rendered.body, rendered.content_type, (*encoded, VARY))
