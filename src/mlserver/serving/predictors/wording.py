"""How the reasons are worded why a model cannot be loaded: each ends with one full stop or question mark,
or with none where it ends with what others wrote.
"""

from __future__ import annotations

import re
from difflib import get_close_matches
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

EXTRAS = {
    "catboost": "catboost",
    "joblib": "sklearn",
    "lightgbm": "lightgbm",
    "onnxruntime": "onnx",
    "pandas": "dataframe",
    "skops": "sklearn",
    "sklearn": "sklearn",
    "xgboost": "xgboost",
}
"""The extra of this package that brings a library, by the library's import name."""
ORIGIN = re.compile(r"^(?:\[\d\d:\d\d:\d\d\] )?(?:\S+\.(?:cc|cpp|cu|h|hpp):\d+: )?")
"""Where in its C++ a library raised, and at what time: nothing that a reader can use."""


def missing(error: ModuleNotFoundError) -> str:
    """What is not installed and how to install it."""
    name = error.name or str(error)
    extra = EXTRAS.get(name.partition(".")[0])
    remedy = f'pip install "mlserver-observability[{extra}]"' if extra else f"install what provides {name}"
    return f"the Python module {name}, which is not installed: {remedy}"


def brief(error: BaseException) -> str:
    """An exception's class and the first line of its message."""
    first = next(iter(str(error).strip().splitlines()), "")
    return f"{type(error).__name__}: {ORIGIN.sub('', first)}".rstrip(": .")


def a(noun: str) -> str:
    """A noun with its article."""
    return f"an {noun}" if noun[:1].lower() in "aeio" else f"a {noun}"


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of a sentence about an unknown name: the known one that was meant, or a full stop."""
    close = get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]}?" if close else "."
