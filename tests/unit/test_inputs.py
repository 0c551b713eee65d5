"""Rows with strings reach a model as it takes them, whatever other rows share the run."""

from __future__ import annotations

import numpy as np
import pandas as pd

from mlserver.serving.predictors.inputs import Codes, Frame, as_given
from mlserver.serving.rows import Rows

VALUES = np.array([[1.0, 2.0], [3.0, 4.0]])
ROWS = Rows(VALUES)


def frame_of(rows, names, columns=None):
    return Frame(columns)(Rows(rows, names))


class TestFrames:
    def test_columns_of_numbers_are_floats_and_others_objects(self):
        frame = frame_of([[1, 2.5, True, "x"], [None, 3, False, "y"]], ("int", "float", "bool", "text"))
        assert frame.dtypes.astype(str).tolist() == ["float64", "float64", "float64", "object"]
        assert np.isnan(frame["int"][1])
        assert frame["bool"].tolist() == [1, 0]
        assert frame["text"].tolist() == ["x", "y"]

    def test_null_is_nan_among_strings_too(self):
        assert frame_of([["x"], [None]], ("text",)).isna()["text"].tolist() == [False, True]

    def test_a_number_stays_a_float_whatever_shares_its_column(self):
        frame = frame_of([[1], ["x"], [True]], ("mixed",))
        assert [type(value) for value in frame["mixed"]] == [np.float64, str, np.float64]

    def test_categories_stay_as_they_came(self):
        frame = frame_of([[1, 1], [2, 2]], ("category", "number"), {"category": as_given})
        assert [type(value) for value in frame["category"]] == [int, int]
        assert frame.dtypes.astype(str).tolist() == ["object", "float64"]

    def test_an_array_becomes_a_frame_as_it_is(self):
        frame = frame_of(VALUES, ("a", "b"))
        pd.testing.assert_frame_equal(frame, pd.DataFrame({"a": [1.0, 3.0], "b": [2.0, 4.0]}))

    def test_a_class_that_asks_for_it_gets_one(self, serve):
        source = """
            class Model:
                input = "dataframe"
                def predict(self, X):
                    return (X["price"] * X["count"]).where(X["kind"] == "sale", 0)
                def postprocess(self, predictions):
                    return [predictions.name, *predictions]
        """
        predictor = serve(source)
        assert predictor.dataframe
        rows = Rows([["sale", 2, 3.5], ["gift", 1, 9]], ("kind", "count", "price"))
        assert predictor.run("predict", rows) == [None, 7, 0]

    def test_declared_categories_of_a_class_are_left_alone(self, serve):
        source = "class Model:\n    input = 'dataframe'\n    def predict(self, X): return X['zip'].tolist()"
        predictor = serve(source, api={"categorical_features": ["zip"]})
        assert [type(value) for value in predictor.run("predict", Rows([[8001], ["x"]], ("zip",)))] == [
            int,
            str,
        ]


def test_categories_become_their_numbers_and_unknown_ones_missing():
    codes = Codes({1: ["red", "green"], 2: [5, 7]})
    table = codes(Rows([[1.5, "green", 5], [None, "mauve", 7.0], [True, None, 6]], ("a", "b", "c")))
    np.testing.assert_array_equal(table, [[1.5, 1, 0], [np.nan, np.nan, 1], [1, np.nan, np.nan]])
