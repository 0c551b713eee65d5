"""The HTTP paths there are and what each takes, for all who need to know without serving them."""

from __future__ import annotations

PREDICTIONS = {"/predict": "predict", "/predict_proba": "predict_proba"}
"""Path: the predictor's method it runs. They take POST."""
PROBES = ("/healthz", "/readyz", "/startupz")
"""They and what follows take GET and HEAD."""
PAGES = ("/info", "/openapi.json", "/docs")
MANAGEMENT = ("/reload", "/log-level", "/profile")
"""On the management listener only, beside what is below ``/debug``."""
UNMATCHED = "unmatched"
"""What every other path is counted as."""
