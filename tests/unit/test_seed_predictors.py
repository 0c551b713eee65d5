"""The predictors of the specification that this project grew from run as they are written there.

The specification is kept beside the repository and read from there; its code is not copied into the project.
"""

from __future__ import annotations

import time
from functools import partial

import numpy as np
import prometheus_client
import pytest
import structlog
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
from tests.seeds import needs_seeds, snippet

from mlserver.serving.predictors.predictor import of_object
from mlserver.serving.rows import Rows

X, CLASSES = load_iris(return_X_y=True)
MODEL = LogisticRegression(max_iter=500).fit(X, CLASSES)
ROWS = Rows(X[[0, 60, 120]])

pytestmark = needs_seeds


def run(code, class_name, **names):
    """Executes code that may use these names, and returns its class and all its names."""
    namespace = {"__name__": "my_predictor"} | names
    exec(compile(code, class_name, "exec"), namespace)
    return namespace[class_name], namespace


@pytest.fixture
def registry(monkeypatch):
    """Where a snippet's metrics are registered, in place of the process's own registry."""
    own = prometheus_client.CollectorRegistry()
    for name in ("Counter", "Gauge", "Histogram"):
        monkeypatch.setattr(prometheus_client, name, partial(getattr(prometheus_client, name), registry=own))
    return own


class Preprocessing:
    """What some snippets leave to their reader."""

    def __init__(self):
        self.model = MODEL
        self.preprocessed = 0

    def preprocess(self, X):
        self.preprocessed += 1
        return X * 1.0


def test_the_predictor_with_custom_metrics(registry):
    cached, _ = run(snippet("CachedPredictor"), "CachedPredictor")

    class Predictor(cached):
        model = MODEL
        answers = None

        def is_cached(self, X):
            return self.answers is not None

        def get_from_cache(self, X):
            return self.answers

    instance = Predictor()
    predictor = of_object(instance)
    expected = MODEL.predict(ROWS.values).tolist()
    assert predictor.run("predict", ROWS).tolist() == expected
    instance.answers = MODEL.predict(ROWS.values)
    assert predictor.run("predict", ROWS).tolist() == expected
    assert registry.get_sample_value("prediction_cache_hits_total") == 1
    assert registry.get_sample_value("model_confidence_score_count") == 3


def test_the_predictor_with_business_metrics(registry):
    code = snippet("BusinessMetricsPredictor")
    names = {name: getattr(prometheus_client, name) for name in ("Gauge", "Counter")}
    business, _ = run(code, "BusinessMetricsPredictor", **names)

    class Predictor(business):
        model = MODEL

        def calculate_business_value(self, predictions):
            return float(predictions.sum())

    assert of_object(Predictor()).run("predict", ROWS).tolist() == [0, 1, 2]
    assert registry.get_sample_value("model_business_value_dollars") == 3
    assert registry.get_sample_value("predictions_by_class_total", {"predicted_class": "2"}) == 1


def test_the_predictor_that_logs():
    logging_predictor, _ = run(snippet("LoggingPredictor"), "LoggingPredictor", time=time)

    class Predictor(logging_predictor):
        model = MODEL

    predictor = of_object(Predictor())
    with structlog.testing.capture_logs() as events:
        assert predictor.run("predict", ROWS).tolist() == [0, 1, 2]
        with pytest.raises(ValueError, match="features"):
            predictor.run("predict", Rows(np.zeros((1, 2))))
    assert [event["event"] for event in events] == [
        "prediction_started", "prediction_completed", "prediction_started", "prediction_failed"
    ]  # fmt: skip
    assert events[0]["input_shape"] == (3, 4)
    assert events[1]["output_shape"] == (3,)
    assert events[3]["error_type"] == "ValueError"


def test_the_predictor_that_traces_and_preprocesses_by_itself():
    _, _, code = snippet("TracedPredictor").partition("# Instrument predictions\n")
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    traced, _ = run(code, "TracedPredictor", tracer=provider.get_tracer("seed"))

    class Predictor(Preprocessing, traced):
        pass

    instance = Predictor()
    assert of_object(instance).run("predict", ROWS).tolist() == [0, 1, 2]
    assert instance.preprocessed == 1
    spans = {span.name: span for span in exporter.get_finished_spans()}
    assert spans.keys() == {"predict", "preprocess", "model_inference"}
    assert dict(spans["predict"].attributes) == {"input.shape": "(3, 4)", "output.shape": "(3,)"}
    assert spans["preprocess"].parent.span_id == spans["predict"].context.span_id


def test_the_predictor_that_times_itself():
    logger = structlog.get_logger()
    timed, _ = run(snippet("TimedPredictor"), "TimedPredictor", logger=logger)

    class Predictor(Preprocessing, timed):
        pass

    instance = Predictor()
    with structlog.testing.capture_logs() as events:
        assert of_object(instance).run("predict", ROWS).tolist() == [0, 1, 2]
    assert instance.preprocessed == 1
    assert events[0].keys() == {"event", "log_level", "preprocess_ms", "inference_ms"}
