"""Distances against scipy and against sums written out."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from operators.drift.two_sample import (
    RIDGE,
    chi_square,
    fit_kernels,
    ks,
    lsdd,
    mmd,
    permutation_p,
    population_stability,
)

SEEDS = range(5)


def shares(rng: np.random.Generator, rows: int = 400, cells: int = 9) -> tuple[np.ndarray, np.ndarray]:
    values = rng.integers(0, cells, rows)
    return values, np.bincount(values, minlength=cells) / rows


@pytest.mark.parametrize("seed", SEEDS)
def test_ks_on_cells_is_that_of_scipy_on_their_numbers(seed: int) -> None:
    rng = np.random.default_rng(seed)
    (one, p), (other, q) = shares(rng), shares(rng, 300)
    assert float(ks(p, q)) == pytest.approx(stats.ks_2samp(one, other).statistic, abs=1e-12)


@pytest.mark.parametrize("seed", SEEDS)
def test_chi_square_is_that_of_scipy_over_the_rows(seed: int) -> None:
    rng = np.random.default_rng(seed)
    (one, p), (_, q) = shares(rng), shares(rng, 5_000)
    wanted = stats.chisquare(p * len(one), q * len(one)).statistic / len(one)
    assert float(chi_square(p, q)) == pytest.approx(wanted)


@pytest.mark.parametrize("seed", SEEDS)
def test_population_stability_is_the_sum_of_both_divergences(seed: int) -> None:
    rng = np.random.default_rng(seed)
    p, q = rng.dirichlet(np.full(8, 5.0)), rng.dirichlet(np.full(8, 5.0))
    assert float(population_stability(p, q)) == pytest.approx(stats.entropy(p, q) + stats.entropy(q, p))


def test_distances_of_many_blocks_are_those_of_each() -> None:
    rng = np.random.default_rng(0)
    blocks, usual = rng.dirichlet(np.ones(6), (5, 3)), rng.dirichlet(np.ones(6), 3)
    for distance in (ks, chi_square, population_stability):
        wanted = [[float(distance(block[n], usual[n])) for n in range(3)] for block in blocks]
        assert distance(blocks, np.broadcast_to(usual, blocks.shape)) == pytest.approx(np.array(wanted))


def squared_mmd(x: np.ndarray, y: np.ndarray, width: float) -> float:
    """Return the biased estimate with the kernel itself, every pair of rows."""

    def mean(a: np.ndarray, b: np.ndarray) -> float:
        return float(np.exp(-((a[:, None] - b[None]) ** 2).sum(-1) / (2 * width**2)).mean())

    return mean(x, x) + mean(y, y) - 2 * mean(x, y)


@pytest.mark.parametrize("shift", [0.3, 1.0, 2.0])
def test_random_features_come_near_the_kernel(shift: float) -> None:
    rng = np.random.default_rng(3)
    x, y = rng.standard_normal((400, 4)), rng.standard_normal((300, 4)) + np.array([shift, 0, 0, 0])
    found = []
    for seed in range(40):
        kernels = fit_kernels(x, seed)
        cosines = 2 * len(kernels.frequencies[0])
        difference = (kernels.means(y) - kernels.means(x))[:cosines]
        found.append((float(mmd(difference)), squared_mmd(x, y, kernels.width)))
    got, wanted = np.mean(found, axis=0)
    assert got == pytest.approx(wanted, rel=0.15, abs=0.002)


def test_lsdd_is_the_least_squares_solution_written_out() -> None:
    rng = np.random.default_rng(4)
    x, y = rng.standard_normal((300, 3)), rng.standard_normal((200, 3)) + 0.7
    kernels = fit_kernels(x, seed=1)
    centres, width = np.array(kernels.centres), kernels.width

    def means(rows: np.ndarray) -> np.ndarray:
        return np.exp(-((rows[:, None] - centres[None]) ** 2).sum(-1) / (2 * width**2)).mean(0)

    h = means(y) - means(x)
    products = np.exp(-((centres[:, None] - centres[None]) ** 2).sum(-1) / (4 * width**2))
    theta = np.linalg.solve(products + RIDGE * np.eye(len(centres)), h)
    wanted = 2 * h @ theta - theta @ products @ theta
    difference = (kernels.means(y) - kernels.means(x))[2 * len(kernels.frequencies[0]) :]
    assert float(lsdd(difference, np.array(kernels.difference))) == pytest.approx(wanted)


def test_kernels_are_a_function_of_seed_and_rows() -> None:
    rows = np.random.default_rng(0).standard_normal((100, 20))
    assert fit_kernels(rows, 5) == fit_kernels(rows, 5)
    assert fit_kernels(rows, 5) != fit_kernels(rows, 6)
    assert np.array(fit_kernels(rows, 5).projection).shape == (20, 6)


def test_the_permutation_of_blocks_is_fair_where_blocks_differ_and_rows_do_not() -> None:
    """Blocks with effects of their own: rows would be found different every time."""
    found = []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        blocks = rng.standard_normal((25, 4))
        found.append(permutation_p(blocks[:20], blocks[20:], seed, permutations=99))
    assert np.mean(np.array(found) <= 0.05) == pytest.approx(0.05, abs=0.04)
    assert stats.kstest(found, "uniform").pvalue > 0.01
