"""The command ``mlserver``. Results go to standard output, everything else to standard error.

What a command needs is imported when it runs, so that ``--help`` and usage errors are immediate.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import sys
from typing import TYPE_CHECKING, Any

from mlserver.errors import ConfigError, Fault, MLServerError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mlserver.config import Config, ManagementSettings

DONE, FAILED, MISUSED, INTERRUPTED = 0, 1, 2, 130
"""Exit codes: done, failed at run time, bad usage or configuration, ended by Ctrl-C."""

OVERRIDES = {
    "host": "server.host",
    "port": "server.port",
    "workers": "server.workers",
    "log_level": "observability.log_level",
}
"""The options of ``serve`` and the settings that they take the place of."""

CONFIG = "mlserver.yaml"
LOG_LEVEL = "change the log level of a running server until its next reload or restart"
CONNECT_S = 10.0
MAX_ANSWER_BYTES = 2**20
NOT_AS_THE_FILE_SAYS = frozenset({401, 404, 421})
"""What a server may answer whose settings of the management listener are not those of the file."""
CHANGED = (
    "The server goes by what server.management said when it last read the file. If that has been changed "
    "since, send SIGHUP to the supervisor; a new host or port waits for a restart."
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    try:
        return _run(argv)
    except KeyboardInterrupt:
        return INTERRUPTED
    except ConfigError as error:
        _say(str(error))
        return MISUSED
    except MLServerError as error:
        _say(str(error))
        return FAILED


def _run(argv: Sequence[str] | None) -> int:
    try:
        options = _parser().parse_args(argv)
        return int(options.run(options))
    finally:
        _print("")  # what argparse has written may still be on its way


def _print(text: str) -> None:
    """Writes to standard output; one that is closed early, as by ``head``, ends the program quietly.

    Raises:
        MLServerError: it cannot be written.
    """
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except OSError as error:
        # Python flushes once more at the end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            sys.exit(FAILED)
        raise MLServerError(f"cannot write to standard output: {error.strerror}") from None


def _say(message: str) -> None:
    sys.stderr.writelines(f"mlserver: {line}\n" for line in message.splitlines())


class _Version(argparse.Action):
    """Looks the version up only when it is asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from importlib.metadata import version  # noqa: PLC0415

        _print(f"mlserver {version('mlserver-observability')}\n")
        parser.exit(DONE)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="mlserver", description="Serve a model, observed.")
    parser.add_argument("--version", action=_Version, nargs=0, help="show the version and exit")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    serve = _command(commands, "serve", "answer predictions until stopped")
    serve.add_argument("--host", help="address to serve on, in place of server.host")
    serve.add_argument("--port", type=_number, help="port to serve on, in place of server.port")
    serve.add_argument("--workers", type=_number, metavar="N", help='processes, or "auto": one per CPU')
    serve.add_argument("--log-level", metavar="LEVEL", help="DEBUG, INFO, WARNING or ERROR")
    _command(commands, "validate", "print the settings in effect, secrets masked")
    _command(commands, "reload", "have a running server load its model again, without a failed request")
    log_level = commands.add_parser("log-level", help=LOG_LEVEL, description=LOG_LEVEL)
    log_level.add_argument(
        "level", nargs="?", metavar="LEVEL", help="DEBUG, INFO, WARNING or ERROR; without: say which it is"
    )
    _takes_config(log_level, _log_level)
    return parser


def _command(commands: Any, name: str, purpose: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=purpose, description=purpose)
    _takes_config(parser, globals()[f"_{name}"])
    return parser


def _takes_config(parser: argparse.ArgumentParser, run: Callable[[argparse.Namespace], int]) -> None:
    parser.add_argument("config", nargs="?", default=CONFIG, metavar="CONFIG", help="YAML file (%(default)s)")
    parser.set_defaults(run=run)


def _number(text: str) -> int | str:
    """What is no number is left for the settings to judge: they say what is expected."""
    return int(text) if text.isascii() and text.isdigit() else text


def _serve(options: argparse.Namespace) -> int:
    from mlserver.config import load_config  # noqa: PLC0415

    given = {key: getattr(options, name) for name, key in OVERRIDES.items()}
    overrides = {key: value for key, value in given.items() if value is not None}
    named = {key: f"--{name.replace('_', '-')}" for name, key in OVERRIDES.items()}
    config = load_config(options.config, overrides=overrides, options=named)
    from mlserver.server.supervisor import serve  # noqa: PLC0415

    return serve(config, overrides=overrides)


