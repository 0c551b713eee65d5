"""How long the codec takes for one request, in microseconds.

    python benchmarks/codec.py

Medians of many short runs; compare only within one table, made on one machine without other load.
"""

from __future__ import annotations

import io
from functools import partial
from statistics import median
from timeit import Timer
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
import pyarrow as pa
from simdjson import Parser

from mlserver.serving.codec import Decoder, Encoder, InputSchema, normalise

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

SIZES = ((1, 4), (100, 30), (10_000, 30))
RUNS = 41
RUN_S = 0.01


def median_us(function: Callable[[], object]) -> float:
    """The median over runs of the mean time of a call within a run."""
    timer = Timer(function)
    number = max(1, int(RUN_S / (timer.timeit(10) / 10)))
    return median(timer.repeat(RUNS, number)) / number * 1e6


def decoding(rows: int, features: int) -> dict[str, Callable[[], object]]:
    """One body in every form, with numpy on the parsed list and simdjson alone as the floors.

    The two differ only where a body is large: below `matrix.MIN_BYTES` the codec leaves simdjson alone.
    """
    array = np.random.default_rng(0).normal(size=(rows, features)).round(4)
    matrix = array.tolist()
    names = tuple(f"feature_{index}" for index in range(features))
    records = [dict(zip(names, row, strict=True)) for row in matrix]
    bodies: dict[str, Any] = {
        "ndarray": {"ndarray": matrix},
        "records": {"records": records},
        "dataframe_split": {"dataframe_split": {"columns": names, "data": matrix}},
    }
    decode = Decoder(InputSchema(names, features, dataframe=False, categorical=frozenset()))
    frame = Decoder(InputSchema(names, features, dataframe=True, categorical=frozenset()))
    encoded = {form: orjson.dumps(body) for form, body in bodies.items()}
    body = encoded["ndarray"]
    with_null = body.replace(orjson.dumps(matrix[-1][-1]) + b"]]", b"null]]")
    return {
        "orjson.loads + np.array": lambda: np.array(orjson.loads(body)["ndarray"], dtype=np.float64),
        "simdjson as_buffer": lambda: np.frombuffer(Parser().parse(body)["ndarray"].as_buffer(of_type="d")),
        **{form: partial(decode, encoded[form], b"application/json") for form in encoded},
        "ndarray with a null": partial(decode, with_null, b"application/json"),
        "records for a data frame": partial(frame, encoded["records"], b"application/json"),
        "npy": partial(decode, npy_body(array), b"application/x-npy"),
        "npy of float32": partial(decode, npy_body(array.astype(np.float32)), b"application/x-npy"),
        "Arrow": partial(decode, arrow_body(names, array), b"application/vnd.apache.arrow.stream"),
    }


def npy_body(array: NDArray[Any]) -> bytes:
    """As a client makes it."""
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def arrow_body(names: tuple[str, ...], array: NDArray[Any]) -> bytes:
    """As a client makes it."""
    table = pa.table(dict(zip(names, array.T, strict=True)))
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue().to_pybytes())


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
