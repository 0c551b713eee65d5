"""The composition root: one configuration becomes one ASGI application."""

from mlserver.app.application import App
from mlserver.app.composition import create_app

__all__ = ("App", "create_app")
