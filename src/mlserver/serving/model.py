"""What the server derives from a loaded predictor and its configuration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlserver.errors import ModelLoadError
from mlserver.serving.coalescer import Coalescer
from mlserver.serving.codec import InputSchema

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
        )

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
    width = predictor.n_features
    if names is not None and width is not None and len(names) != width:
        raise ModelLoadError(
            f"api.feature_order has {len(names)} names, the model takes {width} features"
            + (f": {', '.join(predictor.feature_names)}." if predictor.feature_names else ".")
        )
    if predictor.dataframe and names is None and api.adapter == "ndarray":
        raise ModelLoadError(
            "api.adapter is ndarray, but the predictor takes data frames and the names of its columns are "
            "not known: set api.feature_order, or take records."
        )
    return InputSchema(
        feature_names=names,
        n_features=len(names) if names else width,
        dataframe=predictor.dataframe,
        categorical=_categorical(api.categorical_features, names) | predictor.categorical,
        adapter=api.adapter,
    )


def _categorical(features: tuple[str, ...], names: tuple[str, ...] | None) -> frozenset[str]:
    unknown = [feature for feature in features if names is not None and feature not in names]
    if names is not None and unknown:
        raise ModelLoadError(
            f"api.categorical_features has {', '.join(unknown)}; the model's features are {', '.join(names)}."
        )
    return frozenset(features)
