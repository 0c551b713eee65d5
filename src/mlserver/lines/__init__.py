"""Log lines: how a record becomes a line and how lines reach their file, pipe or terminal whole."""

from mlserver.lines.forms import form_of
from mlserver.lines.stream import ATOMIC_BYTES
from mlserver.lines.takeover import bound_fields, set_level, take_over, teller
from mlserver.lines.texts import MAX_STACK, MAX_TEXT, cut, cut_stack, hidden, plain, timestamp
from mlserver.lines.writer import LineWriter

__all__ = (
    "ATOMIC_BYTES",
    "MAX_STACK",
    "MAX_TEXT",
    "LineWriter",
    "bound_fields",
    "cut",
    "cut_stack",
    "form_of",
    "hidden",
    "plain",
    "set_level",
    "take_over",
    "teller",
    "timestamp",
)
