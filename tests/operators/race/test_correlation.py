"""The correlation of neighbouring evidence blocks: exact, restored to the bit, and told where it matters."""

from __future__ import annotations

import json
import random
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
from engine.cli.report import print_report
from engine.metrics import Metrics
from engine.offline.backtest import backtest
from engine.race_view import RaceView
from operators import field
from operators.models.roster import Candidate, Roster
from operators.race.arena import Arena
from operators.race.correlation import CORRELATION_MAX, Neighbours
from operators.race.decisions import Moment
from operators.race.evidence import Evidence, Promotion
from topics.durations import duration_ms


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
    roster = Roster("binary", [Candidate(n, None, version=v) for v, n in enumerate("ab", 1)], "a")
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
            promotion=Promotion(evidence_block=20, min_examples=2_000),
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
