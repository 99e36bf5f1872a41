"""What a scenario sends, and when: a function of its name, rate, length and the number of the event.

Lives here: due times, which events are of the hot key, whose labels are another truth's, how many labels come
beside.  Never here: clocks, what an event looks like (`feed.py`), sending (`openloop.py`).

    steady       one event every 1/rate
    ramp         the rate grows in a straight line from a tenth to `rate`: where is the knee?
    burst        a fifth of each period at four times the rate of the rest; the mean is `rate`
    hot-key      in the middle third nine of ten events are of one key
    label-flood  in the middle third ten labels an event of events that never come
    drift        from the middle on the same events have other labels

Strategy: no state and no generator that is drawn from, so the same scenario sends the same whatever happens,
and each third of a run can be held beside the others.
"""

from __future__ import annotations

import math
import zlib
from typing import Literal, NamedTuple, get_args

__all__ = ["LOAD_SCENARIOS", "LoadScenario", "Schedule"]

LoadScenario = Literal["steady", "ramp", "burst", "hot-key", "label-flood", "drift"]
LOAD_SCENARIOS: tuple[LoadScenario, ...] = get_args(LoadScenario)
RAMP_FROM = 0.1
"""The share of `rate` at which a ramp begins."""
BURSTS = 3
"""Periods of a run with bursts."""
BURST_BEGINS, BURST_ENDS = 0.4, 0.6
"""Shares of a period between which the burst lies."""
BURST_FACTOR = 4.0
HOT_SHARE = 0.9
STRAY_LABELS = 10
"""Labels beside each event of a flood."""
_BURST_MEAN = 1 + (BURST_FACTOR - 1) * (BURST_ENDS - BURST_BEGINS)


class Schedule(NamedTuple):
    """One scenario at one rate.

    >>> ramp = Schedule("ramp", rate=100.0, duration_s=10.0)
    >>> ramp.events, ramp.rate_at(0.0), ramp.rate_at(10.0)
    (550, 10.0, 100.0)
    """

    scenario: LoadScenario
    rate: float
    """Events per second: at the end of a ramp, on average else."""
    duration_s: float
    seed: int = 0

    @property
    def events(self) -> int:
        """How many events are sent."""
        share = (1 + RAMP_FROM) / 2 if self.scenario == "ramp" else 1.0
        return max(1, round(self.rate * self.duration_s * share))

    def rate_at(self, at_s: float) -> float:
        """Return the events per second that are due at a time."""
        if self.scenario == "ramp":
            return self.rate * (RAMP_FROM + (1 - RAMP_FROM) * min(1.0, at_s / self.duration_s))
        if self.scenario == "burst":
            share = at_s * BURSTS / self.duration_s % 1.0
            factor = BURST_FACTOR if BURST_BEGINS <= share < BURST_ENDS else 1.0
            return self.rate * factor / _BURST_MEAN
        return self.rate

    def due_s(self, number: int) -> float:
        """Return when the `number`-th event is due, in seconds since the first."""
        if self.scenario == "ramp":
            # number = rate (RAMP_FROM t + slope t^2 / 2)
            slope = (1 - RAMP_FROM) / self.duration_s
            return (math.sqrt(RAMP_FROM**2 + 2 * slope * number / self.rate) - RAMP_FROM) / slope
        if self.scenario == "burst":
            period_s = self.duration_s / BURSTS
            periods, into = divmod(number / self.rate, period_s)
            return periods * period_s + period_s * _burst_share(into / period_s)
        return number / self.rate

    def is_hot(self, number: int) -> bool:
        """Return whether an event is of the hot key."""
        if self.scenario != "hot-key" or not self._in_middle(number):
            return False
        return zlib.crc32(f"{self.seed}-{number}".encode()) < HOT_SHARE * 2**32

    def is_drifted(self, number: int) -> bool:
        """Return whether the label of an event is that of the other truth."""
        return self.scenario == "drift" and 2 * number >= self.events

    def stray_labels(self, number: int) -> int:
        """Return how many labels of events that never come are sent beside an event."""
        return STRAY_LABELS if self.scenario == "label-flood" and self._in_middle(number) else 0

    def _in_middle(self, number: int) -> bool:
        return self.events <= 3 * number < 2 * self.events


def _burst_share(sent: float) -> float:
    """Return where in its period an event lies, by the share of the period's events before it."""
    sent *= _BURST_MEAN
    width = BURST_ENDS - BURST_BEGINS
    if sent < BURST_BEGINS:
        return sent
    if sent < BURST_BEGINS + BURST_FACTOR * width:
        return BURST_BEGINS + (sent - BURST_BEGINS) / BURST_FACTOR
    return sent - (BURST_FACTOR - 1) * width
