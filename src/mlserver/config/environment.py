"""Settings from environment variables: ``MLSERVER_<SECTION>__<KEY>``, with further ``__`` for keys below."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Any, NamedTuple

from mlserver.config.document import parse
from mlserver.config.schema import KEYS, SECTIONS, KeyPath, variable
from mlserver.config.wording import fault
from mlserver.errors import ConfigError, Fault

if TYPE_CHECKING:
    from collections.abc import Mapping

PREFIX = "MLSERVER_"
LIKENESS = 0.75
"""How like a known name an unknown one must be. Names in one section begin alike, whatever they mean."""

VARIABLES: dict[str, KeyPath] = {variable(path): path for path in (*SECTIONS, *KEYS) if len(path) > 1}


class Setting(NamedTuple):
    """A value for a key or a whole section, and where it was given."""

    path: KeyPath
    value: Any
    source: str


def read(environ: Mapping[str, str]) -> tuple[list[Setting], list[Fault]]:
    """The settings in an environment, whole sections before their keys, and what is wrong with it.

    Variables without a double underscore are none of ours: Kubernetes makes such ones for a
    service that is called mlserver.
    """
    settings, faults = [], []
    ours = sorted(name for name in environ if name.startswith(PREFIX) and "__" in name)
    for name in ours:
        try:
            settings.append(_setting(name, environ[name]))
        except ConfigError as error:
            faults += error.faults
    return sorted(settings, key=lambda setting: len(setting.path)), faults


def _setting(name: str, text: str) -> Setting:
    if name not in VARIABLES:
        raise ConfigError([_unknown(name)])
    path = VARIABLES[name]
    key = KEYS.get(path)
    if key and key.text:
        return Setting(path, None if key.optional and text == "null" else text, name)
    if not text.strip():
        expected = key.expected if key else "a mapping"
        raise ConfigError([fault(name, f"empty; expected {expected}. Unset it for the value of the file")])
    value, faults = parse(text, name, path)
    if faults:
        raise ConfigError([fault(f"{found.path} ({name})", found.message) for found in faults])
    return Setting(path, value, name)


def _unknown(name: str) -> Fault:
    known = [variable.removeprefix(PREFIX) for variable in VARIABLES]
    near = difflib.get_close_matches(name.removeprefix(PREFIX).upper(), known, n=1, cutoff=LIKENESS)
    hint = f"did you mean {PREFIX}{near[0]}?" if near else "it sets no known key"
    return fault(name, f"unknown variable; {hint}")
