"""The table of a report: every model, what was served, and the baselines, all on the same rows.

Lives here: which rows count, what would have been known without any model, the two kappas.  Never here: who
is promoted (that rests on `operators/race/evidence.py`), what a worker exports (`evaluation.py` there).

A row counts if every candidate in the race had an opinion on it, so that none is compared on rows that suit
it, as those after its cold start would.  Where the numbers of rows still differ, as for a candidate that came
half-way, they stand beside the names.  `on_own_rows` is what River's `progressive_val_score` says of each
model alone: only its own cold start is left out.

The baselines never serve.  They know of each event what was known then, by label time:

    prior                      the share of each class so far; of a regression the mean
    last class, last value     the newest label that was known (no change)
    zero rule                  the commonest class so far; of a regression that is the mean again

Accuracy alone flatters where one class is common or neighbours are alike.  With p the share of right answers,
pz that of the zero rule and pl that of the last class,

    Kappa-M = (p - pz) / (1 - pz)        Kappa-T = (p - pl) / (1 - pl)

(A. Bifet, G. de Francisci Morales, J. Read, G. Holmes, B. Pfahringer, "Efficient online evaluation of big
data stream classifiers", 2015; A. Bifet et al., "Pitfalls in benchmarking data stream classification", 2013).
River 0.26.1 has neither; both follow from counts.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from engine.definition.pipeline import Pipeline
from operators.models.scoring import label_of
from operators.race.evaluation import SERVED, Evaluation, default_metrics
from operators.race.losses import judged_by, loss_of
from topics.messages import Example, LabelValue, Score, Task

__all__ = ["ScoreTable"]

BASELINES: dict[Task, tuple[str, ...]] = {
    "binary": ("prior", "last class", "zero rule"),
    "multiclass": ("prior", "last class", "zero rule"),
    "regression": ("prior", "last value"),
}
KNOWN_MAX = 65_536
"""Labels kept to tell what was known at an event; one older than all of them knows what they began with."""
APART_MAX = 1_000_000
"""Rows that are left out and remembered; metrics of those beyond them stay as they are."""


class _Known:
    """The labels so far, and what followed from those that were known at a time.

    >>> known = _Known("binary")
    >>> for time, label in [(10, True), (20, True), (30, False)]:
    ...     known.add(time, label)
    >>> known.scores(9), known.scores(25), known.scores(30)
    ([0.5, 0.0, 0.0], [1.0, 1.0, 1.0], [0.6666666666666666, 0.0, 1.0])
    """

    def __init__(self, task: Task) -> None:
        self._task: Task = task
        self._times: list[int] = []
        """When each label was known: the largest label time so far."""
        self._labels: list[LabelValue] = []
        self._sums: list[float] = [0.0]
        """Of a regression: the sum of the labels before each, those that were dropped included."""
        self._dropped = 0
        self._counts: Counter[LabelValue] = Counter()
        """Of classes: those of the labels before `_at`."""
        self._at = 0

    def add(self, label_time: int, label: LabelValue) -> None:
        """Add the next label of the log."""
        self._times.append(max(label_time, self._times[-1]) if self._times else label_time)
        self._labels.append(label)
        if self._task == "regression":
            self._sums.append(self._sums[-1] + float(label))
        if len(self._labels) >= 2 * KNOWN_MAX:
            self._move(max(self._at, KNOWN_MAX))
            self._at -= KNOWN_MAX
            self._dropped += KNOWN_MAX
            del self._times[:KNOWN_MAX], self._labels[:KNOWN_MAX], self._sums[:KNOWN_MAX]

    def _move(self, at: int) -> None:
        """Count the labels before `at`."""
        if self._task != "regression":
            self._counts.update(self._labels[self._at : at])
            self._counts.subtract(self._labels[at : self._at])
        self._at = at

    def scores(self, time: int) -> list[Score]:
        """Return what each baseline says of an event at `time`."""
        at = bisect_right(self._times, time)
        known = self._dropped + at
        last = self._labels[at - 1] if at else None
        if self._task == "regression":
            return [self._sums[at] / known if known else None, None if last is None else float(last)]
        self._move(at)
        counts = self._counts
        if self._task == "binary":
            true = counts[True]
            return [true / known if known else 0.5, float(bool(last)), float(2 * true > known)]
        if last is None:
            return [None, None, None]
        common = max(counts, key=counts.__getitem__)
        shares: dict[str, float] = {str(name): count / known for name, count in counts.items() if count}
        return [shares, {str(last): 1.0}, {str(common): 1.0}]


class _Series:
    """The sums of one series over the rows that count."""

    __slots__ = ("judged", "loss", "right", "rows")

    def __init__(self) -> None:
        self.rows = 0
        self.right = 0
        self.loss = 0.0
        self.judged = 0
        """Rows that have a loss: the first labels of a regression have no scale."""


class ScoreTable:
    """Every model of one run and the baselines, on the rows on which all candidates had an opinion."""

    def __init__(self, pipeline: Pipeline, warmup_offset: int = 0) -> None:
        """Examples whose event lies before `warmup_offset` count for nothing but what the baselines know."""
        self._task: Task = pipeline.task
        self._threshold = pipeline.threshold
        self._judged_by = judged_by(pipeline.task, pipeline.promotion.loss, pipeline.threshold)
        self._loss = loss_of(pipeline.task, pipeline.promotion.loss, pipeline.threshold)
        self._scale = getattr(self._loss, "update", None)
        self._warmup_offset = warmup_offset
        self._known = _Known(pipeline.task)
        self._series: defaultdict[str, _Series] = defaultdict(_Series)
        chosen = pipeline.metrics or default_metrics(pipeline.task)
        self._metrics = {
            # Only the prior has chances to offer; the others name a label.
            name: [
                metric.clone()
                for metric in chosen
                if name == "prior" or self._task == "regression" or getattr(metric, "requires_labels", False)
            ]
            for name in BASELINES[self._task]
        }
        self._apart: list[tuple[LabelValue, Score, dict[str, Score]]] = []
        """Rows that are left out: label, what was served, what each candidate said."""
        self._left_out = 0

    def add(self, example: Example) -> None:
        """Add the next example of the log; one that corrects another takes its place in what counts."""
        label, scores, served = example.label, example.scores, example.served_score
        if example.before is not None:
            self._correct(example, example.before)
            return
        if not example.measured:
            return
        if example.event_offset >= self._warmup_offset:
            if served is None or None in scores.values():
                self._left_out += 1
                if len(self._apart) < APART_MAX:
                    self._apart.append((label, served, scores))
            else:
                for name, score in self._said(example):
                    self._count(name, label, score)
                known = self._known.scores(example.event_time)
                for name, score in zip(BASELINES[self._task], known, strict=True):
                    self._floor(name, label, score)
        self._known.add(example.label_time, label)
        if self._scale is not None:
            self._scale(label)

    def _count(self, name: str, label: LabelValue, score: Score) -> LabelValue | None:
        """Count one row with an opinion, and return the label that it means."""
        series, answer = self._series[name], label_of(self._task, score, self._threshold)
        series.rows += 1
        series.right += answer == label
        loss = self._loss(label, score)
        if loss is not None:
            series.loss += loss
            series.judged += 1
        return answer

    @staticmethod
    def _said(example: Example) -> list[tuple[str, Score]]:
        """Return what was served of an example, and what each candidate said."""
        return [(SERVED, example.served_score), *example.scores.items()]

    def _correct(self, example: Example, replaced: LabelValue) -> None:
        """Count a row that was counted with another label with this one; baselines are as they were."""
        said = self._said(example)
        if example.event_offset < self._warmup_offset or None in [score for _, score in said]:
            return
        for name, score in said:
            series, answer = self._series[name], label_of(self._task, score, self._threshold)
            series.right += (answer == example.label) - (answer == replaced)
            before, after = self._loss(replaced, score), self._loss(example.label, score)
            if before is not None and after is not None:
                series.loss += after - before

    def _floor(self, name: str, label: LabelValue, score: Score) -> None:
        """Count what a baseline says of a row, if it has anything to say."""
        if score is None:
            return
        answer = self._count(name, label, score)
        for metric in self._metrics[name]:
            metric.update(label, answer if getattr(metric, "requires_labels", False) else score)

    def _kappa(self, series: _Series, floor: str) -> float:
        """Return how much of what a baseline gets wrong a series gets right; NaN where that is nothing."""
        right, rows = self._series[floor].right, self._series[SERVED].rows
        if not series.rows or right == rows:
            return math.nan
        return (series.right / series.rows - right / rows) / (1.0 - right / rows)

    def _with_kappas(self, name: str, scores: Mapping[str, float]) -> dict[str, float]:
        """Return metrics with the two kappas behind the accuracy."""
        if self._task == "regression":
            return dict(scores)
        series = self._series[name]
        kappas = {
            "KappaM": self._kappa(series, "zero rule"),
            "KappaT": self._kappa(series, "last class"),
        }
        names = list(scores)
        after = names.index("Accuracy") + 1 if "Accuracy" in names else len(names)
        both = {**scores, **kappas}
        return {name: both[name] for name in (*names[:after], *kappas, *names[after:])}

    def report(self, evaluation: Evaluation, names: Sequence[str], sick: Collection[str]) -> dict[str, Any]:
        """Return the part of a report that compares; of the sick, which answered other rows, nothing.

        `evaluation` has counted the same examples, each series on its own rows.
        """
        scores = evaluation.scores_without(self._apart)
        baselines = {
            name: {type(metric).__name__: float(metric.get()) for metric in of_river}
            for name, of_river in self._metrics.items()
        }
        compared = (SERVED, *(name for name in names if name not in sick), *baselines)
        series = {name: self._series[name] for name in compared}
        return {
            "judged_by": self._judged_by,
            "served": self._with_kappas(SERVED, scores[SERVED]) if SERVED in scores else {},
            "models": {
                name: self._with_kappas(name, scores[name]) if name in scores and name not in sick else {}
                for name in names
            },
            "on_own_rows": {
                name: found for name, found in evaluation.model_scores().items() if name in compared
            },
            "baselines": {name: self._with_kappas(name, found) for name, found in baselines.items()},
            "losses": {name: one.loss / one.judged if one.judged else None for name, one in series.items()},
            "rows": {name: one.rows for name, one in series.items()},
            "rows_left_out": self._left_out,
        }
