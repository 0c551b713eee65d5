"""The log level of all processes and how it is changed over the management listener."""

from __future__ import annotations

import asyncio
import logging
from types import SimpleNamespace

import httpx
import pytest

from mlserver import lines
from mlserver.config import make_config
from mlserver.server.management import Management
from mlserver.server.verbosity import UnknownLevel, Verbosity, known_level
from mlserver.serving.health import Health


@pytest.fixture
def told():
    """What the workers were told."""
    return []


@pytest.fixture
def verbosity(told, monkeypatch):
    monkeypatch.setattr(lines, "set_level", told.append)
    return Verbosity("INFO", tell=told.append)


class Lines(logging.Handler):
    def __init__(self):
        super().__init__()
        self.messages = []

    def emit(self, record):
        self.messages.append((record.levelname, record.getMessage()))


@pytest.fixture
def log():
    """Messages of the supervisor, whose log is at its highest level."""
    logger, handler = logging.getLogger("mlserver.supervisor"), Lines()
    before = logger.level
    logger.setLevel(logging.ERROR)
    logger.addHandler(handler)
    yield handler.messages
    logger.removeHandler(handler)
    logger.setLevel(before)


def test_a_change_holds_for_this_process_and_the_workers_and_is_always_told(verbosity, told, log):
    verbosity.change("ERROR")
    assert told == [logging.ERROR, "ERROR"]
    assert verbosity.level == "ERROR"
    assert log == [("INFO", "Log level is now ERROR, was INFO")]


def test_a_change_to_the_same_level_is_not_told_again(verbosity, told, log):
    verbosity.change("INFO")
    assert told == [logging.INFO, "INFO"]
    assert log == []


def test_a_new_configuration_ends_the_change(verbosity, told, log):
    verbosity.change("DEBUG")
    verbosity.adopt("WARNING")
    assert told[2:] == [None]
    assert verbosity.level == "WARNING"
    assert log[1:] == [("INFO", "Log level is now WARNING, was DEBUG")]


@pytest.mark.parametrize("given", ["DEBUG", "debug", "Debug"])
def test_a_level_is_known_in_any_case_of_letters(given):
    assert known_level(given) == "DEBUG"


@pytest.mark.parametrize("given", ["", "debg", "CRITICAL", "NOTSET", 10, None, True, ["DEBUG"], "x" * 10_000])
def test_what_is_no_level_is_refused_with_those_there_are(given):
    with pytest.raises(UnknownLevel, match="expected DEBUG, INFO, WARNING or ERROR") as refused:
        known_level(given)
    assert refused.value.status == 422
    assert len(str(refused.value)) < 200


@pytest.fixture
def ask(verbosity):
    """Sends a request to a management listener."""

    def ask(method, *, management=None, **options):
        data = {"predictor": {"module": "m", "class_name": "C"}, "server": {"management": management or {}}}
        reload = SimpleNamespace(config=make_config(data, "/"))
        app = Management(reload=reload, verbosity=verbosity, health=Health, render=None)

        async def send():
            transport = httpx.ASGITransport(app)
            async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
                return await client.request(method, "/log-level", **options)

        return asyncio.run(send())

    return ask


def test_the_listener_says_the_level(ask, verbosity):
    assert ask("GET").json() == {"level": "INFO"}
    verbosity.level = "ERROR"
    assert ask("GET").json() == {"level": "ERROR"}
    assert ask("HEAD").status_code == 200


def test_the_listener_changes_the_level(ask, told):
    response = ask("POST", json={"level": "debug"})
    assert (response.status_code, response.json()) == (200, {"level": "DEBUG", "was": "INFO"})
    assert told == [logging.DEBUG, "DEBUG"]


@pytest.mark.parametrize("document", [{}, {"level": "x"}, {"level": 10}, {"level": "DEBUG", "other": 1}])
def test_a_wish_that_names_no_level_is_refused(ask, told, document):
    response = ask("POST", json=document)
    assert (response.status_code, response.json()["code"]) == (422, "unknown_log_level")
    assert "DEBUG, INFO, WARNING or ERROR" in response.json()["detail"]
    assert told == []


@pytest.mark.parametrize("body", [b"[]", b'"DEBUG"', b"{"])
def test_a_body_that_is_no_object_is_refused(ask, told, body):
    response = ask("POST", content=body, headers={"Content-Type": "application/json"})
    assert (response.status_code, response.json()["code"]) == (400, "malformed_request")
    assert told == []


@pytest.mark.parametrize(
    ("options", "status"),
    [
        ({"headers": {"Origin": "http://localhost"}}, 403),
        ({"headers": {"Content-Type": "text/plain"}}, 415),
        ({"headers": {"Host": "evil.example"}}, 421),
        ({"management": {"token": "s3cret"}}, 401),
        ({"management": {"host": "0.0.0.0"}}, 404),
    ],
)
def test_who_may_not_reload_may_not_change_the_level(ask, told, options, status):
    response = ask("POST", json={"level": "DEBUG"}, **options)
    assert (response.status_code, told) == (status, [])


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH"])
def test_other_methods_are_refused(ask, told, method):
    response = ask(method, json={"level": "DEBUG"})
    assert (response.status_code, response.headers["Allow"]) == (405, "GET, HEAD, POST")
    assert told == []
