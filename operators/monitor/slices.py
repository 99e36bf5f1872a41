"""How good every candidate is on the rows of a slice: a carrier, an hour, a pair of both.

Lives here: the slices that a definition declares, and their sums.  Never here: slices that nobody named
(`worst.py`), vetoes (`operators/race/approval.py`).

Strategy: a slice is a cell of a table, one table for each declared feature or pair; each cell has a row of
plain sums for each candidate, from which every figure is worked out when somebody asks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import msgspec
import numpy as np
from msgspec.structs import replace

from operators.monitor.bins import OTHER, Bins, settled
from operators.monitor.monitors import MonitorContext, Reported
from operators.monitor.rows import FloatArray, Rows, Series, served_first
from operators.race.losses import Losses
from operators.state import StateEntries, WholeState
from topics.errors import DefinitionError
from topics.messages import Example, Task

__all__ = ["CROSSED", "VALUES_MAX", "SliceMonitor", "Slices"]

SETTLED_AFTER = 256
"""Rows from which bins of numbers are settled; until then rows wait, and are counted when asked for."""
VALUES_MAX = 20
BINS = 4
BINS_MAX = 32
CROSSED = " × "
"""Between the names of crossed features, and of their values."""
CELLS_MAX = 1_000
"""Slices of a crossed pair that have a row of their own; those that come after them are counted together."""
CALIBRATION_BINS = 10
REPORTED_MAX = 200
"""Slices in one record, by candidates that have figures of each: some 50 KB ..."""
NAME_CHARS_MAX = 128
"""... as no name is longer: a text may be as long as an event, and is left out of the record then."""


@dataclass(frozen=True)
class Slices:
    """The slices of which figures are kept, of what is served and of every candidate.

    `by`
        Features as served, each a tuple of its own, or several names that are crossed.
    `values_max`
        Categories of a feature that have a slice of their own; those that come after them are `(other)`.
    `bins`
        Quantile bins of a number that has more different values than that.
    """

    by: tuple[tuple[str, ...], ...]
    values_max: int = VALUES_MAX
    bins: int = BINS

    def __post_init__(self) -> None:
        """Refuse limits that cannot work.  Raises DefinitionError."""
        if not 1 <= self.values_max <= CELLS_MAX:
            raise DefinitionError(
                f"slice_values_max is {self.values_max}", hint=f"give a number from 1 to {CELLS_MAX}"
            )
        if not 2 <= self.bins <= BINS_MAX:
            raise DefinitionError(f"slices.bins is {self.bins}", hint=f"give a number from 2 to {BINS_MAX}")

    def monitor(self, context: MonitorContext) -> SliceMonitor:
        """Return the monitor of these slices."""
        return SliceMonitor(self, context)


class _Sums(NamedTuple):
    """The columns of a cell's sums."""

    rows: float
    losses: float
    """Rows whose loss is known."""
    loss: float
    truth: float
    score: float
    right: float
    """Answers that are right."""
    answered: float
    """Answers true."""
    hits: float
    """Answers true that are right."""
    error: float
    squared: float


COLUMNS = len(_Sums._fields)


class _Table:
    """The slices by one feature or by several crossed: cells by their names, and sums of each series."""

    def __init__(self, by: tuple[str, ...]) -> None:
        self.by = by
        self.cells: dict[tuple[str, ...], int] = {}
        self.sums: dict[str, FloatArray] = {}
        """By series: a row of sums for each cell."""
        self.bins: dict[str, FloatArray] = {}
        """By series: (rows, scores, truths) for each cell and each bin of the score."""

    def places(self, names: Sequence[tuple[str, ...]]) -> Any:
        """Return the cell of each row; one that is new gets its own while there is room."""
        cells, places = self.cells, []
        for key in names:
            place = cells.get(key)
            if place is None:
                if len(cells) >= CELLS_MAX:
                    key = (OTHER,) * len(key)  # noqa: PLW2901
                place = cells.setdefault(key, len(cells))
            places.append(place)
        return np.array(places, np.intp)

    def add(self, name: str, places: Any, columns: FloatArray, binned: tuple[Any, FloatArray] | None) -> None:
        """Add rows of one series to their cells."""
        rows = len(self.cells)
        sums = self.sums[name] = _grown(self.sums.get(name), (rows, COLUMNS))
        np.add.at(sums, places, columns)
        if binned is not None:
            counts = self.bins[name] = _grown(self.bins.get(name), (rows, CALIBRATION_BINS, 3))
            np.add.at(counts, (places, binned[0]), binned[1])

    def drop(self, name: str) -> None:
        self.sums.pop(name, None)
        self.bins.pop(name, None)


def _grown(before: FloatArray | None, shape: tuple[int, ...]) -> FloatArray:
    """Return an array of this shape that begins with what there was."""
    if before is not None and before.shape == shape:
        return before
    after = np.zeros(shape)
    if before is not None:
        after[: len(before)] = before
    return after


class _TableState(msgspec.Struct):
    by: tuple[str, ...]
    cells: list[tuple[str, ...]]
    sums: dict[str, list[list[float]]]
    bins: dict[str, list[list[list[float]]]]


