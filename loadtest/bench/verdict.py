"""Was the rate sustained?  The rule, and the words.

Lives here: the judgement of one load run.  Never here: measuring (`openloop.py`, `ledger.py`), printing.

Strategy: a system sustains a rate when what it has not answered does not grow.  So it is judged by how many
events had no answer when the last one was sent: more than arrive in one second, and it is behind, whatever
the sender did.  Only where it is not behind can a late sender mean that the rate was never offered.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

__all__ = ["Limit", "LoadVerdict", "Measured", "judge"]

Limit = Literal["worker", "sender", ""]

BEHIND_S = 1.0
"""Answers that take longer are a queue."""
BEHIND_EVENTS_MIN = 10
"""Fewer events than this are no queue at any rate."""
SENDER_LATE_MS = 200.0
"""A sender later than this at its 99th percentile has not offered the rate."""


class Measured(NamedTuple):
    """What a run comes to."""

    rate: float
    """Events per second that were to be offered."""
    offered: float
    """Events per second that were sent."""
    answered: float
    """Events per second that were answered, until the last answer."""
    behind: int
    """Events without an answer when the last one was sent."""
    lost: int
    """Events without an answer at all."""
    p99_ms: float | None
    """From due to read; None where nothing was timed."""
    sender_p99_ms: float | None
    """From due to sent."""
    unlearned: int = 0
    """Labels sent and not learned when the load test stopped waiting for them."""
    hold_s: float = 0.0
    """How long the definition itself holds an answer back: windows by other keys wait for `grace`."""


class LoadVerdict(NamedTuple):
    """What to conclude."""

    sustained: bool
    limit: Limit
    """Who could not keep up; empty where the rate was sustained."""
    text: str


def judge(run: Measured) -> LoadVerdict:
    """Return the verdict on a run.

    >>> judge(Measured(800, 799.8, 119.2, behind=10_200, lost=0, p99_ms=14_000, sender_p99_ms=700)).limit
    'worker'
    >>> judge(Measured(100, 100, 99.9, behind=3, lost=0, p99_ms=40, sender_p99_ms=2)).text
    'sustained: offered 100.0/s, answered 99.9/s, 3 events behind at the end, p99 40 ms'
    """
    p99 = "nothing timed" if run.p99_ms is None else f"p99 {run.p99_ms:,.0f} ms"
    figures = (
        f"offered {run.offered:,.1f}/s, answered {run.answered:,.1f}/s, "
        f"{run.behind:,} events behind at the end, {p99}"
    )
    behind_max = max(BEHIND_EVENTS_MIN, run.rate * (run.hold_s + BEHIND_S))
    if run.lost:
        return LoadVerdict(
            False, "worker", f"NOT sustained: {run.lost:,} events were never answered; {figures}"
        )
    if run.behind > behind_max:
        return LoadVerdict(False, "worker", f"NOT sustained, the worker cannot keep up: {figures}")
    if run.unlearned:
        return LoadVerdict(
            False, "worker", f"NOT sustained: {run.unlearned:,} labels were not learned in time; {figures}"
        )
    if run.sender_p99_ms is not None and run.sender_p99_ms > SENDER_LATE_MS:
        late = f"the sender was {run.sender_p99_ms:,.0f} ms late at its p99, the worker kept up"
        return LoadVerdict(False, "sender", f"NOT offered: {late}: send from a machine of its own; {figures}")
    return LoadVerdict(True, "", f"sustained: {figures}")
