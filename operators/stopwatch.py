"""How long steps and models take, by a clock that is handed in.

Lives here: sums of seconds by what they were spent on.  Never here: a clock of its own (state machines have
none: without one all sums stay 0), anything that is part of a state.

Strategy: a run of records is measured, not a record.  Steps nest, and each counts its own time only, so that
all of them add up to the time spent:

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
    """Seconds spent, by step and by what models did.

    >>> ticks = iter([0.0, 1.0, 5.0, 7.0])
    >>> stopwatch = Stopwatch(lambda: next(ticks))
    >>> with stopwatch.step("answer"):
    ...     with stopwatch.step("score"):
    ...         pass
    >>> dict(stopwatch.steps)
    {'answer': 3.0, 'score': 4.0}
    """

    __slots__ = ("_open", "_since", "clock", "models", "steps")

    def __init__(self, clock: Callable[[], float] | None = None) -> None:
        self.clock = clock or _stopped
        """Returns seconds since some moment."""
        self.steps: defaultdict[str, float] = defaultdict(float)
        self.models: defaultdict[tuple[str, str], float] = defaultdict(float)
        """By what was done and the model's name; whoever exports these two empties them."""
        self._open: list[str] = []
        self._since = 0.0

    def step(self, name: str) -> Stopwatch:
        """Begin a step that ends with the `with` block; nothing in it may await."""
        now = self.clock()
        if self._open:
            self.steps[self._open[-1]] += now - self._since
        self._open.append(name)
        self._since = now
        return self

    def __enter__(self) -> None:
        """Do nothing: the step has begun."""

    def __exit__(self, *_: object) -> None:
        """End the step that began last; the one around it goes on."""
        now = self.clock()
        self.steps[self._open.pop()] += now - self._since
        self._since = now

    def model(self, step: str, name: str, since: float) -> None:
        """Count the time since `since` for what a model did."""
        self.models[step, name] += self.clock() - since
