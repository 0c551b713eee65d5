"""Models of gradient boosting libraries, from files of their own formats.

Each answers as its library's scikit-learn interface does: `predict` gives a classifier's labels, whatever the
library's plain interface gives. They run on one thread: starting more costs small batches far more than
it saves, and it is workers that make use of further cores.
"""

from __future__ import annotations

import json
import re
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from mlserver.errors import ModelLoadError
from mlserver.serving.predictors.inputs import Codes, Frame, texts_or_integers
from mlserver.serving.predictors.trained import Trained, array, both, flat, likeliest, over_half, own_names

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from mlserver.config import Config
    from mlserver.serving.predictors.trained import Step

EXPONENT = ("Poisson", "Tweedie")
"""CatBoost's losses whose raw answer is a logarithm."""


def load_catboost(path: Path, config: Config) -> Trained:
    """A CatBoost file, ``.cbm``."""
    import catboost  # noqa: PLC0415

    model = catboost.CatBoost()
    model.load_model(str(path), format="cbm")
    return of_catboost(model, config)


def of_catboost(model: Any, config: Config) -> Trained:
    """A CatBoost model. Categorical features are those that it was trained with."""
    import catboost  # noqa: PLC0415

    if model.get_embedding_feature_indices():
        raise ModelLoadError("The model has embedding features, which only a class of yours can give to it.")
    names, own = tuple(model.feature_names_), own_names(model.feature_names_, "{}")
    if own is None and len(config.api.feature_order or ()) == len(names):
        names = config.api.feature_order or names  # CatBoost takes columns of any names then
    categorical = frozenset(names[index] for index in model.get_cat_feature_indices())
    texts = [names[index] for index in model.get_text_feature_indices()]
    frame = bool(categorical or texts)
    is_classifier = len(model.classes_) > 0
    kind = "Class" if is_classifier else _prediction_type(model)
    run = partial(catboost.CatBoost.predict, model, thread_count=1)
    return Trained(
        library=f"catboost {catboost.__version__}",
        predict=lambda rows: flat(run(rows, prediction_type=kind)),
        predict_proba=partial(run, prediction_type="Probability") if is_classifier else None,
        prepare=Frame({name: texts_or_integers(name) for name in categorical}) if frame else array,
        feature_names=names if frame else own,
        n_features=len(names),
        dataframe=frame,
        categorical=categorical.union(texts),
    )


def _prediction_type(model: Any) -> str:
    loss = str(model.get_all_params().get("loss_function", ""))
    if loss == "RMSEWithUncertainty":
        return loss
    return "Exponent" if loss.startswith(EXPONENT) else "RawFormulaVal"


def load_xgboost(path: Path, config: Config) -> Trained:
    """An XGBoost file, ``.json`` or ``.ubj``, saved by a Booster or by the scikit-learn interface."""
    import xgboost  # noqa: PLC0415

    return of_xgboost(xgboost.Booster(model_file=str(path)), config)


def of_xgboost(booster: Any, _config: Config) -> Trained:
    """An XGBoost model. Categories are coded as in training if the file has them (XGBoost 3.1 and later)."""
    import xgboost  # noqa: PLC0415

    booster.set_param({"nthread": 1})
    categories = _xgboost_categories(booster)
    names = tuple(booster.feature_names) if booster.feature_names else None
    predict, proba = _xgboost_answers(booster)
    return Trained(
        library=f"xgboost {xgboost.__version__}",
        predict=predict,
        predict_proba=proba,
        prepare=Codes(categories) if categories else array,
        feature_names=names,
        n_features=booster.num_features(),
        dataframe=bool(categories),
        categorical=_named(categories, names or ()),
    )


def _xgboost_answers(booster: Any) -> tuple[Step, Step | None]:
    objective = json.loads(booster.save_config())["learner"]["objective"]["name"]
    run = _xgboost_run(booster)
    match objective:
        case "binary:logistic":
            return _then(run, over_half), _then(run, both)
        case "multi:softprob":
            return _then(run, likeliest), run
        case "multi:softmax":
            margins = partial(run, predict_type="margin")
            return _then(run, _as_labels), _then(margins, _softmax)
        case "binary:hinge":
            return _then(run, _as_labels), None
        case _:
            return run, None


def _xgboost_run(booster: Any) -> Callable[..., Any]:
    import xgboost  # noqa: PLC0415

    attributes = booster.attributes()
    best = attributes.get("best_iteration") if "scikit_learn" in attributes else None
    trees = (0, 0 if best is None else int(best) + 1)
    if json.loads(booster.save_config())["learner"]["learner_train_param"]["booster"] != "gblinear":
        return partial(booster.inplace_predict, iteration_range=trees)

    def run(rows: Any, predict_type: str = "value") -> Any:
        matrix = xgboost.DMatrix(rows, nthread=1, feature_names=booster.feature_names)
        return booster.predict(matrix, output_margin=predict_type == "margin")

    return run


