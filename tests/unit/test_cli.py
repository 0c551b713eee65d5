"""The command: its options, what it prints where, its exit codes."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import yaml

from mlserver.cli import main
from mlserver.errors import ConfigError, Fault, MLServerError
from mlserver.server import supervisor

SECRET = "hunter2-correct-horse"
VALID = {"predictor": {"module": "my_predictor", "class_name": "CachedPredictor"}}


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def write(tmp_path):
    """Writes mlserver.yaml; returns its path as text."""

    def write(name="mlserver.yaml", **sections):
        (tmp_path / name).write_text(yaml.safe_dump(VALID | sections))
        return str(tmp_path / name)

    return write


@pytest.fixture
def served(monkeypatch):
    """What `serve` was called with, in place of a server."""
    calls = []

    def serve(config, *, overrides):
        calls.append((config, overrides))
        return 0

    monkeypatch.setattr(supervisor, "serve", serve)
    return calls


class Listener:
    """A management listener that answers every request alike."""

    def __init__(self, status, body):
        requests = self.requests = []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                length = int(self.headers.get("content-length", 0))
                requests.append((self.path, dict(self.headers), self.rfile.read(length)))
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.send_header("Location", "/elsewhere")
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_POST  # noqa: N815

            def log_message(self, *_):
                pass

        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def close(self):
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def listen():
    listeners = []

    def listen(status=200, body=b'{"status": "reloaded", "detail": "Reloaded"}'):
        listeners.append(Listener(status, body))
        return listeners[-1]

    yield listen
    for listener in listeners:
        listener.close()


# serve


def test_serve_passes_its_options_as_overrides(write, served):
    path = write()
    options = ["--host", "127.0.0.1", "--port", "0", "--workers", "auto", "--log-level", "debug"]
    assert main(["serve", path, *options]) == 0
    ((config, overrides),) = served
    assert overrides == {
        "server.host": "127.0.0.1",
        "server.port": 0,
        "server.workers": "auto",
        "observability.log_level": "debug",
    }
    assert (config.server.port, config.observability.log_level) == (0, "DEBUG")


def test_serve_without_options_overrides_nothing_and_finds_the_file_in_the_folder(write, served):
    write(server={"port": 1234})
    assert main(["serve"]) == 0
    ((config, overrides),) = served
    assert overrides == {}
    assert config.server.port == 1234


def test_serve_refuses_settings_before_it_starts(write, served, capsys):
    path = write(server={"port": "x", "prot": 1})
    assert main(["serve", path]) == 2
    assert served == []
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        'mlserver: server.port: got "x", expected a whole number from 0 to 65535',
        "mlserver: server.prot: unknown key, got 1; did you mean server.port?",
    ]


@pytest.mark.parametrize("value", ["x", "-1", "70000", "1.5", "٣"])
def test_an_option_is_judged_like_the_setting(write, served, capsys, value):
    assert main(["serve", write(), f"--port={value}"]) == 2
    assert capsys.readouterr().err.startswith("mlserver: server.port (--port): got ")
    assert served == []


@pytest.mark.parametrize(
    ("error", "code"),
    [(MLServerError("the port is taken"), 1), (ConfigError([Fault("", "the port is taken")]), 2)],
)
def test_what_the_server_raises_is_one_line_and_an_exit_code(write, monkeypatch, capsys, error, code):
    def serve(config, *, overrides):
        raise error

    monkeypatch.setattr(supervisor, "serve", serve)
    assert main(["serve", write()]) == code
    assert capsys.readouterr().err == "mlserver: the port is taken\n"


def test_the_exit_code_is_the_server_s(write, monkeypatch):
    monkeypatch.setattr(supervisor, "serve", lambda config, *, overrides: 1)
    assert main(["serve", write()]) == 1


def test_an_interrupt_ends_quietly_with_130(write, monkeypatch, capsys):
    def serve(config, *, overrides):
        raise KeyboardInterrupt

    monkeypatch.setattr(supervisor, "serve", serve)
    assert main(["serve", write()]) == 130
    assert capsys.readouterr() == ("", "")


# validate


def test_validate_prints_the_settings_in_effect(write, capsys, monkeypatch, tmp_path):
    (tmp_path / "my_predictor.py").touch()
    monkeypatch.setenv("MLSERVER_SERVER__PORT", "9000")
    assert main(["validate", write(model={"name": "survival"})]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    settings = yaml.safe_load(out)
    assert settings["server"]["port"] == 9000
    assert settings["model"]["name"] == "survival"
    assert settings["api"]["max_queue"] == 1024


def test_validate_says_every_fault_in_a_line(write, capsys):
    assert main(["validate", write(model={"nam": "a"}, api={"max_queue": 0})]) == 2
    assert capsys.readouterr().err.splitlines() == [
        'mlserver: model.nam: unknown key, got "a"; did you mean model.name?',
        "mlserver: api.max_queue: got 0, expected a whole number of at least 1",
    ]


def test_validate_says_that_there_is_no_file(capsys):
    assert main(["validate"]) == 2
    line = "mlserver: mlserver.yaml: no such file; name the YAML file, or start in its folder\n"
    assert capsys.readouterr().err == line


def test_validate_warns_of_a_module_that_is_not_there_yet(write, capsys, tmp_path):
    assert main(["validate", write()]) == 0
    out, err = capsys.readouterr()
    assert yaml.safe_load(out)["predictor"]["module"] == "my_predictor"
    assert err == (
        "mlserver: warning: predictor.module: there is no module my_predictor in "
        f"{tmp_path}, nor is one installed\n"
    )


def test_validate_refuses_a_log_file_that_cannot_be_written(write, capsys, tmp_path):
    (tmp_path / "server.log").symlink_to(tmp_path / "none" / "server.log")
    assert main(["validate", write(observability={"log_file": "server.log"})]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"mlserver: observability.log_file: {tmp_path}/server.log: expected")


@pytest.mark.parametrize(
    ("payloads", "left_out"),
    [
        ({}, "nothing"),
        ({"redact": ["name", "city"]}, "name, city"),
        ({"redact": ["name"], "redact_patterns": ["O'Hara"]}, "name, what matches 1 pattern"),
        ({"redact_patterns": ["O'Hara", "Ada"]}, "what matches 2 patterns"),
    ],
)
def test_validate_warns_of_bodies_in_the_log(write, capsys, tmp_path, payloads, left_out):
    (tmp_path / "my_predictor.py").touch()
    observability = {"log_payloads": True, "payloads": payloads}
    assert main(["validate", write(observability=observability)]) == 0
    out, err = capsys.readouterr()
    assert yaml.safe_load(out)["observability"]["log_payloads"] is True
    (line,) = err.splitlines()
    assert line.startswith("mlserver: warning: observability.log_payloads is on: ")
    assert "personal data" in line
    assert f"Left out of them: {left_out} (" in line
    assert "Hara" not in line


@pytest.mark.parametrize("port", [8001, "wrong"])
def test_no_command_shows_the_token(write, capsys, port):
    path = write(server={"management": {"token": SECRET, "port": port}})
    main(["validate", path])
    assert SECRET not in "".join(capsys.readouterr())


# reload


def test_reload_posts_an_empty_object_with_the_token(write, listen, capsys, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    listener = listen()
    path = write(server={"management": {"port": listener.port, "token": SECRET}})
    assert main(["reload", path]) == 0
    ((target, headers, body),) = listener.requests
    assert (target, json.loads(body)) == ("/reload", {})
    assert headers["Content-Type"] == "application/json"
    assert headers["Authorization"] == f"Bearer {SECRET}"
    assert "Origin" not in headers
    assert capsys.readouterr().out == "Reloaded\n"


def test_reload_sends_no_authorization_without_a_token(write, listen):
    listener = listen()
    assert main(["reload", write(server={"management": {"port": listener.port}})]) == 0
    assert "Authorization" not in listener.requests[0][1]


@pytest.mark.parametrize(("host", "dialled"), [("0.0.0.0", "127.0.0.1"), ("localhost", "localhost")])
def test_reload_dials_loopback_where_the_listener_has_all_addresses(write, listen, host, dialled):
    listener = listen()
    management = {"host": host, "port": listener.port, "token": SECRET}
    assert main(["reload", write(server={"management": management})]) == 0
    ((_, headers, _),) = listener.requests
    assert headers["Host"] == f"{dialled}:{listener.port}"


def test_reload_prints_why_it_failed(write, listen, capsys):
    problem = {"detail": "predictor.artifact: no such file\nmodel.nam: unknown key"}
    listener = listen(422, json.dumps(problem).encode())
    assert main(["reload", write(server={"management": {"port": listener.port}})]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "mlserver: reload failed with status 422: predictor.artifact: no such file",
        "mlserver: model.nam: unknown key",
    ]


@pytest.mark.parametrize(("status", "body"), [(502, b"<html>"), (500, b"[1]"), (307, b"")])
def test_reload_fails_without_a_reason_where_the_answer_has_none(write, listen, capsys, status, body):
    listener = listen(status, body)
    path = write(server={"management": {"port": listener.port, "token": SECRET}})
    assert main(["reload", path]) == 1
    assert capsys.readouterr().err == (
        f"mlserver: reload failed with status {status}: the server gave no reason\n"
    )
    assert [target for target, _, _ in listener.requests] == ["/reload"]


def test_reload_says_where_nothing_answers(write, capsys):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        assert main(["reload", write(server={"management": {"port": port}})]) == 1
    err = capsys.readouterr().err
    assert err.startswith(f"mlserver: cannot reach 127.0.0.1:{port}: Connection refused")


def test_reload_says_what_answered_no_http(write, capsys):
    with socket.create_server(("127.0.0.1", 0)) as server:

        def hang_up():
            server.accept()[0].close()

        thread = threading.Thread(target=hang_up)
        thread.start()
        assert main(["reload", write(server={"management": {"port": server.getsockname()[1]}})]) == 1
        thread.join()
    assert "mlserver: cannot reach 127.0.0.1" in capsys.readouterr().err


@pytest.mark.parametrize(("port", "shown"), [(None, "null"), (0, "0")])
def test_reload_needs_a_port_to_ask(write, capsys, port, shown):
    assert main(["reload", write(server={"management": {"port": port}})]) == 2
    assert capsys.readouterr().err.startswith(
        f"mlserver: server.management.port: {shown}, so there is no port"
    )


@pytest.mark.parametrize("host", ["0.0.0.0", "10.1.2.3", "example.org"])
def test_reload_says_that_a_listener_off_loopback_needs_a_token(write, capsys, host):
    assert main(["reload", write(server={"management": {"host": host}})]) == 2
    assert capsys.readouterr().err == (
        "mlserver: server.management.token: null, so a listener off loopback takes no reload; "
        "set a token, or send SIGHUP to the supervisor\n"
    )


@pytest.mark.parametrize("status", [401, 404, 421])
def test_reload_says_that_the_server_may_have_older_settings_than_the_file(write, listen, capsys, status):
    listener = listen(status, b'{"detail": "No."}')
    assert main(["reload", write(server={"management": {"port": listener.port}})]) == 1
    first, second = capsys.readouterr().err.splitlines()
    assert first == f"mlserver: reload failed with status {status}: No."
    assert "when it last read the file" in second
    assert "SIGHUP" in second


# log-level


def test_a_log_level_is_posted_with_the_token_in_capitals(write, listen, capsys):
    listener = listen(body=b'{"level": "DEBUG", "was": "INFO"}')
    path = write(server={"management": {"port": listener.port, "token": SECRET}})
    assert main(["log-level", "debug", path]) == 0
    ((target, headers, body),) = listener.requests
    assert (target, json.loads(body)) == ("/log-level", {"level": "DEBUG"})
    assert headers["Content-Type"] == "application/json"
    assert headers["Authorization"] == f"Bearer {SECRET}"
    assert "Origin" not in headers
    assert capsys.readouterr() == ("DEBUG, was INFO\n", "")


@pytest.mark.parametrize("name", ["mlserver.yaml", "other.yaml"])
def test_without_a_log_level_the_present_one_is_printed(write, listen, capsys, name):
    listener = listen(body=b'{"level": "WARNING"}')
    write(name, server={"management": {"port": listener.port}})
    assert main(["log-level", *([] if name == "mlserver.yaml" else [name])]) == 0
    ((target, headers, body),) = listener.requests
    assert (target, body) == ("/log-level", b"")
    assert "Content-Type" not in headers
    assert capsys.readouterr() == ("WARNING\n", "")


@pytest.mark.parametrize("arguments", [["DEBG"], ["DEBG", "other.yaml"]])
def test_a_level_that_there_is_not_is_bad_usage_and_the_server_is_not_asked(write, listen, capsys, arguments):
    listener = listen()
    write(server={"management": {"port": listener.port}})
    assert main(["log-level", *arguments]) == 2
    assert capsys.readouterr().err == (
        "mlserver: 'DEBG' is no log level; expected DEBUG, INFO, WARNING or ERROR, or the YAML file alone\n"
    )
    assert listener.requests == []


def test_a_change_of_level_that_is_refused_is_printed_with_the_reason(write, listen, capsys):
    listener = listen(404, b'{"detail": "There is nothing at this path."}')
    assert main(["log-level", "INFO", write(server={"management": {"port": listener.port}})]) == 1
    first, second = capsys.readouterr().err.splitlines()
    assert first == "mlserver: log-level failed with status 404: There is nothing at this path."
    assert "when it last read the file" in second


@pytest.mark.parametrize("body", [b"[1]", b"{}", b"no JSON"])
def test_an_answer_that_names_no_level_is_a_failure(write, listen, capsys, body):
    listener = listen(200, body)
    assert main(["log-level", "INFO", write(server={"management": {"port": listener.port}})]) == 1
    assert "the server gave no reason" in capsys.readouterr().err


def test_a_change_of_level_needs_a_listener_that_takes_it(write, capsys):
    assert main(["log-level", "INFO", write(server={"management": {"port": None}})]) == 2
    assert main(["log-level", "INFO", write(server={"management": {"host": "0.0.0.0"}})]) == 2
    assert capsys.readouterr().err.splitlines() == [
        "mlserver: server.management.port: null, so there is no port to ask; give it a number that is known beforehand",
        "mlserver: server.management.token: null, so a listener off loopback takes no change of the log level; set a token",
    ]


# standard output


def run(*arguments, **options):
    command = [sys.executable, "-m", "mlserver", *arguments]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    return subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False, env=environment, **options)


@pytest.mark.parametrize("arguments", [["validate", "mlserver.yaml"], ["--version"], ["--help"]])
def test_a_reader_that_has_seen_enough_ends_the_command_quietly(write, tmp_path, arguments):
    write()
    (tmp_path / "my_predictor.py").touch()
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing) as pipe:
        done = run(*arguments, stdout=pipe)
    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.parametrize("arguments", [["validate", "mlserver.yaml"], ["--version"]])
def test_a_full_disk_is_one_line(write, tmp_path, arguments):
    write()
    (tmp_path / "my_predictor.py").touch()
    with Path("/dev/full").open("w") as full:
        done = run(*arguments, stdout=full)
    assert done.returncode == 1
    assert done.stderr == "mlserver: cannot write to standard output: No space left on device\n"


# usage


@pytest.mark.parametrize("argv", [[], ["unknown"], ["serve", "--unknown"], ["validate", "a", "b"]])
def test_bad_usage_ends_with_2(argv, capsys):
    with pytest.raises(SystemExit) as caught:
        main(argv)
    assert caught.value.code == 2
    assert capsys.readouterr().err.startswith("usage: mlserver")


def test_version_is_the_distribution_s(capsys):
    from importlib.metadata import version

    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"mlserver {version('mlserver-observability')}\n"


def test_the_module_is_the_command(tmp_path):
    command = [sys.executable, "-m", "mlserver", "validate", "none.yaml"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "mlserver: none.yaml: no such file; name the YAML file, or start in its folder\n"


def test_the_command_starts_without_what_only_a_server_needs():
    code = "import sys, mlserver.cli; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"numpy", "pydantic", "uvicorn", "prometheus_client", "structlog"} & set(done.stdout.split())
