"""Models saved as Python objects answer as they did in training."""

from __future__ import annotations

import sys
import warnings

import numpy as np
import pandas as pd
import pytest
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import make_column_transformer
from sklearn.datasets import load_iris
from sklearn.ensemble import (
    HistGradientBoostingClassifier,
    RandomForestClassifier,
    RandomForestRegressor,
    VotingClassifier,
)
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler
from sklearn.tree import DecisionTreeClassifier

from mlserver.config import make_config
from mlserver.errors import InvalidInput, ModelLoadError
from mlserver.serving.predictors.predictor import load_predictor
from mlserver.serving.rows import Rows

X, CLASSES = load_iris(return_X_y=True)
NAMES = ["a", "b", "c", "d"]
FRAME = pd.DataFrame(X, columns=NAMES)
SPECIES = np.array(["setosa", "versicolor", "virginica"])[CLASSES]
TWO = CLASSES < 2  # the rows of the first two classes
SOME = [0, 60, 120, 7]

COLOURS = np.array(["red", "green", "blue"])[CLASSES]
MIXED = FRAME[["a", "b"]].assign(colour=COLOURS)
MIXED_NAMES = ("a", "b", "colour")
MIXED_VALUES = [[5.1, 3, "red"], [6, 2.9, "blue"], [5.5, None, "green"]]
MIXED_ROWS = Rows(MIXED_VALUES, MIXED_NAMES)


@pytest.mark.parametrize("suffix", [".skops", ".joblib", ".pkl"])
def test_a_classifier_answers_as_in_training(files, tmp_path, suffix):
    model = make_pipeline(StandardScaler(), LogisticRegression()).fit(X, SPECIES)
    predictor = files.load(files.saved(model, tmp_path / f"model{suffix}"))
    files.assert_same(predictor, model.predict(X[SOME]), model.predict_proba(X[SOME]))
    assert predictor.library.startswith("scikit-learn 1.")
    assert predictor.name == f"model{suffix}"
    assert (predictor.n_features, predictor.feature_names) == (4, None)
    assert predictor.batchable
    assert not predictor.dataframe


def test_a_regressor_has_no_probabilities(files, tmp_path):
    model = LinearRegression().fit(X, CLASSES)
    predictor = files.load(files.saved(model, tmp_path / "model.skops"))
    assert predictor.operations == {"predict"}
    files.assert_same(predictor, model.predict(X[SOME]))


@pytest.mark.parametrize(
    "model",
    [
        make_pipeline(StandardScaler(), LogisticRegression()),
        RandomForestClassifier(5, random_state=1),
        CalibratedClassifierCV(LogisticRegression(max_iter=500), cv=2),
        GridSearchCV(DecisionTreeClassifier(random_state=1), {"max_depth": [2, 3]}, cv=2),
        VotingClassifier([("tree", DecisionTreeClassifier(random_state=1))]),
        HistGradientBoostingClassifier(max_iter=3),
    ],
    ids=lambda model: type(model).__name__,
)
def test_one_trained_on_a_frame_of_numbers_takes_arrays_without_a_warning(files, tmp_path, model):
    model.fit(FRAME, SPECIES)
    expected = [
        getattr(model, operation)(FRAME.iloc[SOME])
        for operation in ("predict", "predict_proba")
        if hasattr(model, operation)
    ]
    predictor = files.load(files.saved(model, tmp_path / "model.joblib"))
    files.assert_same(predictor, *expected)
    assert predictor.feature_names == tuple(NAMES)
    assert not predictor.dataframe


def test_one_that_selects_columns_by_name_gets_a_frame(files, tmp_path):
    model = make_pipeline(
        make_column_transformer(
            (StandardScaler(), ["a", "b"]), (OneHotEncoder(handle_unknown="ignore"), ["colour"])
        ),
        HistGradientBoostingClassifier(max_iter=5),
    ).fit(MIXED, SPECIES)
    predictor = files.load(files.saved(model, tmp_path / "model.joblib"))
    frame = pd.DataFrame(MIXED_VALUES, columns=MIXED_NAMES)
    assert predictor.dataframe
    assert predictor.feature_names == ("a", "b", "colour")
    files.assert_same(predictor, model.predict(frame), model.predict_proba(frame), rows=MIXED_ROWS)
    files.assert_like_each_row_alone(predictor, MIXED_ROWS)


