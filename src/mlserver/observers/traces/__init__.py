"""Traces: spans of requests and runs, made as finished records, and the predictor's own spans beside them."""

from mlserver.observers.traces.settings import disabled
from mlserver.observers.traces.traces import Traces

__all__ = ("Traces", "disabled")
