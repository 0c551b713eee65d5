"""The settings as a table: every key and section of mlserver.yaml, derived from their declarations."""

from __future__ import annotations

import difflib
import re
import types
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from mlserver.config.checks import Expected
from mlserver.config.kinds import Settings
from mlserver.config.settings import Config

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

KeyPath = tuple[str, ...]

TEXT_TYPES = (str, SecretStr, Path)


@dataclass(frozen=True)
class Key:
    """One setting."""

    path: KeyPath
    expected: str
    """What it takes, in plain words."""
    item: str
    """What each item takes, where it can be a list; else nothing."""
    default: Any
    description: str
    secret: bool
    """Its value is never shown."""
    text: bool
    """It takes text only (or null): what looks like a number or a boolean is text there, too."""
    optional: bool
    """It takes null."""

    @property
    def variable(self) -> str:
        """The environment variable that sets it."""
        return variable(self.path)


def variable(path: KeyPath) -> str:
    """The environment variable for a key or a section."""
    return "MLSERVER_" + "__".join(path).upper()


def _members(annotation: Any) -> list[tuple[Any, list[Any]]]:
    """The alternatives of a type with the metadata of each; an alternative without any has an empty list."""
    if get_origin(annotation) is Annotated:
        inner, *extra = get_args(annotation)
        flat = [part for item in extra for part in (item.metadata if isinstance(item, FieldInfo) else [item])]
        return [(member, [*metadata, *flat]) for member, metadata in _members(inner)]
    if get_origin(annotation) in (Union, types.UnionType):
        return [pair for part in get_args(annotation) for pair in _members(part)]
    return [(annotation, [])]


def _bounds(metadata: Sequence[Any]) -> str:
    """`` from 0 to 65535``, `` of at least 1``, `` above 0 and at most 9`` or nothing."""
    found = {
        name: getattr(item, name) for item in metadata for name in ("ge", "gt", "le") if hasattr(item, name)
    }
    match found:
        case {"ge": low, "le": high}:
            return f" from {low} to {high}"
        case {"gt": low, "le": high}:
            return f" above {low} and at most {high}"
        case {"ge": low}:
            return f" of at least {low}"
    return ""


def _in_words(member: Any, metadata: Sequence[Any]) -> str:
    if stated := [item.words for item in metadata if isinstance(item, Expected)]:
        return str(stated[0])
    if get_origin(member) is Literal:
        values = [f'"{value}"' for value in get_args(member)]
        return values[0] if len(values) == 1 else f"one of {', '.join(values)}"
    names = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
    return names[member] + _bounds(metadata)


def describe(annotation: Any, metadata: Sequence[Any] = ()) -> str:
    """What a type takes, in plain words."""
    members = [pair for pair in _members(annotation) if pair[0] is not type(None)]
    words = " or ".join(_in_words(member, [*inner, *metadata]) for member, inner in members)
    return f"{words}, or null" if len(members) < len(_members(annotation)) else words


def _item(member: Any) -> str:
    return describe(get_args(member)[0]) if get_origin(member) is tuple else ""


def is_section(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, Settings)


def _key(path: KeyPath, field: FieldInfo) -> Key:
    members = [member for member, _ in _members(field.annotation)]
    given = [member for member in members if member is not type(None)]
    return Key(
        path=path,
        expected=describe(field.annotation, field.metadata),
        item="".join(map(_item, given)),
        default=None if field.default is PydanticUndefined else field.default,
        description=field.description or "",
        secret=SecretStr in given,
        text=all(member in TEXT_TYPES or get_origin(member) is Literal for member in given),
        optional=type(None) in members,
    )


def _walk(model: type[Settings], path: KeyPath = ()) -> Iterator[tuple[KeyPath, type[Settings] | Key]]:
    yield path, model
    for name, field in model.model_fields.items():
        if is_section(field.annotation):
            yield from _walk(field.annotation, (*path, name))  # type: ignore[arg-type]
        else:
            yield (*path, name), _key((*path, name), field)


_TABLE = dict(_walk(Config))

KEYS: dict[KeyPath, Key] = {path: item for path, item in _TABLE.items() if isinstance(item, Key)}
"""Every setting by its path, in the order of the file."""

SECTIONS: dict[KeyPath, type[Settings]] = {path: i for path, i in _TABLE.items() if not isinstance(i, Key)}
"""Every section by its path; the file itself is the section ``()``."""


def children(section: KeyPath) -> list[str]:
    """The names of the keys and sections that are directly in a section."""
    return list(SECTIONS[section].model_fields)


_SECRETS = [path for path, key in KEYS.items() if key.secret]
_SECRET_WORDS = re.compile(
    r"secret|passw|pwd|credential|(auth|token)$|(api|private|access)[_-]?key", re.IGNORECASE
)


def names_secret(name: str) -> bool:
    """Whether a name speaks of a secret."""
    return bool(_SECRET_WORDS.search(name))


def is_secret(path: KeyPath) -> bool:
    """Whether a value given here must not be shown.

    Besides the secret keys these are the places where a secret was perhaps meant to be: a section that holds
    one, an unknown key beside one, and any unknown key whose name speaks of one or nearly is one's.
    """
    if path in KEYS:
        return KEYS[path].secret
    if any(secret[: len(path)] == path or secret[:-1] == path[:-1] for secret in _SECRETS):
        return True
    names = [secret[-1] for secret in _SECRETS]
    return names_secret(path[-1]) or bool(difflib.get_close_matches(path[-1].lower(), names))
