"""A server for machine-learning models that tells the truth about them."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlserver.app import create_app
    from mlserver.config import Config, load_config
    from mlserver.errors import ConfigError, MLServerError, ModelLoadError, PredictorError

__all__ = [
    "Config",
    "ConfigError",
    "MLServerError",
    "ModelLoadError",
    "PredictorError",
    "create_app",
    "load_config",
]

_HOMES = {"create_app": "mlserver.app", "Config": "mlserver.config", "load_config": "mlserver.config"}


def __getattr__(name: str) -> Any:
    """Loads a public name when it is first used: the command line starts without numpy."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES.get(name, "mlserver.errors")), name)
