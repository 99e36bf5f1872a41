"""The labels of watching: tables of class and score, by the block of the label and by that of the event.

Lives here: which block a label counts in, the reference of labels, tables since a change.  Never here: bets.

A block of label time is compared when the blocks of events of the same number are; labels that come later
count in the next.  A block of too few labels is put to the next as well.

Memory: `UNCOUNTED_MAX` examples, `AHEAD_MAX` open blocks of labels, `HISTORY_MAX` blocks of events, the
reference.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
from msgspec import Struct

from operators.drift.baseline import Baseline
from operators.drift.budget import BOTH_WAYS
from operators.drift.frame import LABEL_CELLS, SCORE_CELLS, CellFrame, label_edges
from operators.drift.labelled import (
    RESIDUAL_UNIT,
    Labelled,
    LabelledRows,
    covariances,
    excess,
    pooled,
    shares_of_classes,
)
from operators.drift.sampler import HASH_MAX, hash_of
from operators.drift.two_sample import Array, chi_square
from operators.drift.watch import BLOCKS_MIN, Watch
from operators.state import Changes, StateDelta, StateEntries, named, under
from topics.messages import Example, Task

__all__ = ["HISTORY_MAX", "UNCOUNTED_MAX", "LabelLedger", "LabelStatistics", "label_statistics"]

LOOKED_MAX: Final = 2_000
"""Labelled rows of a block whose features are looked at; of more, those with the smallest hash."""
RESIDUAL_MAX: Final = 1e6
UNCOUNTED_MAX: Final = 512
"""Examples that are counted together: one by one costs eight times as much."""
ROWS_MIN: Final = 30
"""Labels of one block; fewer wait for the next."""
AHEAD_MAX: Final = 64
HISTORY_MAX: Final = 120
LEAST_LABELS, LEAST_LOSS, LEAST_RESIDUAL = 0.02, 0.005, 0.005
EDGE_LABELS: Final = 200
"""A regression's labels by which their cells are fitted."""


class _Open(Struct):
    """What is not yet compared."""

    labels: dict[int, Labelled] = {}
    """By block of the label."""
    newest: int | None = None
    """The newest block that is closed."""
    early: list[float] = []
    """A regression's first labels."""
    edges: list[float] | None = None
    """Inner edges of its cells."""
    unit: float = 1.0
    """Its residuals are in deviations of the first labels."""
    rows: int = 0
    late: int = 0
    """Blocks by which all labels so far came after their events, together."""
    look_below: int = HASH_MAX
    """Features are looked at of events whose hash is not larger."""


class LabelStatistics(NamedTuple):
    """The statistics of labels; those with a sign have a second one for the other way.  One a row:"""

    names: Sequence[str]
    columns: Any
    """Of the distances of a block."""
    signs: Array
    least: Array
    """Smallest differences worth telling."""

    def usual(self, rising: Array) -> Array:
        """Return the usual distances of each, rising, from those of the columns."""
        found = np.array(rising[self.columns])
        down = self.signs < 0
        found[down] = -found[down, ::-1]
        return found

    def of(self, distances: Sequence[float]) -> Array:
        """Return the distance of each, from those of the columns."""
        return np.asarray(self.signs * np.array(distances)[self.columns])


def label_statistics(frame: CellFrame) -> LabelStatistics:
    """Return all: class shares, loss and residual beyond what scores let expect, and with each feature."""
    residuals = ["residual", *(f"residual:{feature.name}" for feature in frame.features)]
    made = [("labels", 0, 1.0, LEAST_LABELS), ("loss", 1, 1.0, LEAST_LOSS)]
    made += [
        (f"{name}{way}", column, sign, LEAST_RESIDUAL)
        for column, name in enumerate(residuals, 2)
        for way, sign in BOTH_WAYS
    ]
    names, columns, signs, least = zip(*made, strict=True)
    return LabelStatistics(names, np.array(columns), np.array(signs), np.array(least))


def _in_units(numbers: Sequence[float | None]) -> Array:
    clipped = np.clip(np.array(numbers, dtype=float), -RESIDUAL_MAX, RESIDUAL_MAX)
    return np.asarray(np.rint(RESIDUAL_UNIT * clipped))


def _losses(block: Labelled) -> Array:
    return np.array(block.losses)


def _residuals(block: Labelled) -> Array:
    return np.array(block.residuals, dtype=float) / RESIDUAL_UNIT


class _Summed(NamedTuple):
    """The reference as one; no part of the state."""

    numbers: tuple[int, ...]
    """Of its blocks."""
    total: Labelled
    shares: Array
    """Of classes, the mean of blocks."""
    crossed: Array
    """Covariances of residuals with features, the mean of blocks."""
    left_out: Array
    """Distances of each block from the others, a block a row."""


