"""LightGBM's files answer as the library that made them does, whether its own or of skops."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_iris

from mlserver.serving.rows import Rows

try:
    import lightgbm
except OSError as error:
    pytest.skip(f"LightGBM needs the system's libgomp1: {error}", allow_module_level=True)

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


LIGHTGBM = {"n_estimators": 3, "verbose": -1, "min_child_samples": 2}


class TestLightGBM:
    @pytest.mark.parametrize(
        ("model", "rows"),
        [
            (lightgbm.LGBMClassifier(**LIGHTGBM), slice(None)),
            (lightgbm.LGBMClassifier(objective="multiclassova", **LIGHTGBM), slice(None)),
            (lightgbm.LGBMClassifier(**LIGHTGBM), TWO),
            (lightgbm.LGBMRegressor(**LIGHTGBM), slice(None)),
            (lightgbm.LGBMRegressor(objective="poisson", **LIGHTGBM), slice(None)),
        ],
    )
    def test_a_file_answers_as_the_scikit_learn_interface_does(self, files, tmp_path, model, rows):
        model.fit(X[rows], CLASSES[rows])
        expected = [model.predict(X[SOME])]
        if isinstance(model, lightgbm.LGBMClassifier):
            expected.append(model.predict_proba(X[SOME]))
        predictor = files.load(files.saved(model.booster_, tmp_path / "model.txt"))
        files.assert_same(predictor, *expected)
        assert predictor.library == f"lightgbm {lightgbm.__version__}"
        assert (predictor.n_features, predictor.feature_names, predictor.batchable) == (4, None, True)

    def test_the_names_of_training_are_known(self, files, tmp_path):
        model = lightgbm.LGBMRegressor(**LIGHTGBM).fit(FRAME, CLASSES)
        assert files.load(files.saved(model.booster_, tmp_path / "model.txt")).feature_names == tuple(NAMES)

    def test_categories_are_coded_as_in_training(self, files, tmp_path):
        frame = MIXED.assign(
            colour=pd.Categorical(COLOURS), size=pd.Categorical(np.array([5, 7, 9])[CLASSES]),
            constant=pd.Categorical(["k"] * len(MIXED)),
        )  # fmt: skip
        model = lightgbm.LGBMClassifier(min_data_per_group=1, cat_smooth=1, **LIGHTGBM).fit(frame, CLASSES)
        predictor = files.load(files.saved(model.booster_, tmp_path / "model.txt"))
        assert predictor.dataframe
        assert predictor.categorical == {"colour", "size", "constant"}
        strange = frame.iloc[SOME].assign(colour=pd.Categorical(["red", "mauve", None, "blue"]))
        for some in (frame.iloc[SOME], strange):
            rows = Rows(some.astype(object).where(some.notna(), None).to_numpy().tolist(), tuple(frame))
            files.assert_same(predictor, model.predict(some), model.predict_proba(some), rows=rows)
            files.assert_like_each_row_alone(predictor, rows)

    def test_the_configuration_can_say_which_features_are_categories(self, files, tmp_path):
        frame = MIXED[["a"]].assign(one=1.0, constant=pd.Categorical(["k"] * len(MIXED)))
        model = lightgbm.LGBMClassifier(**LIGHTGBM).fit(frame, CLASSES)
        path = files.saved(model.booster_, tmp_path / "model.txt")
        assert "list their names in api.categorical_features" in files.refusal(path)
        assert files.load(path, api={"categorical_features": ["constant"]}).categorical == {"constant"}

    @pytest.mark.parametrize(
        "damage", [lambda text: text[: len(text) // 2], lambda text: text.replace("0", "12")]
    )
    def test_a_damaged_file_is_refused_before_it_can_abort_the_process(self, files, tmp_path, damage):
        path = files.saved(
            lightgbm.LGBMRegressor(**LIGHTGBM).fit(X, CLASSES).booster_, tmp_path / "model.txt"
        )
        path.write_text(damage(path.read_text()))
        assert "is damaged: a tree is not as long as it says" in files.refusal(path)


def test_types_that_are_not_trusted_are_listed_with_the_remedy(files, tmp_path):
    path = files.saved(
        lightgbm.LGBMClassifier(n_estimators=2, verbose=-1).fit(X, SPECIES), tmp_path / "m.skops"
    )
    types = ["collections.OrderedDict", "lightgbm.basic.Booster", "lightgbm.sklearn.LGBMClassifier"]
    message = files.refusal(path, trusted=types[:1])
    assert f"{path} holds types that are not trusted: {', '.join(types[1:])}." in message
    assert f"trusted: [{', '.join(types)}]" in message
    assert files.load(path, trusted=types).library.startswith("lightgbm 4.")
