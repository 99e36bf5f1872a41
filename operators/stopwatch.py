"""The time that steps and models take, by a clock that is passed in.

Lives here: sums of seconds by what they were spent on.  Never here: a clock of its own (state machines have
none: without one all sums stay 0), anything that is part of a state.

Strategy: a run of records is measured, not a record, where it passes.  A step with others inside leaves out
what these have added meanwhile, so that all of them add up to the time spent:

    answer  |████|          |██|              |███|
    features     |██████████|
    score                      |██████████████|
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable

__all__ = ["Stopwatch"]


def _stopped() -> float:
    return 0.0


class Stopwatch:
    """Sums of seconds by step, and by step and model; the exporter clears them."""

    __slots__ = ("clock", "models", "steps")

    def __init__(self, clock: Callable[[], float] | None = None) -> None:
        self.clock = clock or _stopped
        """Returns seconds since some moment."""
        self.steps: defaultdict[str, float] = defaultdict(float)
        self.models: defaultdict[tuple[str, str], float] = defaultdict(float)
        """By what was done and the model's name."""
