"""Evidence keeps its promise: equal to the definition, rare false swaps, quick true ones."""

from __future__ import annotations

import math
import random
import statistics

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from operators.race.evidence import BETS, DEVIATIONS, Evidence, Promotion
from topics.errors import DefinitionError


def by_definition(blocks: list[float]) -> float:
    """The Shiryaev-Roberts sum written out: over every start j, the product of bets from j on."""
    wealth = []
    for bet in BETS:
        factors = []
        for n, block in enumerate(blocks):
            past = blocks[:n]
            scale = DEVIATIONS * statistics.stdev(past) if n >= 2 and statistics.stdev(past) > 0 else math.inf
            factors.append(1 + bet * max(-1.0, min(block / scale, 1.0)))
        wealth.append(sum(math.prod(factors[start:]) for start in range(len(factors))))
    return sum(wealth) / len(wealth)


@given(st.lists(st.sampled_from([-0.5, -0.1, 0.0, 0.05, 0.2, 0.25, 0.7]), min_size=1, max_size=40))
def test_the_statistic_equals_its_definition(blocks):
    evidence = Evidence(Promotion(false_swap_every=10**18, evidence_block=2))
    for block in blocks:
        for shift in (-0.1, 0.1):
            evidence.update("a", {"a": block + shift, "b": 0.0}, 0)
    expected = by_definition([(block - 0.1 + block + 0.1) / 2 for block in blocks])
    found = evidence.standing()["b"] * evidence.threshold
    assert found == pytest.approx(expected, rel=1e-6, abs=1e-9)


def labels(kind: str, rng: random.Random):
    """Losses of (champion, challengers) where no challenger is better, block after block of ten."""
    while True:
        shock = rng.gauss(0, 0.1)
        for _ in range(10):
            champion = rng.random()
            if kind == "equal":
                yield {"a": champion, "b": rng.random(), "c": rng.random()}
            elif kind == "champion better":
                yield {"a": champion, "b": rng.random() + 0.02, "c": rng.random() + 0.3}
            else:  # the labels of a block all say the same
                yield {"a": 0.5, "b": 0.5 + shock, "c": 0.5 - shock}


@pytest.mark.parametrize("kind", ["equal", "champion better", "correlated in blocks"])
def test_unjustified_swaps_are_as_rare_as_promised(kind):
    promise, most = 1_000, 4_000
    runs = []
    for seed in range(40):
        evidence = Evidence(Promotion(false_swap_every=promise, evidence_block=10))
        for n, losses in enumerate(labels(kind, random.Random(seed)), 1):
            if evidence.update("a", losses, 0) or n == most:
                runs.append(n)
                break
    assert statistics.mean(runs) >= promise  # runs are cut at `most`, which only lowers the mean


def test_a_better_challenger_is_found():
    rng = random.Random(1)
    evidence = Evidence(Promotion(false_swap_every=100_000, evidence_block=10))
    for n in range(10_000):  # noqa: B007 read after the loop
        losses = {"a": rng.random(), "b": max(0.0, rng.random() - 0.2), "c": rng.random()}
        if verdicts := evidence.update("a", losses, 0):
            break
    assert n < 3_000
    assert [verdict.name for verdict in verdicts] == ["b"]
    assert verdicts[0].evidence >= verdicts[0].threshold == 10_000
    assert verdicts[0].effect == pytest.approx(0.18, abs=0.1)
    assert verdicts[0].examples == n + 1


def test_of_two_proven_challengers_the_one_with_more_evidence_comes_first():
    rng = random.Random(2)
    evidence = Evidence(Promotion(false_swap_every=1_000, evidence_block=10))
    verdicts = []
    for _ in range(300):
        losses = {"a": rng.gauss(0.5, 0.3), "good": 0.4, "best": 0.3}
        verdicts = evidence.update("a", losses, 0) or verdicts
    assert [verdict.name for verdict in verdicts] == ["best", "good"]
    assert verdicts[0].evidence > verdicts[1].evidence


def test_blocks_of_label_time_close_with_the_first_later_label():
    evidence = Evidence(Promotion(false_swap_every=900, evidence_block="1d"))
    day = 86_400_000
    for n in range(30):
        evidence.update("a", {"a": 0.5, "b": 0.4}, n * day // 10)
        evidence.update(
            "a", {"a": 0.5, "b": 0.4}, max(0, n - 3) * day // 10
        )  # an old label joins the open block
    # Days 0 and 1 are closed: 20 examples of new labels and 20 of old ones, 20 a block.
    assert evidence.threshold == pytest.approx(900 / 20)


def test_who_has_no_opinion_is_not_compared():
    evidence = Evidence(Promotion(evidence_block=1))
    evidence.update("a", {"a": None, "b": 0.0}, 0)
    evidence.update("a", {"a": 0.5, "b": None}, 0)
    assert evidence.standing() == {}


def test_a_challenger_that_leaves_does_not_lower_the_bar():
    def wealthy(leaves: bool) -> int:
        rng = random.Random(3)
        evidence = Evidence(Promotion(false_swap_every=1_000, evidence_block=10))
        for n in range(5_000):
            losses = {"a": rng.random(), "b": rng.random() * 0.8, "c": 1.0}
            if n >= 10 and leaves:
                del losses["c"]
                evidence.forget("c")
            if evidence.update("a", losses, 0):
                return n
        raise AssertionError("never proven")

    assert wealthy(leaves=True) == wealthy(leaves=False)


def test_start_over_forgets_the_duels_but_not_the_size_of_blocks():
    evidence = Evidence(Promotion(false_swap_every=1_000, evidence_block=10))
    for _ in range(100):
        evidence.update("a", {"a": 0.9, "b": 0.1}, 0)
    evidence.start_over()
    assert evidence.standing() == {}
    assert evidence.threshold == 100


@given(st.integers(0, 120))
def test_restored_evidence_goes_on_to_the_bit(cut):
    rng = random.Random(cut)
    stream = [{"a": rng.random(), "b": rng.random() * 0.7} for _ in range(160)]
    promotion = Promotion(false_swap_every=50, evidence_block=7)
    whole, entries = Evidence(promotion), {}
    for losses in stream[:cut]:
        whole.update("a", losses, 0)
        entries |= whole.delta()
    if not cut:
        entries |= whole.delta()
    assert entries == whole.snapshot()
    assert whole.delta() == {}
    again = Evidence(promotion)
    again.restore(entries)
    for losses in stream[cut:]:
        assert again.update("a", losses, 0) == whole.update("a", losses, 0)
    assert again.snapshot() == whole.snapshot()


def test_wealth_stays_finite_and_small():
    evidence = Evidence(Promotion(false_swap_every=1_000, evidence_block=1))
    for n in range(3_000):
        evidence.update("a", {"a": 0.9 + 0.001 * (n % 3), "b": 0.0}, 0)
    assert math.isfinite(evidence.standing()["b"])
    assert len(evidence.snapshot()["evidence"]) < 1_000
    assert msgspec.msgpack.decode(evidence.snapshot()["evidence"])


@pytest.mark.parametrize(
    "settings",
    [
        {"false_swap_every": 0},
        {"evidence_block": 0},
        {"evidence_block": "soon"},
        {"evidence_block": "0s"},
        {"cooldown": -1},
        {"min_effect": math.nan},
        {"fresh_challengers_max": -1},
    ],
)
def test_settings_that_cannot_work_are_refused(settings):
    with pytest.raises(DefinitionError):
        Promotion(**settings)
