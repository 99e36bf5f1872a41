"""How good is every candidate, and what was served: River's metrics, a recent window, two curves.

Lives here: quality as people read it, all from scores served at event time.  Never here:
decisions (they rest on `evidence.py`), models, clocks.

Strategy: an example is one append; rows are counted by the column when a batch has gathered or
somebody asks, which changes no bit, for each metric and each curve still sees them in their order.
The recent window is a ring of raw (label, scores) from which metrics are computed only when
somebody asks.  Curves hold the mean comparison loss (`losses.py`) per bucket of time; when there
are too many buckets the width doubles and pairs merge, so the whole run is always in view in
bounded memory.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from itertools import chain, compress
from typing import Any

import msgspec
from river import metrics
from river.metrics.base import BinaryMetric, MeanMetric

from operators.contract import StateDelta, StateEntries
from operators.losses import brier, multiclass_brier
from operators.scoring import label_of
from topics.messages import Example, LabelValue, Score, Task

__all__ = ["SERVED", "Brier", "Curve", "Evaluation", "default_metrics"]

SERVED = "served"
"""The name under which what was answered is evaluated, whoever answered; no candidate's name."""
RECENT_MAX = 1_000
"""Examples in the recent window: a percent of accuracy is ten of them."""
ROWS_MAX = 64
"""Examples that wait to be counted together: the cost of setting out is shared, the memory small."""
BUCKETS_MAX = 256
"""Points of a curve: as many as a plot can show."""

Point = tuple[int, float, int]
"""(start of the bucket in ms, mean loss, examples)."""
_Recent = tuple[LabelValue, Score, dict[str, Score]]
_Losses = Mapping[str, Sequence[float | None]]
"""Columns of losses by series."""
_Cells = dict[str, tuple[float, int]]
"""(sum, count) of the losses of each series in one bucket."""
_NO_CELL = (0.0, 0)


class Brier(MeanMetric, BinaryMetric):
    """Brier score: mean squared distance of P(True) from the truth (Brier, 1950); River has none.

    >>> metric = Brier()
    >>> for truth, p in [(True, 0.9), (False, 0.5)]:
    ...     metric.update(truth, p)
    >>> metric
    Brier: 0.13
    """

    _fmt = ""

    @property
    def bigger_is_better(self) -> bool:
        """Return False: it is a loss."""
        return False

    @property
    def requires_labels(self) -> bool:
        """Return False: it takes probabilities."""
        return False

    def _eval(self, y_true: bool, y_pred: float | dict[bool, float]) -> float:
        p_true = y_pred.get(True, 0.0) if isinstance(y_pred, dict) else y_pred
        return ((1.0 if y_true else 0.0) - p_true) ** 2


_DEFAULTS: dict[Task, tuple[Callable[[], Any], ...]] = {
    "binary": (metrics.Accuracy, metrics.LogLoss, metrics.ROCAUC, Brier),
    "multiclass": (metrics.Accuracy, metrics.MacroF1, metrics.CrossEntropy),
    "regression": (metrics.MAE, metrics.RMSE, metrics.R2),
}


def default_metrics(task: Task) -> list[metrics.base.Metric]:
    """Return the metrics of a task where the user names none."""
    return [metric() for metric in _DEFAULTS[task]]


