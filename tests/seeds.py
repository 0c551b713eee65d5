"""The specification that the project grew from: what stands in it as code has to work."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

SEEDS = Path(__file__).parents[2] / "shared" / "seeds"
needs_seeds = pytest.mark.skipif(not SEEDS.is_dir(), reason=f"the seed specification is not at {SEEDS}")


def blocks(language):
    """All code blocks in a language."""
    text = "\n".join(path.read_text("utf-8") for path in sorted(SEEDS.glob("*.txt")))
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def snippet(class_name):
    """The one code block that defines a class."""
    (block,) = [block for block in blocks("python") if f"class {class_name}:" in block]
    return block
