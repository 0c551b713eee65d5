"""The examples' models, trained by their own scripts, answer through the server's predictor."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

import numpy as np
import pytest

from mlserver.config import load_config
from mlserver.serving.predictors.predictor import load_predictor
from mlserver.serving.rows import Rows

EXAMPLES = Path(__file__).parents[2] / "examples"

pytestmark = pytest.mark.usefixtures("modules_as_before")


def train(example, folder):
    """Copies an example and runs its train.py there. Returns that module."""
    shutil.copytree(EXAMPLES / example, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("model.*"))
    spec = importlib.util.spec_from_file_location(f"train_{example[:5]}", folder / "train.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.main(folder)
    return module


def load(folder):
    predictor = load_predictor(load_config(folder / "mlserver.yaml"))
    predictor.warm_up()
    return predictor


def test_the_quickstart_is_served_from_its_file_alone(tmp_path):
    train("quickstart", tmp_path)
    predictor = load(tmp_path)
    rows = Rows(np.array([[5.1, 3.5, 1.4, 0.2], [6.7, 3.0, 5.2, 2.3]]), predictor.feature_names)
    assert predictor.feature_names == ("sepal_length", "sepal_width", "petal_length", "petal_width")
    assert predictor.run("predict", rows).tolist() == ["setosa", "virginica"]
    np.testing.assert_allclose(predictor.run("predict_proba", rows).sum(axis=1), 1)
    assert predictor.batchable


class TestTheSurvivalExample:
    def test_is_served_by_its_class(self, tmp_path):
        train("catboost-survival", tmp_path)
        predictor = load(tmp_path)
        healthier, sicker = [45, 12, 1, 250], [45, 60, 15, 5]
        rows = Rows(np.array([healthier, sicker], dtype=float), predictor.feature_names)
        days = predictor.run("predict", rows)
        occurs, free = predictor.run("predict_proba", rows).T
        assert len(predictor.feature_names) == 4
        assert predictor.batchable
        assert days[0] > 2 * days[1] > 0
        np.testing.assert_allclose(occurs + free, 1)
        # Half of the women are free for longer than the median, which is the horizon where chances are even.
        np.testing.assert_array_equal(days > 1826, free > 0.5)

    def test_keeps_the_model_that_its_script_trains(self, tmp_path):
        train("catboost-survival", tmp_path)
        rows = Rows(np.array([[53, 25, 3, 32.5], [70, 21, 3, 48]]))
        trained = load(tmp_path).run("predict", rows)
        kept = load(EXAMPLES / "catboost-survival").run("predict", rows)
        np.testing.assert_allclose(trained, kept, rtol=0.02)  # another processor may round otherwise

    def test_tells_longer_from_shorter_survival(self, tmp_path):
        module = train("catboost-survival", tmp_path)
        features, days, censored = module.load()
        held_out = np.arange(len(days)) % 4 == 0
        judge = module.train(features[~held_out], days[~held_out], censored[~held_out])
        predicted = judge.predict(features[held_out])
        assert module.concordance(days[held_out], censored[held_out], predicted) > 0.65
        assert module.concordance(days, censored, days) == 1.0
        assert module.concordance(days, censored, -days) == 0.0
