"""ONNX files answer as the models that they were made of."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from onnx import TensorProto, helper, save_model
from skl2onnx import convert_sklearn, to_onnx
from skl2onnx.common.data_types import FloatTensorType, StringTensorType
from sklearn.compose import make_column_transformer
from sklearn.datasets import load_iris
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from mlserver.errors import InvalidInput, ModelLoadError
from mlserver.serving.rows import Rows

X, CLASSES = load_iris(return_X_y=True)
SPECIES = np.array(["setosa", "versicolor", "virginica"])[CLASSES]
TWO = CLASSES < 2  # the rows of the first two classes
SOME = [0, 60, 120, 7]
COLOURS = np.array(["red", "green", "blue"])[CLASSES]
MIXED = pd.DataFrame({"a": X[:, 0], "b": X[:, 1], "colour": COLOURS})


def graph(folder, inputs, *, operator, kind=TensorProto.FLOAT):
    """A file with one operation over its inputs."""
    ports = [helper.make_tensor_value_info(name, kind, shape) for name, shape in inputs]
    result = helper.make_tensor_value_info("result", kind, inputs[0][1])
    node = helper.make_node(operator, [name for name, _ in inputs], ["result"])
    graph = helper.make_graph([node], "graph", ports, [result])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    save_model(model, str(folder / "model.onnx"))
    return folder / "model.onnx"


@pytest.mark.parametrize("options", [{}, {"zipmap": False}])
@pytest.mark.parametrize(("labels", "rows"), [(SPECIES, slice(None)), (CLASSES, TWO)])
def test_a_classifier_answers_as_the_model_it_was_made_of(files, tmp_path, options, labels, rows):
    model = LogisticRegression(max_iter=500).fit(X[rows], labels[rows])
    path = tmp_path / "model.onnx"
    path.write_bytes(to_onnx(model, X[:1].astype(np.float32), options=options).SerializeToString())
    predictor = files.load(path)
    given, probabilities = files.answers(predictor)
    assert given.tolist() == model.predict(X[SOME]).tolist()
    np.testing.assert_allclose(probabilities, model.predict_proba(X[SOME]), atol=1e-5)
    assert predictor.library.startswith("onnxruntime ")
    assert (predictor.n_features, predictor.feature_names, predictor.batchable) == (4, None, True)


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_a_regressor_answers_flat(files, tmp_path, kind):
    model = LinearRegression().fit(X, CLASSES)
    path = tmp_path / "model.onnx"
    path.write_bytes(to_onnx(model, X[:1].astype(kind)).SerializeToString())
    (given,) = files.answers(files.load(path))
    np.testing.assert_allclose(given, model.predict(X[SOME]), atol=1e-5)


def test_an_input_for_each_column_is_fed_by_name(files, tmp_path):
    model = make_pipeline(
        make_column_transformer((StandardScaler(), ["a", "b"]), (OneHotEncoder(), ["colour"])),
        LogisticRegression(),
    ).fit(MIXED, SPECIES)
    number, text = FloatTensorType([None, 1]), StringTensorType([None, 1])
    onnx = convert_sklearn(model, initial_types=[("a", number), ("b", number), ("colour", text)])
    path = tmp_path / "model.onnx"
    path.write_bytes(onnx.SerializeToString())
    predictor = files.load(path)
    assert predictor.feature_names == ("a", "b", "colour")
    assert predictor.categorical == {"colour"}
    rows = Rows(MIXED.iloc[SOME].to_numpy(dtype=object).tolist(), tuple(MIXED))
    assert predictor.run("predict", rows).tolist() == model.predict(MIXED.iloc[SOME]).tolist()
    files.assert_like_each_row_alone(predictor, rows)


def test_columns_of_numbers_need_no_frame(files, tmp_path):
    path = graph(tmp_path, [("a", ["n", 1]), ("b", ["n", 1])], operator="Add")
    predictor = files.load(path)
    assert not predictor.dataframe
    assert files.answers(predictor, [[1, 2], [3, 4]])[0].tolist() == [3, 7]


def test_whole_numbers_are_asked_for_where_the_model_takes_them(files, tmp_path):
    path = graph(tmp_path, [("ids", ["n", 2])], operator="Abs", kind=TensorProto.INT64)
    predictor = files.load(path)
    assert files.answers(predictor, [[-1, 2]])[0].tolist() == [[1, 2]]
    for bad in (1.5, np.nan, np.inf):
        with pytest.raises(InvalidInput, match="'ids' of the model takes whole numbers"):
            files.answers(predictor, [[bad, 2]])


def test_rows_may_have_more_dimensions(files, tmp_path):
    predictor = files.load(graph(tmp_path, [("image", ["n", 2, 3])], operator="Abs"))
    assert predictor.n_features is None
    assert files.answers(predictor, -np.ones((5, 2, 3)))[0].shape == (5, 2, 3)


@pytest.mark.parametrize(
    ("inputs", "reason"),
    [
        ([("x", [1, 4])], r"x: tensor\(float\) \[1, 4\]: always the same number of rows"),
        ([("x", ["n", 4]), ("y", ["n", 4])], r"Expected one tensor of rows, or one of shape \(rows, 1\)"),
    ],
)
def test_inputs_that_are_no_rows_are_refused(files, tmp_path, inputs, reason):
    path = graph(tmp_path, inputs, operator="Add" if len(inputs) > 1 else "Abs")
    with pytest.raises(ModelLoadError, match=reason):
        files.load(path)
