"""What can be known before the first request: label sets that are there at 0 from the start.

``rate()`` does not see the step of a counter from absent to 1, so without these the first error of each kind
would be lost to every alert.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlserver import errors, paths, signals

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mlserver.config import Config

Labels = tuple[str, ...]

EXCEPTIONS = (
    "ValueError",  # rows that the model does not take
    "TypeError",  # text or null where it wants a number
    "KeyError",  # a column or a category that is missing
    "IndexError",  # fewer columns than it wants
    "AttributeError",  # an artifact saved by another version of its library
    "RuntimeError",  # what libraries raise for their own faults
    "MemoryError",  # a run that is too large
    "PredictorError",  # an answer that is no prediction for the rows given
)
"""Classes of what predictors raise most. Others appear with their first one."""

_NEVER_OF_A_PREDICTION = (errors.MethodNotAllowed, errors.HeadersTooLarge)
_BEFORE_A_ROUTE = (errors.MalformedRequest, errors.RequestTimeout, errors.HeadersTooLarge)
"""What the protocol refuses a request with; under its method, or `signals.OTHER` if that did not come."""


def known(config: Config) -> dict[str, set[Labels]]:
    """Label sets by name of the metric in the catalogue, in the order of its labels."""
    model = config.model.name
    requests: set[Labels] = set(_requests(config.observability.metrics_endpoint))
    return {
        signals.REQUESTS.name: requests,
        signals.REQUEST_DURATION.name: {labels[:2] for labels in requests},
        signals.REQUEST_PHASES.name: {(phase,) for phase in signals.PHASES},
        signals.PREDICTION_DURATION.name: {(model,)},
        signals.PREDICTION_ERRORS.name: {(model, name) for name in EXCEPTIONS},
        signals.PREDICTIONS.name: {(model,)},
        signals.BATCH_ROWS.name: {(model,)},
        signals.REJECTED.name: {(reason,) for reason in signals.REJECTIONS},
        signals.MODEL_LOADED.name: {(model, config.model.version)},
        signals.SIGNALS_DROPPED.name: {(signal,) for signal in signals.DROPPABLE},
    }


def _requests(metrics_endpoint: str) -> Iterator[tuple[str, str, str]]:
    """Endpoint, method and status of the requests that any server may expect."""
    of_predictions = [
        error
        for error in vars(errors).values()
        if isinstance(error, type)
        and issubclass(error, errors.RequestError)
        and error not in (errors.RequestError, *_NEVER_OF_A_PREDICTION)
    ]
    for endpoint in paths.PREDICTIONS:
        for status in {200, *(error.status for error in of_predictions)}:
            yield endpoint, "POST", str(status)
        yield endpoint, "GET", "405"
    for endpoint in (*paths.PROBES, *paths.PAGES, metrics_endpoint):
        yield endpoint, "GET", "200"
        yield endpoint, "GET", "500"
        yield endpoint, "POST", "405"
    for endpoint in paths.PROBES:
        yield endpoint, "GET", "503"
        yield endpoint, "HEAD", "200"  # what load balancers may ask with
        yield endpoint, "HEAD", "503"
    for method in ("GET", "POST"):
        yield paths.UNMATCHED, method, "404"
        yield paths.UNMATCHED, method, "500"
    for method in ("GET", "POST", signals.OTHER):
        for error in _BEFORE_A_ROUTE:
            yield paths.UNMATCHED, method, str(error.status)
    yield paths.UNMATCHED, signals.OTHER, str(errors.Overloaded.status)  # refused before it said anything
