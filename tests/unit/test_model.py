"""What the server derives from a predictor and its configuration."""

from __future__ import annotations

import re
from types import SimpleNamespace

import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression

from mlserver.config import make_config
from mlserver.errors import ModelLoadError
from mlserver.serving.model import Model


def a_model(folder, api=None, **predictor):
    config = make_config({"predictor": {"module": "m", "class_name": "C"}, "api": api or {}}, folder)
    loaded = {
        "feature_names": None, "n_features": None, "dataframe": False, "batchable": False, "computes": False, "categorical": frozenset(),
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


@pytest.mark.parametrize(
    "named", [None, ("f0", "f1"), ("Column_0", "Column_1"), ("feature_0", "feature_1"), ("0", "1")]
)
def test_a_model_without_names_of_its_own_is_given_the_configured_ones(tmp_path, named):
    schema = a_model(tmp_path, {"feature_order": ["x", "y"]}, feature_names=named, n_features=2).schema
    assert (schema.feature_names, schema.n_features) == (("x", "y"), 2)


def test_an_order_that_repeats_the_models_own_changes_nothing(tmp_path):
    order = {"feature_order": ["a", "b"]}
    assert a_model(tmp_path, order, feature_names=("a", "b"), n_features=2).schema.feature_names == ("a", "b")


@pytest.mark.parametrize(
    ("order", "predictor", "message"),
    [
        (
            ["b", "a"],
            {"feature_names": ("a", "b")},
            "made for a, b, in this order. Leave api.feature_order out: records may have their names in any order.",
        ),
        (
            ["petal lenght", "width"],
            {"feature_names": ("petal length", "width")},
            "petal length, width, in this order. It has no petal lenght; did you mean petal length? Leave",
        ),
        (
            ["a", "c"],
            {"feature_names": ("a", "b")},
            "for a, b, in this order. It has no c. Leave api.feature_order",
        ),
        (
            ["f1", "f0"],
            {"feature_names": ("f0", "f1")},
            "api.feature_order is f1, f0, but the model was made for f0",
        ),
        (["x", "y"], {"feature_names": ("f0", "f1"), "dataframe": True}, "made for f0, f1, in this order"),
        (
            ["a"],
            {"feature_names": ("a", "b")},
            "api.feature_order has 1 name, the model takes 2 features: a, b.",
        ),
        (["a", "b", "c"], {}, "api.feature_order has 3 names, the model takes 2 features."),
    ],
)
def test_an_order_that_contradicts_the_models_own_names_is_refused(tmp_path, order, predictor, message):
    with pytest.raises(ModelLoadError, match=re.escape(message)):
        a_model(tmp_path, {"feature_order": order}, **{"n_features": 2} | predictor)


def test_columns_that_a_client_names_may_be_declared_categories(tmp_path):
    schema = a_model(tmp_path, {"categorical_features": ["city"]}, dataframe=True).schema
    assert schema.categorical == {"city"}


NAMED = {"feature_names": ("a", "b"), "n_features": 2}


@pytest.mark.parametrize(
    ("api", "predictor", "message"),
    [
        ({"categorical_features": ["c"]}, NAMED, "has c; the model's features are a, b."),
        (
            {"categorical_features": ["a"]},
            NAMED,
            'api.categorical_features is a, but the model takes numbers only. A class says input = "dataframe"',
        ),
        (
            {"categorical_features": ["a"]},
            {},
            "api.categorical_features is a, but the model takes numbers only.",
        ),
        (
            {"categorical_features": ["a", "b"]},
            NAMED | {"dataframe": True, "categorical": frozenset({"b"})},
            "has a, which the model takes as numbers; its categories are b.",
        ),
        ({"adapter": "ndarray"}, {"dataframe": True}, "set api.feature_order"),
    ],
)
def test_a_configuration_that_does_not_fit_the_predictor_is_refused(tmp_path, api, predictor, message):
    with pytest.raises(ModelLoadError, match=re.escape(message)):
        a_model(tmp_path, api, **predictor)


def test_a_file_with_names_of_its_own_is_not_given_others(files, tmp_path):
    model = LogisticRegression(max_iter=500).fit(pd.DataFrame(files.rows, columns=list("abcd")), [0, 1, 1, 0])
    path = files.saved(model, tmp_path / "model.skops")
    api = {"feature_order": ["a", "b", "c", "e"]}
    config = make_config({"predictor": {"artifact": path.name}, "api": api}, tmp_path)
    with pytest.raises(ModelLoadError, match=r"made for a, b, c, d, in this order\. It has no e"):
        Model.of(files.load(path, api=api), config)
