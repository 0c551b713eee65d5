"""How long the codec takes for one request, in microseconds.

    python benchmarks/codec.py

Medians of many short runs; compare only within one table, made on one machine without other load.
"""

from __future__ import annotations

from functools import partial
from statistics import median
from timeit import Timer
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from mlserver.serving.codec import Decoder, Encoder, InputSchema, normalise

if TYPE_CHECKING:
    from collections.abc import Callable

SIZES = ((1, 4), (100, 30))
RUNS = 41
RUN_S = 0.01


def median_us(function: Callable[[], object]) -> float:
    """The median over runs of the mean time of a call within a run."""
    timer = Timer(function)
    number = max(1, int(RUN_S / (timer.timeit(10) / 10)))
    return median(timer.repeat(RUNS, number)) / number * 1e6


def decoding(rows: int, features: int) -> dict[str, Callable[[], object]]:
    """One body in every form, and numpy alone on the parsed list as the floor."""
    matrix = np.random.default_rng(0).normal(size=(rows, features)).round(4).tolist()
    names = tuple(f"feature_{index}" for index in range(features))
    records = [dict(zip(names, row, strict=True)) for row in matrix]
    bodies: dict[str, Any] = {
        "ndarray": {"ndarray": matrix},
        "records": {"records": records},
        "dataframe_split": {"dataframe_split": {"columns": names, "data": matrix}},
    }
    array = Decoder(InputSchema(names, features, dataframe=False, categorical=frozenset()))
    frame = Decoder(InputSchema(names, features, dataframe=True, categorical=frozenset()))
    encoded = {form: orjson.dumps(body) for form, body in bodies.items()}
    body = encoded["ndarray"]
    return {
        "orjson.loads + np.array": lambda: np.array(orjson.loads(body)["ndarray"], dtype=np.float64),
        **{form: partial(array, encoded[form], b"application/json") for form in encoded},
        "records for a data frame": partial(frame, encoded["records"], b"application/json"),
    }


def encoding(rows: int, columns: int) -> dict[str, Callable[[], object]]:
    """One answer: a label for each row, probabilities for each row, and both as lists."""
    values = np.random.default_rng(0).random((rows, columns))
    encode = Encoder("model", "1.0.0")
    return {
        "orjson.dumps alone": lambda: orjson.dumps(values, option=orjson.OPT_SERIALIZE_NUMPY),
        "labels": lambda: encode("predict", normalise(values[:, 0], rows), "4c1f", 0.5),
        "probabilities": lambda: encode("predict_proba", normalise(values, rows), "4c1f", 0.5),
        "probabilities in lists": lambda: encode(
            "predict_proba", normalise(values.tolist(), rows), "4c1f", 0.5
        ),
    }


def main() -> None:
    for title, cases in (("decode", decoding), ("encode", encoding)):
        tables = [cases(*size) for size in SIZES]
        print(f"{title + ', µs':28}" + "".join(f"{f'{rows} x {columns}':>12}" for rows, columns in SIZES))
        for name in tables[0]:
            print(f"{name:28}" + "".join(f"{median_us(table[name]):12.2f}" for table in tables))
        print()


if __name__ == "__main__":
    main()
