"""What a model file becomes once it is loaded, whichever library made it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import numpy as np

from mlserver.serving.rows import Rows

if TYPE_CHECKING:
    from numpy.typing import NDArray

Prepare = Callable[[Rows], Any]
"""Makes of a run's rows what the model takes."""
Step = Callable[[Any], Any]

array: Prepare = attrgetter("values")
"""The rows as they came: a float64 array of shape (rows, features, …)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """A model from a file."""

    library: str
    """What made it, such as ``scikit-learn 1.9.1``."""
    predict: Step
    """From what `prepare` makes to an answer for every row."""
    predict_proba: Step | None = None
    """Class probabilities of shape (rows, classes); None for what is no classifier."""
    prepare: Prepare = array
    feature_names: tuple[str, ...] | None = None
    """What it was trained with; None if it was trained without names."""
    n_features: int | None = None
    dataframe: bool = False
    """The rows may hold strings, so they come as lists with names."""
    computes: bool = True
    """It does nothing but compute, in whatever thread it is; False where the file may have brought code."""
    categorical: frozenset[str] = frozenset()
    """Names of the features that the file itself declares to be categories."""


MADE_UP = ("{}", "f{}", "feature_{}", "Column_{}")
"""How libraries name the features of a model that was trained without names."""


def made_up(names: Sequence[str]) -> bool:
    """Whether a library numbered the features, in place of names that somebody gave to them."""
    return any(own_names(names, pattern) is None for pattern in MADE_UP)


def own_names(names: Iterable[Any], generated: str) -> tuple[str, ...] | None:
    """The names that a model was trained with; None where the library made them up, as in ``Column_{}``."""
    given = tuple(map(str, names))
    return None if given == tuple(map(generated.format, range(len(given)))) else given


def flat(answer: NDArray[Any]) -> NDArray[Any]:
    """An answer of one value a row as shape (rows,), as scikit-learn gives it."""
    return answer.reshape(-1) if answer.ndim == 2 and answer.shape[1] == 1 else answer


def over_half(probability: NDArray[Any]) -> NDArray[np.int64]:
    """Class 0 or 1, from the probability of class 1."""
    return (probability > 0.5).astype(np.int64)


def both(probability: NDArray[Any]) -> NDArray[Any]:
    """The probabilities of class 0 and 1, from that of class 1; those of several labels stay as they are."""
    return np.column_stack([1 - probability, probability]) if probability.ndim == 1 else probability


def likeliest(probabilities: NDArray[Any]) -> Any:
    """Each row's class with the highest probability, by number."""
    return np.argmax(probabilities, axis=1)
