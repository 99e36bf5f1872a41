"""The rule of `operators/race/evidence.py` for two models, over the block differences of many runs at once.

Lives here: arithmetic on arrays, and who serves.  Never here: laws, tables.  `tests/loadtest/evidence` plays
the same losses through `Evidence` and `Arena`: the swaps are the same, label for label.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from loadtest.evidence.laws import Floats
from operators.race import correlation, evidence
from operators.race.evidence import Promotion

__all__ = ["SHORT", "Caution", "Swap", "block_means", "play"]

SHORT = evidence.SHORT_BLOCK
SCALES = correlation.SCALES


@dataclass(frozen=True)
class Caution:
    """What the frontier varies: how much more than it is seen an inflation counts."""

    least: float = correlation.CAUTION
    blocks: float = correlation.CAUTION_BLOCKS


class Swap(NamedTuple):
    """One change of champion."""

    run: int
    label: int
    """Labels seen when it came."""
    to_challenger: bool
    """Whether the model that began as the challenger serves from here on."""
    first: bool
    """Whether it was the first verdict of its run."""


def block_means(differences: Floats, size: int = SHORT) -> Floats:
    """Return the means of whole blocks, one row a run."""
    runs, labels = differences.shape
    blocks = labels // size
    return np.asarray(differences[:, : blocks * size].reshape(runs, blocks, size).mean(axis=2))


class Spreads:
    """`operators.race.correlation.Spread` of every run."""

    def __init__(self, runs: int, caution: Caution) -> None:
        self.caution = caution
        self.blocks = 0
        self.sums = np.zeros((SCALES, runs))
        self.befores = np.zeros((SCALES, runs))
        self.steps = np.zeros((SCALES, runs))
        self.weights = [0.0] * SCALES
        self.squares = np.zeros(runs)
        self.cut_squares = np.zeros(runs)

    @property
    def deviation(self) -> Floats:
        if self.blocks < 2:
            return np.zeros_like(self.squares)
        return np.asarray(np.sqrt(self.steps[0] / self.weights[0]))

    @property
    def saturation(self) -> Floats:
        seen = self.weights[0]
        return 4.0 * self.cut_squares / seen if seen else np.ones_like(self.squares)

    @property
    def inflation(self) -> Floats:
        found = np.ones_like(self.squares)
        if self.blocks < 4:
            return found
        unit = self.steps[0] / self.weights[0]
        known = unit > 0.0
        safe = np.where(known, unit, 1.0)
        for scale in range(1, SCALES):
            weight = self.weights[scale]
            if weight < correlation.PAIRS_MIN:
                break
            proven = 1.0 + correlation.DEVIATIONS * math.sqrt(2.0 / weight)
            found = np.maximum(found, self.steps[scale] / weight / (1 << scale) / safe / proven)
        squares = np.where(self.squares > 0.0, self.squares, 1.0)
        cut = np.where(self.squares > 0.0, np.minimum(4.0 * self.cut_squares * unit / squares, 1.0), 1.0)
        age = min(1.0, self.blocks / correlation.SATURATED_BLOCKS)
        found = np.maximum(found * cut**age, 1.0)
        found = 1.0 + (found - 1.0) * (self.caution.least + self.caution.blocks / self.blocks)
        return np.where(known, found, 1.0)

    def add(self, difference: Floats, cut: Floats) -> None:
        deviation = self.deviation
        if self.blocks >= correlation.CALM_BLOCKS:
            most = np.where(deviation > 0.0, correlation.OUTLIER * deviation, np.inf)
            difference = np.clip(difference, -most, most)
        seen = deviation > 0.0
        forget = correlation.FORGET
        self.squares = np.where(seen, forget * self.squares + difference**2, self.squares)
        self.cut_squares = np.where(seen, forget * self.cut_squares + cut**2, self.cut_squares)
        self.blocks += 1
        total = difference
        for scale in range(SCALES):
            self.sums[scale] += total
            if self.blocks % (1 << scale):
                break
            total = self.sums[scale].copy()
            if self.blocks >= 2 << scale:
                self._add_step(scale, total - self.befores[scale])
            self.befores[scale] = total
            self.sums[scale] = 0.0

    def _add_step(self, scale: int, step: Floats) -> None:
        half = step**2 / 2.0
        if scale and self.blocks >= correlation.CALM_BLOCKS:
            half = np.minimum(half, correlation.JUMP_MAX * self.steps[scale - 1] / self.weights[scale - 1])
        forget = correlation.FORGET ** (1 << scale)
        self.steps[scale] = forget * self.steps[scale] + half
        self.weights[scale] = forget * self.weights[scale] + 1.0

    def mirror(self, runs: npt.NDArray[np.bool_]) -> None:
        self.sums[:, runs] *= -1.0
        self.befores[:, runs] *= -1.0


def _units(difference: Floats, deviation: Floats, most: float) -> Floats:
    safe = np.where(deviation > 0.0, evidence.DEVIATIONS * deviation, 1.0)
    return np.asarray(np.clip(np.where(deviation > 0.0, difference / safe, 0.0), -most, most))


def _answering(bets: tuple[float, ...], unit: Floats, inflation: Floats, lost_max: float = 1.0) -> Floats:
    share = np.asarray(bets)[:, None] / inflation
    paid = np.exp(-share * share * (inflation - 1.0) * evidence.UNIT_VARIANCE / 2.0)
    return np.asarray(np.maximum(1.0 + share * unit, 1.0 - lost_max) * paid)


class Duels:
    """`operators.race.evidence` of every run, block of `SHORT` labels by block."""

    def __init__(self, runs: int, promotion: Promotion, caution: Caution, *, opening: bool) -> None:
        block = promotion.evidence_block
        self.answers = block == evidence.AUTO
        self.long = 1 if isinstance(block, str) else block // SHORT
        self.watches = not self.answers and self.long > 2
        self.bets = evidence.ANSWERING_BETS if self.answers else evidence.BETS
        self.wealth = np.zeros((len(self.bets), runs))
        self.first = np.zeros((len(self.bets), runs))
        self.opening = np.full(runs, opening and promotion.opening_error > 0.0)
        self.spreads = Spreads(runs, caution)
        self.total, self.count = np.zeros(runs), np.zeros(runs)
        self.mean, self.squares = np.zeros(runs), np.zeros(runs)
        self.blocks = np.zeros(runs)
        self.recent = np.zeros((evidence.RECENT_BLOCKS_MAX, runs))
        self.watch_wealth = np.zeros((len(evidence.WATCH_BETS), runs))
        self.watch_recent = np.zeros((evidence.RECENT_BLOCKS_MAX, runs))
        self.shorts = np.zeros(runs)
        self.watch = Spreads(runs, caution)
        self.seen = 0

    def add(self, difference: Floats) -> bool:
        """Add a short block; return whether a long one closed."""
        self.seen += 1
        self.total += difference
        self.count += 1.0
        closed = self.seen % self.long == 0
        if self.watches and self.seen > self.long:
            self._watch(difference)
        if closed:
            self._close(self.total / self.count)
            self.total, self.count = np.zeros_like(self.total), np.zeros_like(self.count)
        return closed

    def _watch(self, difference: Floats) -> None:
        spread = self.watch
        deviation = spread.deviation
        least = self.long * np.maximum(1.0, np.minimum(spread.saturation, evidence.SATURATION_MAX))
        inflation = np.maximum(spread.inflation, least)
        unit = _units(difference, deviation, evidence.WATCH_DEVIATIONS / evidence.DEVIATIONS)
        factors = _answering(evidence.WATCH_BETS, unit, inflation, evidence.LOSS_MAX)
        self.watch_wealth = np.minimum((self.watch_wealth + 1.0) * factors, evidence.EVIDENCE_MAX)
        spread.add(difference, np.clip(unit, -1.0, 1.0))
        self._remember(self.watch_recent, self.shorts, difference)
        self.shorts += 1.0

    def _close(self, difference: Floats) -> None:
        if self.answers:
            unit = _units(difference, self.spreads.deviation, 1.0)
            inflation = self.spreads.inflation
            factors = _answering(self.bets, unit, inflation)
            least = 1.0 + evidence.OPENING_BLOCKS / (self.blocks + 1.0)
            opening = _answering(self.bets, unit, np.maximum(inflation, least))
            self.spreads.add(difference, unit)
        else:
            known = (self.blocks >= evidence.SCALE_BLOCKS_MIN) & (self.squares > 0.0)
            deviation = np.where(known, np.sqrt(self.squares / np.maximum(self.blocks - 1.0, 1.0)), 0.0)
            factors = 1.0 + np.asarray(self.bets)[:, None] * _units(difference, deviation, 1.0)
            opening = factors
        self.wealth = np.minimum((self.wealth + 1.0) * factors, evidence.EVIDENCE_MAX)
        start = 1.0 / ((self.blocks + 1.0) * (self.blocks + 2.0))
        self.first = np.minimum((self.first + start) * opening, evidence.EVIDENCE_MAX)
        self._remember(self.recent, self.blocks, difference)
        self.blocks += 1.0
        away = difference - self.mean
        self.mean += away / self.blocks
        self.squares += away * (difference - self.mean)

    def _remember(self, recent: Floats, number: Floats, difference: Floats) -> None:
        place = (number % evidence.RECENT_BLOCKS_MAX).astype(int)
        recent[place, np.arange(place.size)] = difference

    def effect(self) -> Floats:
        return _mean_of(self.recent, self.blocks)

    def watch_effect(self) -> Floats:
        return _mean_of(self.watch_recent, self.shorts)

    def first_evidence(self) -> Floats:
        return np.asarray(self.first.mean(axis=0) + 1.0 / (self.blocks + 1.0))

    def swap(self, runs: npt.NDArray[np.bool_]) -> None:
        """Start the duels of `runs` over with the roles changed."""
        self.wealth[:, runs] = self.first[:, runs] = self.watch_wealth[:, runs] = 0.0
        for values in (self.total, self.count, self.mean, self.squares, self.blocks, self.shorts):
            values[runs] = 0.0
        self.recent[:, runs] = self.watch_recent[:, runs] = 0.0
        self.opening &= ~runs
        self.spreads.mirror(runs)
        self.watch.mirror(runs)


def _mean_of(recent: Floats, count: Floats) -> Floats:
    return np.asarray(recent.sum(axis=0) / np.maximum(np.minimum(count, evidence.RECENT_BLOCKS_MAX), 1.0))


def play(
    means: Floats, promotion: Promotion, *, opening: bool = False, caution: Caution | None = None
) -> list[Swap]:
    """Return the swaps of every run, from the means of its short blocks, `loss(champion) - loss(challenger)`.

    The champion that was named serves first where `opening` says so.
    """
    runs = means.shape[0]
    duels = Duels(runs, promotion, caution or Caution(), opening=opening)
    every = promotion.false_swap_every
    threshold = every / SHORT / duels.long / (1.0 - evidence.WATCH_SHARE if duels.watches else 1.0)
    roles, since = np.ones(runs), np.zeros(runs)
    last = np.full(runs, -np.inf)
    swaps: list[Swap] = []
    cooldown = promotion.cooldown
    assert isinstance(cooldown, int)
    for block, column in enumerate(np.ascontiguousarray(means.T), 1):
        closed = duels.add(column * roles)
        since += SHORT
        answered = since >= promotion.min_examples
        due = np.zeros(runs, bool)
        if closed:
            proven = (duels.wealth.mean(axis=0) >= threshold) & answered
            early = duels.opening & (since >= promotion.opening_min_examples)
            if early.any():
                proven |= early & (duels.first_evidence() >= 1.0 / promotion.opening_error)
            due |= proven & (duels.effect() >= promotion.min_effect)
        if duels.watches:
            bar = every / SHORT / evidence.WATCH_SHARE
            due |= (
                (duels.watch_wealth.mean(axis=0) >= bar)
                & answered
                & (duels.watch_effect() >= promotion.min_effect)
            )
        label = block * SHORT
        due &= label - last >= cooldown
        if due.any():
            swaps += [
                Swap(int(run), label, bool(roles[run] > 0.0), bool(np.isinf(last[run])))
                for run in np.flatnonzero(due)
            ]
            duels.swap(due)
            roles[due] *= -1.0
            since[due] = 0.0
            last[due] = label
    return swaps
