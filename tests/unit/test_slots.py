from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mlserver.server.slots import Member, assign


def test_each_ready_worker_accepts_on_its_own_socket():
    assert assign(2, [Member(1, 0, ready=True), Member(2, 1, ready=True)]) == {1: {0}, 2: {1}}


def test_a_socket_without_a_worker_goes_to_a_sibling():
    assert assign(2, [Member(1, 0, ready=True)]) == {1: {0, 1}}


def test_a_worker_that_loads_beside_a_ready_sibling_does_not_accept():
    assert assign(2, [Member(1, 0, ready=True), Member(2, 1, ready=False)]) == {1: {0, 1}, 2: set()}


def test_while_nobody_is_ready_each_worker_answers_probes_on_its_own_socket():
    assert assign(2, [Member(1, 0, ready=False), Member(2, 1, ready=False)]) == {1: {0}, 2: {1}}


def test_while_nobody_is_ready_a_living_sibling_answers_for_a_dead_one():
    assert assign(2, [Member(2, 1, ready=False)]) == {2: {0, 1}}


def test_a_successor_takes_its_slot_as_soon_as_it_is_ready():
    old = Member(1, 0, ready=True)
    assert assign(1, [old, Member(2, 0, ready=False)]) == {1: {0}, 2: set()}
    assert assign(1, [old, Member(2, 0, ready=True)]) == {1: set(), 2: {0}}


def test_a_worker_that_is_being_replaced_accepts_only_if_there_is_no_other():
    leaving = Member(1, 0, ready=True, draining=True)
    assert assign(2, [leaving, Member(2, 1, ready=False)]) == {1: set(), 2: {0, 1}}
    assert assign(2, [leaving]) == {1: {0, 1}}


def test_orphaned_sockets_are_counted_after_the_ones_with_a_worker_of_their_own():
    ready = [Member(1, 0, ready=True), Member(2, 3, ready=True)]
    assert {id_: len(slots) for id_, slots in assign(4, ready).items()} == {1: 2, 2: 2}


def test_without_workers_no_socket_is_given():
    assert assign(3, []) == {}


@st.composite
def fleets(draw):
    slots = draw(st.integers(1, 6))
    homes = draw(st.lists(st.integers(0, slots - 1), max_size=2 * slots).map(sorted))
    homes = [home for at, home in enumerate(homes) if homes[max(0, at - 2) : at].count(home) < 2]
    flags = st.booleans()
    return slots, [Member(id_, home, draw(flags), draw(flags)) for id_, home in enumerate(homes)]


@given(fleets())
def test_every_socket_has_exactly_one_worker_and_it_is_among_the_best(fleet):
    slots, members = fleet
    given_to = assign(slots, members)
    held = sorted(slot for slots in given_to.values() for slot in slots)
    assert held == (list(range(slots)) if members else [])
    best = min(((m.draining, not m.ready) for m in members), default=None)
    for member in members:
        if given_to[member.id]:
            assert (member.draining, not member.ready) == best


@given(fleets())
def test_a_socket_goes_home_where_home_is_as_good_as_anywhere(fleet):
    slots, members = fleet
    given_to = assign(slots, members)
    best = min(((m.draining, not m.ready) for m in members), default=None)
    for slot in range(slots):
        home = [m.id for m in members if m.slot == slot and (m.draining, not m.ready) == best]
        if home:
            assert slot in given_to[max(home)]


@given(st.integers(1, 8).flatmap(lambda n: st.tuples(st.just(n), st.sets(st.integers(0, n - 1), min_size=1))))
def test_orphaned_sockets_are_spread_evenly(fleet):
    slots, alive = fleet
    ready = [Member(slot, slot, ready=True) for slot in alive]
    counts = [len(held) for held in assign(slots, ready).values()]
    assert max(counts) - min(counts) <= 1
