"""Lines for people: time, level, message, then the rest, and tracebacks on lines of their own."""

from __future__ import annotations

from typing import Any

import orjson

from mlserver.signals.lines import EXCEPTION, LEVEL, MESSAGE, TIMESTAMP

_RESET = "\x1b[0m"
_DIM = "\x1b[2m"
_BRIGHT = "\x1b[1m"
_CYAN = "\x1b[36m"
_MAGENTA = "\x1b[35m"
_LEVELS = {
    "DEBUG": "\x1b[36m",
    "INFO": "\x1b[32m",
    "WARNING": "\x1b[33m",
    "ERROR": "\x1b[31m",
    "CRITICAL": "\x1b[1;31m",
}
_LEVEL_WIDTH = 8
_MESSAGE_WIDTH = 24
_INDENTED = (EXCEPTION.name, "stack")
_NEEDS_QUOTES = frozenset(" =\"'")


class Terminal:
    """Writes records for people.

    All that is not printable is escaped, in keys, too, so that nothing that is logged can make a line of its
    own or speak to the terminal.
    """

    def __init__(self, *, colours: bool) -> None:
        self._colours = colours

    def dump(self, record: dict[str, Any]) -> bytes:
        """A record of None, numbers, texts, lists and dicts as a line with its newline."""
        rest = dict(record)
        level = _printable(_text(rest.pop(LEVEL.name, "")))
        message = _printable(_text(rest.pop(MESSAGE.name, "")))
        stacks = [_text(stack) for name in _INDENTED if (stack := rest.pop(name, None))]
        parts = [
            self._painted(_DIM, _printable(_text(rest.pop(TIMESTAMP.name, "")))),
            self._painted(_LEVELS.get(level, ""), level.ljust(_LEVEL_WIDTH)),
            self._painted(_BRIGHT, message.ljust(_MESSAGE_WIDTH)),
        ]
        parts += [self._pair(key, value) for key, value in rest.items() if value is not None]
        text = " ".join(parts).rstrip(" ")
        for stack in stacks:
            text += "".join(f"\n    {_printable(line)}" for line in stack.splitlines())
        return text.encode() + b"\n"

    def _pair(self, key: str, value: object) -> str:
        shown = _quoted(value) if isinstance(value, str) else _printable(_text(value))
        return f"{self._painted(_CYAN, _quoted(key))}={self._painted(_MAGENTA, shown)}"

    def _painted(self, colour: str, text: str) -> str:
        return f"{colour}{text}{_RESET}" if self._colours and colour else text


def _text(value: object) -> str:
    """A value as text; lists and dicts as JSON."""
    if isinstance(value, str):
        return value
    return orjson.dumps(value).decode() if isinstance(value, list | dict | bool) else repr(value)


def _quoted(text: str) -> str:
    """A text, in quotes where its end could not be told without."""
    shown = _printable(text)
    if shown and _NEEDS_QUOTES.isdisjoint(shown):
        return shown
    return '"' + shown.replace('"', '\\"') + '"'


def _printable(text: str) -> str:
    """A text without control characters, line ends, marks of direction and the like."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else _escaped(char) for char in text)


def _escaped(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")
