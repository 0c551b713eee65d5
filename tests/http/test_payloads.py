"""Bodies in the log, and that a hidden value is nowhere in the output: found by search."""

from __future__ import annotations

import asyncio
import html
import json
import logging
import re
import sys
import threading
import unicodedata
import warnings
from urllib.parse import quote_plus, unquote_plus

import pytest
import structlog

from mlserver.lines import LineWriter, form_of, take_over
from mlserver.lines.structured import use_structlog

NUMBER, WHOLE, NAME = 73519.4286, 918273645, 'Käthe "Kit" O\'Hara\n-7731'
LONG = "Bahnhofstrasse 4711, 8001 Zürich, second floor, ring twice and wait"
SECRETS = {"income": NUMBER, "account": WHOLE, "name": NAME, "address": LONG}
REDACT = ["Income", "ACCOUNT", "name", "address"]

PREDICTOR = """
import html
import logging
import sys
import time
import unicodedata
import warnings

import httpx
import structlog

early = structlog.get_logger()


class Loan:
    input = "dataframe"
    feature_names = ["todo", "income", "account", "name", "address"]
    more = {}

    def predict(self, X):
        row = X.iloc[0].to_dict()
        row["address"] = row["address"] or "?"
        income, account, name, address = (row[key] for key in ("income", "account", "name", "address"))
        match row["todo"]:
            case "raise":
                raise ValueError(f"cannot lend to {name} of {address} with {income:.2f} or {X.to_string()}")
            case "raise from":
                try:
                    float(name)
                except ValueError as error:
                    error.add_note(f"{address!r} {X.values!r}")
                    raise KeyError(name, account) from error
            case "raise group":
                raise ExceptionGroup(name, [ValueError(income), TypeError(address[:20]), KeyError(str(account))])
            case "ask":
                asked = {"name": name, "address": address, "account": account}
                request = httpx.Request("GET", "http://127.0.0.1/people", params=asked)
                httpx.Response(404, request=request).raise_for_status()
            case "escape":
                log = logging.getLogger("loan")
                log.info("for %s in %s", html.escape(name), unicodedata.normalize("NFD", address))
                raise ValueError("_".join(name.split()) + html.escape(address) + address.replace(" ", "\\t"))
            case "exit":
                sys.exit(f"{name} {account}")
            case "log":
                log = logging.getLogger("loan")
                log.info("lending to %s of %r with %f", name, address, income)
                log.warning(f"{X}")
                log.info("row", extra={"row": row, "X": X.values, "by_" + name: 1})
                log.error("not formatted %d", name)
                structlog.get_logger().info("lending", name=name, nested={"a": [{"b": (income, account)}]})
                structlog.get_logger().bind(address=address).warning("to %s with %.3e", name.upper(), income)
                early.info(f"{account} and {account:,}", row=repr(row))
                warnings.warn(f"careful with {name}")
                try:
                    float(address)
                except ValueError:
                    log.exception("failed for %s", row)
                    structlog.get_logger().exception("failed", row=row)
                    early.error("failed", exc_info=True, stack_info=True)
            case "echo":
                return [[row]]
            case "odd":
                return {name: income}
            case "short":
                return [name, address]
            case "cannot be sent":
                return [object.__new__(type(name, (), {}))]
            case "sleep":
                time.sleep(0.3)
                logging.getLogger("loan").info("late: %s", name)
        return [1]
"""


WAYS = [
    lambda value: quote_plus(str(value)),
    lambda value: html.escape(str(value)),
    lambda value: unicodedata.normalize("NFD", str(value)),
    lambda value: json.dumps("\t".join(str(value).split())),
    lambda value: "_".join(str(value).split()),
]


def a_row(todo, **changes):
    return {"todo": todo, **SECRETS, **changes}


def parts(secret):
    """What would tell somebody of it: eight of its characters, five of its digits."""
    if isinstance(secret, str):
        found = {secret[at : at + 8] for at in range(len(secret) - 7)}
        written = {form(part)[1:-1] for part in found for form in (repr, ascii, json.dumps)}
        return {part.casefold() for part in found | written}
    return {str(secret).replace(".", "")[:5]}


def told(text):
    """Parts of the secrets that are in a text."""
    texts = {
        text,
        re.sub(r"[.,_]", "", text),
        unquote_plus(text),
        html.unescape(text),
        re.sub(r"(\\[nt]|_)+", " ", text),
    }
    texts = {unicodedata.normalize("NFC", one).casefold() for one in texts}
    return [part for secret in SECRETS.values() for part in parts(secret) for text in texts if part in text]


