"""Models that were saved as Python objects: scikit-learn's, and what follows its interface."""

from __future__ import annotations

import pickle
import sys
from types import FunctionType, ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from mlserver.errors import InvalidInput, ModelLoadError
from mlserver.serving.predictors import boosters
from mlserver.serving.predictors.inputs import Frame, as_given
from mlserver.serving.predictors.trained import Trained, array

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from mlserver.config import Config
    from mlserver.serving.predictors.trained import Step

LEAVES = (str, bytes, int, float, complex, type(None), type, FunctionType, ModuleType, np.dtype)
NAMES = "feature_names_in_"
MATRIX = 2


def load_skops(path: Path, config: Config) -> Trained:
    """A skops file. Types that neither skops nor ``predictor.trusted`` trusts are refused."""
    from skops import io  # noqa: PLC0415

    trusted = list(config.predictor.trusted)
    unknown = sorted(set(io.get_untrusted_types(file=path)) - set(trusted))
    if unknown:
        raise ModelLoadError(
            f"{path} holds types that are not trusted: {', '.join(unknown)}. If you trust them and who made "
            f"the file, write in mlserver.yaml, under predictor: trusted: [{', '.join(trusted + unknown)}]"
        )
    return of_object(io.load(path, trusted=trusted), path, config)


def load_joblib(path: Path, config: Config) -> Trained:
    """A joblib file, if ``predictor.allow_pickle`` is on: it can run any code."""
    refuse_code(path, config)
    import joblib  # noqa: PLC0415

    return of_object(joblib.load(path), path, config)


def load_pickle(path: Path, config: Config) -> Trained:
    """A pickle file, if ``predictor.allow_pickle`` is on: it can run any code."""
    refuse_code(path, config)
    with path.open("rb") as file:
        return of_object(pickle.load(file), path, config)  # noqa: S301  # allowed by the user


def refuse_code(path: Path, config: Config) -> None:
    """Raises `ModelLoadError` unless files that run code were allowed."""
    if not config.predictor.allow_pickle:
        raise ModelLoadError(
            f"{path} was not loaded, because joblib and pickle files can run any code when they are loaded. "
            "If you trust who made it, set predictor.allow_pickle: true; else save the model with skops."
        )


def of_object(model: Any, path: Path, config: Config) -> Trained:
    """What a Python object from a file predicts with.

    Raises:
        ModelLoadError: it has no ``predict``.
    """
    if (wrap := boosters.wrapper_of(model)) is not None:
        return wrap(model, config)
    if not callable(getattr(model, "predict", None)):
        raise ModelLoadError(
            f"{path} holds an object of {type(model).__module__}.{type(model).__qualname__}, which has no "
            "predict method: expected a trained model."
        )
    predict, proba = model.predict, getattr(model, "predict_proba", None)
    names = getattr(model, NAMES, None)
    declared = config.api.categorical_features
    frame = _needs_frame(model) or bool(declared)
    if frame and names is None:
        predict, proba = _on_values(predict), proba and _on_values(proba)
    names = None if names is None else tuple(map(str, names))
    shown = config.api.feature_order or names
    return Trained(
        library=_library(model),
        predict=_blaming_missing(predict, shown),
        predict_proba=proba and _blaming_missing(_by_row(proba), shown),
        feature_names=names,
        n_features=getattr(model, "n_features_in_", None),
        dataframe=frame,
        prepare=Frame(dict.fromkeys(declared, as_given)) if frame else array,
        computes=not config.predictor.allow_pickle and not any(map(_brings_code, config.predictor.trusted)),
    )


def _brings_code(trusted: str) -> bool:
    """Whether a type that skops does not trust may do more than compute: one that is no library's."""
    return not trusted.startswith("sklearn.")


def _on_values(step: Step) -> Step:
    """For a model that was trained without names, and would warn about a frame that has some."""
    return lambda frame: step(frame.to_numpy(dtype=object))


def _blaming_missing(step: Step, names: Sequence[str] | None) -> Step:
    """Has a refusal of missing values name the first that the client sent.

    The model is asked, not its tags: those of a pipeline do not know of an imputer behind its first step.
    """

    def run(rows: Any) -> Any:
        try:
            return step(rows)
        except ValueError as error:
            if "contains NaN" in str(error) and (place := _missing_value(rows)) is not None:
                row, column = place
                feature = f"feature {names[column]!r}" if names else f"feature {column}"
                raise InvalidInput(
                    f"Row {row} has null for {feature}: the model takes no missing values there."
                ) from None
            raise

    return run


def _missing_value(rows: Any) -> tuple[int, int] | None:
    values = rows if isinstance(rows, np.ndarray) else rows.to_numpy(dtype=object)
    places = np.argwhere(values != values)  # noqa: PLR0124  # NaN among objects, too
    return (int(places[0][0]), int(places[0][1])) if len(places) else None


def _by_row(predict_proba: Step) -> Step:
    """Of a model with several outputs one matrix each becomes one list of lists each row."""

    def by_row(rows: Any) -> Any:
        answer = predict_proba(rows)
        several = isinstance(answer, list) and all(np.ndim(output) == MATRIX for output in answer)
        return [list(row) for row in zip(*answer, strict=True)] if several else answer

    return by_row


def _needs_frame(model: Any) -> bool:
    """Whether a model cannot be given arrays of numbers.

    One that was trained on a data frame without needing it warns about every array, so its names are removed
    once they are known. One that does need it, since it selects columns by name, then fails, and gets
    them back.
    """
    parts = list(_parts(model))
    if any(_has_texts(part) or "_sklearn_output_config" in vars(part) for part in parts):
        return True
    if getattr(model, NAMES, None) is None:
        return False
    hidden = [(part, vars(part).pop(NAMES)) for part in parts if NAMES in vars(part)]
    if getattr(model, NAMES, None) is None and _takes_arrays(model):
        return False
    for part, names in hidden:
        setattr(part, NAMES, names)
    return True


def _takes_arrays(model: Any) -> bool:
    try:
        model.predict(np.zeros((1, model.n_features_in_)))
    except Exception:  # noqa: BLE001  # whatever it is, a frame is the other way
        return False
    return True


def _has_texts(part: Any) -> bool:
    """Whether this is an encoder of categories that are no numbers."""
    categories = vars(part).get("categories_")
    return isinstance(categories, list) and any(
        np.asarray(known).dtype.kind not in "biuf" for known in categories
    )


def _parts(root: Any) -> Iterator[Any]:
    """Every object with attributes that a model is made of, itself first."""
    seen: set[int] = set()
    todo = [root]
    while todo:
        part = todo.pop()
        if isinstance(part, LEAVES) or id(part) in seen:
            continue
        seen.add(id(part))
        if isinstance(part, (list, tuple, set, frozenset)):
            todo += part
        elif isinstance(part, dict):
            todo += part.values()
        elif isinstance(part, np.ndarray):
            todo += part.ravel().tolist() if part.dtype == object else ()
        elif hasattr(part, "__dict__"):
            yield part
            todo += vars(part).values()


def _library(model: Any) -> str:
    root = type(model).__module__.partition(".")[0]
    version = getattr(sys.modules.get(root), "__version__", None)
    name = {"sklearn": "scikit-learn"}.get(root, root)
    return f"{name} {version}" if version else f"{type(model).__module__}.{type(model).__qualname__}"
