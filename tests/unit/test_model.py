"""What the server derives from a predictor and its configuration."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from mlserver.config import make_config
from mlserver.errors import ModelLoadError
from mlserver.serving.model import Model


def a_model(folder, api=None, **predictor):
    config = make_config({"predictor": {"module": "m", "class_name": "C"}, "api": api or {}}, folder)
    loaded = {
        "feature_names": None, "n_features": None, "dataframe": False, "batchable": False, "categorical": frozenset(),
        "operations": frozenset({"predict"}), "library": "m.C",
    }  # fmt: skip
    return Model.of(SimpleNamespace(**loaded | predictor), config)


def test_coalescing_follows_the_predictor_unless_it_is_configured(tmp_path):
    assert a_model(tmp_path, batchable=True).coalesced
    assert not a_model(tmp_path, batchable=False).coalesced
    assert a_model(tmp_path, {"batching": {"enabled": True}}, batchable=False).coalesced
    assert not a_model(tmp_path, {"batching": {"enabled": False}}, batchable=True).coalesced


def test_only_a_predictor_that_is_not_coalesced_runs_several_times_at_once(tmp_path):
    assert a_model(tmp_path, {"concurrency": 4}).concurrency == 4
    assert a_model(tmp_path, {"concurrency": 4}, batchable=True).concurrency == 1


def test_the_configured_order_of_features_comes_before_the_trained_one(tmp_path):
    schema = a_model(tmp_path, {"feature_order": ["x", "y"]}, feature_names=("a", "b"), n_features=2).schema
    assert (schema.feature_names, schema.n_features) == (("x", "y"), 2)


@pytest.mark.parametrize(
    ("api", "predictor", "message"),
    [
        (
            {"feature_order": ["a"]},
            {"feature_names": ("a", "b"), "n_features": 2},
            "has 1 names, the model takes 2 features: a, b",
        ),
        (
            {"categorical_features": ["c"]},
            {"feature_names": ("a", "b"), "n_features": 2},
            "has c; the model's features are a, b",
        ),
        ({"adapter": "ndarray"}, {"dataframe": True}, "set api.feature_order"),
    ],
)
def test_a_configuration_that_does_not_fit_the_predictor_is_refused(tmp_path, api, predictor, message):
    with pytest.raises(ModelLoadError, match=message):
        a_model(tmp_path, api, **predictor)