def _validate(options: argparse.Namespace) -> int:
    from mlserver.config import dump_config, load_config  # noqa: PLC0415
    from mlserver.config.surroundings import missing_module, privacy_risk, unwritable_log  # noqa: PLC0415

    config = load_config(options.config)
    if (unwritable := unwritable_log(config)) is not None:
        raise ConfigError([unwritable])
    if (missing := missing_module(config)) is not None:
        _say(f"warning: {missing}")  # it may be made later
    if (risk := privacy_risk(config)) is not None:
        _say(f"warning: {risk}")
    _print(dump_config(config))
    return DONE


def _reload(options: argparse.Namespace) -> int:
    from mlserver.config import load_config  # noqa: PLC0415
    from mlserver.server.reload import longest_s  # noqa: PLC0415

    config = load_config(options.config)
    _expect_listener(config.server.management, refused="reload", instead=", or send SIGHUP to the supervisor")
    status, answer = _ask(config, "POST", "/reload", {}, timeout_s=longest_s(config.server))
    detail = answer.get("detail")
    if status // 100 == 2:
        _print(f"{detail or 'reloaded'}\n")
        return DONE
    return _failed("reload", status, detail)


def _log_level(options: argparse.Namespace) -> int:
    from mlserver.config import load_config  # noqa: PLC0415
    from mlserver.server.verbosity import EXPECTED, UnknownLevel, known_level  # noqa: PLC0415

    level, path = options.level, options.config
    try:
        level = level and known_level(level)
    except UnknownLevel:
        if path != CONFIG or not os.path.isfile(level):  # noqa: PTH113  # whatever the text is
            wanted = f"{level!r} is no log level; expected {EXPECTED}, or the YAML file alone"
            raise ConfigError([Fault("", wanted)]) from None
        level, path = None, level
    config = load_config(path)
    _expect_listener(config.server.management, refused="change of the log level")
    method, wish = ("GET", None) if level is None else ("POST", {"level": level})
    status, answer = _ask(config, method, "/log-level", wish, timeout_s=CONNECT_S)
    if status // 100 == 2 and "level" in answer:
        _print(f"{answer['level']}" + (f", was {answer['was']}\n" if "was" in answer else "\n"))
        return DONE
    return _failed("log-level", status, answer.get("detail"))


def _failed(command: str, status: int, detail: object) -> int:
    _say(f"{command} failed with status {status}: {detail or 'the server gave no reason'}")
    if status in NOT_AS_THE_FILE_SAYS:
        _say(CHANGED)
    return FAILED


def _expect_listener(management: ManagementSettings, *, refused: str, instead: str = "") -> None:
    """Checks that there is a listener that takes what a command asks for.

    Args:
        management: the settings of the listener.
        refused: what is asked for.
        instead: another way to get it.

    Raises:
        ConfigError: there is none.
    """
    from mlserver.server.access import is_loopback  # noqa: PLC0415

    if not management.port:
        port = json.dumps(management.port)
        hint = f"give it a number that is known beforehand{instead}"
        raise ConfigError([Fault("server.management.port", f"{port}, so there is no port to ask; {hint}")])
    if management.token is None and not is_loopback(management.host):
        reason = f"null, so a listener off loopback takes no {refused}"
        raise ConfigError([Fault("server.management.token", f"{reason}; set a token{instead}")])


def _ask(
    config: Config, method: str, path: str, document: object, *, timeout_s: float
) -> tuple[int, dict[str, Any]]:
    """Status and decoded body of the management listener's answer, by no proxy and no redirect.

    Args:
        config: what says where the listener is.
        method: of the request.
        path: likewise.
        document: sent as JSON, unless it is None.
        timeout_s: for the answer.

    Returns:
        the status, and the object that came with it: an empty one if none did.

    Raises:
        MLServerError: There was no answer.
    """
    management = config.server.management
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(management.host, management.host)  # noqa: S104
    body, headers = None, {}
    if document is not None:
        body, headers["Content-Type"] = json.dumps(document), "application/json"
    if management.token is not None:
        headers["Authorization"] = f"Bearer {management.token.get_secret_value()}"
    connection = http.client.HTTPConnection(host, management.port, timeout=CONNECT_S)
    try:
        connection.connect()
        connection.sock.settimeout(timeout_s)
        connection.request(method, path, body=body, headers=headers)
        response = connection.getresponse()
        return response.status, _json(response.read(MAX_ANSWER_BYTES))
    except TimeoutError:
        waited = connection.sock.gettimeout() if connection.sock else CONNECT_S
        raise MLServerError(f"no answer from {host}:{management.port} within {waited:g} s") from None
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise MLServerError(
            f"cannot reach {host}:{management.port}: {reason}; is the server running?\n{CHANGED}"
        ) from None
    finally:
        connection.close()


def _json(body: bytes) -> dict[str, Any]:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}
