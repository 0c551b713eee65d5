"""Files of gradient boosting libraries answer as the library that made them does."""

from __future__ import annotations

import catboost
import numpy as np
import pandas as pd
import pytest
import xgboost
from sklearn.datasets import load_iris

from mlserver.errors import InvalidInput
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
MIXED_ROWS = Rows([[5.1, 3, "red"], [6, 2.9, "blue"], [5.5, None, "green"]], MIXED_NAMES)


CATBOOST = {"iterations": 5, "verbose": False, "allow_writing_files": False, "random_seed": 1}


class TestCatBoost:
    @pytest.mark.parametrize(
        ("labels", "rows"), [(SPECIES, slice(None)), (CLASSES, slice(None)), (SPECIES, TWO), (CLASSES, TWO)]
    )
    def test_a_classifier_answers_with_its_labels(self, files, tmp_path, labels, rows):
        model = catboost.CatBoostClassifier(**CATBOOST).fit(X[rows], labels[rows])
        predictor = files.load(files.saved(model, tmp_path / "model.cbm"))
        files.assert_same(predictor, model.predict(X[SOME]).reshape(-1), model.predict_proba(X[SOME]))
        assert predictor.library == f"catboost {catboost.__version__}"
        assert (predictor.n_features, predictor.feature_names, predictor.batchable) == (4, None, True)

    def test_several_labels_at_once_keep_their_shape(self, files, tmp_path):
        labels = np.column_stack([CLASSES > 0, CLASSES > 1]).astype(int)
        model = catboost.CatBoostClassifier(loss_function="MultiLogloss", **CATBOOST).fit(X, labels)
        predictor = files.load(files.saved(model, tmp_path / "model.cbm"))
        files.assert_same(predictor, model.predict(X[SOME]), model.predict_proba(X[SOME]))

    @pytest.mark.parametrize("loss", ["RMSE", "Poisson", "Tweedie:variance_power=1.5", "RMSEWithUncertainty"])
    def test_a_regressor_answers_on_the_scale_of_its_target(self, files, tmp_path, loss):
        model = catboost.CatBoostRegressor(loss_function=loss, **CATBOOST).fit(X, CLASSES + 1.0)
        predictor = files.load(files.saved(model, tmp_path / "model.cbm"))
        assert predictor.operations == {"predict"}
        files.assert_same(predictor, model.predict(X[SOME]))

    def test_categorical_features_are_those_of_the_file(self, files, tmp_path):
        model = catboost.CatBoostClassifier(cat_features=["colour"], **CATBOOST).fit(MIXED, SPECIES)
        predictor = files.load(files.saved(model, tmp_path / "model.cbm"))
        assert predictor.dataframe
        assert predictor.categorical == {"colour"}
        assert predictor.feature_names == ("a", "b", "colour")
        expected = model.predict(MIXED.iloc[SOME])
        rows = Rows(MIXED.iloc[SOME].to_numpy(dtype=object).tolist(), tuple(MIXED))
        assert predictor.run("predict", rows).tolist() == expected.reshape(-1).tolist()
        files.assert_like_each_row_alone(predictor, MIXED_ROWS)

    def test_a_whole_number_is_the_same_category_however_json_spells_it(self, files, tmp_path):
        frame = pd.DataFrame({"size": np.array([1, 2, 3])[CLASSES]})
        model = catboost.CatBoostClassifier(cat_features=["size"], **CATBOOST).fit(frame, SPECIES)
        predictor = files.load(files.saved(model, tmp_path / "model.cbm"))
        assert predictor.run("predict", Rows([[3], [3.0], ["3"]], ("size",))).tolist() == ["virginica"] * 3

    @pytest.mark.parametrize(("value", "given"), [(1.5, "1.5"), (None, "null")])
    def test_what_is_no_category_is_the_clients_mistake(self, files, tmp_path, value, given):
        model = catboost.CatBoostClassifier(cat_features=["colour"], **CATBOOST).fit(MIXED, SPECIES)
        predictor = files.load(files.saved(model, tmp_path / "model.cbm"))
        with pytest.raises(
            InvalidInput, match=f"'colour' is {given}: the model takes a string or an integer"
        ):
            predictor.run("predict", Rows([[5, 3, value]], tuple(MIXED)))

    def test_positions_of_categories_without_names_are_honoured_too(self, files, tmp_path):
        table = MIXED.to_numpy(dtype=object)
        model = catboost.CatBoostClassifier(cat_features=[2], **CATBOOST).fit(table, SPECIES)
        predictor = files.load(files.saved(model, tmp_path / "model.cbm"))
        assert predictor.feature_names == ("0", "1", "2")
        rows = Rows(table[SOME].tolist(), predictor.feature_names)
        assert predictor.run("predict", rows).tolist() == model.predict(table[SOME]).reshape(-1).tolist()

    def test_columns_that_were_trained_without_names_are_given_the_configured_ones(self, files, tmp_path):
        table = MIXED.to_numpy(dtype=object)
        model = catboost.CatBoostClassifier(cat_features=[2], **CATBOOST).fit(table, SPECIES)
        api = {"feature_order": MIXED_NAMES}
        predictor = files.load(files.saved(model, tmp_path / "model.cbm"), api=api)
        assert (predictor.feature_names, predictor.categorical) == (MIXED_NAMES, {"colour"})
        rows = Rows(table[SOME].tolist(), MIXED_NAMES)
        assert predictor.run("predict", rows).tolist() == model.predict(table[SOME]).reshape(-1).tolist()

    def test_a_pickled_one_answers_in_the_same_way(self, files, tmp_path):
        model = catboost.CatBoostClassifier(**CATBOOST).fit(FRAME, SPECIES)
        predictor = files.load(files.saved(model, tmp_path / "model.joblib"))
        files.assert_same(predictor, model.predict(X[SOME]).reshape(-1), model.predict_proba(X[SOME]))
        assert predictor.feature_names == tuple(NAMES)


