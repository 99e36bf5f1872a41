"""Evidence keeps its promise: equal to the definition, rare false swaps, quick true ones."""

from __future__ import annotations

import json
import math
import random
import statistics
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from river import base
from structlog.testing import capture_logs
from test_quarantine import Event, pipeline

from engine import Labels, Pipeline, Topic
from engine.cli.offline.backtest import print_report
from engine.metrics import Metrics
from engine.offline.backtest import backtest
from engine.race_view import RaceView
from operators import field
from operators.models.scoring import Racer, Roster
from operators.race.arena import Arena, Moment
from operators.race.correlation import CORRELATION_MAX, Neighbours
from operators.race.evidence import BETS, DEVIATIONS, WATCH_SHARE, Evidence, Promotion
from topics.durations import duration_ms
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
    assert evidence.threshold == pytest.approx(900 / (1 - WATCH_SHARE) / 20)  # the short watch has the rest


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


def test_what_others_were_to_the_last_champion_says_nothing_of_the_next():
    """Only the two that change places keep what is known of their blocks."""
    rng = random.Random(5)
    promotion = Promotion(evidence_block="auto")
    going_on, anew = Evidence(promotion), Evidence(promotion)

    def rows(count: int) -> Iterator[dict[str, float]]:
        storm = 0.0
        for _ in range(count):
            storm = 0.999 * storm + rng.gauss(0.0, 0.02)
            yield {"a": rng.random(), "b": rng.random() - storm, "c": rng.random() + storm}

    for number, losses in enumerate(rows(8_000)):
        going_on.update("a", losses, label_time=number)
    going_on.start_over()
    for number, losses in enumerate(rows(4_000)):
        going_on.update("b", losses, label_time=number)
        anew.update("b", losses, label_time=number)
    known = {one.name: one.inflation for one in going_on.compared()}
    fresh = {one.name: one.inflation for one in anew.compared()}
    assert known["c"] == fresh["c"] > 1.0
    assert known["a"] != fresh["a"]


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


def neighbours(values: list[float]) -> Neighbours:
    found = Neighbours()
    for value in values:
        found.add(value)
    return found


@given(st.lists(st.floats(-1, 1), min_size=3, max_size=60))
def test_it_is_the_lag_one_autocorrelation(values: list[float]) -> None:
    found = neighbours(values)
    away = np.asarray(values) - np.mean(values)
    spread = float(away @ away)
    if spread > 1e-6 * found.squares:
        assert found.correlation == pytest.approx(float(away[1:] @ away[:-1]) / spread, abs=1e-6)
    assert found.blocks_wanted >= 1
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(found), type=Neighbours) == found


def autoregression(seed: int, of: float, count: int) -> Iterator[float]:
    """Yield a first-order autoregression of innovations within [-0.1, 0.1]."""
    rng, value = random.Random(seed), 0.0
    for _ in range(count):
        value = of * value + rng.uniform(-0.1, 0.1)
        yield value


def test_independent_blocks_are_left_alone() -> None:
    told = [neighbours(list(autoregression(seed, 0.0, 200))).blocks_wanted > 1 for seed in range(300)]
    assert sum(told) <= 3


@pytest.mark.parametrize("of", [0.4, 0.6, 0.8, 0.9])
def test_means_over_the_blocks_wanted_are_hardly_correlated(of: float) -> None:
    values = list(autoregression(1, of, 60_000))
    wanted = neighbours(values[:6_000]).blocks_wanted
    assert wanted > 1
    means = [float(np.mean(values[at : at + wanted])) for at in range(0, len(values) - wanted, wanted)]
    assert neighbours(means).correlation < CORRELATION_MAX + 3 / len(means) ** 0.5


def storms(evidence: Evidence, *, length: int, examples: int = 6_000) -> None:
    """Weigh examples in storms, each of which the models answer equally well or badly."""
    rng, better = random.Random(3), 0.0
    for n in range(examples):
        if n % length == 0:
            better = rng.uniform(-0.2, 0.2)
        evidence.update("a", {"a": 0.5 + better, "b": 0.5 + rng.uniform(-0.05, 0.05)}, n * 60_000)


