"""How the parts are put together; nothing else knows them all."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlserver.app.application import App
from mlserver.app.observation import Observation
from mlserver.config import Config, load_config
from mlserver.pages import Page
from mlserver.serving.health import Health
from mlserver.serving.pipeline import Pipeline
from mlserver.serving.runner import Runner

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


def create_app(
    config: Config | Path | str = "mlserver.yaml",
    *,
    pages: Sequence[Page] | None = None,
    page: Page | None = None,
    worker: int | None = None,
    log_fd: int = 1,
) -> App:
    """The server as an ASGI application, for any ASGI server, a test client or a mounting app.

    Args:
        config: settings, or the path of a ``mlserver.yaml``.
        page: where this process counts; by default in memory of its own.
        pages: what a scrape sums; by default ``page`` alone.
        worker: number of this worker, in a process of the server's own. What anything in that process logs
            becomes log lines, too.
        log_fd: where log lines go unless ``observability.log_file`` is set.

    Raises:
        ConfigError: the configuration cannot be used.
    """
    if not isinstance(config, Config):
        config = load_config(config)
    page = page or Page.private()
    health = Health()
    observation = Observation(
        config, health=health, page=page, pages=pages or [page], worker=worker, log_fd=log_fd
    )
    runner = Runner(enter=observation.enter)
    pipeline = Pipeline(
        runner=runner,
        health=health,
        levels=observation.levels,
        observers=observation.observers,
        timeout=config.server.request_timeout_s,
        max_buffered=config.server.max_buffered_bytes,
        echo_ids=config.observability.correlation_ids,
    )
    return App(config, health, runner, pipeline, observation)
