"""The labels of watching: tables of class and score, by the block of the label and by that of the event.

Lives here: which block a label counts in, the reference of labels, tables since a change.  Never here: bets.

A block of label time is compared when the blocks of events of the same number are; labels that come later
count in the next.  A block of too few labels is put to the next as well.

Memory: `AHEAD_MAX` open blocks of labels, `HISTORY_MAX` blocks of events, and the reference's.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

import msgspec
import numpy as np
from msgspec import Struct

from operators.drift.baseline import Baseline
from operators.drift.budget import BOTH_WAYS
from operators.drift.frame import LABEL_CELLS, SCORE_CELLS, CellFrame, label_edges
from operators.drift.labelled import RESIDUAL_UNIT, Labelled, covariances, excess, pooled, shares_of_classes
from operators.drift.sampler import HASH_MAX, hash_of
from operators.drift.two_sample import Array, chi_square
from operators.drift.watch import BLOCKS_MIN, Watch
from operators.state import Changes, StateDelta, StateEntries, named, under
from topics.messages import Example, Task

__all__ = ["HISTORY_MAX", "LabelLedger", "LabelStatistic", "label_statistics"]

LOOKED_MAX: Final = 2_000
"""Labelled rows of a block whose features are looked at; of more, those with the smallest hash."""
RESIDUAL_MAX: Final = 1e6
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


class LabelStatistic(NamedTuple):
    """One statistic of labels; those with a sign have a second one for the other way."""

    name: str
    column: int
    """Of the distances of a block."""
    sign: float
    least: float
    """Smallest difference worth telling."""

    def of(self, usual: Array, distances: Sequence[float]) -> tuple[float, Array]:
        """Return the distance, and the usual ones, rising."""
        rising = usual[self.column]
        return self.sign * distances[self.column], rising if self.sign > 0 else -rising[::-1]


def label_statistics(frame: CellFrame) -> list[LabelStatistic]:
    """Return all: class shares, loss and residual beyond what scores let expect, and with each feature."""
    made = [LabelStatistic("labels", 0, 1.0, LEAST_LABELS), LabelStatistic("loss", 1, 1.0, LEAST_LOSS)]
    names = ["residual", *(f"residual:{feature.name}" for feature in frame.features)]
    for column, name in enumerate(names, 2):
        made += [LabelStatistic(f"{name}{way}", column, sign, LEAST_RESIDUAL) for way, sign in BOTH_WAYS]
    return made


def _losses(block: Labelled) -> Sequence[float]:
    return block.losses


def _residuals(block: Labelled) -> Array:
    return np.array(block.residuals, dtype=float) / RESIDUAL_UNIT


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
        self._events: dict[int, Labelled] = {}
        self._changes: Changes[int] = Changes()

    def observe(self, frame: CellFrame, examples: Sequence[Example], losses: Sequence[float | None]) -> None:
        """Count labelled examples with the loss of what was served; None where there was no opinion."""
        looked: dict[tuple[int, int], list[tuple[Example, int, int]]] = {}
        for example, loss in zip(examples, losses, strict=True):
            if loss is None:
                continue
            place = self._place(frame, example)
            if place is None:
                continue
            label, residual = place
            score = frame.score_cell(example.served_score)
            blocks = self._block(example), example.event_time // self._block_ms
            self._open.rows += 1
            self._open.late += max(0, (example.label_time - example.event_time) // self._block_ms)
            for table in self._tables(frame, *blocks):
                table.add(label, score, loss, residual)
            if hash_of(example.event_id) <= self._open.look_below:
                looked.setdefault(blocks, []).append((example, label, residual))
        for blocks, rows in looked.items():
            self._look(frame, self._tables(frame, *blocks), rows)

    def _place(self, frame: CellFrame, example: Example) -> tuple[int, int] | None:
        """Return the class of an example and its residual in whole units; None before classes are known."""
        state, score = self._open, example.served_score
        if self._task == "binary":
            label = int(bool(example.label))
            residual = label - score if isinstance(score, int | float) else 0.0
        elif self._task == "multiclass":
            self._classes = len(frame.classes) + 1
            label = frame.class_cell(example.label)
            residual = 1.0 - score.get(str(example.label), 0.0) if isinstance(score, dict) else 0.0
        else:
            self._classes = LABEL_CELLS
            number = float(example.label)
            if state.edges is None:
                state.early.append(number)
                if len(state.early) < EDGE_LABELS:
                    return None
                state.edges, state.unit = label_edges(state.early), float(np.std(state.early)) or 1.0
                state.early = []
            label = int(np.searchsorted(state.edges, number, side="right"))
            residual = (number - score) / state.unit if isinstance(score, int | float) else 0.0
        return label, round(RESIDUAL_UNIT * min(max(residual, -RESIDUAL_MAX), RESIDUAL_MAX))

    def _block(self, example: Example) -> int:
        """Return the open block in which a label counts."""
        block, state = example.label_time // self._block_ms, self._open
        if state.newest is None:
            state.newest = block - 1
        return min(max(block, state.newest + 1), state.newest + AHEAD_MAX)

    def _tables(self, frame: CellFrame, block: int, block_of_event: int) -> tuple[Labelled, Labelled]:
        self._open_changed = True
        self._features = len(frame.features)
        by_label, by_event = self._open.labels, self._events
        if block not in by_label:
            by_label[block] = self._empty()
        if block_of_event not in by_event:
            by_event[block_of_event] = self._empty()
            self._changes.add(block_of_event)
        self._changes.change(block_of_event)
        return by_label[block], by_event[block_of_event]

    def _empty(self) -> Labelled:
        return Labelled.empty(self._classes, SCORE_CELLS, self._features)

    def _look(
        self, frame: CellFrame, tables: Iterable[Labelled], rows: Sequence[tuple[Example, int, int]]
    ) -> None:
        """Take the features of some rows of one block."""
        columns = {
            feature.name: [example.features.get(feature.name) for example, _, _ in rows]
            for feature in frame.features
        }
        places = np.rint(RESIDUAL_UNIT * frame.places(columns, len(rows))).astype(np.int64)
        labels = np.array([label for _, label, _ in rows])
        residuals = np.array([residual for _, _, residual in rows], dtype=np.int64)
        for table in tables:
            table.look(labels, residuals, places)

    @property
    def lag(self) -> int:
        """Return how many blocks after their events labels come, in the mean."""
        return round(self._open.late / max(self._open.rows, 1))

    def expect(self, rows: int) -> None:
        """Look at features of as many rows of a block as `LOOKED_MAX`, if blocks go on to have so many."""
        self._open.look_below = int(HASH_MAX * min(1.0, LOOKED_MAX / max(rows, 1)))
        self._open_changed = True

    def close(self, block: int) -> list[float] | None:
        """Close the labels up to a block; return their distances, None where nothing is compared."""
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
        reference = self.reference()
        shares = shares_of_classes(reference).mean(0)
        classes = float(chi_square(shares_of_classes([block])[0], shares)) ** 0.5
        by_score = [excess([block], reference, of, left_out=False)[0] for of in (_losses, _residuals)]
        crossed = covariances([block])[0] - covariances(reference).mean(0)
        return [classes, *map(float, by_score), *crossed.tolist()]

    def usual(self) -> tuple[Array, list[float]]:
        """Return the usual distances, a statistic a row, and how many blocks in a row count as one."""
        reference = self.reference()
        shares = shares_of_classes(reference)
        others = (shares.sum(0) - shares) / (len(shares) - 1)
        classes = np.sqrt(chi_square(shares, others))
        by_score = [excess(reference, reference, of, left_out=True) for of in (_losses, _residuals)]
        crossed = covariances(reference)
        crossed = (crossed - crossed.mean(0)) * len(crossed) / (len(crossed) - 1)
        left_out = np.column_stack([classes, *by_score, crossed])
        return self.baseline.usual(left_out), self.baseline.apart(left_out)

    def total(self) -> Labelled:
        """Return the reference as one."""
        return pooled(self.reference(), self._empty())

    def since(self, block: int) -> list[Labelled]:
        """Return the labels of events since a block, by block of the event."""
        return [table for number, table in sorted(self._events.items()) if number >= block]

    def snapshot(self) -> dict[str, bytes]:
        """Return the whole state."""
        events = {str(number): msgspec.msgpack.encode(one) for number, one in self._events.items()}
        own = {"open": msgspec.msgpack.encode(self._open)}
        return named({"own": own, "events": events, "baseline": self.baseline.snapshot()})

    def delta(self) -> StateDelta:
        """Return the entries that changed since the last call."""
        own: StateDelta = {}
        if self._open_changed:
            self._open_changed = False
            own["open"] = msgspec.msgpack.encode(self._open)
        events = self._changes.delta(self._events, str, msgspec.msgpack.encode)
        return named({"own": own, "events": events, "baseline": self.baseline.delta()})

    def restore(self, entries: StateEntries) -> None:
        """Replace the whole state."""
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
