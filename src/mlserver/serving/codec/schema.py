"""What a model's input has to be, whatever form it comes in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from mlserver.serving.codec import mistakes

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True)
class InputSchema:
    """What is known of a model's input."""

    feature_names: tuple[str, ...] | None
    """``api.feature_order``, else the names that a model file was trained with."""
    n_features: int | None
    dataframe: bool
    """The predictor takes data frames: strings and null are values."""
    categorical: frozenset[str]
    """Names of declared categorical features: where there are any, only these may hold strings."""
    adapter: Literal["auto", "records", "ndarray"] = "auto"
    """``records``: only rows with names are taken; ``ndarray``: only rows without."""

    @property
    def width(self) -> int | None:
        """How many values a row has."""
        return self.n_features if self.feature_names is None else len(self.feature_names)

    @property
    def takes_unnamed(self) -> bool:
        """Whether rows without names can be put into the model's order."""
        return self.adapter != "records" and not (self.dataframe and self.feature_names is None)

    @property
    def takes_named(self) -> bool:
        """Whether rows with names are taken."""
        return self.adapter != "ndarray"

    def check_names(self, where: str, names: Sequence[str]) -> None:
        """Looks whether columns are those of the model, in any order.

        Raises:
            InvalidInput: they are not, or one is there twice.
        """
        if len({*names}) != len(names):
            raise mistakes.in_columns(where, list(names))
        if self.feature_names is None and self.n_features not in (None, len(names)):
            raise mistakes.in_width(where, len(names), self.n_features)
        if self.feature_names and {*names} != {*self.feature_names}:
            raise mistakes.in_names(where, names, self.feature_names, "the model takes")
