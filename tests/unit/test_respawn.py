from __future__ import annotations

from mlserver.server.respawn import Respawn


def test_the_first_successor_starts_at_once_and_later_ones_wait_longer_and_longer():
    respawn = Respawn()
    waits = [respawn.died(lived_s=1, settled=True) for _ in range(9)]
    assert waits == [0, 0.5, 1, 2, 4, 8, 16, 30, 30]


def test_a_worker_that_lived_a_minute_starts_the_series_anew():
    respawn = Respawn()
    for _ in range(3):
        respawn.died(lived_s=1, settled=True)
    assert respawn.died(lived_s=60, settled=True) == 0
    assert respawn.died(lived_s=1, settled=True) == 0.5


def test_five_deaths_in_a_row_before_the_model_was_loaded_are_a_crash_loop():
    respawn = Respawn()
    waits = [respawn.died(lived_s=1, settled=False) for _ in range(5)]
    assert waits == [0, 0.5, 1, 2, None]


def test_a_slow_start_that_ends_in_death_counts_as_much_as_a_quick_one():
    respawn = Respawn()
    waits = [respawn.died(lived_s=300, settled=False) for _ in range(5)]
    assert waits == [0, 0, 0, 0, None]


def test_one_worker_that_came_up_ends_the_row():
    respawn = Respawn()
    for _ in range(4):
        respawn.died(lived_s=1, settled=False)
    assert respawn.died(lived_s=1, settled=True) is not None
    assert respawn.died(lived_s=1, settled=False) is not None


def test_workers_that_came_up_are_replaced_however_often_they_are_killed():
    respawn = Respawn()
    assert None not in [respawn.died(lived_s=1, settled=True) for _ in range(100)]
