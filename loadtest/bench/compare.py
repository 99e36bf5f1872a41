"""Two load tests side by side: by how much they differ, and what of it is noise.

Lives here: files of runs, intervals of ratios, the conclusion.  Never here: measuring, printing
(`compare_command.py`).

Strategy: each measure is compared as the ratio of B to A, with an interval that holds for all measures
together (Bonferroni).  A file may hold several runs, one JSON object a line, as repeated runs append them.

- RUNS_MIN runs or more on both sides: Welch's interval on the logarithms of the runs' figures.  It covers
  all that differs from run to run: how a worker started, what else the machine did.
- Fewer: the same interval on jackknife pseudo-values (J. Tukey, 1958) of BLOCKS blocks of consecutive slices
  a side, since neighbours resemble each other.  A block is left out whole and the histograms of the others
  are merged, so that a percentile is one of all latencies and no mean of percentiles.  It knows nothing of
  what differs between runs, and the report says so.

A difference is a regression where the whole interval lies beyond the tolerance: what may be noise never is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray
from scipy import stats  # type: ignore[import-untyped]

from loadtest.bench.ledger import histogram_class
from loadtest.bench.slices import Slice
from topics.errors import SettingsError

__all__ = [
    "CONFIDENCE",
    "MEASURES",
    "RUNS_MIN",
    "SLICES_MIN",
    "Judged",
    "LoadComparison",
    "LoadDifference",
    "LoadRun",
    "compare_loads",
    "read_runs",
]

CONFIDENCE = 0.95
"""That no interval of the report misses its ratio."""
RUNS_MIN = 3
"""Runs on each side from which on runs are compared, not slices."""
BLOCKS = 6
"""Parts of a side that are left out in turn: few, so that each is longer than what wanders in a run."""
SLICES_MIN = 2 * BLOCKS
"""Fewer timed slices on a side say nothing."""
MEASURES: dict[str, bool] = {
    "answers_per_s": True,
    "p50_ms": False,
    "p99_ms": False,
    "cpu_ms_per_answer": False,
}
"""Name of each measure, and whether more is better."""
Judged = Literal["worse", "better", "same", "unclear"]
Array = NDArray[np.float64]


class LoadRun(Struct, frozen=True):
    """The part of a run's report that is compared."""

    pipeline: str
    rate: float
    duration_s: float
    warmup_s: float
    lost: int
    mismatched: int
    machine: str
    slices: list[Slice]
    scenario: str = "steady"

    @property
    def timed(self) -> list[Slice]:
        """The slices after the warm-up, without the last one, which ends early."""
        return [one for one in self.slices if one.at_s >= self.warmup_s][:-1]


class LoadDifference(NamedTuple):
    """One measure of both sides."""

    measure: str
    a: float
    b: float
    ratio: float
    """Of b to a."""
    low: float
    high: float
    """The interval of the ratio."""
    judged: Judged


class LoadComparison(NamedTuple):
    """What came of it."""

    differences: tuple[LoadDifference, ...]
    unit: Literal["runs", "slices"]
    """What was taken as independent."""
    notes: tuple[str, ...]
    """What a reader must know before believing it."""
    wrong: int
    """Events of B that were lost or answered wrongly."""

    @property
    def worse(self) -> bool:
        """Whether B is proven worse anywhere."""
        return bool(self.wrong) or any(one.judged == "worse" for one in self.differences)


def read_runs(file: Path) -> list[LoadRun]:
    """Return the runs of a file that `headrace bench --json` wrote, one object a line.

    Raises SettingsError where it is not there, or holds something else.
    """
    try:
        lines = [line for line in file.read_bytes().splitlines() if line.strip()]
    except OSError as error:
        raise SettingsError(
            f"{file} cannot be read: {error.strerror}", hint=f"write it: headrace bench --json > {file}"
        ) from None
    try:
        runs = [msgspec.json.decode(line, type=LoadRun) for line in lines]
    except msgspec.MsgspecError as error:
        raise SettingsError(
            f"{file} holds no run of `headrace bench --json`: {error}", hint="one JSON object a line"
        ) from None
    if not runs:
        raise SettingsError(f"{file} holds no run", hint=f"write one: headrace bench --json > {file}")
    return runs


def compare_loads(a: Sequence[LoadRun], b: Sequence[LoadRun], *, tolerance: float) -> LoadComparison:
    """Return how the runs `b` differ from the runs `a`.

    `tolerance` is the share by which a measure may be worse.  Raises SettingsError where the runs did not do
    the same, or are too short.
    """
    loads = {(one.pipeline, one.scenario, one.rate, one.duration_s) for one in (*a, *b)}
    if len(loads) > 1:
        told = "; ".join(f"{name}, {how}, {rate:g}/s for {s:g} s" for name, how, rate, s in sorted(loads))
        raise SettingsError(f"the runs did not do the same: {told}", hint="compare runs of one load")
    by_runs = min(len(a), len(b)) >= RUNS_MIN
    sides = [_Side(runs) for runs in (a, b)]
    units = [side.of_each_run() if by_runs else side.pseudo_values() for side in sides]
    wholes = [side.whole() for side in sides]
    alpha = (1 - CONFIDENCE) / len(MEASURES)
    differences = []
    for measure, more_is_better in MEASURES.items():
        left, right = (math.exp(whole[measure]) for whole in wholes)
        if math.isnan(left + right):
            continue  # the notes say that it was not measured
        low, high = map(math.exp, _welch(units[0][measure], units[1][measure], alpha))
        judged = _judged(low, high, tolerance, more_is_better=more_is_better)
        differences.append(LoadDifference(measure, left, right, right / left, low, high, judged))
    notes = []
    if not by_runs:
        notes.append(
            f"fewer than {RUNS_MIN} runs on a side: the intervals say nothing of what differs from one start "
            "of a worker to the next; append more runs to each file"
        )
    if len(machines := {one.machine for one in (*a, *b)}) > 1:
        notes.append(f"the machines differ: {'; '.join(sorted(machines))}")
    if missing := MEASURES.keys() - {one.measure for one in differences}:
        notes.append(f"not measured on both sides: {', '.join(sorted(missing))}")
    wrong = sum(one.lost + one.mismatched for one in b)
    return LoadComparison(tuple(differences), "runs" if by_runs else "slices", tuple(notes), wrong)


