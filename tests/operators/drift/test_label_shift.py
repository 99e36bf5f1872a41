"""BBSE against the truth, and its interval by simulation."""

from __future__ import annotations

import numpy as np
import pytest

from operators.drift.label_shift import bbse

GIVEN = np.array([[0.85, 0.15], [0.3, 0.7]])


def drawn(rng: np.random.Generator, rows: int, positive: float) -> np.ndarray:
    """Return counts by class and answer."""
    labels = (rng.random(rows) < positive).astype(int)
    answers = (rng.random(rows) < GIVEN[labels, 1]).astype(int)
    table = np.zeros((2, 2))
    np.add.at(table, (labels, answers), 1)
    return table


def test_class_shares_are_found_without_labels_and_the_interval_holds() -> None:
    inside = []
    for seed in range(300):
        rng = np.random.default_rng(seed)
        before, now = drawn(rng, 2_000, 0.2), drawn(rng, 800, 0.45)
        prior = bbse(before, now.sum(0).tolist())
        assert prior is not None
        inside.append(abs(prior.shares[1] - 0.45) <= prior.margins[1])
    assert np.mean(inside) == pytest.approx(0.95, abs=0.035)


def test_exact_counts_give_exact_shares() -> None:
    table = 1_000 * GIVEN * np.array([[0.8], [0.2]])
    answers = np.array([0.3, 0.7]) @ GIVEN
    prior = bbse(table, (1_000 * answers).tolist())
    assert prior is not None
    assert prior.shares == pytest.approx((0.3, 0.7))


@pytest.mark.parametrize(
    ("table", "answers"),
    [
        ([[5.0, 5.0], [5.0, 5.0]], [1.0, 1.0]),
        ([[5.0, 5.0], [0.0, 0.0]], [1.0, 1.0]),
        ([[5.0, 1.0], [1.0, 5.0]], [0.0, 0.0]),
    ],
)
def test_a_predictor_that_cannot_tell_says_nothing(table: list[list[float]], answers: list[float]) -> None:
    assert bbse(np.array(table), answers) is None