class LabelLedger:
    """The labels of one pipeline; nothing counts before there is a frame."""

    def __init__(self, watch: Watch, task: Task) -> None:
        self._task: Task = task
        self._block_ms = watch.block_ms
        self._classes, self._features = 2, 0
        self.baseline: Baseline[Labelled] = Baseline(
            watch.reference_blocks,
            slides=watch.reference != "training",
            encode=msgspec.msgpack.encode,
            decode=lambda data: msgspec.msgpack.decode(data, type=Labelled),
        )
        self._open = _Open()
        self._open_changed = True
        self._frame: CellFrame | None = None
        self._sums: _Summed | None = None
        self._pending: list[tuple[Example, float | None]] = []
        """Examples that are not counted yet; none is in the state, which is asked for after counting."""
        self._events: dict[int, Labelled] = {}
        self._changes: Changes[int] = Changes()

    def observe(self, frame: CellFrame, examples: Sequence[Example], losses: Sequence[float | None]) -> None:
        """Take labelled examples with the loss of what was served; None where there was no opinion.

        They are counted together: at once when `UNCOUNTED_MAX` wait, else before anybody looks.
        """
        self._frame, pending = frame, self._pending
        pending += [pair for pair in zip(examples, losses, strict=True) if pair[1] is not None]
        if len(pending) >= UNCOUNTED_MAX:
            self._count()

    def _count(self) -> None:
        """Count the examples that wait."""
        frame, pending = self._frame, self._pending
        if frame is None or not pending:
            return
        self._pending = []
        examples, losses = [example for example, _ in pending], [loss for _, loss in pending]
        if self._task == "regression":
            known = self._known_from(examples)
            examples, losses = examples[known:], losses[known:]
            if not examples:
                return
        state, self._open_changed, self._features = self._open, True, len(frame.features)
        labels, residuals = self._classes_and_residuals(frame, examples)
        looked = self._looked(examples)
        places = frame.places([examples[row].features for row in looked.tolist()])
        rows = LabelledRows(
            labels,
            frame.score_cells([example.served_score for example in examples]),
            _in_units(losses) / RESIDUAL_UNIT,
            _in_units(residuals).astype(np.int64),
            looked,
            np.rint(RESIDUAL_UNIT * places),
            np.array([float(example.label) for example in examples] if self._task == "regression" else []),
        )
        of_labels = np.array([example.label_time for example in examples]) // self._block_ms
        of_events = np.array([example.event_time for example in examples]) // self._block_ms
        late = (of_labels - of_events).clip(0)
        state.rows += len(examples)
        state.late += int(late.sum())
        if state.newest is None:
            state.newest = int(of_labels[0]) - 1
        of_labels = of_labels.clip(state.newest + 1, state.newest + AHEAD_MAX)
        for number in np.unique(of_labels).tolist():
            state.labels.setdefault(number, self._empty()).count(rows.of(of_labels == number))
        for number in np.unique(of_events).tolist():
            if number not in self._events:
                self._events[number] = self._empty()
                self._changes.add(number)
            self._changes.change(number)
            self._events[number].count(rows.of(of_events == number))

    def _known_from(self, examples: Sequence[Example]) -> int:
        """Return how many of these come before the classes of a regression are known."""
        self._classes, state = LABEL_CELLS, self._open
        for number, example in enumerate(examples):
            if state.edges is not None:
                return number
            state.early.append(float(example.label))
            self._open_changed = True
            if len(state.early) == EDGE_LABELS:
                state.edges, state.unit = label_edges(state.early), float(np.std(state.early)) or 1.0
                state.early = []
                return number
        return len(examples)

    def _classes_and_residuals(
        self, frame: CellFrame, examples: Sequence[Example]
    ) -> tuple[Any, Sequence[float]]:
        """Return the class of each example, and truth less answer where the answer is a number."""
        scored = [(example.label, example.served_score) for example in examples]
        if self._task == "multiclass":
            self._classes = len(frame.classes) + 1
            labels = [frame.class_cell(label) for label, _ in scored]
            missed = [
                1.0 - score.get(str(label), 0.0) if isinstance(score, dict) else 0.0
                for label, score in scored
            ]
            return np.array(labels), missed
        if self._task == "binary":
            of_class = np.array([bool(label) for label, _ in scored], dtype=np.int64)
            numbers, unit = of_class.tolist(), 1.0
        else:
            numbers, unit = [float(label) for label, _ in scored], self._open.unit
            of_class = np.searchsorted(self._open.edges or [], numbers, side="right")
        return of_class, [
            (number - score) / unit if isinstance(score, int | float) else 0.0
            for number, (_, score) in zip(numbers, scored, strict=True)
        ]

    def _looked(self, examples: Sequence[Example]) -> Any:
        """Return the numbers of the examples whose features are looked at."""
        below = self._open.look_below
        if below >= HASH_MAX:
            return np.arange(len(examples))
        return np.array(
            [row for row, example in enumerate(examples) if hash_of(example.event_id) <= below],
            dtype=np.int64,
        )

    def _empty(self) -> Labelled:
        return Labelled.empty(self._classes, SCORE_CELLS, self._features)

    @property
    def lag(self) -> int:
        """Return how many blocks after their events labels come, in the mean."""
        return round(self._open.late / max(self._open.rows, 1))

    def expect(self, rows: int) -> None:
        """Look at features of as many rows of a block as `LOOKED_MAX`, if blocks go on to have so many."""
        self._count()
        self._open.look_below = int(HASH_MAX * min(1.0, LOOKED_MAX / max(rows, 1)))
        self._open_changed = True

    def close(self, block: int) -> list[float] | None:
        """Close the labels up to a block; return their distances, None where nothing is compared."""
        self._count()
        state = self._open
        state.newest = max(block, block if state.newest is None else state.newest)
        self._open_changed = True
        for number in [one for one in self._events if one <= block - HISTORY_MAX]:
            del self._events[number]
            self._changes.remove(number)
        due = [number for number in state.labels if number <= block]
        total = pooled((state.labels.pop(number) for number in due), self._empty())
        if total.rows < ROWS_MIN:
            if total.rows:
                state.labels[block] = total
            return None
        if not self.baseline.ready:
            self.baseline.begin(block, total)
            return None
        measured = self._distances(total)
        self.baseline.follow(block, total, measured)
        return measured

    def settle(self, before: int | None = None) -> None:
        """Take what was no alarm for usual."""
        self.baseline.settle(before)

    def discard(self) -> None:
        """Drop the labels since a change that is over."""
        self.baseline.discard()

    def adopt(self) -> None:
        """Make the labels since a change the reference, if they are enough for one."""
        if len(self.baseline.behind) >= BLOCKS_MIN:
            self.baseline.adopt()

    def arm(self) -> None:
        """Take the reference for complete with fewer blocks: labels began later than events."""
        self.baseline.complete_at(BLOCKS_MIN)

    def reference(self) -> list[Labelled]:
        """Return the blocks of the reference."""
        return [self.baseline.values[number] for number in self.baseline.reference]

    def _distances(self, block: Labelled) -> list[float]:
        known = self._summed()
        classes = float(chi_square(shares_of_classes([block])[0], known.shares)) ** 0.5
        by_score = [excess([block], known.total, of, left_out=False)[0] for of in (_losses, _residuals)]
        crossed = covariances([block])[0] - known.crossed
        return [classes, *map(float, by_score), *crossed.tolist()]

    def usual(self) -> tuple[Array, Array]:
        """Return the usual distances, a statistic a row, and how many blocks in a row count as one."""
        return self.baseline.usual(self._summed().left_out)

    def _summed(self) -> _Summed:
        """Return what distances need of the reference; found anew when it is another."""
        numbers = tuple(self.baseline.reference)
        if self._sums is None or self._sums.numbers != numbers:
            reference, total = self.reference(), self.total()
            shares = shares_of_classes(reference)
            others = (shares.sum(0) - shares) / (len(shares) - 1)
            classes = np.sqrt(chi_square(shares, others))
            by_score = [excess(reference, total, of, left_out=True) for of in (_losses, _residuals)]
            crossed = covariances(reference)
            usual = crossed.mean(0)
            crossed = (crossed - usual) * len(crossed) / (len(crossed) - 1)
            left_out = np.column_stack([classes, *by_score, crossed])
            self._sums = _Summed(numbers, total, shares.mean(0), usual, left_out)
        return self._sums

    def total(self) -> Labelled:
        """Return the reference as one."""
        return pooled(self.reference(), self._empty())

    def since(self, block: int) -> list[Labelled]:
        """Return the labels of events since a block, by block of the event."""
        return [table for number, table in sorted(self._events.items()) if number >= block]

    def snapshot(self) -> dict[str, bytes]:
        """Return the whole state."""
        self._count()
        events = {str(number): msgspec.msgpack.encode(one) for number, one in self._events.items()}
        own = {"open": msgspec.msgpack.encode(self._open)}
        return named({"own": own, "events": events, "baseline": self.baseline.snapshot()})

    def delta(self) -> StateDelta:
        """Return the entries that changed since the last call."""
        self._count()
        own: StateDelta = {}
        if self._open_changed:
            self._open_changed = False
            own["open"] = msgspec.msgpack.encode(self._open)
        events = self._changes.delta(self._events, str, msgspec.msgpack.encode)
        return named({"own": own, "events": events, "baseline": self.baseline.delta()})

    def restore(self, entries: StateEntries) -> None:
        """Replace the whole state."""
        self._pending, self._sums = [], None
        self._open = msgspec.msgpack.decode(under("own", entries)["open"], type=_Open)
        self._events = {
            int(name): msgspec.msgpack.decode(data, type=Labelled)
            for name, data in under("events", entries).items()
        }
        self.baseline.restore(under("baseline", entries))
        tables = [*self._events.values(), *self._open.labels.values(), *self.baseline.values.values()]
        self._classes = len(tables[0].table) if tables else 2
        self._features = len(tables[0].crossed) if tables else 0
        self._changes.clear()
        self._open_changed = False
