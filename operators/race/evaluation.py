"""The quality of every candidate and of what was served: River's metrics, two curves.

Lives here: quality as people read it, all from scores served at event time.  Never here: how wrong one score
was (`losses.py`), decisions (they rest on `evidence.py`), models, clocks.

Strategy: examples are counted by the column, which changes no bit, for each metric and each curve still sees
them in their order.  The recent window is a ring of raw (label, scores) from which metrics are computed only
when somebody asks.
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from itertools import chain, compress
from typing import Any

import msgspec
from river import metrics
from river.metrics.base import BinaryMetric, MeanMetric

from operators.models.parameters import model_text
from operators.models.scoring import label_of
from operators.race.losses import Losses, brier, multiclass_brier
from operators.state import StateEntries, WholeState
from topics.messages import Example, LabelValue, Score, Task

__all__ = [
    "SERVED",
    "Brier",
    "Curve",
    "Evaluation",
    "default_metrics",
    "is_correctable",
]

# -- curves ------------------------------------------------------------------------------------------

BUCKETS_MAX = 256
"""Points of a curve: as many as a plot can show."""

Point = tuple[int, float, int]
"""(start of the bucket in ms, mean loss, examples)."""
Cells = dict[str, tuple[float, int]]
"""(sum, count) of the losses of each series in one bucket."""
_NO_CELL = (0.0, 0)


class Curve(msgspec.Struct):
    """Mean loss of every series over time, in at most `BUCKETS_MAX` buckets of equal width.

    >>> curve = Curve()
    >>> curve.extend(range(1_000), {"model": [time / 1_000 for time in range(1_000)]})
    >>> curve.width_ms, [(start, round(mean, 2), count) for start, mean, count in curve.points("model")][-1]
    (4, (996, 1.0, 4))
    """

    width_ms: int = 1
    buckets: dict[int, Cells] = {}

    def extend(self, times_ms: Sequence[int], losses: Mapping[str, Sequence[float | None]]) -> None:
        """Count examples in their order, those without an opinion (None) left out.

        Neighbours mostly share a bucket.
        """
        start, rows = 0, len(times_ms)
        while start < rows:
            number = times_ms[start] // self.width_ms
            end = self._same_bucket(times_ms, start, number)
            cells = self._bucket(number)
            for name, column in losses.items():
                opinions: Sequence[Any] = column[start:end]
                if None in opinions:
                    opinions = [loss for loss in opinions if loss is not None]
                if opinions:
                    total, count = cells.get(name, _NO_CELL)
                    for loss in opinions:  # one by one: `sum` rounds in another way from Python 3.12 on
                        total += loss
                    cells[name] = (total, count + len(opinions))
            start = end

    def _same_bucket(self, times_ms: Sequence[int], start: int, number: int) -> int:
        """Return the end of the stretch from `start` on whose times fall into bucket `number`."""
        width_ms, end = self.width_ms, len(times_ms)
        rest = times_ms[start:]
        if min(rest) // width_ms == number == max(rest) // width_ms:
            return end
        return next((row for row in range(start, end) if times_ms[row] // width_ms != number), end)

    def _bucket(self, number: int) -> Cells:
        cells = self.buckets.get(number)
        if cells is None:
            cells = self.buckets[number] = {}
            if len(self.buckets) > BUCKETS_MAX:
                return self._widen(number)
        return cells

    def _widen(self, number: int) -> Cells:
        """Double the width until the buckets fit; return the one that `number` fell into."""
        while len(self.buckets) > BUCKETS_MAX:
            self.width_ms *= 2
            number //= 2
            merged: dict[int, Cells] = {}
            for old, cells in self.buckets.items():
                into = merged.setdefault(old // 2, {})
                for name, (total, count) in cells.items():
                    more, others = into.get(name, _NO_CELL)
                    into[name] = (more + total, others + count)
            self.buckets = merged
        return self.buckets[number]

    def correct(self, time_ms: int, by: Mapping[str, float]) -> None:
        """Add to the losses of an example of this time what they differ by, where it was counted."""
        cells = self.buckets.get(time_ms // self.width_ms, {})
        for name in cells.keys() & by.keys():
            total, count = cells[name]
            cells[name] = (total + by[name], count)

    def drop(self, name: str) -> None:
        """Drop one series; buckets that nobody else has an example in go too."""
        for number, cells in list(self.buckets.items()):
            cells.pop(name, None)
            if not cells:
                del self.buckets[number]

    def points(self, name: str) -> list[Point]:
        """Return one series in order of time; buckets without examples are left out."""
        return [
            (number * self.width_ms, cells[name][0] / cells[name][1], cells[name][1])
            for number, cells in sorted(self.buckets.items())
            if name in cells
        ]


# -- evaluation --------------------------------------------------------------------------------------

SERVED = "served"
"""The name under which what was answered is evaluated, whoever answered; no candidate's name."""
CHURN_DEVIATIONS = 0.1
"""Two answers of a regression that lie a tenth of the labels' deviation apart are two answers."""
RECENT_MAX = 1_000
"""Examples in the recent window: a percent of accuracy is ten of them."""
RETIRED_MAX = 16
"""Candidates that have left and keep their curves, as many as a file can name: challengers may come and go
daily, so those that left before them lose theirs."""
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


