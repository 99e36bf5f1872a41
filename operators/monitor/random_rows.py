"""How good everybody is on rows that chance let somebody answer: free of who usually answers what.

Lives here: the rows whose answer was drawn, weighted by how unlikely it was, and each candidate's mean
loss on them beside that on all rows.  Never here: who answers (`operators/serving`), intervals that may be
looked at at any time (`operators/serving/intervals.py`).

Where a label follows from the answer, the rows of a log are those that the champion's answers have made, and
a challenger is measured in the champion's world.  A policy that draws who answers leaves the chance of it
with the row; weighted by its inverse, the answers of every candidate count as often:

    loss = sum(w * loss) / sum(w)        w = 1 / propensity        of rows with 0 < propensity < 1

(the self-normalised estimate: Swaminathan and Joachims, 2015).  The interval is the usual one of a weighted
mean, 95 %, for one look.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Any, ClassVar

import msgspec
import numpy as np

from operators.monitor.monitors import MonitorContext
from operators.monitor.rows import Rows, served_first
from operators.state import StateEntries, WholeState

__all__ = ["RandomRows", "RandomRowsMonitor"]

DEVIATIONS = 1.96
"""Half the width of a 95 % interval, in standard errors."""


@dataclass(frozen=True)
class RandomRows:
    """The losses on rows that chance let somebody answer; kept wherever a policy draws."""

    usual: ClassVar[bool] = True

    def monitor(self, context: MonitorContext) -> RandomRowsMonitor:  # noqa: ARG002 - as of all settings
        """Return the monitor."""
        return RandomRowsMonitor()


class _Sums(msgspec.Struct):
    """What one series has come to."""

    rows: float = 0.0
    loss: float = 0.0
    """Of all rows with a loss."""
    drawn: float = 0.0
    weight: float = 0.0
    weight_squared: float = 0.0
    weighted: float = 0.0
    """Sum of weight times loss."""
    first: float = 0.0
    """Sum of squared weight times loss."""
    second: float = 0.0
    """Sum of squared weight times squared loss."""

    def told(self) -> dict[str, float]:
        """Return the figures; those of drawn rows where there are any."""
        told = {"all_rows": self.rows, "all_loss": self.loss / self.rows}
        if not self.weight:
            return told | {"rows": 0.0}
        mean = self.weighted / self.weight
        apart = self.second - 2.0 * mean * self.first + mean * mean * self.weight_squared
        half = DEVIATIONS * sqrt(max(apart, 0.0)) / self.weight
        return told | {
            "rows": self.drawn,
            "effective_rows": self.weight**2 / self.weight_squared,
            "loss": mean,
            "low": mean - half,
            "high": mean + half,
        }


class RandomRowsMonitor(WholeState):
    """Sums of every series, over all rows and over those that were drawn.

    >>> from operators.race.evaluation import SERVED
    >>> from topics.messages import Example
    >>> monitor = RandomRowsMonitor()
    >>> examples = [
    ...     Example("e", "k", 0, 9, True, {}, {}, 0.8, "arm", "a", 0, 0, 0, 1, 0, propensity=propensity)
    ...     for propensity in (0.9, 0.9, 0.1)
    ... ]
    >>> monitor.observe(Rows(examples, [(0.0, {}), (0.0, {}), (0.9, {})], "binary"))
    >>> {name: round(value, 2) for name, value in monitor.report()[SERVED].items() if "loss" in name}
    {'all_loss': 0.3, 'loss': 0.74}
    """

    stops: Sequence[int] = ()

    def __init__(self) -> None:
        self._sums: dict[str, _Sums] = {}

    def observe(self, rows: Rows) -> None:
        """Add rows; one by one, so that sums are the same however rows are cut."""
        self._dirty = True
        chances = [example.propensity or 1.0 for example in rows.examples]
        for name, series in rows.series.items():
            sums = self._sums.setdefault(name, _Sums())
            known = ~np.isnan(series.losses)
            for number, loss in zip(series.rows[known].tolist(), series.losses[known].tolist(), strict=True):
                sums.rows += 1.0
                sums.loss += loss
                if (chance := chances[number]) < 1.0:
                    weight = 1.0 / chance
                    sums.drawn += 1.0
                    sums.weight += weight
                    sums.weight_squared += weight * weight
                    sums.weighted += weight * loss
                    sums.first += weight * weight * loss
                    sums.second += weight * weight * loss * loss

    def stop(self, at: object) -> None:
        """Do nothing: it reads no model."""

    def forget(self, name: str) -> None:
        """Drop the sums of a candidate that has left."""
        self._dirty = True
        self._sums.pop(name, None)

    def report(self) -> dict[str, Any]:
        """Return the figures by series, what was served first."""
        return {name: sums.told() for name, sums in served_first(self._sums).items() if sums.rows}

    def signals(self) -> Mapping[str, float]:
        """Return nothing: it is looked at beside the metrics of all rows."""
        return {}

    def snapshot(self) -> dict[str, bytes]:
        """Return the whole state."""
        return {"sums": msgspec.msgpack.encode(served_first(self._sums))}

    def restore(self, entries: StateEntries) -> None:
        """Replace the whole state."""
        self._sums = msgspec.msgpack.decode(entries["sums"], type=dict[str, _Sums])
        self._dirty = False