@pytest.mark.parametrize(
    "first",
    [
        make_column_transformer((StandardScaler(), ["a", "d"])),
        StandardScaler().set_output(transform="pandas"),
    ],
    ids=["selects columns", "makes frames"],
)
def test_one_that_works_on_frames_of_numbers_gets_a_frame_too(files, tmp_path, first):
    model = make_pipeline(first, LogisticRegression()).fit(FRAME, SPECIES)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # or they would be errors, and decide in place of what is tested
        predictor = files.load(files.saved(model, tmp_path / "model.skops"))
    assert predictor.dataframe
    rows = Rows(X[SOME].tolist(), predictor.feature_names)
    files.assert_same(
        predictor, model.predict(FRAME.iloc[SOME]), model.predict_proba(FRAME.iloc[SOME]), rows=rows
    )


@pytest.mark.parametrize("trained_on", [MIXED[["colour"]], MIXED[["colour"]].to_numpy(dtype=object)])
def test_one_that_encodes_strings_is_not_mistaken_for_one_that_takes_numbers(files, tmp_path, trained_on):
    model = make_pipeline(OneHotEncoder(handle_unknown="ignore"), LogisticRegression())
    model.fit(trained_on, SPECIES)
    predictor = files.load(files.saved(model, tmp_path / "model.skops"))
    assert predictor.dataframe
    rows = Rows([["red"], ["blue"], ["mauve"]], ("colour",))
    assert predictor.run("predict", rows)[:2].tolist() == ["setosa", "virginica"]


def test_missing_categories_are_the_missing_ones_of_training(files, tmp_path):
    colours = pd.DataFrame({"colour": ["red", np.nan, "blue"]}, dtype=object)
    model = make_pipeline(OneHotEncoder(), DecisionTreeClassifier(random_state=1)).fit(colours, [1, 2, 3])
    path = files.saved(model, tmp_path / "model.joblib")
    predictor = files.load(path, api={"categorical_features": ["colour"]})
    rows = Rows([["blue"], [None], ["red"]], ("colour",))
    assert predictor.run("predict", rows).tolist() == [3, 2, 1]
    files.assert_like_each_row_alone(predictor, rows)


def test_pandas_categories_of_training_may_be_sent_as_strings(files, tmp_path):
    frame = MIXED.assign(colour=pd.Categorical(COLOURS))
    model = HistGradientBoostingClassifier(max_iter=5).fit(frame, SPECIES)
    predictor = files.load(files.saved(model, tmp_path / "model.joblib"))
    expected = model.predict(frame.iloc[SOME])
    rows = Rows(MIXED.iloc[SOME].to_numpy(dtype=object).tolist(), tuple(MIXED))
    assert predictor.run("predict", rows).tolist() == expected.tolist()


def test_probabilities_of_several_outputs_come_by_row(files, tmp_path):
    model = RandomForestClassifier(3, random_state=1).fit(X, np.column_stack([CLASSES, TWO]))
    predictor = files.load(files.saved(model, tmp_path / "model.skops"), trusted=["sklearn.tree._tree.Tree"])
    first, second = model.predict_proba(X[SOME])
    _, rows = files.answers(predictor)
    assert len(rows) == len(SOME)
    np.testing.assert_array_equal(rows[1][0], first[1])
    np.testing.assert_array_equal(rows[1][1], second[1])


class RowsOfLists(LogisticRegression):
    def predict_proba(self, X):
        return super().predict_proba(X).tolist()


def test_probabilities_that_come_as_a_list_of_rows_stay_so(files, tmp_path):
    model = RowsOfLists(max_iter=500).fit(X, CLASSES)
    predictor = files.load(files.saved(model, tmp_path / "model.joblib"))
    assert predictor.run("predict_proba", Rows(X[SOME])) == model.predict_proba(X[SOME])


