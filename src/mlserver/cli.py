"""The command ``mlserver``. Results go to standard output, everything else to standard error.

What a command needs is imported when it runs, so that ``--help`` and usage errors are immediate.
"""

from __future__ import annotations

import argparse
import http.client
import json
import sys
from typing import TYPE_CHECKING, Any

from mlserver.errors import ConfigError, Fault, MLServerError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlserver.config import Config

DONE, FAILED, MISUSED = 0, 1, 2
"""Exit codes: done, failed at run time, bad usage or configuration."""

OVERRIDES = {
    "host": "server.host",
    "port": "server.port",
    "workers": "server.workers",
    "log_level": "observability.log_level",
}
"""The options of ``serve`` and the settings that they take the place of."""

RELOAD_SLACK_S = 120
"""Seconds that loading a model may take, beyond the time that the replaced worker has to stop."""

MAX_ANSWER_BYTES = 2**20


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    options = _parser().parse_args(argv)
    try:
        return int(options.run(options))
    except ConfigError as error:
        _say(str(error))
        return MISUSED
    except MLServerError as error:
        _say(str(error))
        return FAILED


def _say(message: str) -> None:
    sys.stderr.writelines(f"mlserver: {line}\n" for line in message.splitlines())


class _Version(argparse.Action):
    """Looks the version up only when it is asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from importlib.metadata import version  # noqa: PLC0415

        sys.stdout.write(f"mlserver {version('mlserver-observability')}\n")
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
    return parser


def _command(commands: Any, name: str, purpose: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=purpose, description=purpose)
    parser.add_argument(
        "config", nargs="?", default="mlserver.yaml", metavar="CONFIG", help="YAML file (%(default)s)"
    )
    parser.set_defaults(run=globals()[f"_{name}"])
    return parser


def _number(text: str) -> int | str:
    """What is no number is left for the settings to judge: they say what is expected."""
    return int(text) if text.isascii() and text.isdigit() else text


def _serve(options: argparse.Namespace) -> int:
    from mlserver.config import load_config  # noqa: PLC0415

    given = {key: getattr(options, name) for name, key in OVERRIDES.items()}
    overrides = {key: value for key, value in given.items() if value is not None}
    config = load_config(options.config, overrides=overrides)
    from mlserver.server.supervisor import serve  # noqa: PLC0415

    return serve(config, overrides=overrides)


def _validate(options: argparse.Namespace) -> int:
    from mlserver.config import dump_config, load_config  # noqa: PLC0415

    sys.stdout.write(dump_config(load_config(options.config)))
    return DONE


def _reload(options: argparse.Namespace) -> int:
    from mlserver.config import load_config  # noqa: PLC0415

    config = load_config(options.config)
    if not config.server.management.port:
        port = json.dumps(config.server.management.port)
        hint = "give it a number that is known beforehand, or send SIGHUP to the supervisor"
        raise ConfigError([Fault("server.management.port", f"{port}, so there is no port to ask; {hint}")])
    status, answer = _post_reload(config)
    detail = answer.get("detail") if isinstance(answer, dict) else None
    if status // 100 == 2:
        sys.stdout.write(f"{detail or 'reloaded'}\n")
        return DONE
    _say(f"reload failed with status {status}: {detail or 'the server gave no reason'}")
    return FAILED


def _post_reload(config: Config) -> tuple[int, Any]:
    """Status and decoded body of the management listener's answer, by no proxy and no redirect.

    Raises:
        MLServerError: There was no answer.
    """
    management = config.server.management
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(management.host, management.host)  # noqa: S104
    headers = {"Content-Type": "application/json"}
    if management.token is not None:
        headers["Authorization"] = f"Bearer {management.token.get_secret_value()}"
    timeout = config.server.graceful_timeout_s + RELOAD_SLACK_S
    connection = http.client.HTTPConnection(host, management.port, timeout=timeout)
    try:
        connection.request("POST", "/reload", body=b"{}", headers=headers)
        response = connection.getresponse()
        return response.status, _json(response.read(MAX_ANSWER_BYTES))
    except TimeoutError:
        raise MLServerError(f"no answer from {host}:{management.port} within {timeout:g} s") from None
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise MLServerError(
            f"cannot reach {host}:{management.port}: {reason}; is the server running?"
        ) from None
    finally:
        connection.close()


def _json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None
