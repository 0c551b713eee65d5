"""Correlation: what a predictor logs and sends carries the ids of the requests that it answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlserver.lines import bound_fields
from mlserver.propagation import REQUEST_ID, outgoing, passed_on

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlserver.serving.call import Batch, Call

MAX_IDS_BYTES = 2048
"""Of the ids in one line of a shared run, so that there is room for what the line says."""
QUOTED = 3
"""Bytes around each of them: quotes and a comma."""


class Correlation:
    """Sets the context of a run; for servers that do not trace, too.

    The context reaches the predictor's thread and its tasks, and what these start by ``asyncio.to_thread`` or
    in a copy of their context.
    """

    def enter(self, batch: Batch) -> None:
        """Binds the ids of the calls that a run answers; an `Enter` hook."""
        if batch.id:
            bound_fields.set({"batch_id": batch.id, "request_ids": _short(batch.calls)})
            outgoing.set({REQUEST_ID: batch.id})
        else:
            (call,) = batch.calls
            bound_fields.set({"request_id": call.request_id, **_callers_trace(call)})
            outgoing.set(_headers(call))


def _headers(call: Call) -> dict[str, str]:
    headers = passed_on(call.headers, call.scope.get("headers", ()))
    if call.request_id is not None:
        headers[REQUEST_ID] = call.request_id
    return headers


def _callers_trace(call: Call) -> dict[str, Any]:
    """The trace that the caller records, where this server does not; otherwise its own spans are named."""
    return {"trace_id": call.trace.trace_id} if call.trace is not None and call.trace.span_id is None else {}


def _short(calls: Sequence[Call]) -> list[str]:
    """The ids of calls; of very many or very long ones the first, and how many more there are."""
    ids = [call.request_id or "" for call in calls]
    if sum(map(len, ids)) + QUOTED * len(ids) <= MAX_IDS_BYTES:
        return ids
    size = len(f"…({len(ids)} more)".encode()) + QUOTED
    for at, id_ in enumerate(ids):
        size += len(id_) + QUOTED
        if size > MAX_IDS_BYTES:
            return [*ids[:at], f"…({len(ids) - at} more)"]
    return ids