class TestAMissingValue:
    ROW = np.array([[5.1, 3.5, 1.4, 0.2], [5.1, 3.5, np.nan, 0.2]])

    @pytest.mark.parametrize("operation", ["predict", "predict_proba"])
    @pytest.mark.parametrize(
        ("trained_on", "order", "named"),
        [(FRAME, None, "feature 'c'"), (X, None, "feature 2"), (X, ["w", "x", "y", "z"], "feature 'y'")],
    )
    def test_that_the_model_does_not_take_is_the_clients_mistake(
        self, files, tmp_path, operation, trained_on, order, named
    ):
        model = make_pipeline(StandardScaler(), LogisticRegression()).fit(trained_on, SPECIES)
        path = files.saved(model, tmp_path / "model.skops")
        predictor = files.load(path, api={"feature_order": order} if order else {})
        with pytest.raises(InvalidInput) as caught:
            predictor.run(operation, Rows(self.ROW))
        assert str(caught.value) == f"Row 1 has null for {named}: the model takes no missing values there."

    def test_is_found_in_a_frame_too(self, files, tmp_path):
        model = make_pipeline(
            make_column_transformer((StandardScaler(), ["a", "b"]), (OneHotEncoder(), ["colour"])),
            LogisticRegression(),
        ).fit(MIXED, SPECIES)
        predictor = files.load(files.saved(model, tmp_path / "model.skops"))
        with pytest.raises(InvalidInput, match="Row 2 has null for feature 'b'"):
            predictor.run("predict", MIXED_ROWS)

    @pytest.mark.parametrize("steps", [[SimpleImputer()], [StandardScaler(), SimpleImputer()]])
    def test_that_the_model_fills_in_is_none(self, files, tmp_path, steps):
        model = make_pipeline(*steps, LogisticRegression(max_iter=500)).fit(X, SPECIES)
        predictor = files.load(files.saved(model, tmp_path / "model.joblib"))
        assert predictor.run("predict", Rows(self.ROW)).tolist() == model.predict(self.ROW).tolist()

    def test_that_the_model_made_itself_is_its_own_failure(self, files, tmp_path):
        broken = make_pipeline(FunctionTransformer(np.log), LogisticRegression()).fit(X, SPECIES)
        predictor = files.load(files.saved(broken, tmp_path / "model.joblib"))
        with np.errstate(invalid="ignore"), pytest.raises(ValueError, match="contains NaN"):
            predictor.run("predict", Rows(-X[SOME]))


def test_several_regressions_at_once_keep_their_shape(files, tmp_path):
    model = RandomForestRegressor(3, random_state=1).fit(X, X[:, :2])
    files.assert_same(files.load(files.saved(model, tmp_path / "model.joblib")), model.predict(X[SOME]))


@pytest.mark.parametrize("suffix", [".joblib", ".pkl"])
def test_files_that_run_code_are_refused_here_too(files, tmp_path, suffix):
    path = files.saved(LinearRegression().fit(X, CLASSES), tmp_path / f"model{suffix}")
    config = make_config({"predictor": {"artifact": path.name, "allow_pickle": True}}, tmp_path)
    forged = config.model_copy(
        update={"predictor": config.predictor.model_copy(update={"allow_pickle": False})}
    )
    with pytest.raises(ModelLoadError, match=r"set predictor.allow_pickle: true"):
        load_predictor(forged)


def test_what_is_no_model_is_named(files, tmp_path):
    message = files.refusal(files.saved({"weights": [1, 2]}, tmp_path / "model.joblib"))
    path = tmp_path / "model.joblib"
    assert message.startswith(f"{path} holds an object of builtins.dict, which has no predict method")


def test_a_class_of_the_folder_can_be_unpickled(files, tmp_path, monkeypatch):
    (tmp_path / "own_estimator.py").write_text(
        "class Doubler:\n    def predict(self, X):\n        return X.sum(axis=1) * 2\n"
    )
    path = tmp_path / "model.pkl"
    path.write_bytes(b"\x80\x04cown_estimator\nDoubler\n)\x81.")
    monkeypatch.setattr(sys, "path", list(sys.path))
    predictor = files.load(path)
    files.assert_same(predictor, X[SOME].sum(axis=1) * 2)
    assert predictor.library == "own_estimator.Doubler"


def test_a_module_that_unpickling_needs_is_named(files, tmp_path):
    path = tmp_path / "model.pkl"
    path.write_bytes(b"\x80\x04cno_such_module\nThing\n)\x81.")
    assert "needs the Python module no_such_module, which is not installed" in files.refusal(path)


def test_unpickling_cannot_end_the_process(files, tmp_path):
    path = tmp_path / "model.pkl"
    path.write_bytes(b"cbuiltins\nSystemExit\n(S'bye'\ntR.")
    assert "builtins.SystemExit, which has no predict" in files.refusal(path)
    path.write_bytes(b"csys\nexit\n(S'bye'\ntR.")
    assert "could not be loaded as a pickle file: SystemExit: bye" in files.refusal(path)
