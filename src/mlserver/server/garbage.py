"""The garbage collector of a worker: kept out of the way of requests."""

from __future__ import annotations

import gc

THRESHOLDS = 50_000, 20, 100
"""Objects that may be made, and not yet ended, before the young, the middle and all generations are looked
through. What a request leaves ends by itself; Python's own 700 would come into the middle of nearly every
large body, and hold up the loop while it looks through objects that are all in use."""


def settle() -> None:
    """To be called once the model is loaded, which is the last thing that makes objects for good.

    What is there by now is not looked at again. A predictor that has set the collector up its own way keeps
    that.
    """
    if not gc.isenabled() or gc.get_threshold() != _AT_FIRST:
        return
    gc.collect()
    gc.freeze()
    gc.set_threshold(*THRESHOLDS)


_AT_FIRST = gc.get_threshold()