_RARE: tuple[Callable[..., Any], ...] = (metrics.F1, metrics.Recall, metrics.Precision, metrics.MCC)
"""Beside the usual metrics of a binary race where one class is rare."""
RARE_SHARE = 0.1
"""A class with less of the labels is rare: who never names it is right in nine of ten cases."""


def default_metrics(task: Task) -> list[metrics.base.Metric]:
    """Return the metrics of a task where the user names none."""
    return [metric() for metric in _DEFAULTS[task]]


class _Card:
    """One series' cumulative metrics, bound once."""

    __slots__ = ("cold", "examples", "metrics", "of_labels", "of_scores")

    def __init__(self, of_river: Sequence[metrics.base.Metric], examples: int = 0, cold: int = 0) -> None:
        self.metrics = list(of_river)
        self.examples = examples
        self.cold = cold
        self.of_labels = [m.update for m in self.metrics if getattr(m, "requires_labels", False)]
        self.of_scores = [m.update for m in self.metrics if not getattr(m, "requires_labels", False)]

    def copy(self) -> _Card:
        """Return a card of its own that holds the same."""
        return _Card(deepcopy(self.metrics), self.examples, self.cold)

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

    def correct(
        self,
        before: LabelValue,
        label: LabelValue,
        score: Score,
        answer: LabelValue | None,
        correctable: Sequence[bool],
    ) -> None:
        """Count an example with another label, and take it back; `answer` is the label that its score means.

        In this order, as some of River's cannot be empty again.  A metric that takes nothing back keeps the
        first label.
        """
        if score is None or not self.examples:
            return
        for metric, takes_back in zip(self.metrics, correctable, strict=True):
            if takes_back:
                said = answer if getattr(metric, "requires_labels", False) else score
                metric.update(label, said)
                metric.revert(before, said)


_SAMPLES: dict[Task, tuple[LabelValue, Score]] = {
    "binary": (True, 0.5),
    "multiclass": ("a", {"a": 1.0}),
    "regression": (1.0, 2.0),
}


def is_correctable(metric: metrics.base.Metric, task: Task) -> bool:
    """Return whether a metric can take an example back, and count it with another label.

    >>> is_correctable(metrics.ROCAUC(), "binary"), is_correctable(metrics.MAE(), "regression")
    (True, True)
    """
    label, score = _SAMPLES[task]
    card = _Card([metric.clone()])
    said = label if card.of_labels else score
    try:
        card.count([label, label], [score, score], lambda _: label)
        card.metrics[0].revert(label, said)
    except Exception:  # noqa: BLE001 a user's metric may raise anything; then it keeps the first label
        return False
    return True


