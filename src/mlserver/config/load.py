"""mlserver.yaml, the environment and overrides → settings."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import SecretStr, ValidationError

from mlserver.config import environment
from mlserver.config.document import INIT_KWARGS, Dumper, parse
from mlserver.config.environment import Setting
from mlserver.config.faults import faults_of, unknown
from mlserver.config.schema import KEYS, SECTIONS, KeyPath, names_secret
from mlserver.config.settings import Config
from mlserver.config.wording import MASK, dotted, fault
from mlserver.errors import ConfigError, Fault

MAX_FILE_BYTES = 2**20


def load_config(
    path: Path | str = "mlserver.yaml",
    *,
    overrides: Mapping[str, object] | None = None,
    options: Mapping[str, str] | None = None,
    environ: Mapping[str, str] | None = None,
) -> Config:
    """Read the settings: overrides before environment variables before the file before defaults.

    Args:
        path: The YAML file.
        overrides: Values by dotted path, such as ``{"server.port": 8080}``.
        options: What the user knows an override as, by its path, such as ``{"server.port": "--port"}``.
        environ: Environment to take variables from; the process's own by default.

    Raises:
        ConfigError: With everything that is wrong.
    """
    # not resolved: a mounted ConfigMap is a link into a folder that is replaced with every change
    file = Path(os.path.abspath(path))  # noqa: PTH100
    name = str(path)
    data, faults = parse(_read(file, name), name)
    if data is not None and not isinstance(data, Mapping):
        raise ConfigError([fault(name, f"holds no mapping; expected {_sections()}")])
    settings, wrong = environment.read(os.environ if environ is None else environ)
    named = options or {}
    settings += [
        Setting(tuple(key.split(".")), value, named.get(key, "override"))
        for key, value in (overrides or {}).items()
    ]
    return _validated(data or {}, settings, [*faults, *wrong], {"folder": file.parent, "path": file})


def make_config(data: Mapping[str, Any], folder: Path | str) -> Config:
    """Settings from Python: ``data`` is what the YAML file would hold, ``folder`` where it would be.

    Raises:
        ConfigError: With everything that is wrong.
    """
    if not isinstance(data, Mapping):
        raise ConfigError([fault("", f"got no mapping; expected {_sections()}")])
    return _validated(data, [], [], {"folder": Path(folder).absolute()})


def dump_config(config: Config) -> str:
    """The settings in effect as YAML, secrets masked; so are values of ``init_kwargs`` named like one."""
    return str(yaml.dump(_plain(config.model_dump(), ()), Dumper=Dumper, sort_keys=False))


def _sections() -> str:
    return f"a mapping with the keys {', '.join(Config.model_fields)}"


def _read(file: Path, name: str) -> str:
    try:
        with file.open("rb") as stream:
            content = stream.read(MAX_FILE_BYTES + 1)
        if len(content) > MAX_FILE_BYTES:
            raise ConfigError(
                [fault(name, f"larger than {MAX_FILE_BYTES} bytes; expected a file of settings")]
            )
        return content.decode("utf-8-sig")
    except FileNotFoundError:
        message = "no such file; name the YAML file, or start in its folder"
    except IsADirectoryError:
        message = "a folder; expected the YAML file in it"
    except UnicodeDecodeError as error:
        message = f"not UTF-8: byte {error.start + 1} cannot be decoded; save the file in UTF-8"
    except (OSError, ValueError) as error:
        message = f"cannot be read: {getattr(error, 'strerror', None) or error}"
    raise ConfigError([fault(name, message)])


def _validated(
    data: Mapping[str, Any], settings: Iterable[Setting], faults: list[Fault], context: dict[str, Path]
) -> Config:
    sources: dict[KeyPath, str] = {}
    tree: Any = data
    for path, value, source in settings:
        if path in KEYS or path in SECTIONS:
            tree = _put(tree, path, value)
            sources = {path: source} | sources
        else:
            faults.append(fault(f"{dotted(path)} ({source})", unknown(path, value)))
    try:
        config = Config.model_validate(_normal(tree, ()), context=context)
    except ValidationError as error:
        faults += faults_of(error, sources)
    if faults:
        raise ConfigError(faults)
    return config


def _put(tree: Any, path: KeyPath, value: Any) -> Any:
    """The tree with a value in its place; what is no mapping stays, and is a fault of its own."""
    if not path:
        return value
    if tree is not None and not isinstance(tree, Mapping):
        return tree
    tree = tree or {}
    return {**tree, path[0]: _put(tree.get(path[0]), path[1:], value)}


def _normal(tree: Any, path: KeyPath) -> Any:
    """Sections as dicts with text for keys; one of the file's that is empty is as if it were not there."""
    if path not in SECTIONS or not isinstance(tree, Mapping):
        return tree
    named = {str(key).encode(errors="backslashreplace").decode(): value for key, value in tree.items()}
    return {key: _normal(value, (*path, key)) for key, value in named.items() if path or value is not None}


def _plain(value: Any, path: KeyPath) -> Any:
    match value:
        case SecretStr():
            return MASK
        case Path():
            return str(value)
        case dict():
            return {key: _plain_item(key, item, path) for key, item in value.items()}
        case tuple() | list():
            return [_plain(item, path) for item in value]
    return value


def _plain_item(key: Any, value: Any, path: KeyPath) -> Any:
    if path[:2] == INIT_KWARGS and isinstance(key, str) and names_secret(key):
        return MASK
    return _plain(value, (*path, str(key)))
