"""The code in README.md and docs/: Python blocks run, blocks headed ``# mlserver.yaml`` are valid settings.

Prometheus's own tool reads what is headed ``# prometheus.yml`` or ``# mlserver-rules.yml``, and every block of PromQL.
The blocks of one document share their names and a working folder, so that they can build on each other.
``<!-- skip: next -->`` before a block leaves it out.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml
from prometheus_client import REGISTRY
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
    predictor = yaml.safe_load(text).get("predictor")
    if predictor is None:
        text += SOME_CLASS
    elif "artifact" in predictor:
        artifact = Path(predictor["artifact"])
        artifact.parent.mkdir(parents=True, exist_ok=True)
        artifact.touch()
    Path("mlserver.yaml").write_text(text, "utf-8")
    load_config("mlserver.yaml")


def check_with_promtool(what: str, path: Path) -> None:
    """Fails with what promtool says where it finds a fault."""
    if shutil.which("promtool") is None:
        pytest.skip("promtool is not installed (Debian: prometheus)")
    run = subprocess.run(["promtool", "check", what, path], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr


def load_yaml(example: Example) -> None:
    header, _, _ = example.parsed.partition("\n")
    if header == "# mlserver.yaml":
        load_settings(example)
    elif header == "# prometheus.yml":
        path = Path("prometheus.yml")
        path.write_text(example.parsed, "utf-8")
        for rules in yaml.safe_load(example.parsed).get("rule_files", ()):
            Path(rules).touch()  # it comes in a later block
        check_with_promtool("config", path)
    elif header == "# mlserver-rules.yml":
        path = Path("mlserver-rules.yml")
        path.write_text(example.parsed, "utf-8")
        check_with_promtool("rules", path)


def check_expression(example: Example) -> None:
    rules = {"groups": [{"name": "a", "rules": [{"record": "a", "expr": str(example.parsed)}]}]}
    Path("expression.yml").write_text(yaml.safe_dump(rules), "utf-8")
    check_with_promtool("rules", Path("expression.yml"))


SYBIL = Sybil(
    parsers=[
        PythonCodeBlockParser(),
        CodeBlockParser("yaml", load_yaml),
        CodeBlockParser("promql", check_expression),
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


@pytest.fixture(scope="module")
def registry():
    """The one that metrics go to by themselves; what the documents add to it is taken out again."""
    before = set(REGISTRY._collector_to_names)
    yield REGISTRY
    for collector in set(REGISTRY._collector_to_names) - before:
        REGISTRY.unregister(collector)


@pytest.fixture(autouse=True)
def modules(monkeypatch):
    """Predictors that the documents import are not there for others."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    sys.modules.pop("my_predictor", None)


@pytest.mark.usefixtures("working_folder", "registry")
@pytest.mark.parametrize("block", BLOCKS)
def test_the_code_in_the_documents_works(block):
    block.evaluate()
