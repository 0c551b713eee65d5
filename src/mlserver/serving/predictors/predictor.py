"""What the engine runs: one interface, whether a class of the user's or a model file is behind it."""

from __future__ import annotations

import asyncio
import inspect
import logging
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np

from mlserver.errors import ModelLoadError
from mlserver.serving.predictors import classes
from mlserver.serving.predictors.artifacts import load_artifact
from mlserver.serving.predictors.inputs import Frame, as_given
from mlserver.serving.predictors.trained import array
from mlserver.serving.predictors.wording import missing
from mlserver.serving.rows import Rows

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from mlserver.config import Config
    from mlserver.serving.predictors.trained import Prepare, Step, Trained

_logger = logging.getLogger("mlserver.predictor")


class Predictor:
    """A loaded model, ready to run.

    Args:
        name: of the class or the file.
        library: what made it, such as ``scikit-learn 1.9.1`` or ``my_predictor.CachedPredictor``.
        steps: by operation, what the rows go through, each step given the answer of the one before.
        prepare: makes of the rows what the first step takes.
        feature_names: what it was trained with, if that is known.
        n_features: how many values a row has, if that is known.
        dataframe: rows may hold strings, so they come as lists with names.
        batchable: whether several calls may share a run unless the configuration says otherwise.
        computes: whether a run does nothing but compute, in whatever thread it is.
        categorical: names of the features that a model file itself declares to be categories.
        check_health: whether it can work; may be async.
        close: frees what it holds; may be async.
    """

    def __init__(
        self,
        name: str,
        library: str,
        steps: Mapping[str, Sequence[Step]],
        *,
        prepare: Prepare = array,
        feature_names: tuple[str, ...] | None = None,
        n_features: int | None = None,
        dataframe: bool = False,
        batchable: bool = False,
        computes: bool = False,
        categorical: frozenset[str] = frozenset(),
        check_health: Callable[[], Any] | None = None,
        close: Callable[[], Any] | None = None,
    ) -> None:
        self.name = name
        self.library = library
        self.feature_names = feature_names
        self.n_features = n_features or (len(feature_names) if feature_names else None)
        self.dataframe = dataframe
        self.batchable = batchable
        self.computes = computes
        self.categorical = categorical
        self.operations = frozenset(steps)
        self.is_async = any(inspect.iscoroutinefunction(step) for chain in steps.values() for step in chain)
        self._steps = dict(steps)
        self._prepare = prepare
        self._check_health = check_health or _healthy
        self._close = close or _nothing
        self._closed = False

    def run(self, operation: str, rows: Rows) -> Any:
        """The answer to all rows, as the model gives it; for a predictor that is not async.

        Raises:
            InvalidInput: a value is none that the model takes.
            whatever the model raises.
        """
        value = self._prepare(rows)
        for step in self._steps[operation]:
            value = step(value)
        return value

    async def run_async(self, operation: str, rows: Rows) -> Any:
        """The same for an async predictor, whose steps may be either."""
        value = self._prepare(rows)
        for step in self._steps[operation]:
            value = step(value)
            if inspect.isawaitable(value):
                value = await value
        return value

    def warm_up(self) -> None:
        """Runs once on a row of zeros, so that the first call does not pay for what is made on first use.

        Nothing where no such row can be made, or before the loop of an async predictor runs. A model that
        cannot take zeros is no fault: that is only logged.
        """
        if self.n_features is None or self.dataframe or self.is_async:
            return
        try:
            self.run("predict", self._zeros(self.n_features))
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001  # a user's code may raise SystemExit, too
            self._note_cold(error)

    async def warm_up_async(self) -> None:
        """The same on the loop that runs an async predictor."""
        if self.n_features is None or self.dataframe:
            return
        try:
            await self.run_async("predict", self._zeros(self.n_features))
        except (KeyboardInterrupt, asyncio.CancelledError):
            raise
        except BaseException as error:  # noqa: BLE001  # as above
            self._note_cold(error)

    def _zeros(self, width: int) -> Rows:
        return Rows(np.zeros((1, width)), self.feature_names)

    def _note_cold(self, error: BaseException) -> None:
        _logger.warning("%s could not be warmed up with a row of zeros", self.name, exc_info=error)

    def check_health(self) -> bool:
        """What the user's ``check_health`` says; one that returns nothing is content.

        Raises:
            whatever the user's raises.
        """
        return _verdict(_finish(self._check_health()))

    async def check_health_async(self) -> bool:
        """The same on the loop that runs an async predictor."""
        return _verdict(await _settle(self._check_health()))

    def close(self) -> None:
        """Calls the user's ``close``, once.

        Raises:
            whatever the user's raises.
        """
        if not self._closed:
            self._closed = True
            _finish(self._close())

    async def close_async(self) -> None:
        """The same on the loop that runs an async predictor, which its connections belong to."""
        if not self._closed:
            self._closed = True
            await _settle(self._close())


def load_predictor(config: Config) -> Predictor:
    """Loads what the configuration's ``predictor`` names, in the thread that is to run it.

    Raises:
        ModelLoadError: it could not be loaded; says why, and has the reason as its cause.
    """
    classes.import_from(config.folder)
    if config.predictor.artifact is None:
        predictor = of_object(classes.load_object(config), config.api.categorical_features)
    else:
        predictor = _of_file(config.predictor.artifact.name, load_artifact(config))
    predictor.n_features = predictor.n_features or len(config.api.feature_order or ()) or None
    return predictor


def of_object(instance: Any, categorical: Sequence[str] = ()) -> Predictor:
    """The predictor that a user's object is.

    Args:
        instance: with ``predict`` and whatever else a predictor may have.
        categorical: names of the columns of a data frame that are left as they came.

    Raises:
        ModelLoadError: it is no predictor.
    """
    cls = type(instance)
    frame = classes.wants_frame(instance)
    return Predictor(
        cls.__name__,
        f"{cls.__module__}.{cls.__qualname__}",
        classes.steps_of(instance),
        prepare=_frame(categorical) if frame else array,
        feature_names=classes.feature_names_of(instance),
        dataframe=frame,
        batchable=bool(getattr(instance, "batchable", False)),
        check_health=getattr(instance, "check_health", None),
        close=getattr(instance, "close", None),
    )


def _of_file(name: str, trained: Trained) -> Predictor:
    steps = {"predict": (trained.predict,)}
    if trained.predict_proba is not None:
        steps["predict_proba"] = (trained.predict_proba,)
    return Predictor(
        name,
        trained.library,
        steps,
        prepare=trained.prepare,
        feature_names=trained.feature_names,
        n_features=trained.n_features,
        dataframe=trained.dataframe,
        batchable=True,
        computes=trained.computes,
        categorical=trained.categorical,
    )


def _frame(categorical: Sequence[str]) -> Frame:
    try:
        return Frame(dict.fromkeys(categorical, as_given))
    except ModuleNotFoundError as error:
        raise ModelLoadError(f'A predictor with input = "dataframe" needs {missing(error)}') from error


def _verdict(said: Any) -> bool:
    return said is None or bool(said)


def _healthy() -> bool:
    return True


def _nothing() -> None:
    pass


def _finish(result: Any) -> Any:
    """The result of a hook that may be async, where nobody can await it."""
    if not inspect.isawaitable(result):
        return result
    with ThreadPoolExecutor(1) as thread:  # this thread may have a running loop already
        return thread.submit(asyncio.run, _settle(result)).result()


async def _settle(result: Any) -> Any:
    return await result if inspect.isawaitable(result) else result