class _State(msgspec.Struct):
    bins: dict[str, Bins]
    waiting: list[tuple[Example, Losses]]


class SliceMonitor(WholeState):
    """Sums of every declared slice, for what is served and for every candidate.

    >>> from operators.models.scoring import Roster
    >>> context = MonitorContext("p", "binary", 0.5, "brier", Roster("binary", (), "a"))
    >>> monitor = Slices((("shop",),)).monitor(context)
    >>> examples = [
    ...     Example("e", "k", 0, 9, label, {"shop": shop}, {}, 0.8, "champion", "a", 0, 0, 0, 1, 0)
    ...     for shop, label in [("x", True), ("x", False), ("y", True)]
    ... ]
    >>> monitor.observe(Rows(examples, [(0.1, {}), (0.5, {}), (0.1, {})], "binary"))
    >>> {shop: (told["served"]["rows"], told["served"]["Accuracy"])
    ...  for shop, told in monitor.report()["shop"].items()}
    {'x': (2, 0.5), 'y': (1, 1.0)}
    """

    stops: Sequence[int] = ()

    def __init__(self, settings: Slices, context: MonitorContext) -> None:
        self._settings, self._context = settings, context
        self._features = tuple(dict.fromkeys(name for by in settings.by for name in by))
        self._bins: dict[str, Bins] = {}
        """By feature; empty until they are settled."""
        self._waiting: list[tuple[Example, Losses]] = []
        self._tables = [_Table(by) for by in settings.by]

    def observe(self, rows: Rows) -> None:
        """Count rows; the first ones wait until bins are settled."""
        self._dirty = True
        if self._bins:
            self._count(rows)
            return
        room = SETTLED_AFTER - len(self._waiting)
        pairs = list(zip(rows.examples, rows.tested, strict=True))
        self._waiting += pairs[:room]
        if len(self._waiting) == SETTLED_AFTER:
            self._settle()
            if rest := pairs[room:]:
                self._count(self._rows(rest))

    def _settle(self) -> None:
        """Settle the bins from the rows that wait, and count these."""
        limits = {"values_max": self._settings.values_max, "bins": self._settings.bins}
        rows = self._rows(self._waiting)
        self._bins = {name: settled(rows.values(name), **limits) for name in self._features}
        self._waiting = []
        self._count(rows)

    def _rows(self, pairs: Sequence[tuple[Example, Losses]]) -> Rows:
        return Rows([example for example, _ in pairs], [losses for _, losses in pairs], self._context.task)

    def _count(self, rows: Rows) -> None:
        names = {name: [*map(self._bins[name].name, rows.values(name))] for name in self._features}
        told = {
            name: (series.rows, _columns(self._context, series), _binned(self._context.task, series))
            for name, series in rows.series.items()
        }
        for table in self._tables:
            places = table.places(list(zip(*(names[name] for name in table.by), strict=True)))
            for name, (numbers, columns, binned) in told.items():
                table.add(name, places[numbers], columns, binned)

    def correct(self, was: Rows, now: Rows) -> None:
        """Count an example with another label in its slices."""
        self._dirty = True
        (example,), (tested,) = now.examples, now.tested
        for place in range(len(self._waiting) - 1, -1, -1):
            if self._waiting[place][0].event_id == example.event_id:
                self._waiting[place] = replace(self._waiting[place][0], label=example.label), tested
                return
        if not self._bins:
            return
        names = {name: [*map(self._bins[name].name, now.values(name))] for name in self._features}
        for table in self._tables:
            places = table.places(list(zip(*(names[name] for name in table.by), strict=True)))
            for name, series in now.series.items():
                before = was.series[name]
                columns = _columns(self._context, series) - _columns(self._context, before)
                binned = _binned(self._context.task, series)
                if binned is not None:
                    more = series.truths - before.truths
                    binned = binned[0], np.column_stack((np.zeros(1), np.zeros(1), more))
                table.add(name, places, columns, binned)

    def halve(self) -> None:
        """Let what was counted count half from here on; rows that wait for bins are not counted yet."""
        self._dirty = True
        for table in self._tables:
            for kept in (table.sums, table.bins):
                for name, sums in kept.items():
                    kept[name] = sums / 2.0

    def stop(self, at: object) -> None:
        """Do nothing: it reads no model."""

    def forget(self, name: str) -> None:
        """Drop the sums of a candidate that has left."""
        self._dirty = True
        for table in self._tables:
            table.drop(name)

    def report(self) -> dict[str, dict[str, dict[str, dict[str, float]]]]:
        """Return the figures by feature, value and candidate, the largest slices first."""
        if self._waiting:
            counted = SliceMonitor(self._settings, self._context)
            counted.restore(self.snapshot())
            counted._settle()
            return counted.report()
        return {CROSSED.join(table.by): self._told(table) for table in self._tables}

    def reported(self) -> list[Reported]:
        """Return a record for each feature and cross, with its largest slices."""
        told = []
        for feature, by_value in self.report().items():
            series = max((len(by_name) for by_name in by_value.values()), default=1)
            room = max(1, REPORTED_MAX // max(series, 1))
            named = [value for value in by_value if len(value) <= NAME_CHARS_MAX][:room]
            if named:
                slices = {feature: {value: by_value[value] for value in named}}
                left_out = len(by_value) - len(named)
                told.append(Reported("slices.reported", feature, slices=slices, left_out=left_out))
        return told

    def _told(self, table: _Table) -> dict[str, dict[str, dict[str, float]]]:
        task = self._context.task
        told: dict[str, dict[str, dict[str, float]]] = {}
        for key, place in table.cells.items():
            told[CROSSED.join(key)] = {
                name: figures(task, _Sums(*sums[place].tolist()), _bins_at(table.bins.get(name), place))
                for name, sums in served_first(table.sums).items()
                if place < len(sums) and sums[place][0]
            }
        size = {key: max((one["rows"] for one in by.values()), default=0) for key, by in told.items()}
        return {key: told[key] for key in sorted(told, key=lambda key: (-size[key], key))}

    def signals(self) -> Mapping[str, float]:
        """Return nothing: a slice that is declared is looked at, `worst.py` says which one is worse."""
        return {}

    def snapshot(self) -> dict[str, bytes]:
        """Return the whole state."""
        entries = {"bins": msgspec.msgpack.encode(_State(self._bins, self._waiting))}
        for number, table in enumerate(self._tables):
            entries[f"table-{number}"] = msgspec.msgpack.encode(
                _TableState(
                    table.by,
                    list(table.cells),
                    {name: sums.tolist() for name, sums in served_first(table.sums).items()},
                    {name: bins.tolist() for name, bins in served_first(table.bins).items()},
                )
            )
        return entries

    def restore(self, entries: StateEntries) -> None:
        """Replace the whole state."""
        state = msgspec.msgpack.decode(entries["bins"], type=_State)
        self._bins, self._waiting = state.bins, state.waiting
        for number, table in enumerate(self._tables):
            stored = msgspec.msgpack.decode(entries[f"table-{number}"], type=_TableState)
            table.cells = {key: place for place, key in enumerate(stored.cells)}
            table.sums = {name: np.array(sums, np.float64) for name, sums in stored.sums.items()}
            table.bins = {name: np.array(bins, np.float64) for name, bins in stored.bins.items()}
        self._dirty = False


def _columns(context: MonitorContext, series: Series) -> FloatArray:
    """Return what each row adds to the sums of its cell."""
    scores, truths, losses = series.scores, series.truths, series.losses
    ones, zeros = np.ones(len(scores)), np.zeros(len(scores))
    known = ~np.isnan(losses)
    right, answered, hits, error = zeros, zeros, zeros, zeros
    if context.task == "binary":
        answered = (scores > context.threshold).astype(np.float64)
        right = (answered == truths).astype(np.float64)
        hits = answered * truths
    elif context.task == "multiclass":
        right = truths
    else:
        error = scores - truths
    loss = np.where(known, losses, 0.0)
    columns = ones, known, loss, truths, scores, right, answered, hits, np.abs(error), error * error
    return np.column_stack(columns).astype(np.float64)


def _binned(task: Task, series: Series) -> tuple[Any, FloatArray] | None:
    """Return the bin of each score, and what it adds there; None where scores are no probabilities."""
    if task == "regression":
        return None
    scores = series.scores
    bins = np.clip((scores * CALIBRATION_BINS).astype(np.intp), 0, CALIBRATION_BINS - 1)
    return bins, np.column_stack((np.ones(len(scores)), scores, series.truths))


def _bins_at(bins: FloatArray | None, place: int) -> list[list[float]]:
    return [] if bins is None else bins[place].tolist()


def figures(task: Task, sums: _Sums, bins: Sequence[Sequence[float]]) -> dict[str, float]:
    """Return the figures of one slice and one candidate, metrics by River's class names.

    `calibration_error` is the expected calibration error over ten bins of the score: the mean distance of the
    share of truth from the mean score, weighted by rows (Naeini, Cooper and Hauskrecht, 2015).
    """
    rows = sums.rows
    told: dict[str, float] = {"rows": int(rows)}
    if sums.losses:
        told["loss"] = sums.loss / sums.losses
    if task == "regression":
        told |= {
            "MAE": sums.error / rows,
            "RMSE": (sums.squared / rows) ** 0.5,
            "mean_label": sums.truth / rows,
            "mean_score": sums.score / rows,
        }
        return told
    told["Accuracy"] = sums.right / rows
    if task == "binary":
        told |= {
            "Precision": sums.hits / sums.answered if sums.answered else 0.0,
            "Recall": sums.hits / sums.truth if sums.truth else 0.0,
            "F1": 2.0 * sums.hits / (sums.answered + sums.truth) if sums.answered + sums.truth else 0.0,
            "label_rate": sums.truth / rows,
            "positive_rate": sums.answered / rows,
        }
    told["mean_score"] = sums.score / rows
    told["calibration_error"] = sum(abs(truth - score) for _, score, truth in bins) / rows
    return told