def _xgboost_categories(booster: Any) -> dict[int, list[Any]]:
    """The categories of each categorical feature, in the order of their codes."""
    if "c" not in (booster.feature_types or ()):
        return {}
    trees = json.loads(bytes(booster.save_raw("json")))["learner"]["gradient_booster"]
    encodings = (trees.get("gbtree") or trees)["model"].get("cats", {}).get("enc", [])
    decoded = {position: _decoded(encoding) for position, encoding in enumerate(encodings)}
    return {position: categories for position, categories in decoded.items() if categories}


def _decoded(encoding: Mapping[str, list[int]]) -> list[Any]:
    """Integers are kept as they are; strings as signed bytes, one after the other, and where each starts."""
    values, offsets = encoding["values"], encoding.get("offsets")
    if offsets is None:
        return values
    text = np.array(values, dtype=np.int8).tobytes()
    if not text.isascii():
        raise ModelLoadError(
            "The model has categories with letters beyond ASCII. XGBoost counts letters where it should "
            "count bytes, and mixes such categories up: rename them and train the model again."
        )
    return [text[start:end].decode() for start, end in pairwise(offsets)]


def load_lightgbm(path: Path, config: Config) -> Trained:
    """A LightGBM text file."""
    try:
        import lightgbm  # noqa: PLC0415
    except OSError as error:  # its wheel leaves OpenMP to the system
        raise ModelLoadError(
            f"{path} needs LightGBM, which cannot be imported: {error}. Install the system's OpenMP library, "
            "in Debian: apt-get install libgomp1."
        ) from error
    check_lightgbm(path)
    return of_lightgbm(lightgbm.Booster(model_file=str(path)), config)


def check_lightgbm(path: Path) -> None:
    """Raises `ModelLoadError` for a damaged file: LightGBM itself would abort the whole process."""
    text = path.read_bytes()
    sizes = re.search(rb"\ntree_sizes=([\d ]*)\n+", text)
    if not text.startswith(b"tree\n") or sizes is None:
        raise ModelLoadError(f"{path} is no LightGBM model: expected what Booster.save_model writes.")
    start = sizes.end()
    for size in map(int, sizes[1].split()):
        if not text.startswith(b"Tree=", start):
            break
        start += size
    if not text.startswith(b"end of trees", start):
        raise ModelLoadError(f"{path} is damaged: a tree is not as long as it says. Save the model again.")


def of_lightgbm(booster: Any, config: Config) -> Trained:
    """A LightGBM model. Its file does not keep class labels: they are 0, 1, … in the order of training."""
    import lightgbm  # noqa: PLC0415

    names = own_names(booster.feature_name(), "Column_{}")
    categories = _lightgbm_categories(booster, config)
    run: Step = partial(booster.predict, num_threads=1)
    predict, proba = run, None
    match booster.dump_model(num_iteration=1).get("objective", "").partition(" ")[0]:
        case "binary":
            predict, proba = _then(run, over_half), _then(run, both)
        case "multiclass" | "multiclassova":
            predict, proba = _then(run, likeliest), run
    return Trained(
        library=f"lightgbm {lightgbm.__version__}",
        predict=predict,
        predict_proba=proba,
        prepare=Codes(categories) if categories else array,
        feature_names=names,
        n_features=booster.num_feature(),
        dataframe=bool(categories),
        categorical=_named(categories, names or ()),
    )


def _lightgbm_categories(booster: Any, config: Config) -> dict[int, list[Any]]:
    """The categories of each feature that was a pandas category in training, in the order of their codes.

    The file lists them without saying whose they are: the features without a numeric range.
    """
    known = booster.pandas_categorical or []
    names = booster.feature_name()
    declared = [names.index(name) for name in names if name in config.api.categorical_features]
    infos = re.search(r"^feature_infos=(.*)$", booster.model_to_string(num_iteration=1), re.MULTILINE)
    ranges = infos[1].split() if infos else []
    several = [index for index, info in enumerate(ranges) if not info.startswith("[") and info != "none"]
    any_number = [index for index, info in enumerate(ranges) if not info.startswith("[")]
    for positions in (declared, several, any_number):
        if len(positions) == len(known):
            return dict(zip(positions, known, strict=True))
    raise ModelLoadError(
        f"The model has {len(known)} categorical features, but its file does not say which: "
        "list their names in api.categorical_features."
    )


def wrapper_of(model: Any) -> Callable[[Any, Config], Trained] | None:
    """How a model that came as a Python object is taken, if it is one of these libraries' own."""
    classes = {f"{cls.__module__}.{cls.__qualname__}" for cls in type(model).__mro__}
    wrappers = {
        "catboost.core.CatBoost": of_catboost,
        "xgboost.core.Booster": of_xgboost,
        "lightgbm.basic.Booster": of_lightgbm,
    }
    return next((wrapper for name, wrapper in wrappers.items() if name in classes), None)


def _then(run: Step, change: Step) -> Step:
    return lambda rows: change(run(rows))


def _named(categories: Mapping[int, Sequence[Any]], names: Sequence[str]) -> frozenset[str]:
    return frozenset(names[position] for position in categories)


def _as_labels(answer: Any) -> Any:
    return answer.astype(np.int64)


def _softmax(margins: Any) -> Any:
    powers = np.exp(margins - margins.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)
