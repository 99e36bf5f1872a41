"""The simulator is the product's rule: the same swaps, label for label; and the rule keeps its goals."""

from __future__ import annotations

import numpy as np
import pytest

from loadtest.evidence.laws import COLLAPSES, EQUAL, SHIFTS
from loadtest.evidence.rule import block_means, play
from loadtest.evidence.tables import AUTO, Plays, delay, false_swaps
from operators.models.scoring import Racer, Roster
from operators.race.arena import Arena, Moment
from operators.race.evidence import Evidence, Promotion

LABELS = 6_000
LAWS = {
    "independent": EQUAL["independent 0/1"],
    "bursts": EQUAL["bursts of 100"],
    "autoregression": EQUAL["AR .999"],
    "heavy": EQUAL["heavy tails"],
    "collapse": COLLAPSES["independent 0/1"](2_000),
    "shift": SHIFTS["worse by .3, then better by .05"](2_000),
}


def swaps_of_the_product(
    differences: np.ndarray, promotion: Promotion, *, opening: bool
) -> list[tuple[int, str]]:
    """Play one run through the product's own evidence and arena."""
    roster = Roster("binary", [Racer(n, None, version=v) for v, n in enumerate("ab", 1)], "a")
    evidence, arena = Evidence(promotion, opening=opening), Arena("q", 0, roster, promotion)
    swaps = []
    for n, difference in enumerate(differences, 1):
        losses = {"a": 0.5 + difference / 2, "b": 0.5 - difference / 2}
        proven = evidence.update(roster.champion, losses, n)
        if proven and arena.swap(Moment(n, n, n), proven):
            evidence.start_over()
            swaps.append((n, roster.champion))
    return swaps


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize(("block", "opening"), [("auto", False), ("auto", True), (32, True), (256, False)])
def test_the_simulator_swaps_where_the_product_does(law: str, block: int | str, opening: bool) -> None:
    promotion = Promotion(evidence_block=block, false_swap_every=20_000, cooldown=500, min_examples=500)
    differences = LAWS[law](np.random.default_rng(7), 2, LABELS)
    found = play(block_means(differences), promotion, opening=opening)
    for run, row in enumerate(differences):
        expected = swaps_of_the_product(row, promotion, opening=opening)
        simulated = [(one.label, "b" if one.to_challenger else "a") for one in found if one.run == run]
        assert simulated == expected


@pytest.fixture(scope="module")
def plays() -> Plays:
    return Plays(40)


@pytest.mark.parametrize("law", ["independent 0/1", "heavy tails", "bursts of 20", "AR .99"])
def test_false_swaps_are_as_rare_as_promised(law: str, plays: Plays) -> None:
    """40 runs promise 20 swaps at 1 in 100,000: the page's table has 200."""
    promotion = Promotion(false_swap_every=100_000)
    assert false_swaps(plays.of(law, EQUAL[law]), promotion).mean <= 2.0


def test_a_better_challenger_and_a_collapse_are_found_in_time(plays: Plays) -> None:
    shifts, collapses = dict(plays.changing(SHIFTS)), dict(plays.changing(COLLAPSES))
    assert delay(shifts["equal, then better by .05"], AUTO) <= 3_000
    assert delay(shifts["worse by .3, then better by .05"], AUTO) <= 3_500
    assert delay(collapses["independent 0/1"], AUTO) <= 600
    day = Promotion(evidence_block=1_024)
    assert delay(collapses["independent 0/1"], day) <= 5 * 1_024
