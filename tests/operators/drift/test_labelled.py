"""Tables of classes and answers: which half of their link stayed, against what was done; sums of rows."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from operators.drift.labelled import (
    RESIDUAL_UNIT,
    Array,
    Contrast,
    Labelled,
    LabelledRows,
    _axis,
    _hotelling,
    contrast,
)

CELLS, ROWS, BLOCKS = 12, 400, 28


def block(rng: np.random.Generator, kind: str) -> Labelled:
    """Return a day of answers, of which some days have more of the sure ones than others."""
    x = rng.standard_normal(3 * ROWS) + 0.15 * rng.standard_normal()
    if kind == "covariate":
        x += 0.5
    labels = (rng.random(len(x)) < 1 / (1 + np.exp(1.0 - 1.2 * x))).astype(int)
    if kind == "label":
        kept = rng.random(len(x)) < np.where(labels == 1, 1.0, 0.55)
        x, labels = x[kept], labels[kept]
    if kind == "concept":
        labels = np.where(rng.random(len(x)) < 0.15, 1 - labels, labels)
    x, labels = x[:ROWS], labels[:ROWS]
    cells = np.clip(np.floor(2.0 * x + CELLS / 2), 1, CELLS - 1).astype(int)
    made = Labelled.empty(2, CELLS, 0)
    residuals = np.rint(RESIDUAL_UNIT * (labels - 1 / (1 + np.exp(1.0 - 1.2 * x)))).astype(np.int64)
    nothing = np.zeros(0, dtype=np.int64)
    made.count(LabelledRows(labels, cells, np.zeros(len(x)), residuals, nothing, np.zeros((0, 0))))
    return made


def contrasts(kind: str, runs: int = 100) -> list[Contrast]:
    found = []
    for seed in range(runs):
        rng = np.random.default_rng(seed)
        reference = [block(rng, "") for _ in range(BLOCKS)]
        found.append(contrast([block(rng, kind) for _ in range(10)], reference))
    return found


@pytest.mark.parametrize(
    ("kind", "answer_stays", "class_stays"),
    [("covariate", True, False), ("label", False, True), ("concept", False, False), ("", True, True)],
)
def test_what_stays_is_seldom_refuted_and_what_does_not_mostly(
    kind: str, answer_stays: bool, class_stays: bool
) -> None:
    """At 5 %; after a shift more often, for within a cell of scores rows move too."""
    found = contrasts(kind)
    for refuted, stays in (
        (np.mean([one.p_given_answer < 0.05 for one in found]), answer_stays),
        (np.mean([one.p_given_class < 0.05 for one in found]), class_stays),
    ):
        assert refuted <= (0.25 if kind else 0.12) if stays else refuted >= 0.9
    moved = np.mean([one.shares >= 1.96 for one in found])
    assert moved >= 0.9 if kind else moved <= 0.12


@pytest.mark.parametrize("classes", [2, 5])
def test_either_is_expected_from_the_other_on_a_straight_line(classes: int) -> None:
    table = np.random.default_rng(classes).gamma(1.0, size=(classes, CELLS))
    numbers, cells, link = _axis(table)
    assert (table * cells).sum(1) / table.sum(1) == pytest.approx(link * numbers[:, 0])
    assert (table * numbers).sum(0) / table.sum(0) == pytest.approx(link * cells[0])


def test_the_p_value_of_two_means_is_that_of_the_f_distribution() -> None:
    rng = np.random.default_rng(0)
    before, since = rng.standard_normal((BLOCKS, 2)), rng.standard_normal(2)
    statistic, p = _hotelling(before, np.ones(BLOCKS), since, 1.0)
    wanted = stats.f.sf(statistic * (BLOCKS - 2) / (2 * (BLOCKS - 1)), 2, BLOCKS - 2)
    assert p == pytest.approx(wanted)
    difference = since - before.mean(0)
    spread = np.cov(before.T) * (1 + 1 / BLOCKS)
    assert statistic == pytest.approx(difference @ np.linalg.solve(spread, difference))


@pytest.mark.parametrize("size", [1, 7, 64])
def test_rows_count_the_same_in_any_batches(size: int) -> None:
    rng = np.random.default_rng(5)
    rows = 300
    labels, cells = rng.integers(0, 3, rows), rng.integers(0, CELLS, rows)
    residuals = rng.integers(-(10**7), 10**7, rows)
    losses: Array = rng.integers(0, 10**6, rows) / RESIDUAL_UNIT
    looked = np.flatnonzero(rng.random(rows) < 0.4)
    places = rng.integers(-(1 << 18), 1 << 18, (len(looked), 4)).astype(float)
    every = LabelledRows(labels, cells, losses, residuals, looked, places)
    wanted, made = (Labelled.empty(3, CELLS, 4) for _ in range(2))
    wanted.count(every)
    for first in range(0, rows, size):
        numbers = np.arange(rows)
        made.count(every.of((numbers >= first) & (numbers < first + size)))
    assert made == wanted
    products = [
        sum(
            int(residuals[row]) * int(place) // RESIDUAL_UNIT
            for row, place in zip(looked, column, strict=True)
        )
        for column in places.T
    ]
    assert wanted.crossed == products
    assert wanted.places[1] == places[labels[looked] == 1].sum(0).tolist()
