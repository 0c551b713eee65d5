"""The probes: what they say in each state of a worker."""

from __future__ import annotations

import pytest

from mlserver.serving.health import Health

READY = (200, {"status": "ready"})


def test_a_worker_that_drains_says_so_whatever_else_is_true():
    assert Health(model_loaded=True, draining=True).readyz() == (503, {"detail": "Draining"})
    assert Health(model_loaded=True, draining=True, fleet_ready=True).readyz() == (
        503,
        {"detail": "Draining"},
    )
    assert not Health(model_loaded=True, draining=True).ready


def test_where_nobody_knows_of_other_workers_a_worker_is_ready_with_its_model():
    assert Health(model_loaded=True).readyz() == READY
    assert Health(model_loaded=False).readyz() == (503, {"detail": "Model not loaded"})


def test_the_answer_for_all_workers_wins_over_the_own_state():
    assert Health(model_loaded=False, fleet_ready=True).readyz() == READY
    assert Health(model_loaded=True, fleet_ready=False).readyz() == (503, {"detail": "Model not loaded"})


def test_readiness_names_the_reason_of_a_failed_load():
    assert Health(failure="no file").readyz() == (503, {"detail": "Model not loaded", "reason": "no file"})


@pytest.mark.parametrize(
    ("state", "failed"),
    [
        ({"model_loaded": False, "dependencies_healthy": True}, ["model_loaded", "dependencies_healthy"]),
        ({"metrics_ready": False}, ["metrics_initialized"]),
        ({"dependencies_healthy": False}, ["dependencies_healthy"]),
    ],
)
def test_a_start_that_is_not_over_says_what_is_missing(state, failed):
    status, body = Health(**{"model_loaded": True, "dependencies_healthy": True} | state).startupz()
    assert status == 503
    assert body["detail"] == f"Startup incomplete: {failed}"
    assert [name for name, passed in body["checks"].items() if not passed] == failed


def test_an_event_loop_that_runs_is_healthy_even_without_a_model():
    assert Health(failure="no file", draining=True).healthz() == (200, {"status": "healthy"})
