"""The text of mlserver.yaml as plain data, read strictly.

Three traps of YAML are closed: a key given twice is a fault, text keys keep their value as it is written
(``version: 1.10`` is the text 1.10, ``name: no`` the text no), and ``1e-3`` is a number.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import yaml
from yaml.constructor import ConstructorError
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from yaml.reader import ReaderError

from mlserver.config.schema import KEYS, SECTIONS, KeyPath
from mlserver.config.wording import dotted, fault
from mlserver.errors import ConfigError, Fault

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_DEPTH = 50
MAX_VALUES = 1_000_000
"""More than a file of the permitted size can hold, unless its aliases multiply."""

TEXT = "tag:yaml.org,2002:str"
NULL = "tag:yaml.org,2002:null"
MERGE = "tag:yaml.org,2002:merge"
FLOAT = "tag:yaml.org,2002:float"
INIT_KWARGS = ("predictor", "init_kwargs")
EXPONENT = re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$")

PROBLEMS = {
    "found undefined alias": "an alias (*name) without its anchor (&name); put it in quotes if it is text",
    "could not determine a constructor": "an unknown tag (!name); put it in quotes if it is text",
    "special characters are not allowed": "a character that YAML does not permit",
}
"""Start of the parser's words: ours."""


class Loader(yaml.SafeLoader):
    """YAML without code. The pure Python one: libyaml's ends the process on deeply nested text."""

    def construct_object(self, node: Any, deep: bool = False) -> Any:  # noqa: FBT001, FBT002
        """Turn what Python's own conversions raise, say for the 13th month, into an error with a place."""
        try:
            value = super().construct_object(node, deep=deep)
            if isinstance(value, int):
                str(value)  # raises for a number that is too long to be written again
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
            raise ConstructorError(None, None, "a value that its type cannot hold", node.start_mark) from None
        return value


class Dumper(yaml.SafeDumper):
    """Writes what the loader reads back as the same; objects that YAML does not know as their text."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002
        return True


Loader.add_implicit_resolver(FLOAT, EXPONENT, list("-+0123456789"))
Dumper.add_implicit_resolver(FLOAT, EXPONENT, list("-+0123456789"))
Dumper.add_multi_representer(object, lambda dumper, value: dumper.represent_str(str(value)))


def parse(text: str, name: str, at: KeyPath = ()) -> tuple[Any, list[Fault]]:
    """The data of a YAML text, and a fault for every key that is in it twice (of which the last counts).

    ``name`` is what faults call the text; ``at`` is the place in the settings that it is the value of.

    Raises:
        ConfigError: The text cannot be read as YAML.
    """
    try:
        node = yaml.compose(text, Loader)
        if node is None:
            return None, []
        _measure(node, {})
        faults = list(_repeated(node, at, set()))
        return _construct(_as_text(node, at)), faults
    except RecursionError:
        raise ConfigError([fault(name, f"nested more than {MAX_DEPTH} levels deep; expected less")]) from None
    except yaml.YAMLError as error:
        raise ConfigError([fault(name, f"not valid YAML: {_problem(error, text)}")]) from None


def _construct(node: Node) -> Any:
    loader = Loader("")
    try:
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _problem(error: yaml.YAMLError, text: str) -> str:
    """Line, column and what is wrong there. Words of the text are left out: they may be of a secret."""
    if isinstance(error, ReaderError):
        before = text[: error.position]
        line, column, problem = before.count("\n"), len(before) - before.rfind("\n") - 1, error.reason
    else:
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        line, column = (mark.line, mark.column) if mark else (0, 0)
        problem = getattr(error, "problem", None) or "cannot be read"
    stripped = re.sub(r" '[^<'][^']+'", "", problem)
    ours = next((words for start, words in PROBLEMS.items() if problem.startswith(start)), stripped)
    return f"line {line + 1}, column {column + 1}: {ours}"


def _children(node: Node) -> list[Node]:
    if isinstance(node, MappingNode):
        return [part for pair in node.value for part in pair]
    return list(node.value) if isinstance(node, SequenceNode) else []


def _measure(node: Node, known: dict[int, tuple[int, int] | None]) -> tuple[int, int]:
    """Values and levels of a node, aliases counted as often as they are used."""
    if id(node) in known:
        if (size := known[id(node)]) is None:
            raise ConstructorError(None, None, "an alias inside of what it stands for", node.start_mark)
        return size
    known[id(node)] = None
    sizes = [_measure(child, known) for child in _children(node)]
    values, depth = 1 + sum(size for size, _ in sizes), 1 + max((depth for _, depth in sizes), default=0)
    if depth > MAX_DEPTH:
        raise RecursionError
    if values > MAX_VALUES:
        problem = f"aliases that stand for more than {MAX_VALUES:,} values"
        raise ConstructorError(None, None, problem, node.start_mark)
    known[id(node)] = values, depth
    return values, depth


def _repeated(node: Node, path: KeyPath, seen: set[int]) -> Iterator[Fault]:
    if id(node) in seen:
        return
    seen.add(id(node))
    if not isinstance(node, MappingNode):
        for child in _children(node):
            yield from _repeated(child, path, seen)
        return
    lines: dict[str, int] = {}
    for key, value in node.value:
        name, line = str(key.value), key.start_mark.line + 1
        if name in lines and isinstance(key, ScalarNode) and key.tag != MERGE:
            yield fault(dotted((*path, name)), f"given twice, in lines {lines[name]} and {line}; keep one")
        lines.setdefault(name, line)
        yield from _repeated(value, (*path, name), seen)


def _as_text(node: Node, path: KeyPath) -> Node:
    """The node with every value of a text key, and every key of the settings, as the text that is written."""
    if isinstance(node, MappingNode) and path in (*SECTIONS, INIT_KWARGS):
        pairs = [(_text(key), _as_text(value, _below(path, key))) for key, value in node.value]
        return MappingNode(node.tag, pairs, node.start_mark, node.end_mark)
    if isinstance(node, SequenceNode) and path in SECTIONS:  # the mappings of a merge
        items = [_as_text(item, path) for item in node.value]
        return SequenceNode(node.tag, items, node.start_mark, node.end_mark)
    if path not in KEYS:
        return node
    if isinstance(node, SequenceNode) and KEYS[path].item:
        items = [_text(item) for item in node.value]
        return SequenceNode(node.tag, items, node.start_mark, node.end_mark)
    return _text(node) if KEYS[path].text else node


def _below(path: KeyPath, key: Node) -> KeyPath:
    return path if key.tag == MERGE else (*path, str(key.value))


def _text(node: Node) -> Node:
    if not isinstance(node, ScalarNode) or node.style is not None or node.tag in (NULL, MERGE, TEXT):
        return node
    return ScalarNode(TEXT, node.value, node.start_mark, node.end_mark)