def test_the_search_finds_what_it_should():
    for secret in SECRETS.values():
        for form in (str, repr, ascii, json.dumps, lambda value: json.dumps(json.dumps(value)), *WAYS):
            assert told(f"before {form(secret)} after")
    assert told(f"{NUMBER:.3e} {WHOLE:,}") == ["73519", "91827"] or told(f"{NUMBER:.4e}")
    assert not told("2026-11-23T18:34:36.490Z nothing")


@pytest.fixture
def own_process(monkeypatch, tmp_path):
    """Called, it makes lines of what is logged, as in a worker; all is as before after the test."""
    root = logging.getLogger()
    level = root.level
    monkeypatch.setattr(root, "handlers", list(root.handlers))
    for owner, name in [(sys, "excepthook"), (sys, "unraisablehook"), (threading, "excepthook")]:
        monkeypatch.setattr(owner, name, getattr(owner, name))
    writer = LineWriter.to_file(tmp_path / "server.log")
    form = form_of(structured=True, ecs=False, longest=writer.longest, colours=False)

    def begin():
        take_over(writer, form, level=logging.INFO, worker=0)
        use_structlog()

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        yield begin
        logging.captureWarnings(capture=False)
    root.setLevel(level)
    structlog.reset_defaults()
    writer.close()


@pytest.fixture
def output(tmp_path, capfd):
    """All that the server has said by any means."""

    def read():
        said = capfd.readouterr()
        return (tmp_path / "server.log").read_text("utf-8") + said.out + said.err

    return read


def settings(*, bodies=True, structured=True, **payloads):
    given = {
        "log_payloads": bodies,
        "structured_logging": structured,
        "payloads": {"redact": REDACT, **payloads},
    }
    return {"observability": {"log_level": "DEBUG", **given}}


def split_of(row):
    return {"dataframe_split": {"columns": list(row), "data": [list(row.values())]}}


FORMS = [lambda row: {"records": [row]}, lambda row: {"instances": [row]}, split_of]


@pytest.mark.parametrize("bodies", [True, False])
@pytest.mark.parametrize(
    ("todo", "status"),
    [
        ("nothing", 200), ("raise", 500), ("raise from", 500), ("raise group", 500), ("ask", 500), ("escape", 500), ("exit", 500), ("log", 200),
        ("echo", 200), ("odd", 500), ("short", 500), ("cannot be sent", 500),
    ],
)  # fmt: skip
def test_a_hidden_value_is_nowhere_whatever_the_predictor_does(
    serving, run, output, own_process, todo, status, bodies
):
    own_process()

    async def scenario():
        async with serving(PREDICTOR, "Loan", **settings(bodies=bodies)) as server:
            for form in FORMS:
                response = await server.client.post("/predict", json=form(a_row(todo)))
                assert response.status_code == status
            return server.lines()

    records = run(scenario())
    text = output()
    assert told(text) == []
    assert [record["http_status"] for record in records] == [status] * 3
    assert all(("[REDACTED]" in record.get("request_body", "")) is bodies for record in records)
    assert ("[REDACTED]" in text) is (bodies or todo not in ("nothing", "echo", "odd", "short"))
    if todo == "log":
        assert text.count("lending to [REDACTED] of ") == 3
        assert text.count('"message":"failed') == 9


BAD = [
    (400, json.dumps({"records": [a_row("nothing")]})[:-9]),
    (400, f"income={NUMBER}&account={WHOLE}&name={NAME}"),
    (422, json.dumps([a_row("nothing")])),
    (422, json.dumps([list(SECRETS.values())])),
    (422, json.dumps({"records": [a_row("nothing"), SECRETS]})),
    (422, json.dumps({"records": [a_row("nothing", more=1)]})),
    (422, json.dumps({"records": [a_row("nothing", income=LONG)]})),
    (422, json.dumps({"records": [a_row("nothing", account=NAME)]})),
    (422, json.dumps({"records": [a_row("nothing", name=[NAME, {"x": LONG}])]})),
    (422, json.dumps({"records": a_row("nothing")})),
    (422, json.dumps({"record": [a_row("nothing")]})),
    (200, json.dumps({"ndarray": [list(a_row("nothing").values())]})),
    (422, json.dumps({"ndarray": list(SECRETS.values())})),
    (422, json.dumps({"inputs": [list(SECRETS.values())]})),
    (422, json.dumps({"dataframe_split": {"columns": ["todo"], "data": [list(SECRETS.values())]}})),
    (422, json.dumps({"dataframe_split": {"data": [list(SECRETS.values())]}})),
    (422, json.dumps({"dataframe_split": {"columns": list(a_row("x")), "data": [*SECRETS.values()]}})),
    (200, json.dumps({"records": [a_row("x") | {"n_me": "n"}]}).replace("n_me", "n\\u0061me")),
]  # fmt: skip


