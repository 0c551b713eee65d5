"""What the server derives from a loaded predictor and its configuration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlserver.errors import ModelLoadError
from mlserver.serving.brevity import Brevity
from mlserver.serving.coalescer import Coalescer
from mlserver.serving.codec import InputSchema
from mlserver.serving.predictors.trained import made_up
from mlserver.serving.predictors.wording import nearest

if TYPE_CHECKING:
    from mlserver.config import ApiSettings, Config
    from mlserver.serving.predictors import Predictor


@dataclass(frozen=True, slots=True)
class Model:
    """How one predictor is fed and run."""

    schema: InputSchema
    operations: frozenset[str]
    library: str
    """What it is made with, such as ``scikit-learn 1.9.1``."""
    coalesced: bool
    """Whether several calls may share a run."""
    concurrency: int
    """Runs at once."""
    computes: bool = False
    """A run does nothing but compute, in whatever thread it is."""

    @classmethod
    def unknown(cls, config: Config) -> Model:
        """What is known before the predictor is loaded."""
        names = config.api.feature_order
        schema = InputSchema(
            feature_names=names,
            n_features=len(names) if names else None,
            dataframe=False,
            categorical=frozenset(),
            adapter=config.api.adapter,
        )
        return cls(schema, frozenset({"predict"}), library="", coalesced=False, concurrency=0)

    @classmethod
    def of(cls, predictor: Predictor, config: Config) -> Model:
        """What holds for a loaded predictor.

        Raises:
            ModelLoadError: the configuration speaks of features that the predictor does not have.
        """
        api = config.api
        batching = api.batching.enabled
        coalesced = predictor.batchable if batching is None else batching
        return cls(
            _schema(predictor, api),
            predictor.operations,
            predictor.library,
            coalesced=coalesced,
            concurrency=1 if coalesced else api.concurrency,
            computes=predictor.computes,
        )

    def brevity(self, api: ApiSettings) -> Brevity | None:
        """What tells which runs may be done on the event loop; None if none may."""
        return Brevity(api.batching.max_rows) if self.coalesced and self.computes else None

    def queue(self, api: ApiSettings) -> Coalescer:
        """The queue before the predictor."""
        return Coalescer(
            enabled=self.coalesced,
            max_rows=api.batching.max_rows,
            max_queue=api.max_queue,
            max_wait_s=api.batching.max_wait_ms / 1000,
        )

    def info(self) -> dict[str, Any]:
        """The facts for ``GET /info``."""
        return {
            "library": self.library or None,
            "operations": sorted(self.operations),
            "feature_names": self.schema.feature_names,
            "n_features": self.schema.n_features,
            "input": "dataframe" if self.schema.dataframe else "ndarray",
            "batching": self.coalesced,
        }


def _schema(predictor: Predictor, api: ApiSettings) -> InputSchema:
    names = api.feature_order or predictor.feature_names
    if api.feature_order is not None:
        _check_order(api.feature_order, predictor)
    _check_categorical(api.categorical_features, predictor, names)
    if predictor.dataframe and names is None and api.adapter == "ndarray":
        raise ModelLoadError(
            "api.adapter is ndarray, but the predictor takes data frames and the names of its columns are "
            "not known: set api.feature_order, or take records."
        )
    return InputSchema(
        feature_names=names,
        n_features=len(names) if names else predictor.n_features,
        dataframe=predictor.dataframe,
        categorical=predictor.categorical.union(api.categorical_features),
        adapter=api.adapter,
    )


def _check_order(order: tuple[str, ...], predictor: Predictor) -> None:
    """Refuses an order in which values would reach the model as other features than they are."""
    names, width = predictor.feature_names, predictor.n_features
    if width is not None and len(order) != width:
        raise ModelLoadError(
            f"api.feature_order has {_count(len(order), 'name')}, the model takes {_count(width, 'feature')}"
            + (f": {', '.join(names)}." if names else ".")
        )
    if names is None or order == names:
        return
    if made_up(names) and set(order) != set(names) and not predictor.dataframe:
        return  # nobody gave the model these names
    unknown = next((name for name in order if name not in names), None)
    raise ModelLoadError(
        f"api.feature_order is {', '.join(order)}, but the model was made for {', '.join(names)}, in this "
        f"order. {f'It has no {unknown}{nearest(unknown, names)} ' if unknown else ''}"
        "Leave api.feature_order out: records may have their names in any order."
    )


def _check_categorical(
    declared: tuple[str, ...], predictor: Predictor, names: tuple[str, ...] | None
) -> None:
    """Refuses categories that would never reach the model."""
    unknown = [feature for feature in declared if names is not None and feature not in names]
    if names is not None and unknown:
        raise ModelLoadError(
            f"api.categorical_features has {', '.join(unknown)}; the model's features are {', '.join(names)}."
        )
    if declared and not predictor.dataframe:
        raise ModelLoadError(
            f"api.categorical_features is {', '.join(declared)}, but the model takes numbers only. A class "
            'says input = "dataframe" to be given strings; a file has to be of a model that was trained with '
            "categories. Else leave api.categorical_features out."
        )
    known = predictor.categorical
    numbers = [feature for feature in declared if known and feature not in known]
    if numbers:
        raise ModelLoadError(
            f"api.categorical_features has {', '.join(numbers)}, which the model takes as numbers; its "
            f"categories are {', '.join(sorted(known))}."
        )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
