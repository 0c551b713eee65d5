"""Which worker accepts on which slot's socket: one pure decision, taken anew whenever a worker changes."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable


class Member(NamedTuple):
    """A living worker whose event loop runs, as far as this decision is concerned."""

    id: int
    """Higher for one that started later."""
    slot: int
    ready: bool
    draining: bool = False
    """It is being replaced."""


def assign(slots: int, members: Iterable[Member]) -> dict[int, frozenset[int]]:
    """Gives every slot's socket to one worker.

    A socket goes to its own ready worker, else to the ready sibling with the fewest sockets. If nobody is
    ready it goes to its own worker, which can answer probes, else to any. One that is being replaced comes
    after all others, and among two workers of a slot the later one comes first.

    Args:
        slots: how many there are; they are numbered from 0.
        members: at most two of a slot.

    Returns:
        for every member's id the slots whose sockets it accepts on. Without members no socket is given.
    """
    members = list(members)
    held: Counter[int] = Counter()
    given: dict[int, set[int]] = {member.id: set() for member in members}
    at_home = {member.slot for member in members if _rank(member) == min(map(_rank, members))}
    # Sockets with a worker of their own first: only then do the counts spread the others evenly.
    for slot in sorted(range(slots), key=lambda slot: slot not in at_home) if members else ():
        chosen = min(members, key=lambda m: (_rank(m), m.slot != slot, held[m.id], -m.id))
        held[chosen.id] += 1
        given[chosen.id].add(slot)
    return {id_: frozenset(slots) for id_, slots in given.items()}


def _rank(member: Member) -> tuple[bool, bool]:
    """Lower is better."""
    return member.draining, not member.ready
