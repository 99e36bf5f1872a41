"""Whether scores mean what they say: of a hundred answers at 0.7, seventy should come true.

Lives here: the calibration curve of what is served and of every candidate, its error, the Brier score in its
parts.  Never here: making scores honest (`operators/models/recalibration.py`).

Strategy: plain sums in bins of equal width; a second set of them is halved at fixed numbers of examples, so
what is recent counts more and a restart changes no bit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import msgspec
import numpy as np

from operators.monitor.monitors import MonitorContext, Reported
from operators.monitor.rows import FloatArray, Rows, served_first
from operators.race.evaluation import SERVED
from operators.state import StateEntries, WholeState
from topics.errors import DefinitionError
from topics.messages import CalibrationCurve

__all__ = ["Calibration", "CalibrationMonitor", "calibration_of"]

BINS_MAX = 100
HALVED_MAX = 1_000_000
SUMS = 5
"""Of a bin: rows, scores, truths, squared scores, scores times truths."""


@dataclass(frozen=True)
class Calibration:
    """The calibration curve of every candidate and of what was served.

    `bins`
        Bins of the score, of equal width.
    `halved`
        Examples after which what came before counts half, in the recent error.
    """

    usual: ClassVar[bool] = True

    bins: int = 10
    halved: int = 2_000

    def __post_init__(self) -> None:
        """Refuse numbers that cannot work.  Raises DefinitionError."""
        if not 2 <= self.bins <= BINS_MAX:
            raise DefinitionError(f"calibration.bins is {self.bins}", hint=f"give 2 to {BINS_MAX}")
        if not 1 <= self.halved <= HALVED_MAX:
            raise DefinitionError(f"calibration.halved is {self.halved}", hint=f"give 1 to {HALVED_MAX}")

    def monitor(self, context: MonitorContext) -> CalibrationMonitor | None:
        """Return the monitor; None for a regression, whose scores are no probabilities."""
        return None if context.task == "regression" else CalibrationMonitor(self)


class _State(msgspec.Struct):
    seen: int
    overall: dict[str, list[list[float]]]
    recent: dict[str, list[list[float]]]


class CalibrationMonitor(WholeState):
    """Bins of the score, for what is served and for every candidate; of several classes, of the answer's."""

    stops: Sequence[int] = ()

    def __init__(self, settings: Calibration) -> None:
        self._settings = settings
        self._seen = 0
        """Examples, whether they had a score or not."""
        self._overall: dict[str, FloatArray] = {}
        self._recent: dict[str, FloatArray] = {}

    def observe(self, rows: Rows) -> None:
        """Add scores and what came of them to their bins; halve what is recent in its time."""
        self._dirty = True
        bins, halved = self._settings.bins, self._settings.halved
        first, self._seen = self._seen, self._seen + len(rows)
        ends = [end - first for end in range((first // halved + 1) * halved, self._seen + 1, halved)]
        told = []
        for name, series in rows.series.items():
            scores, truths = series.scores, series.truths
            places = np.clip((scores * bins).astype(np.intp), 0, bins - 1)
            columns = np.column_stack(
                (np.ones(len(scores)), scores, truths, scores * scores, scores * truths)
            )
            if name not in self._overall:
                self._overall[name], self._recent[name] = np.zeros((bins, SUMS)), np.zeros((bins, SUMS))
            np.add.at(self._overall[name], places, columns)
            told.append((name, series.rows, places, columns))
        start = 0
        for end in [*ends, *([] if len(rows) in ends else [len(rows)])]:
            for name, numbers, places, columns in told:
                low, high = np.searchsorted(numbers, (start, end))
                np.add.at(self._recent[name], places[low:high], columns[low:high])
            if end in ends:
                for name in self._recent:
                    self._recent[name] = self._recent[name] * 0.5
            start = end

    def correct(self, was: Rows, now: Rows) -> None:
        """Count an example with another label in the curve; what is recent keeps the first.

        How often the sums of what is recent were halved since it came is not known.
        """
        self._dirty = True
        for name, series in now.series.items():
            if (overall := self._overall.get(name)) is None:
                continue
            place = min(max(int(series.scores[0] * self._settings.bins), 0), self._settings.bins - 1)
            more = series.truths[0] - was.series[name].truths[0]
            overall[place, 2] += more
            overall[place, 4] += more * series.scores[0]

    def stop(self, at: object) -> None:
        """Do nothing: it reads no model."""

    def forget(self, name: str) -> None:
        """Drop the bins of a candidate that has left."""
        self._dirty = True
        self._overall.pop(name, None)
        self._recent.pop(name, None)

    def report(self) -> dict[str, dict[str, Any]]:
        """Return the curve and its figures, by candidate; what was served first."""
        return {
            name: calibration_of(bins)
            | {"recent_calibration_error": calibration_of(self._recent[name])["calibration_error"]}
            for name, bins in served_first(self._overall).items()
        }

    def reported(self) -> list[Reported]:
        """Return the curves that have rows, as one record tells them."""
        told = {name: curve for name, curve in self.report().items() if curve["rows"]}
        curves = msgspec.convert(told, dict[str, CalibrationCurve])
        return [Reported("calibration.reported", "calibration", calibration=curves)] if curves else []

    def signals(self) -> Mapping[str, float]:
        """Return the recent calibration error of what is served, `error`."""
        if SERVED not in self._recent:
            return {}
        return {"error": calibration_of(self._recent[SERVED])["calibration_error"]}

    def snapshot(self) -> dict[str, bytes]:
        """Return the whole state."""
        overall, recent = (
            {name: bins.tolist() for name, bins in served_first(of_each).items()}
            for of_each in (self._overall, self._recent)
        )
        return {"bins": msgspec.msgpack.encode(_State(self._seen, overall, recent))}

    def restore(self, entries: StateEntries) -> None:
        """Replace the whole state."""
        state = msgspec.msgpack.decode(entries["bins"], type=_State)
        self._seen = state.seen
        self._overall, self._recent = (
            {name: np.array(bins, np.float64) for name, bins in of_each.items()}
            for of_each in (state.overall, state.recent)
        )
        self._dirty = False


def calibration_of(bins: FloatArray) -> dict[str, Any]:
    """Return the curve of bins of sums, and the figures that follow from it.

    `calibration_error` is the expected calibration error (Naeini, Cooper and Hauskrecht, 2015).  The Brier
    score is `reliability - resolution + uncertainty + within_bins` exactly: Murphy (1973), with the two parts
    within bins that Stephenson, Coelho and Jolliffe (2008) add.

    >>> curve = calibration_of(np.array([[0.0] * 5, [4.0, 3.2, 2.0, 2.56, 1.6]]))
    >>> round(curve["calibration_error"], 2), round(curve["Brier"], 2), curve["curve"]
    (0.3, 0.34, [{'from': 0.5, 'to': 1.0, 'rows': 4, 'mean_score': 0.8, 'label_rate': 0.5}])
    """
    total = float(bins[:, 0].sum())
    if not total:
        return {"rows": 0, "calibration_error": 0.0, "curve": []}
    filled = bins[bins[:, 0] > 0]
    rows, scores, truths, squared, products = filled.T
    mean_score, rate = scores / rows, truths / rows
    overall = float(truths.sum()) / total
    spread = squared - scores * mean_score
    together = products - scores * rate
    places = np.flatnonzero(bins[:, 0])
    return {
        "rows": round(total),
        "calibration_error": float(np.abs(scores - truths).sum()) / total,
        "Brier": float((squared - 2.0 * products + truths).sum()) / total,
        "reliability": float((rows * (mean_score - rate) ** 2).sum()) / total,
        "resolution": float((rows * (rate - overall) ** 2).sum()) / total,
        "uncertainty": overall * (1.0 - overall),
        "within_bins": float((spread - 2.0 * together).sum()) / total,
        "curve": [
            {
                "from": round(place / len(bins), 6),
                "to": round((place + 1) / len(bins), 6),
                "rows": round(float(count)),
                "mean_score": float(score),
                "label_rate": float(share),
            }
            for place, count, score, share in zip(places.tolist(), rows, mean_score, rate, strict=True)
        ],
    }
