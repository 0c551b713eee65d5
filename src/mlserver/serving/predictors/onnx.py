"""Models in ONNX files, run by onnxruntime on the CPU."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from mlserver.errors import InvalidInput, ModelLoadError
from mlserver.serving.predictors.inputs import Frame
from mlserver.serving.predictors.trained import Trained, array, flat

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from mlserver.config import Config

TYPES: dict[str, Any] = {
    "tensor(float16)": np.float16,
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
    "tensor(bool)": np.bool_,
    "tensor(string)": np.object_,
}
ERRORS_ONLY = 3


class Port(NamedTuple):
    """An input or output of a model, as onnxruntime describes it."""

    name: str
    type: str
    shape: list[int | str | None]

    def __str__(self) -> str:
        return f"{self.name}: {self.type} {self.shape}"


def load_onnx(path: Path, _config: Config) -> Trained:
    """An ONNX file with one input of rows, or with one input of a column for each feature."""
    import onnxruntime  # noqa: PLC0415

    options = onnxruntime.SessionOptions()
    # More threads cost small batches more than they save; workers make use of further cores.
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = ERRORS_ONLY
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    inputs = [Port(port.name, port.type, port.shape) for port in session.get_inputs()]
    outputs = [Port(port.name, port.type, port.shape) for port in session.get_outputs()]
    feed = _feed_of(inputs)
    run = partial(_run, session, feed)
    probabilities = _probabilities(outputs)
    columns = len(inputs) > 1
    texts = frozenset(port.name for port in inputs if port.type == "tensor(string)")
    return Trained(
        library=f"onnxruntime {onnxruntime.__version__}",
        predict=partial(run, outputs[0].name),
        predict_proba=None if probabilities is None else partial(run, probabilities),
        prepare=Frame() if texts else array,
        feature_names=tuple(port.name for port in inputs) if columns else None,
        n_features=len(inputs) if columns else _width(inputs[0]),
        dataframe=bool(texts),
        categorical=texts,
    )


def _feed_of(inputs: list[Port]) -> Callable[[Any], dict[str, Any]]:
    """Makes a session's inputs of rows.

    Raises:
        ModelLoadError: rows are not what the model takes.
    """
    kinds = [TYPES.get(port.type) for port in inputs]
    single = len(inputs) == 1 and kinds[0] is not np.object_ and len(inputs[0].shape) != 1
    columns = all(len(port.shape) == 2 and port.shape[1] == 1 for port in inputs)
    if None in kinds or not (single or columns):
        raise ModelLoadError(
            f"The model takes {'; '.join(map(str, inputs))}. Expected one tensor of rows, or one of shape "
            "(rows, 1) for each feature. Export it so, or serve it through a class of yours."
        )
    if any(port.shape and isinstance(port.shape[0], int) for port in inputs):
        raise ModelLoadError(
            f"The model takes {'; '.join(map(str, inputs))}: always the same number of rows. "
            "Export it with a dynamic first dimension."
        )
    if single:
        name, kind = inputs[0].name, kinds[0]
        return lambda rows: {name: _cast(name, rows, kind)}
    return partial(_columns, list(zip((port.name for port in inputs), kinds, strict=True)))


def _columns(kinds: list[tuple[str, Any]], rows: Any) -> dict[str, Any]:
    values = rows if isinstance(rows, np.ndarray) else rows.to_numpy(dtype=object)
    return {name: _cast(name, values[:, [index]], kind) for index, (name, kind) in enumerate(kinds)}


def _cast(name: str, values: Any, kind: Any) -> Any:
    if kind is np.object_:
        return values.astype(str).astype(object)
    numbers = values.astype(np.float64, copy=False)
    if np.issubdtype(kind, np.integer) and not (np.isfinite(numbers) & (numbers == np.trunc(numbers))).all():
        raise InvalidInput(f"Input {name!r} of the model takes whole numbers.")
    return numbers.astype(kind)


def _width(port: Port) -> int | None:
    return port.shape[1] if len(port.shape) == 2 and isinstance(port.shape[1], int) else None


def _probabilities(outputs: list[Port]) -> str | None:
    """Name of the output with class probabilities: one map a row, or a tensor that is called so."""
    for port in outputs[1:]:
        if port.type.startswith("seq(map(") or ("prob" in port.name.lower() and "float" in port.type):
            return port.name
    return None


def _run(session: Any, feed: Callable[[Any], dict[str, Any]], output: str, rows: Any) -> Any:
    (answer,) = session.run([output], feed(rows))
    if isinstance(answer, list) and answer and isinstance(answer[0], dict):
        return np.array([list(row.values()) for row in answer], dtype=np.float32)
    return flat(answer) if isinstance(answer, np.ndarray) else answer
