"""Slices that nobody named and that are worse than the rest, and the rows that were worst of all.

Lives here: the search among a bounded list of candidates, with a promise on false ones.  Never here: slices
that a definition declares (`slices.py`), vetoes (`operators/race/approval.py`), which ask how
candidates compare in the slices that were found.

Candidates are the values of each feature (categories and quantile bins) and pairs of two features' values;
they are listed once, from the first rows, and are never more than `CANDIDATES_MAX`.  For each of them a bet
is placed on every row: that its loss is above the running mean of all rows by more than `WORSE`.

    factor of a row     1 + stake * (loss - (1 + WORSE) * mean)   its expectation is at most 1 if it is not
    factor of a block   the product over the candidate's rows among `BLOCK` examples
    evidence            (evidence + 1) * factor of the block      Shiryaev-Roberts, as for swaps

Evidence is the mean over three stakes.

The mean is of the blocks before, so no row chooses what it is measured against.  By the property of an
e-detector (Shin, Ramdas and Rinaldo, 2023) a candidate whose rows are no worse reaches a bar of B after B
blocks or more in the mean; the bar is multiplied by the number of candidates (Bonferroni).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from heapq import nlargest
from itertools import combinations
from typing import Any

import msgspec
import numpy as np

from operators.monitor.bins import Bins, settled
from operators.monitor.monitors import MonitorContext
from operators.monitor.rows import Rows
from operators.monitor.slices import CROSSED
from operators.race.losses import loss_max
from operators.state import StateEntries, WholeState
from topics.errors import DefinitionError
from topics.messages import FeatureValue, FeatureValues, LabelValue, Score

__all__ = ["Worst", "WorstMonitor"]

BLOCK = 256
"""Examples of one bet, and of those from which the candidates are listed."""
FEATURES_MAX = 10
VALUES_MAX = 5
BINS = 4
NAMES_MAX = VALUES_MAX + 2
"""Values of a feature: those that have a name, missing, other."""
CANDIDATES_MAX = 2_048
WORSE = 0.1
"""A slice is worse where its loss is a tenth above the mean; less is found in any large stream."""
STAKES = (0.05, 0.2, 0.6)
"""In parts of the largest stake that cannot lose everything."""
EVIDENCE_MAX = 10.0
"""In bars: a slice that has been bad for a year must be able to get well in a week ..."""
EVIDENCE_LEFT = 0.1
"""... and is well when its evidence is below so many bars."""
MEAN_BLOCKS = 16
"""Blocks of the running mean."""
ROWS_BLOCK = 8_192
"""Examples of a generation of worst rows; the present and the last one are kept."""
TOLD_MAX = 10
PAIRED_MAX = 10
"""Slices that were found in which candidates are compared: the first ones, as long as they are bad."""
PAIRED_HALVED = 512
"""Rows of such a slice after which what came before counts half."""
PAIRED_MIN = 30.0
"""Rows below which two candidates are not compared."""


@dataclass(frozen=True)
class Worst:
    """The search for slices that are worse than the rest, by what was served.

    `false_slice_every`
        The promise: examples, on average, between slices that are said to be worse and are not.
    `rows_max`
        Rows of the largest loss that are kept with their features.
    """

    false_slice_every: int = 1_000_000
    rows_max: int = 20

    def __post_init__(self) -> None:
        """Refuse numbers that cannot work.  Raises DefinitionError."""
        if self.false_slice_every < BLOCK:
            raise DefinitionError(
                f"worst.false_slice_every is {self.false_slice_every}", hint=f"give {BLOCK} examples or more"
            )
        if not 0 <= self.rows_max <= 1_000:
            raise DefinitionError(f"worst.rows_max is {self.rows_max}", hint="give 0 to 1000")

    def monitor(self, context: MonitorContext) -> WorstMonitor:
        """Return the monitor."""
        return WorstMonitor(self, context)


class _Row(msgspec.Struct, frozen=True):
    """One of the worst rows."""

    loss: float
    event_id: str
    event_time: int
    label: LabelValue
    score: Score
    model: str
    features: FeatureValues


class _Candidate(msgspec.Struct):
    """Where a candidate is found among the values of one feature or of two."""

    features: tuple[str, ...]
    first: int
    """Its place in the list of candidates."""


class _Paired(msgspec.Struct):
    """The candidates beside one another on the rows of a slice since it was found."""

    rows: int = 0
    """Since sums were halved last."""
    sums: dict[str, list[float]] = {}
    """By two names, in order: rows on which both have a loss, and by how much the first lost more."""

    def add(self, losses: Mapping[str, float | None]) -> None:
        known = sorted((name, loss) for name, loss in losses.items() if loss is not None)
        for (one, lost), (other, other_lost) in combinations(known, 2):
            sums = self.sums.setdefault(f"{one}\t{other}", [0.0, 0.0])
            sums[0] += 1.0
            sums[1] += lost - other_lost
        self.rows += 1
        if self.rows == PAIRED_HALVED:
            self.rows = 0
            self.sums = {names: [half / 2.0 for half in sums] for names, sums in self.sums.items()}

    def worse(self, champion: str, name: str) -> float | None:
        """Return by how much `name` lost more in the mean; None where there are too few rows to say so."""
        one, other = sorted((champion, name))
        rows, difference = self.sums.get(f"{one}\t{other}", (0.0, 0.0))
        if rows < PAIRED_MIN:
            return None
        return difference / rows if one == name else -difference / rows


class _State(msgspec.Struct):
    rows: int = 0
    """Examples so far."""
    seen: int = 0
    """Those whose loss is known."""
    mean: float = 0.0
    """Running mean of the loss; of the present block nothing is in it."""
    block_rows: float = 0.0
    block_loss: float = 0.0
    bins: dict[str, Bins] = {}
    names: dict[str, list[str]] = {}
    """By feature: the names that its values have had."""
    since: dict[int, int] = {}
    """By candidate that was found: the label time."""
    waiting: list[tuple[FeatureValues, float, int]] = []
    paired: dict[int, _Paired] = {}
    """By candidate that was found."""
    worst: list[_Row] = []
    worst_before: list[_Row] = []


class WorstMonitor(WholeState):
    """Bets on every candidate slice, and the worst rows."""

    stops: Sequence[int] = ()

    def __init__(self, settings: Worst, context: MonitorContext) -> None:
        self._settings = settings
        self._largest = loss_max(context.task, context.objective) or 1.0
        self._state = _State()
        self._list()

    @property
    def bar(self) -> float:
        """Return the evidence at which a slice counts as worse."""
        return max(1, self._count) * self._settings.false_slice_every / BLOCK

    def _list(self) -> None:
        """List the candidates: the values of each feature, then those of pairs while there is room."""
        features = list(self._state.bins)
        self._candidates: list[_Candidate] = []
        self._count = 0
        pairs = combinations(features, 2)
        for key in [*((name,) for name in features), *pairs]:
            width = NAMES_MAX ** len(key)
            if self._count + width > CANDIDATES_MAX:
                break
            self._candidates.append(_Candidate(key, self._count))
            self._count += width
        self._evidence = np.zeros((len(STAKES), self._count))
        self._factors = np.ones((len(STAKES), self._count))
        self._sums = np.zeros((2, self._count))
        """Rows and losses of each candidate."""

    # -- rows -------------------------------------------------------------------------------------

    def observe(self, rows: Rows) -> None:
        """Bet on rows of what was served, block by block."""
        self._dirty = True
        self._keep_worst(rows)
        state = self._state
        pairs = [
            (example.features, min(loss / self._largest, 1.0), example.label_time, losses)
            for example, (loss, losses) in zip(rows.examples, rows.tested, strict=True)
            if loss is not None
        ]
        while pairs:
            room = BLOCK - state.seen % BLOCK
            part, pairs = pairs[:room], pairs[room:]
            state.seen += len(part)
            if not state.bins:
                state.waiting += [(x, loss, time) for x, loss, time, _ in part]
            else:
                self._bet(part)
            for _, loss, _, _ in part:
                state.block_rows += 1.0
                state.block_loss += loss
            if state.seen % BLOCK == 0:
                self._end_block(part[-1][2])

    def _bet(self, part: Sequence[tuple[FeatureValues, float, int, Mapping[str, float | None]]]) -> None:
        """Multiply the factors of all candidates that these rows are of."""
        state = self._state
        codes = {name: self._codes(name, [x.get(name) for x, _, _, _ in part]) for name in state.bins}
        losses = np.array([loss for _, loss, _, _ in part])
        against = (1.0 + WORSE) * state.mean
        places = []
        for one in self._candidates:
            code = codes[one.features[0]]
            for name in one.features[1:]:
                code = code * NAMES_MAX + codes[name]
            places.append(code + one.first)
        for place, paired in state.paired.items():
            for number in np.flatnonzero(places[self._group_of(place)] == place).tolist():
                paired.add(part[number][3])
        flat = np.stack(places, axis=1).ravel()
        wide = len(places)
        # Beside a mean near zero a block of large losses is worth more than a float holds: infinite then, and
        # the bound on evidence cuts it.  No factor of a row is 0, so none makes it no number.
        with np.errstate(over="ignore"):
            for number, share in enumerate(STAKES):
                stake = share / against if against > 0.0 else 0.0
                np.multiply.at(self._factors[number], flat, np.repeat(1.0 + stake * (losses - against), wide))
        np.add.at(self._sums[0], flat, 1.0)
        np.add.at(self._sums[1], flat, np.repeat(losses, wide))

    def _codes(self, feature: str, values: Sequence[FeatureValue | None]) -> Any:
        bins, names = self._state.bins[feature], self._state.names[feature]
        known = {name: code for code, name in enumerate(names)}
        codes = []
        for value in values:
            name = bins.name(value)
            code = known.get(name)
            if code is None:
                code = known[name] = len(names)
                names.append(name)
            codes.append(code)
        return np.array(codes, np.intp)

    def _end_block(self, label_time: int) -> None:
        """Take the block into the evidence; find slices, and let those go that are well again."""
        state = self._state
        mean = state.block_loss / state.block_rows
        if not state.bins:
            self._settle()
            state.mean = mean
        else:
            bar = self.bar
            self._evidence = np.minimum((self._evidence + 1.0) * self._factors, EVIDENCE_MAX * bar)
            self._factors = np.ones_like(self._factors)
            evidence = self._evidence.sum(axis=0) / len(STAKES)
            for place in np.flatnonzero(evidence >= bar).tolist():
                state.since.setdefault(place, label_time)
                if len(state.paired) < PAIRED_MAX:
                    state.paired.setdefault(place, _Paired())
            for place in [place for place in state.since if evidence[place] < EVIDENCE_LEFT * bar]:
                del state.since[place]
                state.paired.pop(place, None)
            state.mean += (mean - state.mean) / MEAN_BLOCKS
        state.block_rows = state.block_loss = 0.0

    def _settle(self) -> None:
        """Settle the bins from the rows that wait: categories first, then numbers, each by name."""
        state = self._state
        rows = [x for x, _, _ in state.waiting]
        found: dict[str, Bins] = {}
        for name in sorted({name for x in rows for name in x}):
            found[name] = settled([x.get(name) for x in rows], values_max=VALUES_MAX, bins=BINS)
        chosen = sorted(found, key=lambda name: (found[name].edges is not None, name))[:FEATURES_MAX]
        state.bins = {name: found[name] for name in chosen}
        state.names = {name: [] for name in chosen}
        state.waiting = []
        self._list()

    def _keep_worst(self, rows: Rows) -> None:
        state, keep = self._state, self._settings.rows_max
        for example, (loss, _) in zip(rows.examples, rows.tested, strict=True):
            if keep and loss is not None and (len(state.worst) < keep or loss > state.worst[-1].loss):
                row = _Row(
                    loss,
                    example.event_id,
                    example.event_time,
                    example.label,
                    example.served_score,
                    example.model_name,
                    example.features,
                )
                state.worst = nlargest(keep, [*state.worst, row], key=lambda row: row.loss)
            state.rows += 1
            if state.rows % ROWS_BLOCK == 0:
                state.worst_before, state.worst = state.worst, []

    # -- what was found ---------------------------------------------------------------------------

    def stop(self, at: object) -> None:
        """Do nothing: it reads no model."""

    def forget(self, name: str) -> None:
        """Drop the comparisons of a candidate that has left."""
        self._dirty = True
        for paired in self._state.paired.values():
            paired.sums = {one: sums for one, sums in paired.sums.items() if name not in one.split("\t")}

    def worse_where_found(self, champion: str, name: str) -> dict[str, float]:
        """Return by how much a candidate lost more than the champion in slices found, since they were."""
        return {
            CROSSED.join(f"{feature} is {value}" for feature, value in self._slice(place).items()): worse
            for place, paired in self._state.paired.items()
            if (worse := paired.worse(champion, name)) is not None
        }

    def report(self) -> dict[str, Any]:
        """Return the slices that are worse, the worst first, and the worst rows."""
        state = self._state
        told = [self._told(place, since) for place, since in state.since.items()]
        singles = {next(iter(one["slice"].items())): one for one in told if len(one["slice"]) == 1}
        told = [one for one in told if not self._said(one, singles)]
        told.sort(key=lambda one: (-one["loss"], str(one["slice"])))
        worst = nlargest(
            self._settings.rows_max, [*state.worst_before, *state.worst], key=lambda row: row.loss
        )
        return {
            "candidates": self._count,
            "mean_loss": state.mean * self._largest,
            "slices": told[:TOLD_MAX],
            "found": len(told),
            "rows": [msgspec.to_builtins(row) for row in worst],
        }

    def _group_of(self, place: int) -> int:
        """Return which feature, or pair of them, a candidate's place belongs to."""
        return bisect_right(self._candidates, place, key=lambda one: one.first) - 1

    def _slice(self, place: int) -> dict[str, str]:
        one = self._candidates[self._group_of(place)]
        code, values = place - one.first, []
        for name in reversed(one.features):
            code, number = divmod(code, NAMES_MAX)
            values.append((name, self._state.names[name][number]))
        return dict(reversed(values))

    def _told(self, place: int, since: int) -> dict[str, Any]:
        rows, losses = self._sums[:, place].tolist()
        return {
            "slice": self._slice(place),
            "rows": int(rows),
            "loss": losses / rows * self._largest,
            "since": since,
        }

    def _said(self, one: dict[str, Any], singles: Mapping[tuple[str, str], dict[str, Any]]) -> bool:
        """Return whether a pair says no more than the slice of one feature that holds it."""
        parts = [singles[part] for part in one["slice"].items() if part in singles]
        return len(one["slice"]) > 1 and any(one["loss"] < (1.0 + WORSE) * part["loss"] for part in parts)

    def signals(self) -> Mapping[str, float]:
        """Return how many slices are worse, `found`, and the loss of the worst, `loss`, 0 where none is."""
        told = self.report()
        return {"found": float(told["found"]), "loss": told["slices"][0]["loss"] if told["found"] else 0.0}

    # -- state ------------------------------------------------------------------------------------

    def snapshot(self) -> dict[str, bytes]:
        """Return the whole state."""
        arrays = [array.astype("<f8").tobytes() for array in (self._evidence, self._factors, self._sums)]
        return {"state": msgspec.msgpack.encode(self._state), "bets": msgspec.msgpack.encode(arrays)}

    def restore(self, entries: StateEntries) -> None:
        """Replace the whole state."""
        self._state = msgspec.msgpack.decode(entries["state"], type=_State)
        self._list()
        evidence, factors, sums = (
            np.frombuffer(data, "<f8").astype(np.float64)
            for data in msgspec.msgpack.decode(entries["bets"], type=list[bytes])
        )
        self._evidence = evidence.reshape(len(STAKES), self._count)
        self._factors = factors.reshape(len(STAKES), self._count)
        self._sums = sums.reshape(2, self._count)
        self._dirty = False
