"""The budget: e-values whose mean is at most one, sums whose mean time to the threshold is at least it."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from operators.drift.budget import BETS, SURE_DEVIATIONS, bets, grown, p_values, unusual, usual_of


def test_the_normal_score_is_that_of_scipy() -> None:
    for p in (1e-9, 0.001, 0.2, 0.5, 0.9):
        assert unusual(p) == pytest.approx(stats.norm.isf(p))


def test_ranks_are_p_values() -> None:
    """Of exchangeable distances, at most a share p has a p-value of at most p."""
    found = []
    for seed in range(2_000):
        rng = np.random.default_rng(seed)
        distances = rng.gamma(3.0, size=29)
        found += p_values(distances[:1], np.sort(distances[1:])[None], np.array([0.01])).tolist()
    for p in (0.05, 0.1, 0.3, 0.7):
        assert np.mean(np.array(found) <= p) <= p + 0.02


@pytest.mark.parametrize("tail", ["normal", "exponential", "student"])
def test_beyond_the_reference_the_tail_is_no_lighter_than_the_streams(tail: str) -> None:
    draw = {
        "normal": lambda rng, size: np.abs(rng.standard_normal(size)),
        "exponential": lambda rng, size: rng.exponential(size=size),
        "student": lambda rng, size: np.abs(rng.standard_t(5, size)),
    }[tail]
    below = 0
    runs = 4_000
    for seed in range(runs):
        rng = np.random.default_rng(seed)
        usual = np.sort(draw(rng, 28))
        below += bool(p_values(draw(rng, 1), usual[None], np.array([0.01]))[0] <= 0.005)
    assert below / runs <= 0.0085


def test_bets_on_what_is_usual_win_nothing_in_the_mean() -> None:
    size = 29
    scores = np.array([unusual(rank / size) for rank in range(1, size + 1)])
    won = bets(scores, np.ones(size)).mean(0)
    assert (won <= 1.0).all()


def test_the_mean_time_to_a_false_alarm_is_at_least_the_threshold() -> None:
    threshold, times = 30.0, []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        wealth, time = np.zeros((1, len(BETS))), 0
        while np.mean(wealth) < threshold and time < 3_000:
            wealth = grown(wealth, bets(rng.standard_normal(1), np.ones(1)))
            time += 1
        times.append(time)
    assert np.mean(times) >= threshold


def test_neighbours_that_resemble_each_other_count_for_less() -> None:
    rng = np.random.default_rng(0)
    noise = rng.standard_normal(400)
    alike = np.convolve(noise, np.ones(10) / 10, mode="valid")
    rising, (alone,) = usual_of(noise[:, None])
    _, (together,) = usual_of(alike[:, None])
    assert alone < 1.2
    assert together > 3.0
    assert (rising[0] == np.sort(noise)).all()


def test_ranks_of_neighbours_are_those_of_scipy_where_distances_are_equal() -> None:
    rng = np.random.default_rng(2)
    steps = np.repeat(rng.integers(0, 6, (40, 4)), 3, axis=0).astype(float)
    _, apart = usual_of(np.column_stack([steps, np.zeros(120)]))
    for column, told in zip(steps.T, apart, strict=False):
        ranks = stats.rankdata(column) - (len(column) + 1) / 2
        alike = (ranks[1:] * ranks[:-1]).sum() / (ranks**2).sum() - SURE_DEVIATIONS * len(column) ** -0.5
        assert told == pytest.approx((1 + alike) / (1 - alike))
    assert apart[-1] == 1.0
    alike, alone = bets(np.array([3.0, 3.0]), np.array([4.0, 1.0]))
    assert alike == pytest.approx(alone**0.25)