DEPRECATED = pytest.mark.filterwarnings("ignore:.*booster=.* is deprecated:UserWarning")
"""XGBoost 3.4 warns of what it still loads."""


class TestXGBoost:
    @pytest.mark.parametrize("suffix", [".json", ".ubj"])
    @pytest.mark.parametrize(
        ("model", "target", "rows"),
        [
            (xgboost.XGBClassifier(n_estimators=3), CLASSES, slice(None)),
            (xgboost.XGBClassifier(n_estimators=3, objective="multi:softmax"), CLASSES, slice(None)),
            (xgboost.XGBClassifier(n_estimators=3), CLASSES, TWO),
            (
                xgboost.XGBClassifier(n_estimators=3),
                np.column_stack([CLASSES > 0, TWO]).astype(int),
                slice(None),
            ),
            (xgboost.XGBRegressor(n_estimators=3), X[:, 0], slice(None)),
            (xgboost.XGBRegressor(n_estimators=3), X[:, :2], slice(None)),
            (xgboost.XGBRegressor(n_estimators=3, objective="count:poisson"), CLASSES, slice(None)),
            pytest.param(
                xgboost.XGBRegressor(n_estimators=3, booster="gblinear"),
                X[:, 0],
                slice(None),
                marks=DEPRECATED,
            ),
            pytest.param(
                xgboost.XGBRegressor(n_estimators=3, booster="dart"), X[:, 0], slice(None), marks=DEPRECATED
            ),
        ],
    )
    def test_a_file_answers_as_the_scikit_learn_interface_does(
        self, files, tmp_path, suffix, model, target, rows
    ):
        model.fit(X[rows], target[rows])
        expected = [model.predict(X[SOME])]
        if isinstance(model, xgboost.XGBClassifier):
            expected = [expected[0].astype(int), model.predict_proba(X[SOME])]
        predictor = files.load(files.saved(model, tmp_path / f"model{suffix}"))
        files.assert_same(predictor, *expected)
        assert predictor.library == f"xgboost {xgboost.__version__}"
        assert (predictor.n_features, predictor.feature_names, predictor.batchable) == (4, None, True)

    def test_a_booster_of_its_own_gives_labels_and_probabilities_too(self, files, tmp_path):
        booster = xgboost.train({"objective": "binary:logistic"}, xgboost.DMatrix(X[TWO], CLASSES[TWO]), 3)
        p = booster.inplace_predict(X[SOME])
        predictor = files.load(files.saved(booster, tmp_path / "model.json"))
        files.assert_same(predictor, (p > 0.5).astype(int), np.column_stack([1 - p, p]))
        files.assert_same(
            files.load(files.saved(booster, tmp_path / "model.joblib")), *files.answers(predictor)
        )

    def test_a_hinge_gives_labels(self, files, tmp_path):
        booster = xgboost.train({"objective": "binary:hinge"}, xgboost.DMatrix(X[TWO], CLASSES[TWO]), 3)
        files.assert_same(files.load(files.saved(booster, tmp_path / "model.json")), np.array([0, 1, 1, 0]))

    def test_the_best_iteration_counts_as_in_the_scikit_learn_interface(self, files, tmp_path):
        model = xgboost.XGBClassifier(n_estimators=200, early_stopping_rounds=5)
        model.fit(X[::2], CLASSES[::2], eval_set=[(X[1::2], CLASSES[1::2])], verbose=False)
        assert model.best_iteration + 1 < model.get_booster().num_boosted_rounds()
        predictor = files.load(files.saved(model, tmp_path / "model.json"))
        files.assert_same(predictor, model.predict(X[SOME]), model.predict_proba(X[SOME]))

    def test_the_names_of_training_are_known(self, files, tmp_path):
        model = xgboost.XGBClassifier(n_estimators=3).fit(FRAME, CLASSES)
        predictor = files.load(files.saved(model, tmp_path / "model.json"))
        assert predictor.feature_names == tuple(NAMES)
        files.assert_same(predictor, model.predict(X[SOME]), model.predict_proba(X[SOME]))

    def test_categories_are_coded_as_in_training(self, files, tmp_path):
        frame = MIXED.assign(
            colour=pd.Categorical(COLOURS), size=pd.Categorical(np.array([5, 7, 9])[CLASSES])
        )
        model = xgboost.XGBClassifier(n_estimators=3, enable_categorical=True).fit(frame, CLASSES)
        predictor = files.load(files.saved(model, tmp_path / "model.ubj"))
        assert predictor.dataframe
        assert predictor.categorical == {"colour", "size"}
        rows = Rows(frame.iloc[SOME].to_numpy(dtype=object).tolist(), tuple(frame))
        expected = model.predict(frame.iloc[SOME]), model.predict_proba(frame.iloc[SOME])
        files.assert_same(predictor, *expected, rows=rows)
        odd = Rows([[5, 3, None, 5], [None, 3, "mauve", 7.0], [5, 3, "red", None]], tuple(frame))
        files.assert_like_each_row_alone(predictor, odd)

    def test_categories_that_xgboost_mixes_up_are_refused(self, files, tmp_path):
        frame = pd.DataFrame({"town": pd.Categorical(np.array(["Köln", "Bonn", "Nîmes"])[CLASSES])})
        model = xgboost.XGBClassifier(n_estimators=3, enable_categorical=True).fit(frame, CLASSES)
        assert "categories with letters beyond ASCII" in files.refusal(
            files.saved(model, tmp_path / "model.json")
        )
