"""Trains a survival model on the GBSG2 study, whose data the PyPI package lifelines ships, as model.cbm."""

import csv
import sys
from importlib.metadata import distribution
from pathlib import Path

import numpy as np
from catboost import CatBoost, Pool

DATA = "lifelines/datasets/gbsg2.csv"
FEATURES = {
    "age": "age",  # years
    "tumor_size": "tsize",  # mm
    "positive_nodes": "pnodes",  # lymph nodes that hold tumour cells
    "progesterone_receptor": "progrec",  # fmol/l
}


def load() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features (rows, 4), days until a recurrence, death or the last news, and whether it was the last."""
    with Path(distribution("lifelines").locate_file(DATA)).open(newline="") as file:
        women = list(csv.DictReader(file))
    features = np.array([[float(woman[column]) for column in FEATURES.values()] for woman in women])
    days = np.array([float(woman["time"]) for woman in women])
    censored = np.array([woman["cens"] == "0" for woman in women])
    return features, days, censored


def train(features: np.ndarray, days: np.ndarray, censored: np.ndarray) -> CatBoost:
    """An accelerated failure time model: the logarithm of the days is normal, with scale 1."""
    longest = np.where(censored, -1, days)  # -1: not known to have ended
    pool = Pool(features, np.column_stack([days, longest]), feature_names=list(FEATURES))
    model = CatBoost(
        {
            "loss_function": "SurvivalAft:dist=Normal;scale=1",
            "iterations": 200,
            "depth": 3,
            "learning_rate": 0.05,
            "random_seed": 1,
            "thread_count": 1,
            "allow_writing_files": False,
            "logging_level": "Silent",
        }
    )
    return model.fit(pool)


def concordance(days: np.ndarray, censored: np.ndarray, predicted: np.ndarray) -> float:
    """Of the pairs of women of whom it is known who was longer free, the part in the predicted order."""
    known = ~censored[:, None] & (days[:, None] < days)
    right = predicted[:, None] < predicted
    return float((right & known).sum() / known.sum())


def main(folder: Path) -> None:
    features, days, censored = load()
    model = train(features, days, censored)
    model.save_model(str(folder / "model.cbm"))
    held_out = np.arange(len(days)) % 4 == 0
    judge = train(features[~held_out], days[~held_out], censored[~held_out])
    score = concordance(days[held_out], censored[held_out], judge.predict(features[held_out]))
    print(
        f"{folder / 'model.cbm'}: trained on {len(days)} women; concordance {score:.2f} on a quarter held out"
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
