"""What is asked of the servers: the models, the bodies and how many connections ask at once."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from machine import HERE, RUN

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

sys.path.append(str(HERE / "servers"))

Rows = list[list[float]]

FLOWER: Rows = [[5.1, 3.5, 1.4, 0.2]]
WIDE: Rows = [[round(0.1 * (row + column), 1) for column in range(30)] for row in range(100)]
ROWS = {"regression": FLOWER, "forest": FLOWER, "noop": WIDE}
ANSWERS = {"regression": [0], "forest": [0], "noop": [0] * len(WIDE)}
TITLES = {
    "regression": "logistic regression, 1 row",
    "forest": "random forest, 1 row",
    "noop": "no-op, 100 × 30 rows",  # noqa: RUF001
}


@dataclass(frozen=True)
class Work:
    """One kind of load.

    Args:
        varied: each request has an ``X-Request-ID`` and a ``traceparent`` of its own; one in 100 is sampled.
    """

    model: str
    connections: int
    varied: bool = False

    def __str__(self) -> str:
        ids = ", ids of its own in each request" if self.varied else ""
        many = "1 connection" if self.connections == 1 else f"{self.connections} connections"
        return f"{TITLES[self.model]}, {many}{ids}"


def ndarray(rows: Rows) -> str:
    """The body that all servers but one take."""
    return json.dumps({"ndarray": rows})


def inference(rows: Rows) -> str:
    """The body of the Open Inference Protocol."""
    data = [value for row in rows for value in row]
    shape = [len(rows), len(rows[0])]
    return json.dumps({"inputs": [{"name": "ndarray", "shape": shape, "datatype": "FP64", "data": data}]})


def predictions(answer: Any) -> Sequence[float]:
    """The numbers in an answer, whichever server gave it."""
    if isinstance(answer, dict):
        answer = answer["predictions"] if "predictions" in answer else answer["outputs"][0]["data"]
    return list(answer)


def model_file(name: str) -> Path:
    """The file of a fitted model, made on first use."""
    path = RUN / "bench" / f"{name}.skops"
    if not path.exists():
        import models  # noqa: PLC0415
        from skops import io  # noqa: PLC0415

        path.parent.mkdir(parents=True, exist_ok=True)
        io.dump(models.fit(name), path)
    return path