def _judged(low: float, high: float, tolerance: float, *, more_is_better: bool) -> Judged:
    if more_is_better:
        low, high = 1 / high, 1 / low  # as a cost
    worst = 1 + tolerance
    if low > worst:
        return "worse"
    if high < 1 / worst:
        return "better"
    return "same" if high <= worst and low >= 1 / worst else "unclear"


class _Side:
    """The slices of one side as arrays, a row a slice."""

    def __init__(self, runs: Sequence[LoadRun]) -> None:
        timed = [run.timed for run in runs]
        slices = [one for run in timed for one in run]
        if len(slices) < SLICES_MIN:
            raise SettingsError(
                f"a side has {len(slices)} slices after the warm-up, at least {SLICES_MIN} are needed",
                hint="run longer: --duration 30s",
            )
        self.runs = np.repeat(np.arange(len(timed)), [len(run) for run in timed])
        self._count = len(slices)
        self.answered = np.array([one.answered for one in slices], dtype=float)
        self.seconds = np.array([one.seconds for one in slices])
        self.cpu_s = np.array([math.nan if one.cpu_s is None else one.cpu_s for one in slices])
        self.values_ms, self.counts = _histograms(slices)

    def logarithms(self, weights: Array) -> dict[str, Array]:
        """Return the logarithm of each measure, once for every row of `weights`: how often a slice counts.

        NaN where nothing was measured.
        """
        answered, cumulated = weights @ self.answered, np.cumsum(weights @ self.counts, axis=1)
        with np.errstate(divide="ignore", invalid="ignore"):
            figures = {
                "answers_per_s": answered / (weights @ self.seconds),
                "p50_ms": self._percentile(cumulated, 0.5),
                "p99_ms": self._percentile(cumulated, 0.99),
                "cpu_ms_per_answer": 1e3 * (weights @ self.cpu_s) / answered,
            }
            logarithms = {name: np.log(value) for name, value in figures.items()}
        return {name: np.where(np.isfinite(value), value, math.nan) for name, value in logarithms.items()}

    def _percentile(self, cumulated: Array, share: float) -> Array:
        if not self.values_ms.size:
            return np.full(len(cumulated), math.nan)
        below = cumulated < share * cumulated[:, -1:]
        found: Array = self.values_ms[np.minimum(below.sum(axis=1), self.values_ms.size - 1)]
        return found

    def whole(self) -> dict[str, float]:
        """Return the logarithm of each measure over all slices."""
        return {name: float(value[0]) for name, value in self.logarithms(np.ones((1, self._count))).items()}

    def of_each_run(self) -> dict[str, Array]:
        """Return the logarithm of each measure, run by run."""
        return self.logarithms((self.runs == np.arange(self.runs[-1] + 1)[:, None]).astype(float))

    def pseudo_values(self) -> dict[str, Array]:
        """Return what each block of slices contributes to the logarithm of each measure."""
        block = np.arange(self._count) * BLOCKS // self._count
        without = self.logarithms((block != np.arange(BLOCKS)[:, None]).astype(float))
        return {name: BLOCKS * whole - (BLOCKS - 1) * without[name] for name, whole in self.whole().items()}


def _histograms(slices: Sequence[Slice]) -> tuple[Array, Array]:
    """Return the distinct latencies in ms, sorted, and how often each came, a row a slice."""
    decode = histogram_class().decode
    kept: list[tuple[Any, NDArray[np.int64]]] = []
    for one in slices:
        histogram = decode(one.histogram)
        kept.append((histogram, np.frombuffer(histogram.counts, dtype=np.int64)))
    indexes = np.unique(np.concatenate([np.flatnonzero(counts) for _, counts in kept]))
    value = kept[0][0].get_value_from_index  # all have one shape
    values_ms = np.array([value(int(index)) / 1e3 for index in indexes])
    return values_ms, np.array([counts[indexes] for _, counts in kept], dtype=float)


def _welch(left: Array, right: Array, alpha: float) -> tuple[float, float]:
    """Return the interval of mean(right) - mean(left); variances may differ (B. L. Welch, 1947)."""
    errors = [side.var(ddof=1) / len(side) for side in (left, right)]
    difference, error = float(right.mean() - left.mean()), float(sum(errors))
    if not error > 0:
        return difference, difference
    freedom = error**2 / sum(
        one**2 / (len(side) - 1) for one, side in zip(errors, (left, right), strict=True)
    )
    reach = float(stats.t.ppf(1 - alpha / 2, freedom)) * math.sqrt(error)
    return difference - reach, difference + reach