@pytest.mark.parametrize(("block", "wanted"), [(32, int), ("32m", str)])
def test_evidence_names_the_block_to_set_and_is_content_with_it(block: int | str, wanted: type) -> None:
    evidence = Evidence(Promotion(evidence_block=block))
    storms(evidence, length=300)
    (found,) = evidence.compared()
    assert found.correlation > 0.7
    assert type(found.block_wanted) is wanted
    size = found.block_wanted if isinstance(found.block_wanted, int) else duration_ms(found.block_wanted)
    assert size >= 300 * (1 if wanted is int else 60_000)
    restored = Evidence(Promotion(evidence_block=block))
    restored.restore(evidence.snapshot())
    assert restored.compared() == [found]

    longer = Evidence(Promotion(evidence_block=found.block_wanted))
    storms(longer, length=300)
    assert [one.block_wanted for one in longer.compared()] == [""]


def test_a_swap_on_correlated_evidence_is_a_warning_with_the_block() -> None:
    roster = Roster("binary", [Racer(n, None, version=v) for v, n in enumerate("ab", 1)], "a")
    promotion = Promotion(false_swap_every=50, evidence_block=32, min_examples=1, cooldown=0)
    evidence, arena = Evidence(promotion), Arena("q", 0, roster, promotion)
    rng, better, decisions = random.Random(5), 0.1, []
    for n in range(4_000):
        if n % 300 == 0:
            better = rng.uniform(-0.05, 0.2)
        proven = evidence.update("a", {"a": 0.5 + better, "b": 0.5 + rng.uniform(-0.05, 0.05)}, n)
        ready = [one for one in proven if one.blocks > 40]
        if ready and (decisions := arena.swap(Moment(n, n, n), ready)):
            break
    (swap,) = decisions
    assert swap.evidence["correlation"] == proven[0].correlation
    assert swap.evidence["block_wanted"] == proven[0].block_wanted != ""
    with capture_logs() as lines:
        RaceView(Metrics(pipeline(inside=True))).decided([swap], roster)
    assert [(line["log_level"], line.get("fix")) for line in lines] == [
        ("info", None),
        ("warning", f"evidence_block={swap.evidence['block_wanted']}"),
    ]


class Constant(base.Classifier):
    """Says `chance` of every event."""

    def __init__(self, chance: float) -> None:
        self.chance = chance

    def learn_one(self, x: dict[str, float], y: bool) -> None:
        pass

    def predict_proba_one(self, x: dict[str, float]) -> dict[bool, float]:  # noqa: ARG002
        return {True: self.chance, False: 1 - self.chance}


def test_a_backtest_warns_of_blocks_that_are_too_short(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = random.Random(2)
    storms = [rng.random() for _ in range(10)]
    rows = [
        {"event_id": f"e{n}", "event_time": n, "key": "k", "x": 0.0, "label": rng.random() < storms[n // 200]}
        for n in range(2_000)
    ]
    (tmp_path / "events.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    report = backtest(
        Pipeline(
            name="storms",
            events=Topic("storms.events", Event, key="key"),
            labels=Labels(field="label"),
            features={"x": field("x")},
            models={"no": Constant(0.3), "yes": Constant(0.7)},
            champion="no",
            promotion=Promotion(evidence_block=20, min_examples=2_000, opening_error=0),
        ),
        tmp_path / "events.jsonl",
        None,
    )
    (found,) = report["correlated"]
    assert (found["model"], found["champion"], found["blocks"]) == ("yes", "no", 100)
    assert found["correlation"] > 0.5
    print_report(report)
    told = capsys.readouterr().out
    assert "warning: losses of yes and no are correlated from block to block" in told
    assert f"fix: Promotion(evidence_block={found['evidence_block']}, ...)" in told
