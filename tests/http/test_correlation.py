"""Ids from a request's headers to its predictor's log lines and requests, over both ways in."""

from __future__ import annotations

import asyncio
import re

import pytest

PREDICTOR = '''
import asyncio
import contextvars
import threading

from mlserver.lines import bound_fields
from mlserver.propagation import outgoing


def seen():
    return {"fields": dict(bound_fields.get()), "headers": dict(outgoing.get())}


class Sum:
    """Answers the context it runs in: in its thread, in one that copies the context, and in a bare one."""

    def predict(self, X):
        found = [seen()]
        copy = contextvars.copy_context()
        for work in (lambda: found.append(copy.run(seen)), lambda: found.append(seen())):
            thread = threading.Thread(target=work)
            thread.start()
            thread.join()
        return [found] * len(X)


class Shared(Sum):
    batchable = True


class Tasks:
    async def predict(self, X):
        async def later():
            await asyncio.sleep(0)
            return seen()

        found = await asyncio.gather(later(), asyncio.create_task(later()), asyncio.to_thread(seen))
        return [found] * len(X)
'''
TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
TRACEPARENT = f"00-{TRACE}-{SPAN}-01"
NOTHING = {"fields": {}, "headers": {}}


async def ask(server, **headers):
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    response = await server.client.post("/predict", json={"ndarray": [[1.0]]}, headers=sent)
    return response, response.json()["predictions"][0]


def test_a_predictor_in_its_thread_knows_the_request(serving, run):
    async def work():
        async with serving(PREDICTOR) as server:
            return await ask(server, x_request_id="4c1f", traceparent=TRACEPARENT, baggage="k=v")

    response, found = run(work())
    assert response.headers["X-Request-ID"] == "4c1f"
    known = {
        "fields": {"request_id": "4c1f", "trace_id": TRACE},
        "headers": {"X-Request-ID": "4c1f", "traceparent": TRACEPARENT, "baggage": "k=v"},
    }
    assert found == [known, known, NOTHING]


def test_tasks_of_an_asynchronous_predictor_know_their_own_request(serving, run):
    async def work():
        async with serving(PREDICTOR, "Tasks") as server:
            return await asyncio.gather(*(ask(server, x_request_id=f"id-{n}") for n in range(8)))

    for number, (_, found) in enumerate(run(work())):
        known = {"fields": {"request_id": f"id-{number}"}, "headers": {"X-Request-ID": f"id-{number}"}}
        assert found == [known] * 3


def test_calls_that_run_at_once_know_each_its_own_request(serving, run):
    async def work():
        async with serving(PREDICTOR, api={"concurrency": 4}) as server:
            return await asyncio.gather(*(ask(server, x_request_id=f"id-{n}") for n in range(8)))

    for number, (_, found) in enumerate(run(work())):
        assert found[0]["fields"] == found[1]["fields"] == {"request_id": f"id-{number}"}


def test_a_shared_run_is_known_by_its_own_id_which_the_lines_of_its_requests_have(serving, run):
    async def work():
        async with serving(PREDICTOR, "Shared", api={"batching": {"max_wait_ms": 200}}) as server:
            answers = await asyncio.gather(
                *(ask(server, x_request_id=f"id-{n}", traceparent=TRACEPARENT) for n in range(3))
            )
            return answers, server.lines()

    answers, lines = run(work())
    (found, *_), *_ = (found for _, found in answers)
    batch, ids = found["fields"]["batch_id"], found["fields"]["request_ids"]
    assert found == {"fields": {"batch_id": batch, "request_ids": ids}, "headers": {"X-Request-ID": batch}}
    assert re.fullmatch(r"[A-Za-z0-9._:-]{1,128}", batch)
    assert {line["request_id"] for line in lines if line.get("batch_id") == batch} == set(ids)


@pytest.mark.parametrize("class_name", ["Sum", "Tasks", "Shared"])
def test_without_correlation_a_run_knows_nothing(serving, run, class_name):
    async def work():
        async with serving(PREDICTOR, class_name, observability={"correlation_ids": False}) as server:
            answer = await ask(server, x_request_id="4c1f", traceparent=TRACEPARENT, baggage="k=v")
            return answer, server.lines()

    (response, found), (line,) = run(work())
    assert found == [NOTHING] * 3
    assert "X-Request-ID" not in response.headers
    assert response.json()["request_id"] is line["request_id"] is None
    assert "trace_id" not in line
