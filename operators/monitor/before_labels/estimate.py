"""How good answers are before their labels come: expected from calibrated scores, and what came of it.

Lives here: confidence-based performance estimation (CBPE, as NannyML 0.10 documents it), in blocks of event
time, with its error.  Never here: whether the world has changed (`operators/drift`).

A calibrated score is the probability that the answer true is right; so scores alone say how many answers are
expected to be right.  Calibration is an isotonic line through bins of served scores (`Isotonic`).  For a row
it is the line of labels that had come before the row's own block began, never one that knew the row's future:
the estimate is what could have been said when the row was answered.

The estimate rests on scores that stay calibrated.  Under a shift of the inputs they may, under concept drift
they do not: `error` says how wrong it was where the truth is known by now.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import msgspec
import numpy as np

from operators.models.recalibration import BINS, Isotonic, increasing
from operators.monitor.monitors import MonitorContext
from operators.monitor.rows import FloatArray, Rows, served_first
from operators.race.evaluation import SERVED
from operators.state import StateEntries, WholeState
from topics.durations import duration_ms
from topics.errors import DefinitionError
from topics.messages import Block, Task

__all__ = ["EstimateMonitor", "Estimated", "expected", "roc_auc"]

BLOCKS_MAX = 64
"""Blocks whose rows still count; an older one is closed, and later rows of it are left out and counted."""
ANSWERED_MAX = 400
"""Blocks of answers that wait for their labels; beyond, the oldest are given up and counted as `unproven`."""
BLOCKS_TOLD = 10
LINE_ROWS = 100
"""Labels that must have come before the line is drawn anew."""
ROWS_MIN = 30
"""Rows of a block whose error is counted: below, the truth itself is chance."""
COUNTS = ("rows", "answered")
SUMS = ("right", "hits", "truth", "brier")
COLUMNS = len(COUNTS) + 2 * len(SUMS)


@dataclass(frozen=True)
class Estimated:
    """The estimate of performance before labels, beside the truth that comes later.

    `block`
        Span of event time over which figures are expected and compared.
    `answered`
        Whether rows of what was served count when they are answered, too: each partition writes the scores of
        a block into the log when the block ends, so the estimate stands before the first label.
    """

    usual: ClassVar[bool] = True

    block: str = "1d"
    answered: bool = False

    def __post_init__(self) -> None:
        """Refuse what is no span.  Raises DefinitionError."""
        if duration_ms(self.block) < 1:
            raise DefinitionError(f"estimate.block is {self.block!r}", hint='give a span such as "1d"')

    @property
    def block_ms(self) -> int:
        """Return the length of a block in ms."""
        return duration_ms(self.block)

    def monitor(self, context: MonitorContext) -> EstimateMonitor | None:
        """Return the monitor; None for a regression, whose scores are no probabilities."""
        return None if context.task == "regression" else EstimateMonitor(self, context)


def expected(scores: FloatArray, chances: FloatArray, threshold: float, task: Task) -> FloatArray:
    """Return what each row is expected to add: right answers, hits, truths, squared error.

    `chances` are the calibrated scores: binary, of true; multiclass, of the answer.

    >>> expected(np.array([0.9, 0.2]), np.array([0.8, 0.3]), 0.5, "binary").round(2).tolist()
    [[0.8, 0.8, 0.8, 0.17], [0.7, 0.0, 0.3, 0.22]]
    """
    answered = (scores > threshold) if task == "binary" else np.ones(len(scores), bool)
    right = np.where(answered, chances, 1.0 - chances)
    squared = chances * (1.0 - scores) ** 2 + (1.0 - chances) * scores**2
    return np.column_stack((right, np.where(answered, chances, 0.0), chances, squared))


class _State(msgspec.Struct):
    newest: int = -1
    """Block of the newest label time so far."""
    newest_event: int = -1
    """Block of the newest event time so far."""
    late: int = 0
    since: dict[str, int] = {}
    lines: dict[str, list[tuple[int, list[float], list[float]]]] = {}
    bins: dict[str, list[list[float]]] = {}
    blocks: dict[str, dict[int, list[float]]] = {}
    closed: dict[str, tuple[int, float]] = {}
    ranks: dict[str, dict[int, list[list[float]]]] = {}
    """Of two classes, by series and block that is told: rows, chances, truths by bin of the score."""
    answered: dict[int, list[float]] = {}
    """By block, of what was served: rows, answers true, and what they let expect, labelled or not."""
    proven: tuple[int, float] = (0, 0.0)
    """Closed blocks of these that had labels enough, and the sum of their errors."""
    unproven: int = 0
    """Those that had not."""


class EstimateMonitor(WholeState):
    """Expected and true figures by block of event time, for what is served and for every candidate."""

    stops: Sequence[int] = ()

    def __init__(self, settings: Estimated, context: MonitorContext) -> None:
        self._width_ms = settings.block_ms
        self._context = context
        self._state = _State()
        self._bins: dict[str, FloatArray] = {}
        """By series and bin of the score: rows, scores, truths."""

    def observe(self, rows: Rows) -> None:
        """Compare what was to be expected of rows with what came of them, and learn from it."""
        self._dirty = True
        state = self._state
        known = _blocks([example.label_time for example in rows.examples], self._width_ms, state.newest)
        places = np.array([example.event_time for example in rows.examples], np.int64) // self._width_ms
        latest = np.maximum.accumulate(np.maximum(places, state.newest_event))
        open_ = places > latest - BLOCKS_MAX
        begins = np.flatnonzero(np.diff(known, prepend=state.newest)).tolist()
        for start, end in zip([0, *begins], [*begins, len(rows)], strict=True):
            if start == end:
                continue
            if (number := int(known[start])) > state.newest:
                for name in self._bins:
                    self._draw(name, number)
                state.newest = number
            for name, series in rows.series.items():
                low, high = np.searchsorted(series.rows, (start, end))
                numbers = series.rows[low:high]
                counted = open_[numbers]
                scores, truths = series.scores[low:high], series.truths[low:high]
                self._compare(name, scores[counted], truths[counted], places[numbers][counted])
                self._learn(name, scores, truths)
        state.late += len(rows) - int(open_.sum())
        state.newest_event = int(latest[-1])
        self._close()

    def correct(self, was: Rows, now: Rows) -> None:
        """Count an example with another label in its block, and in lines that are drawn from here on."""
        self._dirty = True
        state, context = self._state, self._context
        place = now.examples[0].event_time // self._width_ms
        for name, series in now.series.items():
            if name not in self._bins:
                continue
            scores, before, truths = series.scores, was.series[name].truths, series.truths
            of_score = min(max(int(scores[0] * BINS), 0), BINS - 1)
            self._bins[name][of_score, 2] += truths[0] - before[0]
            if (ranks := state.ranks.get(name, {}).get(place)) is not None:
                ranks[of_score][2] += float(truths[0] - before[0])
            if (sums := state.blocks.get(name, {}).get(place)) is not None:
                told = [
                    expected(scores, labels, context.threshold, context.task) for labels in (before, truths)
                ]
                for number, more in enumerate((told[1] - told[0])[0].tolist(), len(COUNTS) + len(SUMS)):
                    sums[number] += more

    def answered(self, block: Block) -> None:
        """Count the answers of a block of one partition by what their scores let expect, before any label."""
        if not block.answered or block.end_ms - block.start_ms != self._width_ms:
            return
        self._dirty = True
        state, place = self._state, block.number
        rows, means, squares, true = np.array(
            [(one.rows, one.score / one.rows, one.squares / one.rows, one.label) for one in block.answered]
        ).T
        chances = self._chances(SERVED, means, np.full(len(means), place))
        right = np.where(true > 0.0, chances, 1.0 - chances)
        squared = chances - 2.0 * chances * means + squares
        columns = np.column_stack((np.ones(len(means)), true, right, true * chances, chances, squared))
        before = state.answered.get(place, [0.0] * columns.shape[1])
        state.answered[place] = (np.array(before) + (rows[:, None] * columns).sum(axis=0)).tolist()
        if len(state.answered) > ANSWERED_MAX:
            del state.answered[min(state.answered)]
            state.unproven += 1

    def _draw(self, name: str, number: int) -> None:
        """Draw the line of a candidate anew, for blocks from `number` on."""
        state = self._state
        if state.since[name] < LINE_ROWS:
            return
        rows, scores, truths = self._bins[name].T
        lines = state.lines.setdefault(name, [])
        lines.append((number, (scores / rows).tolist(), increasing(rows.tolist(), (truths / rows).tolist())))
        del lines[:-BLOCKS_MAX]
        state.since[name] = 0

    def _learn(self, name: str, scores: FloatArray, truths: FloatArray) -> None:
        if name not in self._bins:
            unlearned = Isotonic()
            self._bins[name] = np.column_stack((unlearned.rows, unlearned.scores, unlearned.truths))
        places = np.clip((scores * BINS).astype(np.intp), 0, BINS - 1)
        np.add.at(self._bins[name], places, np.column_stack((np.ones(len(scores)), scores, truths)))
        self._state.since[name] = self._state.since.get(name, 0) + len(scores)

    def _compare(self, name: str, scores: FloatArray, truths: FloatArray, places: Any) -> None:
        """Add expected and true figures to the blocks of their events."""
        context, blocks = self._context, self._state.blocks.setdefault(name, {})
        chances = self._chances(name, scores, places)
        told = expected(scores, chances, context.threshold, context.task)
        true = expected(scores, truths, context.threshold, context.task)
        answered = scores > context.threshold if context.task == "binary" else np.ones(len(scores))
        columns = np.column_stack((np.ones(len(scores)), answered, told, true))
        for place in np.unique(places).tolist():
            sums = np.array([blocks.get(place, [0.0] * COLUMNS)])
            of_block = columns[places == place]
            np.add.at(sums, np.zeros(len(of_block), np.intp), of_block)
            blocks[place] = sums[0].tolist()
        if context.task == "binary":
            self._rank(name, scores, np.column_stack((np.ones(len(scores)), chances, truths)), places)

    def _rank(self, name: str, scores: FloatArray, columns: FloatArray, places: Any) -> None:
        """Add rows to the bins of the score from which ROC AUC follows."""
        ranks = self._state.ranks.setdefault(name, {})
        bins = np.clip((scores * BINS).astype(np.intp), 0, BINS - 1)
        for place in np.unique(places).tolist():
            here = places == place
            counted = np.array(ranks.get(place, np.zeros((BINS, 3))))
            np.add.at(counted, bins[here], columns[here])
            ranks[place] = counted.tolist()
        for place in sorted(ranks)[:-BLOCKS_TOLD]:
            del ranks[place]

    def _chances(self, name: str, scores: FloatArray, places: Any) -> FloatArray:
        """Return calibrated scores, each by the line that held when its block began."""
        lines = self._state.lines.get(name, [])
        which = np.searchsorted(np.array([number for number, _, _ in lines], np.int64), places, side="right")
        chances = np.clip(scores, 0.0, 1.0)
        for one in set(which.tolist()) - {0}:
            _, means, shares = lines[one - 1]
            chances = np.where(which == one, np.interp(scores, means, shares), chances)
        return chances

    def _close(self) -> None:
        """Close blocks that are too old for rows to count, and keep their errors."""
        state = self._state
        for place in [place for place in state.answered if place <= state.newest_event - BLOCKS_MAX]:
            error = self._answered_error(place)
            del state.answered[place]
            count, total = state.proven
            state.proven = (count, total) if error is None else (count + 1, total + error)
            state.unproven += error is None
        for name, blocks in state.blocks.items():
            for place in sorted(place for place in blocks if place <= state.newest_event - BLOCKS_MAX):
                sums = blocks.pop(place)
                if sums[0] >= ROWS_MIN:
                    count, total = state.closed.get(name, (0, 0.0))
                    state.closed[name] = count + 1, total + _error(sums)

    def _answered_error(self, place: int) -> float | None:
        """Return how far the accuracy expected of all answers is from that of the labelled ones, if known."""
        told, sums = self._state.answered[place], self._state.blocks.get(SERVED, {}).get(place)
        if sums is None or sums[0] < ROWS_MIN:
            return None
        return abs(told[len(COUNTS)] / told[0] - sums[len(COUNTS) + len(SUMS)] / sums[0])

    def stop(self, at: object) -> None:
        """Do nothing: it reads no model."""

    def forget(self, name: str) -> None:
        """Drop what is kept of a candidate that has left."""
        self._dirty = True
        state = self._state
        kept: tuple[dict[str, Any], ...] = (
            state.since, state.lines, state.blocks, state.closed, state.ranks, self._bins,
        )  # fmt: skip
        for of_each in kept:
            of_each.pop(name, None)

    def report(self) -> dict[str, Any]:
        """Return the error of the estimate and the last blocks, by candidate; what was served first."""
        state = self._state
        told: dict[str, Any] = {
            name: {
                "error": self._mean_error(name),
                "blocks": len(blocks) + self._state.closed.get(name, (0, 0.0))[0],
                "late": self._state.late,
                "last": [
                    {"start": place * self._width_ms, **self._told(name, place)}
                    for place in sorted(blocks)[-BLOCKS_TOLD:]
                ],
            }
            for name, blocks in served_first(state.blocks).items()
        }
        if state.answered or state.proven[0] or state.unproven:
            told = {SERVED: told.get(SERVED, {}) | {"answered": self._of_answered()}} | {
                name: one for name, one in told.items() if name != SERVED
            }
        return told

    def _of_answered(self) -> dict[str, Any]:
        """Return what was to be expected of the last blocks of answers, and what has come of them so far."""
        state = self._state
        known = [one for place in state.answered if (one := self._answered_error(place)) is not None]
        count, total = state.proven[0] + len(known), state.proven[1] + sum(known)
        last = []
        for place in sorted(state.answered)[-BLOCKS_TOLD:]:
            rows, answered, *sums = state.answered[place]
            labelled = state.blocks.get(SERVED, {}).get(place, [0.0] * COLUMNS)
            true = labelled[len(COUNTS) + len(SUMS) :]
            last.append(
                {
                    "start": place * self._width_ms,
                    "rows": int(rows),
                    "labelled": int(labelled[0]),
                    "estimated": self._figures(rows, answered, sums),
                    "true": self._figures(labelled[0], labelled[1], true) if labelled[0] else None,
                }
            )
        error = total / count if count else None
        return {"error": error, "blocks": count, "unproven": state.unproven, "last": last}

    def _told(self, name: str, place: int) -> dict[str, Any]:
        sums = self._state.blocks[name][place]
        rows, answered = sums[0], sums[1]
        estimated, true = sums[len(COUNTS) : len(COUNTS) + len(SUMS)], sums[len(COUNTS) + len(SUMS) :]
        of_estimate = self._figures(rows, answered, estimated)
        of_truth = self._figures(rows, answered, true)
        ranks = np.array(self._state.ranks.get(name, {}).get(place, np.zeros((BINS, 3))))
        for column, figures in ((1, of_estimate), (2, of_truth)):
            if (area := roc_auc(ranks[:, 0], ranks[:, column])) is not None:
                figures["ROCAUC"] = area
        return {"rows": int(rows), "estimated": of_estimate, "true": of_truth}

    def _figures(self, rows: float, answered: float, sums: Sequence[float]) -> dict[str, float]:
        right, hits, truth, squared = sums
        figures = {"Accuracy": right / rows}
        if self._context.task == "binary":
            figures |= {
                "Precision": hits / answered if answered else 0.0,
                "Recall": hits / truth if truth else 0.0,
                "F1": 2.0 * hits / (answered + truth) if answered + truth else 0.0,
                "Brier": squared / rows,
                "label_rate": truth / rows,
            }
        return figures

    def _mean_error(self, name: str) -> float | None:
        """Return the mean distance of expected from true accuracy over blocks of rows enough."""
        count, total = self._state.closed.get(name, (0, 0.0))
        errors = [_error(sums) for sums in self._state.blocks.get(name, {}).values() if sums[0] >= ROWS_MIN]
        return (total + sum(errors)) / (count + len(errors)) if count + len(errors) else None

    def signals(self) -> Mapping[str, float]:
        """Return, of what is served, `error`, and `accuracy` as estimated for the newest block.

        Both are of all answers where these are counted, of labelled ones else.
        """
        answered, blocks = self._state.answered, self._state.blocks.get(SERVED)
        told = answered or blocks
        if not told:
            return {}
        newest = told[max(told)]
        error = self._of_answered()["error"] if answered else self._mean_error(SERVED)
        return {"accuracy": newest[2] / newest[0]} | ({} if error is None else {"error": error})

    def snapshot(self) -> dict[str, bytes]:
        """Return the whole state."""
        state = msgspec.structs.replace(self._state)
        state.bins = {name: bins.tolist() for name, bins in served_first(self._bins).items()}
        state.since, state.lines = served_first(state.since), served_first(state.lines)
        state.closed, state.answered = served_first(state.closed), dict(sorted(state.answered.items()))
        state.ranks = {name: dict(sorted(of.items())) for name, of in served_first(state.ranks).items()}
        state.blocks = {
            name: dict(sorted(blocks.items())) for name, blocks in served_first(state.blocks).items()
        }
        return {"state": msgspec.msgpack.encode(state)}

    def restore(self, entries: StateEntries) -> None:
        """Replace the whole state."""
        self._state = msgspec.msgpack.decode(entries["state"], type=_State)
        self._bins = {name: np.array(bins, np.float64) for name, bins in self._state.bins.items()}
        self._dirty = False


def roc_auc(rows: FloatArray, truths: FloatArray) -> float | None:
    """Return the area under the ROC curve of bins of the score, upwards; rows of one bin are ties.

    `truths` may be expected ones.  None where there is one class alone.

    >>> roc_auc(np.array([2.0, 2.0]), np.array([0.0, 2.0])), roc_auc(np.array([4.0]), np.array([1.0]))
    (1.0, 0.5)
    """
    false = rows - truths
    pairs = float(truths.sum() * false.sum())
    below = np.cumsum(false) - false / 2.0
    return float((truths * below).sum()) / pairs if pairs > 0.0 else None


def _blocks(times: Sequence[int], width_ms: int, newest: int) -> Any:
    """Return the block of the newest time so far, at each of these times."""
    return np.maximum.accumulate(np.maximum(np.array(times, np.int64) // width_ms, newest))


def _error(sums: Sequence[float]) -> float:
    """Return how far the expected accuracy of a block is from the true one."""
    return abs(sums[len(COUNTS)] - sums[len(COUNTS) + len(SUMS)]) / sums[0]
