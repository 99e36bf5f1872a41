"""How good is every candidate, and what was served: River's metrics, a recent window, two curves.

Lives here: quality as people read it, all from scores served at event time.  Never here:
decisions (they rest on `evidence.py`), models, clocks.

Strategy: an example costs one update per River metric and one append.  The recent window is a
ring of raw (label, scores) from which metrics are computed only when somebody asks.  Curves hold
the mean comparison loss (`losses.py`) per bucket of time; when there are too many buckets the
width doubles and pairs merge, so the whole run is always in view in bounded memory.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
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
BUCKETS_MAX = 256
"""Points of a curve: as many as a plot can show."""

Point = tuple[int, float, int]
"""(start of the bucket in ms, mean loss, examples)."""
_Recent = tuple[LabelValue, Score, dict[str, Score]]


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
    >>> for time in range(1_000):
    ...     curve.add(time, {"model": time / 1_000})
    >>> curve.width_ms, [(start, round(mean, 2), count) for start, mean, count in curve.points("model")][-1]
    (4, (996, 1.0, 4))
    """

    def __init__(self) -> None:
        self.width_ms = 1
        self.buckets: dict[int, dict[str, list[float]]] = {}

    def add(self, time_ms: int, losses: Mapping[str, float | None]) -> None:
        """Count one example; candidates without an opinion (None) are left out."""
        number = time_ms // self.width_ms
        bucket = self.buckets.get(number)
        if bucket is None:
            bucket = self.buckets[number] = {}
            if len(self.buckets) > BUCKETS_MAX:
                bucket = self._widen(number)
        for name, loss in losses.items():
            if loss is not None:
                cell = bucket.get(name)
                if cell is None:
                    bucket[name] = [loss, 1]
                else:
                    cell[0] += loss
                    cell[1] += 1

    def _widen(self, number: int) -> dict[str, list[float]]:
        """Double the width until the buckets fit; return the one that `number` fell into."""
        while len(self.buckets) > BUCKETS_MAX:
            self.width_ms *= 2
            number //= 2
            merged: dict[int, dict[str, list[float]]] = {}
            for old, cells in self.buckets.items():
                into = merged.setdefault(old // 2, {})
                for name, (total, count) in cells.items():
                    cell = into.setdefault(name, [0.0, 0])
                    cell[0] += total
                    cell[1] += count
            self.buckets = merged
        return self.buckets[number]

    def points(self, name: str) -> list[Point]:
        """Return one series in order of time; buckets without examples are left out."""
        return [
            (number * self.width_ms, cells[name][0] / cells[name][1], int(cells[name][1]))
            for number, cells in sorted(self.buckets.items())
            if name in cells
        ]


class _CurveState(msgspec.Struct):
    width_ms: int
    buckets: dict[int, dict[str, tuple[float, int]]]


class _Card:
    """One series' cumulative metrics, bound once."""

    __slots__ = ("cold", "examples", "metrics", "of_labels", "of_scores")

    def __init__(self, found: Sequence[metrics.base.Metric], examples: int = 0, cold: int = 0) -> None:
        self.metrics = list(found)
        self.examples = examples
        self.cold = cold
        self.of_labels = [m.update for m in self.metrics if getattr(m, "requires_labels", False)]
        self.of_scores = [m.update for m in self.metrics if not getattr(m, "requires_labels", False)]


class Evaluation:
    """Metrics of every candidate and of what was served.

    `chosen` are River metrics, cloned for each candidate; metrics that need labels get the label
    at `threshold`, others the score.  Scores that are None (cold start) are counted and left
    out, as River's `progressive_val_score` does.  Examples whose event lies before `warmup_offset`
    are left out of the cumulative metrics only.  `dump` and `load` turn River's metrics into
    bytes and back.
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
        self.by_event_time = Curve()
        self.by_label_time = Curve()
        self._dirty = True

    def _fresh(self) -> list[metrics.base.Metric]:
        return [metric.clone() for metric in self._chosen]

    def update(self, example: Example, scores: dict[str, Score], losses: Mapping[str, float | None]) -> None:
        """Count one example: `scores` of the candidates in the race, their `losses` and that of `SERVED`."""
        self._dirty = True
        label, served = example.label, example.served_score
        self._recent.append((label, served, scores))
        self.by_event_time.add(example.event_time, losses)
        self.by_label_time.add(example.label_time, losses)
        if example.event_offset < self._warmup_offset:
            return
        self._count(SERVED, label, served)
        for name, score in scores.items():
            self._count(name, label, score)

    def _count(self, name: str, label: LabelValue, score: Score) -> None:
        card = self._cards.get(name)
        if card is None:
            card = self._cards[name] = _Card(self._fresh())
        if score is None:
            card.cold += 1
            return
        card.examples += 1
        for update in card.of_scores:
            update(label, score)
        if card.of_labels:
            predicted = label_of(self._task, score, self._threshold)
            for update in card.of_labels:
                update(label, predicted)

    def served_scores(self) -> dict[str, float]:
        """Return the metrics of what was served over the whole run, by River's class names."""
        return _values(self._cards[SERVED].metrics) if SERVED in self._cards else {}

    def model_scores(self) -> dict[str, dict[str, float]]:
        """Return every candidate's metrics over the whole run, by candidate and River's class names."""
        return {name: _values(card.metrics) for name, card in self._cards.items() if name != SERVED}

    def counts(self) -> dict[str, tuple[int, int]]:
        """Return (examples counted, cold starts left out) by series."""
        return {name: (card.examples, card.cold) for name, card in self._cards.items()}

    def recent_scores(self) -> dict[str, dict[str, float]]:
        """Return the metrics of the last `RECENT_MAX` examples by series (`SERVED` too), computed now."""
        cards: dict[str, _Card] = {}
        whole, self._cards = self._cards, cards
        try:
            for label, served, scores in self._recent:
                self._count(SERVED, label, served)
                for name, score in scores.items():
                    self._count(name, label, score)
        finally:
            self._cards = whole
        return {name: _values(card.metrics) for name, card in cards.items() if card.examples}

    def recent_loss(self, name: str) -> float:
        """Return the mean error of a candidate in the recent window; infinite if it has no score there.

        Brier for classification, absolute error for regression: for ranking candidates only.
        """
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
        self._cards.pop(name, None)
        self._dirty = True

    def snapshot(self) -> dict[str, bytes]:
        """Return the whole state: River's metrics, the recent window, the curves."""
        cards = {name: (card.metrics, card.examples, card.cold) for name, card in self._cards.items()}
        curves = [
            {"width_ms": curve.width_ms, "buckets": curve.buckets}
            for curve in (self.by_event_time, self.by_label_time)
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
        cards = self._load(entries["metrics"])
        self._cards = {name: _Card(*parts) for name, parts in cards.items()}
        recent = msgspec.msgpack.decode(entries["recent"], type=list[_Recent])
        self._recent = deque(recent, maxlen=RECENT_MAX)
        curves = msgspec.msgpack.decode(entries["curves"], type=list[_CurveState])
        for curve, state in zip((self.by_event_time, self.by_label_time), curves, strict=True):
            curve.width_ms = state.width_ms
            curve.buckets = {
                number: {name: list(cell) for name, cell in cells.items()}
                for number, cells in state.buckets.items()
            }
        self._dirty = False


def _values(found: Sequence[metrics.base.Metric]) -> dict[str, float]:
    return {type(metric).__name__: float(metric.get()) for metric in found}
