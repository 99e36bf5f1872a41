"""The interval of a lead: how often it misses the truth at any time of a race, by simulation."""

from __future__ import annotations

import numpy as np
import pytest

from engine.page.race import LEAD_ALPHA, LEAD_BLOCKS_MIN, lead_of

RACES, BLOCKS = 400, 400


@pytest.mark.parametrize("seed", [1, 2])
def test_who_looks_at_every_block_is_misled_in_one_race_of_twenty(seed: int) -> None:
    blocks = np.random.default_rng(seed).normal(0.3, 2.0, size=(RACES, BLOCKS))
    missed = np.zeros(RACES, dtype=bool)
    once = np.zeros(RACES, dtype=bool)
    for count in range(LEAD_BLOCKS_MIN, BLOCKS + 1):
        seen = blocks[:, :count]
        means, deviations = seen.mean(1), seen.std(1, ddof=1)
        unit = lead_of(0.0, 1.0, count)
        assert unit is not None
        missed |= np.abs(means - 0.3) > unit[1] * deviations
        once |= np.abs(means - 0.3) > 1.96 * deviations / np.sqrt(count)
    assert missed.mean() <= 1.6 * LEAD_ALPHA, "with room for chance and the estimated deviation"
    assert once.mean() > 4 * LEAD_ALPHA, "an interval for one look misleads: the test can tell"
