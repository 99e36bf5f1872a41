"""The tables of evidence: false swaps, delays, collapses, the opening, disasters, and what choices cost.

Lives here: which laws are played by which settings, and Markdown.  Never here: the rule, the laws.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple
from zlib import crc32

import numpy as np

from loadtest.evidence.bounds import by_law, by_variance, mistaken
from loadtest.evidence.laws import (
    BROKEN,
    COLLAPSES,
    CORRELATION_LENGTHS,
    EQUAL,
    ERRS,
    SHIFTS,
    Floats,
    Law,
    disaster,
    errors,
)
from loadtest.evidence.rule import SHORT, Caution, block_means, play
from operators.race.evidence import Promotion

__all__ = ["TABLES", "Plays"]

LABELS = 50_000
RUNS_AT_ONCE = 200
CHANGE = 5_000
"""The label at which something changes ..."""
AFTER = 35_000
"""... and how many labels are played from there on."""
DAY = 1_024
"""Labels a day, where blocks are of a day."""
PROMISES = (1_000_000, 100_000)
INDEPENDENT = ("independent 0/1", "Brier", "rare, .8 %", "heavy tails")
COLLAPSE_MAX = 600
"""The goal, in labels, where errors are independent ..."""
COLLAPSE_LENGTHS_MAX = 5
"""... and in correlation lengths where they are not."""
DELAYS_MAX = {
    "equal, then better by .05": 2_500,
    "equal, then better by .02": 9_000,
    "worse by .3, then better by .05": 3_500,
}
AUTO = Promotion()
FIXED = Promotion(evidence_block=32)
DAYS = Promotion(evidence_block=DAY)
FRONTIER = (
    ("none", None),
    ("x 1", Caution(1.0, 0.0)),
    ("x 2", Caution(2.0)),
    ("x 3 (chosen)", Caution()),
    ("x 4", Caution(4.0)),
    ("x 8", Caution(8.0)),
)
"""How much more than it is seen an inflation counts; None: bets do not answer."""


class Plays:
    """The block differences of every law, made once, from seeds of their names."""

    def __init__(self, runs: int) -> None:
        self.runs = runs
        self._made: dict[str, Floats] = {}

    def of(self, name: str, law: Law, labels: int = LABELS) -> Floats:
        """Return the block means of a law; `RUNS_AT_ONCE` runs of labels are held at a time."""
        if name not in self._made:
            rng = np.random.default_rng(crc32(name.encode()))
            starts = range(0, self.runs, RUNS_AT_ONCE)
            parts = [block_means(law(rng, min(RUNS_AT_ONCE, self.runs - one), labels)) for one in starts]
            self._made[name] = np.concatenate(parts)
        return self._made[name]

    def changing(self, laws: Mapping[str, Callable[[int], Law]]) -> Iterable[tuple[str, Floats]]:
        """Yield each law that changes at `CHANGE`."""
        for name, law in laws.items():
            yield name, self.of(f"change: {name}: {len(laws)}", law(CHANGE), CHANGE + AFTER)


class Rate(NamedTuple):
    """Swaps made over swaps promised: the mean over runs, and its standard error."""

    mean: float
    error: float

    def keeps(self, most: float) -> bool:
        """Return whether the goal is met, by the mean."""
        return self.mean <= most


def false_swaps(means: Floats, promotion: Promotion, caution: Caution | None = None) -> Rate:
    """Return swaps made over swaps promised."""
    runs, blocks = means.shape
    made = np.bincount([swap.run for swap in play(means, promotion, caution=caution)], minlength=runs)
    ratios = made / (blocks * SHORT / promotion.false_swap_every)
    return Rate(float(ratios.mean()), float(ratios.std() / math.sqrt(runs)))


def delay(means: Floats, promotion: Promotion, caution: Caution | None = None) -> float:
    """Return the median labels from the change until the challenger serves; 0 where it did already."""
    runs = means.shape[0]
    serves = np.zeros(runs, bool)
    found = np.full(runs, math.inf)
    for swap in play(means, promotion, caution=caution):
        if swap.label <= CHANGE:
            serves[swap.run] = swap.to_challenger
        elif swap.to_challenger and math.isinf(found[swap.run]):
            found[swap.run] = swap.label - CHANGE
    found[serves] = 0.0
    return float(np.median(found))


def _false_swaps(plays: Plays) -> str:
    rows = []
    for name, law in EQUAL.items():
        means = plays.of(name, law)
        row, answered = [name], list[Rate]()
        for promotion in (AUTO, FIXED, DAYS):
            made = [false_swaps(means, replace(promotion, false_swap_every=every)) for every in PROMISES]
            row += map(_ratio, made)
            answered = answered or made
        bounds = (1.0, 1.0) if name in INDEPENDENT else (3.0, 2.0)
        rows.append([*row, _met(all(one.keeps(most) for one, most in zip(answered, bounds, strict=True)))])
    head = ["losses of two equal models"]
    for title in ("auto", "blocks of 32", f"blocks of {DAY:,}"):
        head += [f"{title}, 1 in 1,000,000", "1 in 100,000"]
    return _part(
        "False swaps",
        f"Swaps made over swaps promised, and the standard error of that: {plays.runs:,} runs of {LABELS:,} "
        "labels, no champion named. Goal for `auto`: at most 1 where errors are independent, else at most 3 "
        "at 1 in 1,000,000 and 2 at 1 in 100,000.",
        _table([*head, "goal"], rows),
    )


def _delays(plays: Plays) -> str:
    rows = []
    for name, means in plays.changing(SHIFTS):
        found = [delay(means, promotion) for promotion in (AUTO, FIXED, DAYS)]
        hundred = delay(means, replace(AUTO, false_swap_every=100_000))
        goal = DELAYS_MAX.get(name)
        told = "" if goal is None else f"{_met(found[0] <= goal)} ({goal:,})"
        rows.append([name, _labels(found[0]), _labels(hundred), *map(_labels, found[1:]), told])
    return _part(
        "Delays",
        f"Median labels of {plays.runs:,} runs from the change, after {CHANGE:,} labels, to the swap; 0/1 "
        "losses, the champion errs 20 %; 1 in 1,000,000 where nothing else is said.",
        _table(
            ["the challenger is", "auto", "auto, 1 in 100,000", "blocks of 32", f"blocks of {DAY:,}", "goal"],
            rows,
        ),
    )


def _collapses(plays: Plays) -> str:
    rows = []
    for name, means in plays.changing(COLLAPSES):
        lengths = CORRELATION_LENGTHS[name]
        goals = [max(COLLAPSE_MAX, COLLAPSE_LENGTHS_MAX * of) for of in (lengths, max(lengths, DAY))]
        found = [delay(means, promotion) for promotion in (AUTO, FIXED, DAYS)]
        equal = plays.of(name, EQUAL[name])
        rows.append(
            [
                name,
                _labels(found[0]),
                f"{_met(found[0] <= goals[0])} ({goals[0]:,})",
                _labels(by_variance(means, CHANGE, PROMISES[0])),
                _labels(by_law(equal, means, CHANGE, PROMISES[0])),
                _times(mistaken(equal, goals[0], BROKEN - ERRS, PROMISES[0])),
                _labels(found[1]),
                _labels(found[2]),
                f"{_met(found[2] <= goals[1])} ({goals[1]:,})",
            ]
        )
    return _part(
        "Collapse",
        f"Median labels of {plays.runs:,} runs until a champion that errs 20 %, then 80 %, is replaced. "
        "Goal: 600 labels where errors are independent, else five correlation lengths, 600 at the least.\n\n"
        "- *by variance*: what a test needs that knows the size of the change and the long-run variance "
        "before it, and nothing else: ln(threshold) x 2 x variance / shift^2;\n"
        "- *by the law*: what a moving mean needs that knows law and change, its length and bar chosen so "
        "that two equal models pass it once in 1,000,000 labels;\n"
        "- *mistaken*: how often in 1,000,000 labels two equal models look like a collapse for as long as "
        "the goal: the champion's mean loss over so many labels is larger by "
        f"{BROKEN - ERRS:g}. Promised is 1.",
        _table(
            [
                "errors of both",
                "auto",
                "goal",
                "by variance",
                "by the law",
                "mistaken",
                "blocks of 32",
                f"blocks of {DAY:,}",
                "goal, a day's hint",
            ],
            rows,
        ),
    )


def _opening(plays: Plays) -> str:
    rows = []
    for name, law in EQUAL.items():
        swaps = play(plays.of(name, law), AUTO, opening=True)
        wrong = [swap for swap in swaps if swap.first]
        plain = {swap.run for swap in play(plays.of(name, law), AUTO)}
        rows.append([name, f"{len(wrong) / plays.runs:.1%}", f"{len(plain) / plays.runs:.1%}"])
    gains = []
    for better in (0.05, 0.1, 0.2):
        means = plays.of(f"better by {better}", _better(better), 20_000)
        gains.append([f"{better:g}", *(_labels(_first(means, opening=one)) for one in (True, False))])
    return _part(
        "The opening of a named champion",
        f"Share of runs of {LABELS:,} labels whose first verdict was a false one, and median labels until a "
        "challenger that is better from the first label on has won (the champion errs 40 %).",
        _table(["two equal models", "opening_error=.05", "opening_error=0"], rows)
        + "\n\n"
        + _table(["better by", "opening_error=.05", "opening_error=0"], gains),
    )


def _better(by: float) -> Law:
    return lambda rng, runs, labels: errors(rng, runs, labels, 0.4) - errors(rng, runs, labels, 0.4 - by)


def _first(means: Floats, *, opening: bool) -> float:
    found = np.full(means.shape[0], math.inf)
    for swap in play(means, AUTO, opening=opening):
        if swap.first:
            found[swap.run] = swap.label
    return float(np.median(found))


def _frontier(plays: Plays) -> str:
    laws = ("independent 0/1", "bursts of 20", "bursts of 100", "bursts of 500", "AR .99", "AR .999")
    head = ["inflation counts", *(f"false swaps, {name}" for name in laws)]
    head += ["better by .05", "by .02", *(f"collapse, {name}" for name in laws)]
    shifts, collapses = dict(plays.changing(SHIFTS)), dict(plays.changing(COLLAPSES))
    rows = []
    for title, caution in FRONTIER:
        promotion = FIXED if caution is None else AUTO
        row = [title]
        row += [_ratio(false_swaps(plays.of(name, EQUAL[name]), promotion, caution)) for name in laws]
        row += [_labels(delay(shifts[name], promotion, caution)) for name in list(DELAYS_MAX)[:2]]
        row += [_labels(delay(collapses[name], promotion, caution)) for name in laws]
        rows.append(row)
    return _part(
        "The frontier",
        "What the promise costs where it and speed fight: by how much an inflation that was seen counts, at "
        "1 in 1,000,000. Where errors are independent the choice costs nothing; where they come in bursts, a "
        "rule that sees a collapse sooner takes more bursts for one.",
        _table(head, rows),
    )


def _disasters(plays: Plays) -> str:
    scales: dict[str, Callable[[Floats], Floats]] = {
        "uncut (chosen)": lambda error: error,
        "cut at 4 deviations": lambda error: np.minimum(error, 1.0),
        "log(1 + error)": np.log1p,
        "cut, then 1 + log": lambda error: np.minimum(error, 1.0) + np.log(np.maximum(error, 1.0)),
    }
    cases = {
        "off by 1e6 once in 200, else better by 30 %": (200, 1e6, 0.3),
        "off by 1e6 once in 200, else better by 90 %": (200, 1e6, 0.9),
        "off by 40 (4 deviations) once in 20, else better by 30 %": (20, 40.0, 0.3),
        "better by 10 %, no disaster": (10**9, 0.0, 0.1),
        "better by 30 %, no disaster": (10**9, 0.0, 0.3),
    }
    rows = []
    for case, (every, by, better) in cases.items():
        rng = np.random.default_rng(crc32(case.encode()))
        truth, champion, challenger = disaster(every, by, better)(rng, min(plays.runs, 100), 20_000)
        row = [case]
        for scale in scales.values():
            losses = [scale(np.abs(truth - score) / 40.0) for score in (champion, challenger)]
            swaps = [swap for swap in play(block_means(losses[0] - losses[1]), AUTO) if swap.first]
            labels = [float(swap.label) for swap in swaps]
            labels += [math.inf] * (truth.shape[0] - len(swaps))
            row.append(f"{len(swaps) / truth.shape[0]:.0%} ({_labels(float(np.median(labels)))})")
        rows.append(row)
    return _part(
        "Regression: a scale that sees a disaster",
        "Share of runs of 20,000 labels in which the challenger wins, and the median labels until then. "
        "Labels have a deviation of 10, the champion's errors one of 3; loss is the absolute error over 40, "
        "on the scale of the column.",
        _table(["the challenger is", *scales], rows),
    )


TABLES: Mapping[str, Callable[[Plays], str]] = {
    "false-swaps": _false_swaps,
    "delays": _delays,
    "collapse": _collapses,
    "opening": _opening,
    "frontier": _frontier,
    "disasters": _disasters,
}
"""By the name of its part of the page, what makes each table, as Markdown."""


# -- Markdown ----------------------------------------------------------------------------------------


def _part(title: str, text: str, table: str) -> str:
    return f"### {title}\n\n{text}\n\n{table}"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _met(met: bool) -> str:
    return "met" if met else "**missed**"


def _ratio(rate: Rate) -> str:
    digits = 1 if rate.mean >= 9.95 else 2
    return f"{rate.mean:.{digits}f} ± {rate.error:.{digits}f}"


def _times(value: float) -> str:
    return f"{value:,.0f}" if value >= 10.0 else f"{value:.1f}"


def _labels(value: float) -> str:
    return "never" if math.isinf(value) else f"{value:,.0f}"
