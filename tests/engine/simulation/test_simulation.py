"""`headrace simulate`: the same seed gives the same bytes, and all that is said to be planted is there."""

from __future__ import annotations

import json
from collections import Counter
from itertools import accumulate
from pathlib import Path
from statistics import correlation, median
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from engine.cli.main import app
from engine.definition.file import load_pipeline
from engine.definition.pipeline import Pipeline
from engine.kafka.log_reader import log_bounds
from engine.settings import KafkaSettings
from engine.simulation.orders import SimulationPlan, orders
from engine.simulation.plant import simulated
from engine.simulation.writing import write_simulation
from topics.codec import Decoded
from topics.errors import SettingsError
from topics.messages import Record

SHARES = st.floats(0, 0.5)
PLANS = st.builds(
    SimulationPlan,
    events=st.integers(1, 80),
    seed=st.integers(0, 2**32),
    rate_per_s=st.floats(0.01, 100),
    shops=st.integers(1, 30),
    drift_at=st.none() | st.floats(0, 1),
    label_delay_ms=st.integers(1, 10**8),
    unlabelled=SHARES,
    hot=SHARES,
    disorder=SHARES,
    late_ms=st.integers(1, 10**5),
    duplicates=SHARES,
    garbage=SHARES,
)


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    folder = tmp_path_factory.mktemp("simulation") / "orders"
    plan = SimulationPlan(events=2, seed=0)
    write_simulation(folder, plan, simulated(plan))
    return load_pipeline(folder / "pipeline.py")


@settings(max_examples=30)
@given(PLANS)
def test_one_plan_gives_one_simulation_and_another_seed_another(plan: SimulationPlan) -> None:
    assert simulated(plan) == simulated(plan)
    other = simulated(plan._replace(seed=plan.seed + 1))
    assert other.events != simulated(plan).events


@settings(max_examples=30)
@given(PLANS)
def test_what_is_said_to_be_planted_is_found_in_the_lines(pipeline: Pipeline, plan: SimulationPlan) -> None:
    made = simulated(plan)
    records = [Record("", 0, number, None, None, line) for number, line in enumerate(made.events, 1)]
    read = pipeline.event_decoder().decode_all(records)
    refused = [number for number, one in enumerate(read, 1) if not isinstance(one, Decoded)]
    assert refused == [one["line"] for one in made.truth["garbage"]]

    events = [one for one in read if isinstance(one, Decoded)]
    ids = Counter(one.event_id for one in events)
    assert len(ids) == plan.events
    assert sorted(name for name, count in ids.items() if count > 1) == sorted(made.truth["repeated"])
    assert set(ids.values()) <= {1, 2}

    newest = [0, *accumulate((one.event_time for one in events), max)]
    behind = {one.event_id for one, before in zip(events, newest, strict=False) if one.event_time < before}
    assert behind <= {*made.truth["late"], *made.truth["repeated"]}
    assert len(made.truth["late"]) + len(made.truth["repeated"]) > 0 or not behind

    labels = [json.loads(line) for line in made.labels]
    times = {one.event_id: one.event_time for one in events}
    assert ids.keys() - {one["order_id"] for one in labels} == set(made.truth["unlabelled"])
    assert [one["label_time"] for one in labels] == sorted(one["label_time"] for one in labels)
    delays = [one["label_time"] - times[one["order_id"]] for one in labels]
    told = made.truth["label_delay_ms"]
    assert told == ({"median": median(delays), "longest": max(delays)} if delays else None)


@pytest.mark.parametrize("seed", range(3))
def test_drift_turns_what_speaks_for_a_return(seed: int) -> None:
    plan = SimulationPlan(events=4_000, seed=seed, drift_at=0.25)
    made = simulated(plan)
    drawn = list(orders(plan))
    turn = next(
        number for number, one in enumerate(drawn) if one.order_id == made.truth["drift"]["first_order"]
    )
    assert turn == 1_000
    parts = [drawn[:turn], drawn[turn:]]
    before, after = (
        correlation([one.amount for one in part], [float(one.returned) for one in part]) for part in parts
    )
    assert before > 0.2
    assert after < -0.2
    steady = list(orders(plan._replace(drift_at=None)))
    late = steady[turn:]
    assert correlation([one.amount for one in late], [float(one.returned) for one in late]) > 0.2


@pytest.mark.parametrize("share", [0.1, 0.4])
def test_shares_are_about_what_was_asked_for(share: float) -> None:
    plan = SimulationPlan(
        events=5_000, seed=1, hot=share, disorder=share, duplicates=share, garbage=share, unlabelled=share
    )
    truth = simulated(plan).truth
    for found in (truth["late"], truth["repeated"], truth["unlabelled"], truth["garbage"]):
        assert abs(len(found) / plan.events - share) < 0.03
    assert truth["hot_key"]["orders"] / plan.events > share
    assert truth["busiest"] == truth["hot_key"]


def command(*arguments: object) -> Any:
    done = CliRunner().invoke(app, ["simulate", *map(str, arguments), "--json"])
    if isinstance(done.exception, SettingsError):
        raise done.exception
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_a_backtest_finds_what_was_planted(tmp_path: Path) -> None:
    planted = ("--drift", 0.5, "--garbage", 0.02, "--duplicates", 0.03, "--disorder", 0.1, "--seed", 7)
    told = command(tmp_path / "orders", "--events", 2_000, *planted)
    folder = tmp_path / "orders"
    files = ["--events", str(folder / "events.jsonl"), "--labels", str(folder / "labels.jsonl")]
    done = CliRunner().invoke(app, ["backtest", str(folder / "pipeline.py"), *files, "--json"])
    report = json.loads(done.stdout)
    assert report["dead_letters"] == told["garbage"] == 40
    assert report["outcomes"]["events"]["duplicate"] == told["repeated"] > 40
    assert report["examples"] == report["labels"]["read"] == 2_000
    with pytest.raises(SettingsError, match="not empty"):
        command(folder)


def test_a_simulation_is_published(tansu: KafkaSettings, tmp_path: Path) -> None:
    import asyncio

    env = {"HEADRACE_KAFKA__ENABLE_IDEMPOTENCE": "false", "HEADRACE_KAFKA__REPLICATION_FACTOR": "1"}
    arguments = ["simulate", str(tmp_path / "simulated"), "--events", "50", "--send", "--json"]
    servers = ["--bootstrap-servers", tansu.bootstrap_servers]
    done = CliRunner().invoke(app, [*arguments, *servers], env=env)
    assert json.loads(done.stdout)["sent"] == 100, done.output
    assert asyncio.run(log_bounds(tansu, "simulated.orders"))[0] == (0, 50)
    assert asyncio.run(log_bounds(tansu, "simulated.returns"))[0] == (0, 50)
