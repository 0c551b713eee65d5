"""Model files: which loader takes which format, and what is said when one cannot be loaded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from mlserver.errors import ModelLoadError
from mlserver.serving.predictors.boosters import load_catboost, load_lightgbm, load_xgboost
from mlserver.serving.predictors.estimators import load_joblib, load_pickle, load_skops
from mlserver.serving.predictors.onnx import load_onnx
from mlserver.serving.predictors.trained import Trained
from mlserver.serving.predictors.wording import brief, missing

if TYPE_CHECKING:
    from mlserver.config import Config

Loader = Callable[[Path, "Config"], Trained]

LOADERS: dict[str, Loader] = {
    "skops": load_skops,
    "joblib": load_joblib,
    "pickle": load_pickle,
    "catboost": load_catboost,
    "xgboost": load_xgboost,
    "lightgbm": load_lightgbm,
    "onnx": load_onnx,
}
CALLED = {
    "skops": "a skops file",
    "joblib": "a joblib file",
    "pickle": "a pickle file",
    "catboost": "a CatBoost file",
    "xgboost": "an XGBoost file",
    "lightgbm": "a LightGBM file",
    "onnx": "an ONNX file",
}


def load_artifact(config: Config) -> Trained:
    """The model in the file that ``predictor.artifact`` names.

    Raises:
        ModelLoadError: it could not be loaded; says why and what to do.
    """
    path, format_ = config.predictor.artifact, config.predictor.artifact_format
    if path is None or format_ is None:
        raise ModelLoadError("predictor.artifact is not set: expected the path of a model file.")
    try:
        return LOADERS[format_](path, config)
    except (ModelLoadError, KeyboardInterrupt):
        raise
    except ModuleNotFoundError as error:
        raise ModelLoadError(f"{path} needs {missing(error)}") from error
    except BaseException as error:  # unpickling can raise anything, SystemExit too
        raise ModelLoadError(
            f"{path} could not be loaded as {CALLED[format_]}: {brief(error)}. If it is whole and of another "
            f"format, set predictor.format to one of {', '.join(LOADERS)}."
        ) from error