class Evaluation(WholeState):
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
        self._usual = chosen is None
        self._chosen = list(default_metrics(task) if chosen is None else chosen)
        self._dump, self._load = dump, load
        self._threshold = threshold
        self._warmup_offset = warmup_offset
        self._correctable: list[bool] | None = None
        """Which of the metrics can take an example back; asked at the first correction."""
        self._cards: dict[str, _Card] = {}
        self._recent: deque[_Recent] = deque(maxlen=RECENT_MAX)
        self.by_event_time = Curve()
        self.by_label_time = Curve()
        self._retired: list[str] = []
        """Who has left and has a curve, the last one last."""

    def add(self, examples: Sequence[Example], losses: Sequence[Losses]) -> None:
        """Count examples, each with its losses: of what was served, and of every candidate in the race.

        Each of these candidates has a score in its example; other scores are not counted.
        """
        self._dirty = True
        columns = {SERVED: [of_served for of_served, _ in losses]}
        for name in dict.fromkeys(chain.from_iterable([of_each for _, of_each in losses])):
            columns[name] = [of_each.get(name) for _, of_each in losses]
        if not columns.keys().isdisjoint(self._retired):  # another model has the name now
            self._retired = [name for name in self._retired if name not in columns]
        self.by_event_time.extend([example.event_time for example in examples], columns)
        self.by_label_time.extend([example.label_time for example in examples], columns)
        rows: list[_Recent] = []
        for example, (_, of_each) in zip(examples, losses, strict=True):
            scores = example.scores
            if len(scores) > len(of_each):
                scores = {name: scores[name] for name in of_each}
            rows.append((example.label, example.served_score, scores))
        self._recent.extend(rows)
        if self._warmup_offset:
            warm = [example.event_offset >= self._warmup_offset for example in examples]
            rows, examples = list(compress(rows, warm)), list(compress(examples, warm))
        if rows:
            self._count(self._cards, rows, examples[0].model_name)

    def correct(self, example: Example, before: Losses, after: Losses) -> None:
        """Count an example with another label than it was counted with: metrics, both curves, recent window.

        The losses are those of both labels, of the candidates in the race.
        """
        replaced = example.before
        if replaced is None:
            return
        self._dirty = True
        by = {name: now - was for name, was, now in _both(before, after)}
        self.by_event_time.correct(example.event_time, by)
        self.by_label_time.correct(example.before_time, by)
        scores = {name: score for name, score in example.scores.items() if name in after[1]}
        counted = (replaced, example.served_score, scores)
        for at in range(len(self._recent) - 1, -1, -1):
            if self._recent[at] == counted:
                self._recent[at] = (example.label, *counted[1:])
                break
        if example.event_offset < self._warmup_offset:
            return
        if self._correctable is None:
            self._correctable = [is_correctable(metric, self._task) for metric in self._chosen]
        done: list[_Card] = []
        for name, score in ((SERVED, example.served_score), *scores.items()):
            card = self._cards.get(name)
            if card is not None and not any(card is other for other in done):
                card.correct(replaced, example.label, score, self._label_of(score), self._correctable)
                done.append(card)

    def _count(self, cards: dict[str, _Card], rows: Sequence[_Recent], champion: str = "") -> None:
        """Update the cards of all series in `rows`, series by series.

        What is served is what `champion` says, mostly until it is swapped: up to the first difference
        the two have one card.
        """
        labels, served, scores = zip(*rows, strict=True)
        columns = {
            name: tuple([row[name] for row in scores if name in row])
            for name in dict.fromkeys(chain.from_iterable(scores))
        }
        if SERVED not in cards and champion in columns:
            cards[SERVED] = self._card(cards, champion)
        twin = next(
            (name for name, card in cards.items() if card is cards.get(SERVED) and name != SERVED), None
        )
        if twin is not None and columns.get(twin) != served:
            cards[SERVED], twin = cards[SERVED].copy(), None
        for name, column in columns.items():
            truths: Sequence[LabelValue] = labels
            if len(column) < len(labels):
                truths = [label for label, row in zip(labels, scores, strict=True) if name in row]
            self._card(cards, name).count(truths, column, self._label_of)
        if twin is None:
            self._card(cards, SERVED).count(labels, served, self._label_of)

    def _card(self, cards: dict[str, _Card], name: str) -> _Card:
        card = cards.get(name)
        if card is None:
            card = cards[name] = _Card([metric.clone() for metric in self._chosen])
        return card

    def _label_of(self, score: Score) -> LabelValue | None:
        return label_of(self._task, score, self._threshold)

    def served_scores(self) -> dict[str, float]:
        """Return the metrics of what was served over the whole run, by River's class names."""
        return self._values(self._cards[SERVED].metrics) if SERVED in self._cards else {}

    def model_scores(self) -> dict[str, dict[str, float]]:
        """Return every candidate's metrics over the whole run, by candidate and River's class names."""
        return {name: self._values(card.metrics) for name, card in self._cards.items() if name != SERVED}

    def _values(self, of_river: Sequence[metrics.base.Metric]) -> dict[str, float]:
        values = {type(metric).__name__: float(metric.get()) for metric in of_river}
        if self._usual and self._task == "binary":
            values |= _of_the_rare(of_river)
        return values

    def scores_without(self, rows: Sequence[_Recent]) -> dict[str, dict[str, float]]:
        """Return the metrics by series (`SERVED` too) as if these rows had not come.

        Rows are (label, what was served, scores by candidate), and have been counted.  A metric that cannot
        take a row back keeps them all.
        """
        return {
            name: {
                type(metric).__name__: float(self._without(metric, name, rows).get())
                for metric in card.metrics
            }
            for name, card in self._cards.items()
        }

    def _without(
        self, metric: metrics.base.Metric, name: str, rows: Sequence[_Recent]
    ) -> metrics.base.Metric:
        """Return a metric as if these rows of a series had not come."""
        shorter, of_labels = deepcopy(metric), getattr(metric, "requires_labels", False)
        for label, served, scores in rows:
            score = served if name == SERVED else scores.get(name)
            if score is None:
                continue
            try:
                shorter.revert(label, self._label_of(score) if of_labels else score)
            except NotImplementedError:
                return metric
        return shorter

    def counts(self) -> dict[str, tuple[int, int]]:
        """Return (examples counted, cold starts left out) by series."""
        return {name: (card.examples, card.cold) for name, card in self._cards.items()}

    def recent_scores(self) -> dict[str, dict[str, float]]:
        """Return the metrics of the last `RECENT_MAX` examples by series (`SERVED` too), computed now."""
        cards: dict[str, _Card] = {}
        if self._recent:
            self._count(cards, list(self._recent))
        return {name: self._values(card.metrics) for name, card in cards.items() if card.examples}

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

    def churn(self, before: str, after: str) -> float | None:
        """Return the share of the recent window's answers whose label differs between two candidates.

        Answers of a regression differ where they lie more than `CHURN_DEVIATIONS` deviations of the window's
        labels apart.  None where the two have no rows in common.
        """
        pairs = [
            (scores[before], scores[after])
            for _, _, scores in self._recent
            if scores.get(before) is not None and scores.get(after) is not None
        ]
        if not pairs:
            return None
        if self._task == "regression":
            labels = [float(label) for label, _, _ in self._recent]
            apart = CHURN_DEVIATIONS * statistics.pstdev(labels)
            return sum(abs(one - other) > apart for one, other in pairs) / len(pairs)  # type: ignore[operator]
        return sum(self._label_of(one) != self._label_of(other) for one, other in pairs) / len(pairs)

    def _error(self, label: LabelValue, score: float | dict[str, float]) -> float:
        if self._task == "regression":
            return abs(float(label) - score)  # type: ignore[operator]
        loss = (brier if self._task == "binary" else multiclass_brier)(label, score)
        return math.inf if loss is None else loss

    def change(self, chosen: Sequence[metrics.base.Metric] | None, threshold: float) -> None:
        """Go on with other metrics, which begin here, and another threshold."""
        before = [model_text(metric) for metric in self._chosen]
        self._usual = chosen is None
        self._chosen = list(default_metrics(self._task) if chosen is None else chosen)
        self._threshold = threshold
        self._correctable = None
        if [model_text(metric) for metric in self._chosen] != before:
            self._cards.clear()
        self._dirty = True

    def forget(self, name: str) -> None:
        """Drop metrics and recent scores of a candidate that has left; `RETIRED_MAX` keep their curves."""
        self._cards.pop(name, None)
        self._retired = [*(other for other in self._retired if other != name), name]
        while len(self._retired) > RETIRED_MAX:
            dropped = self._retired.pop(0)
            self.by_event_time.drop(dropped)
            self.by_label_time.drop(dropped)
        recent = [
            (label, served, {other: score for other, score in scores.items() if other != name})
            for label, served, scores in self._recent
        ]
        self._recent = deque(recent, maxlen=RECENT_MAX)
        self._dirty = True

    def snapshot(self) -> dict[str, bytes]:
        """Return the whole state: River's metrics, the recent window, the curves."""
        # Sorted: series begin in another order where rows are counted by the column.
        cards = {name: (card.metrics, card.examples, card.cold) for name, card in sorted(self._cards.items())}
        curves = [
            Curve(
                curve.width_ms, {start: dict(sorted(cells.items())) for start, cells in curve.buckets.items()}
            )
            for curve in (self.by_event_time, self.by_label_time)
        ]
        return {
            "metrics": self._dump(cards),
            "recent": msgspec.msgpack.encode(list(self._recent)),
            "curves": msgspec.msgpack.encode(curves),
            "retired": msgspec.msgpack.encode(self._retired),
        }

    def restore(self, entries: StateEntries) -> None:
        """Replace the whole state."""
        cards = self._load(entries["metrics"])
        cards_by_id = {id(parts[0]): _Card(*parts) for parts in cards.values()}  # two of them may be one
        self._cards = {name: cards_by_id[id(parts[0])] for name, parts in cards.items()}
        recent = msgspec.msgpack.decode(entries["recent"], type=list[_Recent])
        self._recent = deque(recent, maxlen=RECENT_MAX)
        curves = msgspec.msgpack.decode(entries["curves"], type=tuple[Curve, Curve])
        self.by_event_time, self.by_label_time = curves
        # A state of before there was a limit does not say who has left.
        retired = entries.get("retired", msgspec.msgpack.encode([]))
        self._retired = msgspec.msgpack.decode(retired, type=list[str])
        self._dirty = False


def _both(before: Losses, after: Losses) -> Iterator[tuple[str, float, float]]:
    """Yield series with their losses before and after, where there are any."""
    was, now = ({SERVED: served, **of_each} for served, of_each in (before, after))
    for name in was:
        one, other = was[name], now.get(name)
        if one is not None and other is not None:
            yield name, one, other


def _of_the_rare(of_river: Sequence[metrics.base.Metric]) -> dict[str, float]:
    """Return what says more than accuracy where one of two classes is rare, from the counts it has anyway."""
    counts = next((metric.cm for metric in of_river if isinstance(metric, metrics.Accuracy)), None)
    if counts is None:
        return {}
    rarer = min(counts.sum_row[True], counts.sum_row[False])
    if not 0.0 < rarer < RARE_SHARE * counts.n_samples:
        return {}
    return {kind.__name__: float(kind(cm=counts).get()) for kind in _RARE}
