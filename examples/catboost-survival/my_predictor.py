"""How long women stay free of breast cancer after surgery, by the model that train.py makes."""

from pathlib import Path

import numpy as np
from catboost import CatBoost
from numpy.typing import NDArray
from scipy.special import ndtr

MODEL = Path(__file__).with_name("model.cbm")
Array = NDArray[np.float64]


class SurvivalPredictor:
    """Predicts recurrence-free survival.

    Args:
        horizon_days: the time that `predict_proba` speaks of; 1826 days are five years.
        model: file of a CatBoost model, trained with the loss SurvivalAft, a normal distribution of scale 1.
    """

    batchable = True  # a row's answer does not depend on the rows beside it

    def __init__(self, horizon_days: float = 1826, model: str | Path = MODEL) -> None:
        self.model = CatBoost().load_model(str(model))
        self.feature_names = self.model.feature_names_
        self.log_horizon = np.log(horizon_days)

    def predict(self, X: Array) -> Array:
        """Median survival in days, of shape (rows,)."""
        return np.exp(self.log_days(X)).round(1)

    def predict_proba(self, X: Array) -> Array:
        """Probabilities of a recurrence or death within the horizon, and of neither, of shape (rows, 2)."""
        free = ndtr(self.log_days(X) - self.log_horizon)
        return np.column_stack([1 - free, free])

    def log_days(self, X: Array) -> Array:
        return self.model.predict(X, thread_count=1)
