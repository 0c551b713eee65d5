"""What the three probes answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Answer = tuple[int, dict[str, Any]]
"""HTTP status and JSON body."""


@dataclass(slots=True)
class Health:
    """The state of one worker that probes ask for."""

    model_loaded: bool = False
    failure: str | None = None
    """Why the model could not be loaded."""
    metrics_ready: bool = True
    dependencies_healthy: bool = False
    """What the predictor's ``check_health`` said last."""
    waiting_for: str | None = None
    """What ``check_health`` was not content with."""
    draining: bool = False
    fleet_ready: bool | None = None
    """Whether any worker is ready, where a supervisor knows; readiness is one answer for all of them."""

    @property
    def ready(self) -> bool:
        """Whether this worker can predict."""
        return self.model_loaded and not self.draining

    def healthz(self) -> Answer:
        """The process and its event loop are alive: or nobody would have run this."""
        return 200, {"status": "healthy"}

    def readyz(self) -> Answer:
        """Whether requests should be sent here."""
        if self.draining:
            return 503, {"detail": "Draining"}
        if self.ready if self.fleet_ready is None else self.fleet_ready:
            return 200, {"status": "ready"}
        return 503, self._reasoned({"detail": "Model not loaded"})

    def startupz(self) -> Answer:
        """Whether everything that a start consists of is done."""
        checks = {
            "config_loaded": True,
            "model_loaded": self.model_loaded,
            "metrics_initialized": self.metrics_ready,
            "dependencies_healthy": self.model_loaded and self.dependencies_healthy,
        }
        failed = [name for name, passed in checks.items() if not passed]
        if failed:
            return 503, self._reasoned({"detail": f"Startup incomplete: {failed}", "checks": checks})
        return 200, {"status": "started", "checks": checks}

    def _reasoned(self, body: dict[str, Any]) -> dict[str, Any]:
        reason = self.failure or self.waiting_for
        return body if reason is None else body | {"reason": reason}
