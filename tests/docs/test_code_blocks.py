"""The code in README.md and docs/: Python blocks run, blocks headed ``# mlserver.yaml`` are valid settings.

The blocks of one document share their names and a working folder, so that they can build on each other.
``<!-- skip: next -->`` before a block leaves it out.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml
from sybil import Sybil
from sybil.parsers.markdown import ClearNamespaceParser, CodeBlockParser, PythonCodeBlockParser, SkipParser

from mlserver.config import load_config

if TYPE_CHECKING:
    from sybil.example import Example

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
SOME_CLASS = "\npredictor: {module: my_predictor, class_name: CachedPredictor}\n"


def load_settings(example: Example) -> None:
    """Leaves the settings as mlserver.yaml in the working folder, where a later block can use them."""
    text = example.parsed
    if not text.startswith("# mlserver.yaml"):
        return
    predictor = yaml.safe_load(text).get("predictor")
    if predictor is None:
        text += SOME_CLASS
    elif "artifact" in predictor:
        artifact = Path(predictor["artifact"])
        artifact.parent.mkdir(parents=True, exist_ok=True)
        artifact.touch()
    Path("mlserver.yaml").write_text(text, "utf-8")
    load_config("mlserver.yaml")


SYBIL = Sybil(
    parsers=[
        PythonCodeBlockParser(),
        CodeBlockParser("yaml", load_settings),
        SkipParser(),
        ClearNamespaceParser(),
    ],
)
BLOCKS = [
    pytest.param(example, id=f"{document.relative_to(ROOT)}:{example.line}")
    for document in DOCUMENTS
    for example in SYBIL.parse(document).examples()
]


@pytest.fixture
def working_folder(block, tmp_path_factory, monkeypatch):
    """One for each document."""
    folder = tmp_path_factory.getbasetemp() / "documents" / Path(block.path).relative_to(ROOT)
    folder.mkdir(parents=True, exist_ok=True)
    monkeypatch.chdir(folder)


@pytest.mark.usefixtures("working_folder")
@pytest.mark.parametrize("block", BLOCKS)
def test_the_code_in_the_documents_works(block):
    block.evaluate()
