"""The models that every server is given: ``MODEL=regression|forest|noop``.

A server's own environment imports this file, so it asks for nothing but NumPy and scikit-learn.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable


def fit(name: str) -> Any:
    """A classifier of iris, the same one each time."""
    from sklearn.datasets import load_iris  # noqa: PLC0415
    from sklearn.ensemble import RandomForestClassifier  # noqa: PLC0415
    from sklearn.linear_model import LogisticRegression  # noqa: PLC0415

    models = {
        "regression": LogisticRegression(max_iter=1000),
        "forest": RandomForestClassifier(n_estimators=100, random_state=0),
    }
    return models[name].fit(*load_iris(return_X_y=True))


def zeros(rows: Any) -> Any:
    """What the model answers that does nothing: one number a row."""
    return np.zeros(len(rows))


def load() -> Callable[[Any], Any]:
    """A function from rows (n, features) to n predictions."""
    name = os.environ["MODEL"]
    return zeros if name == "noop" else fit(name).predict
