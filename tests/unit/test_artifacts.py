"""Model files that cannot be loaded are told apart, whatever their format."""

from __future__ import annotations

import re
import sys

import pytest
from sklearn.linear_model import LinearRegression

from mlserver.config import make_config
from mlserver.errors import ModelLoadError
from mlserver.serving.predictors.artifacts import load_artifact

CALLED = {
    "skops": "a skops file",
    "joblib": "a joblib file",
    "pickle": "a pickle file",
    "catboost": "a CatBoost file",
    "xgboost": "an XGBoost file",
    "lightgbm": "no LightGBM model",
    "onnx": "an ONNX file",
}
FILES = {
    "skops": "model.skops",
    "joblib": "model.joblib",
    "pickle": "model.pkl",
    "catboost": "model.cbm",
    "xgboost": "model.json",
    "lightgbm": "model.txt",
    "onnx": "model.onnx",
}


@pytest.mark.parametrize("format_", FILES)
@pytest.mark.parametrize("content", [b"", b"hello", b"\x80\x04K\x01.", b'{"a": 1}'])
def test_a_file_that_is_something_else_is_named_with_its_format_and_the_cause(
    files, tmp_path, format_, content
):
    path = tmp_path / FILES[format_]
    path.write_bytes(content)
    with pytest.raises(ModelLoadError) as caught:
        files.load(path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    assert "Stack trace" not in message
    assert not re.search(r"\[\d\d:\d\d:\d\d\]|\.(cc|cpp|h):\d", message)
    assert not re.search(r"[.?]{2}|[.:] [.]", message)
    if "has no predict" not in message:
        assert CALLED[format_] in message


@pytest.mark.parametrize(
    ("format_", "module", "extra"),
    [
        ("skops", "skops", "sklearn"),
        ("joblib", "joblib", "sklearn"),
        ("catboost", "catboost", "catboost"),
        ("xgboost", "xgboost", "xgboost"),
        ("lightgbm", "lightgbm", "lightgbm"),
        ("onnx", "onnxruntime", "onnx"),
    ],
)
def test_a_library_that_is_missing_is_named_with_the_command_that_installs_it(
    files, tmp_path, monkeypatch, format_, module, extra
):
    path = tmp_path / FILES[format_]
    path.write_bytes(b"a file")
    monkeypatch.setitem(sys.modules, module, None)
    message = files.refusal(path)
    assert f"{path} needs the Python module {module}, which is not installed" in message
    assert f'pip install "mlserver-observability[{extra}]"' in message


def test_the_format_that_is_set_goes_before_the_suffix(files, tmp_path):
    model = LinearRegression().fit(files.rows, [1, 2, 3, 4])
    path = files.saved(model, tmp_path / "model.skops").rename(tmp_path / "model.bin")
    files.assert_same(files.load(path, format="skops"), model.predict(files.rows))


def test_a_configuration_without_a_file_is_told_so(tmp_path):
    config = make_config({"predictor": {"module": "my_model", "class_name": "Model"}}, tmp_path)
    with pytest.raises(ModelLoadError, match=r"predictor.artifact is not set"):
        load_artifact(config)
