"""The labels of watching: tables of class and score, by the block of the label and by that of the event.

Lives here: which block a label counts in, the reference of labels, tables since a change.  Never here: bets.

A block of label time is compared when the blocks of events of the same number are; labels that come later
count in the next.  A block of too few labels is put to the next as well.

Memory: `AHEAD_MAX` open blocks of labels, `HISTORY_MAX` blocks of events, and the reference's.
"""

from __future__ import annotations

from typing import Final

import msgspec
import numpy as np
from msgspec import Struct

from operators.drift.baseline import Baseline
from operators.drift.frame import LABEL_CELLS, SCORE_CELLS, CellFrame, label_edges
from operators.drift.labelled import Labelled, excess_losses, pooled, shares_of_classes
from operators.drift.two_sample import Array, chi_square
from operators.drift.watch import BLOCKS_MIN, Watch
from operators.state import Changes, StateDelta, StateEntries, named, under
from topics.messages import Example, Task

__all__ = ["HISTORY_MAX", "LABEL_STATISTICS", "LabelLedger"]

LABEL_STATISTICS: Final = ("labels", "loss")
"""Class shares, and the loss beyond what scores let expect."""
ROWS_MIN: Final = 30
"""Labels of one block; fewer wait for the next."""
AHEAD_MAX: Final = 64
HISTORY_MAX: Final = 120
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


class LabelLedger:
    """The labels of one pipeline; nothing counts before there is a frame."""

    def __init__(self, watch: Watch, task: Task) -> None:
        self._task: Task = task
        self._block_ms = watch.block_ms
        self._classes = 2
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

    def add(self, frame: CellFrame, example: Example, loss: float) -> None:
        """Count one labelled example."""
        state = self._open
        self._open_changed = True
        if self._task == "binary":
            label = int(bool(example.label))
        elif self._task == "multiclass":
            self._classes = len(frame.classes) + 1
            label = frame.class_cell(example.label)
        else:
            self._classes = LABEL_CELLS
            number = float(example.label)
            if state.edges is None:
                state.early.append(number)
                if len(state.early) < EDGE_LABELS:
                    return
                state.edges, state.early = label_edges(state.early), []
            label = int(np.searchsorted(state.edges, number, side="right"))
        score = frame.score_cell(example.served_score)
        block = example.label_time // self._block_ms
        if state.newest is None:
            state.newest = block - 1
        block = min(max(block, state.newest + 1), state.newest + AHEAD_MAX)
        if block not in state.labels:
            state.labels[block] = Labelled.empty(self._classes, SCORE_CELLS)
        state.labels[block].add(label, score, loss)
        number_of_event = example.event_time // self._block_ms
        table = self._events.get(number_of_event)
        if table is None:
            table = self._events[number_of_event] = Labelled.empty(self._classes, SCORE_CELLS)
            self._changes.add(number_of_event)
        table.add(label, score, loss)
        self._changes.change(number_of_event)

    def close(self, block: int) -> tuple[float, float] | None:
        """Close the labels up to a block; return their distances, None where nothing is compared."""
        state = self._open
        state.newest = max(block, block if state.newest is None else state.newest)
        self._open_changed = True
        for number in [one for one in self._events if one <= block - HISTORY_MAX]:
            del self._events[number]
            self._changes.remove(number)
        due = [number for number in state.labels if number <= block]
        total = pooled((state.labels.pop(number) for number in due), self._classes, SCORE_CELLS)
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

    def _distances(self, block: Labelled) -> tuple[float, float]:
        reference = self.reference()
        shares = shares_of_classes(reference).mean(0)
        classes = float(chi_square(shares_of_classes([block])[0], shares)) ** 0.5
        return classes, float(excess_losses([block], reference, left_out=False)[0])

    def usual(self) -> tuple[Array, list[float]]:
        """Return the usual distances, a statistic a row, and how many blocks in a row count as one."""
        reference = self.reference()
        shares = shares_of_classes(reference)
        others = (shares.sum(0) - shares) / (len(shares) - 1)
        classes = np.sqrt(chi_square(shares, others))
        left_out = np.column_stack([classes, excess_losses(reference, reference, left_out=True)])
        return self.baseline.usual(left_out), self.baseline.apart(left_out)

    def total(self) -> Labelled:
        """Return the reference as one."""
        return pooled(self.reference(), self._classes, SCORE_CELLS)

    def since(self, block: int) -> Labelled:
        """Return the labels of events since a block."""
        chosen = (table for number, table in self._events.items() if number >= block)
        return pooled(chosen, self._classes, SCORE_CELLS)

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
        self._changes.clear()
        self._open_changed = False
