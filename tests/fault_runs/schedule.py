"""Which faults come one after the other: a function of the seed, and of nothing else."""

from __future__ import annotations

import random
from typing import Literal, NamedTuple

FAULT_S = 6
"""What one fault takes on two cores with the restart after it, about."""
FAULTS_MIN = 3
CLAIMING = ("after fence", "between claims", "after claims")
SAVING = ("before flush", "after flush", "between look and save", "between saves", "after save")
POINTS = (*CLAIMING, *SAVING)
"""Places in a takeover and in a checkpoint where a worker can be told to fail."""
INSIDE_CLAIM, INSIDE_SAVE = "inside claim", "inside save"
"""Two more, in the middle of what a store does at once.  No seed draws them: each seed keeps its faults."""
PASSES_MAX = 3
"""A worker takes over several partitions at once: it may fail at the first of them or at a later one."""
JUMPS_S = (-86_400.0, -3_000.0, 3_000.0)
"""Wall clocks go a day back, or most of an hour back or forward: brokers refuse times over an hour ahead."""

Kind = Literal["kill", "stop", "freeze", "point", "jump"]
How = Literal["SIGKILL", "SIGSTOP"]


class Fault(NamedTuple):
    """One fault; `who` and `other` pick two of those that are up, whoever these are."""

    kind: Kind
    who: int
    other: int
    point: str = ""
    how: How = "SIGKILL"
    passes: int = 1
    """At which pass of the point."""
    seconds: float = 0.0
    """How far a clock jumps."""


class Schedule(NamedTuple):
    """The faults of one run, and how many workers there are."""

    seed: int
    workers: int
    faults: tuple[Fault, ...]


def schedule(seed: int, seconds: float) -> Schedule:
    """Return the faults of a run that takes about so long.

    The first is a death in a checkpoint, so that there is work to be done again.

    >>> schedule(1, 30) == schedule(1, 30), schedule(1, 30) == schedule(2, 30)
    (True, False)
    >>> schedule(3, 30).faults[0].point in SAVING
    True
    """
    draw = random.Random(seed)
    count = max(FAULTS_MIN, int(seconds / FAULT_S))
    first = _point(draw, "SIGKILL", draw.choice(SAVING[1:3]))
    return Schedule(seed, draw.choice((2, 3)), (first, *(_fault(draw) for _ in range(count - 1))))


def _fault(draw: random.Random) -> Fault:
    kind: Kind = draw.choice(("kill", "stop", "freeze", "point", "point", "point", "jump"))
    if kind == "point":
        return _point(draw, draw.choice(("SIGKILL", "SIGSTOP")), draw.choice(POINTS))
    return Fault(kind, draw.randrange(6), draw.randrange(6), seconds=draw.choice(JUMPS_S))


def _point(draw: random.Random, how: How, point: str) -> Fault:
    passes = draw.randint(1, PASSES_MAX) if point in SAVING else draw.randint(1, 2)
    return Fault("point", draw.randrange(6), draw.randrange(6), point, how, passes)