@pytest.mark.parametrize("bodies", [True, False])
@pytest.mark.parametrize("structured", [True, False])
def test_a_hidden_value_is_nowhere_whatever_is_wrong_with_the_request(
    serving, run, output, own_process, bodies, structured
):
    own_process()

    async def scenario():
        given = settings(bodies=bodies, structured=structured)
        given["api"] = {"categorical_features": ["todo", "name", "address"]}
        async with serving(PREDICTOR, "Loan", **given) as server:
            answers = [await server.client.post("/predict", content=body.encode()) for _, body in BAD]
            await server.client.post(
                "/predict", content=BAD[0][1].encode(), headers={"content-type": "text/csv"}
            )
            await server.client.post("/nowhere", json=SECRETS)
            return [answer.status_code for answer in answers]

    assert run(scenario()) == [status for status, _ in BAD]
    text = output()
    assert told(text) == []
    assert text.count("\n") >= len(BAD) + 2


def test_a_hidden_value_is_nowhere_when_the_time_is_up_or_the_body_too_large(
    serving, run, output, own_process
):
    own_process()

    async def scenario():
        given = settings() | {"server": {"request_timeout_s": 0.1, "max_body_bytes": 1000}}
        async with serving(PREDICTOR, "Loan", **given) as server:
            late = await server.client.post("/predict", json={"records": [a_row("sleep")]})
            large = await server.client.post("/predict", json={"records": [a_row("nothing")] * 20})
            while "late" not in output_so_far(server):
                await asyncio.sleep(0.01)
            return late.status_code, large.status_code

    def output_so_far(server):
        return server._log.read_text("utf-8")

    assert run(scenario()) == (504, 413)
    assert told(output()) == []


def test_before_the_model_is_loaded_bare_arrays_are_hidden(serving, run, output):
    async def scenario():
        failing = "class Loan:\n    def __init__(self):\n        raise ValueError"
        async with serving(failing, "Loan", **settings()) as server:
            answer = await server.client.post("/predict", json={"ndarray": [[NUMBER, 1], [NAME]]})
            return answer.status_code

    assert run(scenario()) == 503
    text = output()
    assert told(text) == []
    assert '{\\"ndarray\\":[[\\"[REDACTED]\\",\\"[REDACTED]\\"],[\\"[REDACTED]\\"]]}' in text


def test_columns_of_bare_arrays_are_those_of_the_model(serving, run):
    async def scenario():
        redact = {"redact": ["B"], "redact_patterns": [r"\b77\d\d\b"]}
        observability = {"log_payloads": True, "payloads": redact}
        async with serving(observability=observability) as server:
            await server.client.post("/predict", json={"ndarray": [[1.5, 81234.5, 7788]]})
            await server.client.post("/predict", json={"ndarray": [[-1, 81234.5, 2]]})
            return server.lines()

    answered, failed = run(scenario())
    assert answered["request_body"] == '{"ndarray":[[1.5,"[REDACTED]",[REDACTED]]]}'
    assert failed["error"] == "the secret reason"


def test_patterns_are_hidden_in_all_that_is_said(serving, run, output):
    async def scenario():
        observability = {
            "log_payloads": True,
            "payloads": {"redact_patterns": [r"O'Hara", r"\d{5,}", "Bahnhof"]},
        }
        async with serving(PREDICTOR, "Loan", observability=observability) as server:
            for todo in ("raise", "raise from", "echo"):
                await server.client.post("/predict", json={"records": [a_row(todo)]})
            await server.client.post("/predict", content=b"O'Hara 918273645")

    run(scenario())
    assert not re.search(r"O'Hara|91827|Bahnhof", output())


def test_without_redaction_bodies_are_as_they_are(serving, run):
    async def scenario():
        async with serving(observability={"log_payloads": True}) as server:
            response = await server.predict([3])
            return response, server.lines()

    response, (record,) = run(scenario())
    assert record["request_body"] == '{"ndarray":[[3,1.0,2.0]]}'
    assert record["response_body"] == response.text


def test_bodies_are_not_logged_unless_asked_for(serving, run):
    async def scenario():
        async with serving(observability={"payloads": {"redact": ["a"]}}) as server:
            await server.predict([3])
            return server.lines()

    (record,) = run(scenario())
    assert {"request_body", "response_body"}.isdisjoint(record)