class Curve:
    """Mean loss of every series over time, in at most `BUCKETS_MAX` buckets of equal width.

    >>> curve = Curve()
    >>> curve.extend(range(1_000), {"model": [time / 1_000 for time in range(1_000)]})
    >>> curve.width_ms, [(start, round(mean, 2), count) for start, mean, count in curve.points("model")][-1]
    (4, (996, 1.0, 4))
    """

    def __init__(self) -> None:
        self.width_ms = 1
        self.buckets: dict[int, _Cells] = {}

    def extend(self, times_ms: Sequence[int], losses: _Losses) -> None:
        """Count examples in their order, those without an opinion (None) left out.

        Neighbours mostly share a bucket.
        """
        start, rows = 0, len(times_ms)
        while start < rows:
            number = times_ms[start] // self.width_ms
            end = self._same_bucket(times_ms, start, number)
            cells = self._bucket(number)
            for name, column in losses.items():
                total, count = cells.get(name, _NO_CELL)
                known = [loss for loss in column[start:end] if loss is not None]
                for loss in known:  # one after the other: `sum` rounds in another way from Python 3.12 on
                    total += loss
                if known:
                    cells[name] = (total, count + len(known))
            start = end

    def _same_bucket(self, times_ms: Sequence[int], start: int, number: int) -> int:
        """Return the end of the stretch from `start` on whose times fall into bucket `number`."""
        width_ms, end = self.width_ms, len(times_ms)
        rest = times_ms[start:]
        if min(rest) // width_ms == number == max(rest) // width_ms:
            return end
        return next((row for row in range(start, end) if times_ms[row] // width_ms != number), end)

    def _bucket(self, number: int) -> _Cells:
        cells = self.buckets.get(number)
        if cells is None:
            cells = self.buckets[number] = {}
            if len(self.buckets) > BUCKETS_MAX:
                return self._widen(number)
        return cells

    def _widen(self, number: int) -> _Cells:
        """Double the width until the buckets fit; return the one that `number` fell into."""
        while len(self.buckets) > BUCKETS_MAX:
            self.width_ms *= 2
            number //= 2
            merged: dict[int, _Cells] = {}
            for old, cells in self.buckets.items():
                into = merged.setdefault(old // 2, {})
                for name, (total, count) in cells.items():
                    more, others = into.get(name, _NO_CELL)
                    into[name] = (more + total, others + count)
            self.buckets = merged
        return self.buckets[number]

    def points(self, name: str) -> list[Point]:
        """Return one series in order of time; buckets without examples are left out."""
        return [
            (number * self.width_ms, cells[name][0] / cells[name][1], cells[name][1])
            for number, cells in sorted(self.buckets.items())
            if name in cells
        ]


class _CurveState(msgspec.Struct):
    width_ms: int
    buckets: dict[int, _Cells]


class _Card:
    """One series' cumulative metrics, bound once."""

    __slots__ = ("cold", "examples", "metrics", "of_labels", "of_scores")

    def __init__(self, found: Sequence[metrics.base.Metric], examples: int = 0, cold: int = 0) -> None:
        self.metrics = list(found)
        self.examples = examples
        self.cold = cold
        self.of_labels = [m.update for m in self.metrics if getattr(m, "requires_labels", False)]
        self.of_scores = [m.update for m in self.metrics if not getattr(m, "requires_labels", False)]

    def count(
        self, labels: Sequence[LabelValue], scores: Sequence[Score], label_of_score: Callable[[Score], Any]
    ) -> None:
        """Update every metric with a column, one metric after the other."""
        if None in scores:
            warm = [n for n, score in enumerate(scores) if score is not None]
            self.cold += len(scores) - len(warm)
            labels, scores = [labels[n] for n in warm], [scores[n] for n in warm]
        self.examples += len(scores)
        for update in self.of_scores:
            for label, score in zip(labels, scores, strict=True):
                update(label, score)
        if self.of_labels:
            predicted = [label_of_score(score) for score in scores]
            for update in self.of_labels:
                for label, answer in zip(labels, predicted, strict=True):
                    update(label, answer)


class Evaluation:
    """Metrics of every candidate and of what was served.

    `chosen` are River metrics, cloned for each candidate; metrics that need labels get the label
    at `threshold`, others the score.  Scores that are None (cold start) are counted and left
    out, as River's `progressive_val_score` does.  Examples whose event lies before `warmup_offset`
    are left out of the cumulative metrics only.  `dump` and `load` turn River's metrics into
    bytes and back.  An error of a metric is raised when rows are counted: by the update that fills
    the batch, or by whoever asks.
    """

    def __init__(
        self,
        task: Task,
        chosen: Sequence[metrics.base.Metric] | None,
        dump: Callable[[Any], bytes],
        load: Callable[[bytes], Any],
        *,
        threshold: float = 0.5,
        warmup_offset: int = 0,
    ) -> None:
        self._task: Task = task
        self._chosen = list(default_metrics(task) if chosen is None else chosen)
        self._dump, self._load = dump, load
        self._threshold = threshold
        self._warmup_offset = warmup_offset
        self._cards: dict[str, _Card] = {}
        self._recent: deque[_Recent] = deque(maxlen=RECENT_MAX)
        self._by_event_time = Curve()
        self._by_label_time = Curve()
        self._examples: list[Example] = []
        """Not yet counted, few more than `ROWS_MAX`; whoever reads calls `_catch_up` first."""
        self._losses: dict[str, list[float | None]] = {}
        """Their losses by series."""
        self._dirty = True

    def extend(self, examples: Sequence[Example], losses: _Losses) -> None:
        """Count examples, with the columns of losses of `SERVED` and of every candidate in the race.

        Each of these candidates has a score in each example; other scores are not counted.
        """
        self._dirty = True
        if self._losses.keys() != losses.keys():
            self._catch_up()
            self._losses = {name: [] for name in losses}
        self._examples += examples
        for name, column in losses.items():
            self._losses[name] += column
        if len(self._examples) >= ROWS_MAX:
            self._catch_up()

    def _catch_up(self) -> None:
        """Count the rows that wait."""
        if not self._examples:
            return
        examples, losses = self._examples, self._losses
        self._examples, self._losses = [], {}
        self._by_event_time.extend([example.event_time for example in examples], losses)
        self._by_label_time.extend([example.label_time for example in examples], losses)
        names = [name for name in losses if name != SERVED]
        rows = [(e.label, e.served_score, _only(names, e.scores)) for e in examples]
        self._recent.extend(rows)
        warm = [e.event_offset >= self._warmup_offset for e in examples]
        self._count(self._cards, list(compress(rows, warm)))

    def _count(self, cards: dict[str, _Card], rows: Sequence[_Recent]) -> None:
        """Update the cards of all series in `rows`, series by series."""
        if not rows:
            return
        labels, served, scores = zip(*rows, strict=True)
        self._card(cards, SERVED).count(labels, served, self._label_of)
        for name in dict.fromkeys(chain.from_iterable(scores)):
            column = [row[name] for row in scores if name in row]
            truths: Sequence[LabelValue] = labels
            if len(column) < len(labels):
                truths = [label for label, row in zip(labels, scores, strict=True) if name in row]
            self._card(cards, name).count(truths, column, self._label_of)

    def _card(self, cards: dict[str, _Card], name: str) -> _Card:
        card = cards.get(name)
        if card is None:
            card = cards[name] = _Card([metric.clone() for metric in self._chosen])
        return card

    def _label_of(self, score: Score) -> LabelValue | None:
        return label_of(self._task, score, self._threshold)

    @property
    def by_event_time(self) -> Curve:
        """Return the curve of losses by event time."""
        self._catch_up()
        return self._by_event_time

    @property
    def by_label_time(self) -> Curve:
        """Return the curve of losses by label time."""
        self._catch_up()
        return self._by_label_time

    def served_scores(self) -> dict[str, float]:
        """Return the metrics of what was served over the whole run, by River's class names."""
        self._catch_up()
        return _values(self._cards[SERVED].metrics) if SERVED in self._cards else {}

    def model_scores(self) -> dict[str, dict[str, float]]:
        """Return every candidate's metrics over the whole run, by candidate and River's class names."""
        self._catch_up()
        return {name: _values(card.metrics) for name, card in self._cards.items() if name != SERVED}

    def counts(self) -> dict[str, tuple[int, int]]:
        """Return (examples counted, cold starts left out) by series."""
        self._catch_up()
        return {name: (card.examples, card.cold) for name, card in self._cards.items()}

    def recent_scores(self) -> dict[str, dict[str, float]]:
        """Return the metrics of the last `RECENT_MAX` examples by series (`SERVED` too), computed now."""
        self._catch_up()
        cards: dict[str, _Card] = {}
        self._count(cards, list(self._recent))
        return {name: _values(card.metrics) for name, card in cards.items() if card.examples}

    def recent_loss(self, name: str) -> float:
        """Return the mean error of a candidate in the recent window; infinite if it has no score there.

        Brier for classification, absolute error for regression: for ranking candidates only.
        """
        self._catch_up()
        total, count = 0.0, 0
        for label, _, scores in self._recent:
            score = scores.get(name)
            if score is not None:
                total += self._error(label, score)
                count += 1
        return total / count if count else math.inf

    def _error(self, label: LabelValue, score: float | dict[str, float]) -> float:
        if self._task == "regression":
            return abs(float(label) - score)  # type: ignore[operator]
        loss = (brier if self._task == "binary" else multiclass_brier)(label, score)
        return math.inf if loss is None else loss

    def forget(self, name: str) -> None:
        """Drop the metrics of a candidate that has retired; curves keep what they have."""
        self._catch_up()
        self._cards.pop(name, None)
        self._dirty = True

    def snapshot(self) -> dict[str, bytes]:
        """Return the whole state: River's metrics, the recent window, the curves."""
        self._catch_up()
        # Sorted: series begin in another order where rows are counted by the column.
        cards = {name: (card.metrics, card.examples, card.cold) for name, card in self._cards.items()}
        curves = [
            _CurveState(
                curve.width_ms, {start: dict(sorted(cells.items())) for start, cells in curve.buckets.items()}
            )
            for curve in (self._by_event_time, self._by_label_time)
        ]
        return {
            "metrics": self._dump(cards),
            "recent": msgspec.msgpack.encode(list(self._recent)),
            "curves": msgspec.msgpack.encode(curves),
        }

    def delta(self) -> StateDelta:
        """Return the state if it changed since the last call."""
        if not self._dirty:
            return {}
        self._dirty = False
        return dict(self.snapshot())

    def restore(self, entries: StateEntries) -> None:
        """Replace the whole state."""
        self._examples, self._losses = [], {}
        cards = self._load(entries["metrics"])
        self._cards = {name: _Card(*parts) for name, parts in cards.items()}
        recent = msgspec.msgpack.decode(entries["recent"], type=list[_Recent])
        self._recent = deque(recent, maxlen=RECENT_MAX)
        curves = msgspec.msgpack.decode(entries["curves"], type=list[_CurveState])
        for curve, state in zip((self._by_event_time, self._by_label_time), curves, strict=True):
            curve.width_ms = state.width_ms
            curve.buckets = state.buckets
        self._dirty = False


def _only(names: Sequence[str], scores: dict[str, Score]) -> dict[str, Score]:
    """Return the scores of `names`, which is mostly all of them."""
    return scores if len(names) == len(scores) else {name: scores[name] for name in names}


def _values(found: Sequence[metrics.base.Metric]) -> dict[str, float]:
    return {type(metric).__name__: float(metric.get()) for metric in found}
