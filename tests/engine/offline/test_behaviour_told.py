"""What a backtest says of how its champion behaves; what is refused early."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import msgspec
import pytest
from river import compose, linear_model, preprocessing

from engine import (
    Directional,
    Fair,
    Feedback,
    Importance,
    Invariant,
    Labels,
    Perturbed,
    Pipeline,
    Topic,
)
from engine.offline.backtest import LocalRun, Playing, backtest
from engine.worker.assembly import build_learner
from operators import field
from topics.errors import DefinitionError

TESTS = [Invariant("origin"), Directional("delay", up=True), Perturbed(noise=0.05)]
WATCHED: dict[str, Any] = {
    "tests": TESTS,
    "importance": Importance(rows=30),
    "feedback": Feedback("origin", block=200),
    "fair": [Fair("origin"), Fair("origin", "loss")],
}


class Flight(msgspec.Struct):
    event_id: str
    event_time: int
    origin: str
    delay: float


def pipeline(**options: Any) -> Pipeline:
    words, numbers = compose.SelectType(str), compose.SelectType(int, float)
    encode = (words | preprocessing.OneHotEncoder()) + (numbers | preprocessing.StandardScaler())
    given: dict[str, Any] = {
        "models": {
            "linear": encode | linear_model.LogisticRegression(),
            "other": encode | linear_model.Perceptron(),
        },
        "champion": "linear",
    }
    return Pipeline(
        name="flights",
        events=Topic("flights.departures", Flight, key="origin"),
        labels=Labels("flights.arrivals", wait="1h"),
        features={name: field(name) for name in ("origin", "delay")},
        drift=(),
        **given | options,
    )


def files(folder: Path, rows: int, seed: int = 3) -> tuple[Path, Path]:
    """Flights that are late where they left late, and always from `HNL`."""
    rng = random.Random(seed)
    events, labels = folder / "events.jsonl", folder / "labels.jsonl"
    with events.open("w") as event_file, labels.open("w") as label_file:
        for number in range(rows):
            time, delay, origin = number * 1_000, rng.uniform(-2, 2), rng.choice(("ATL", "ORD", "HNL"))
            label = origin == "HNL" or delay + rng.gauss(0, 0.3) > 0
            event = {"event_id": f"{number}", "event_time": time, "origin": origin, "delay": delay}
            event_file.write(json.dumps(event) + "\n")
            told = {"event_id": f"{number}", "label": label, "label_time": time + 60_000, "origin": origin}
            label_file.write(json.dumps(told) + "\n")
    return events, labels


def test_a_backtest_tells_how_the_champion_behaves(tmp_path: Path) -> None:
    report = json.loads(json.dumps(backtest(pipeline(**WATCHED), *files(tmp_path, 2_500))))
    tests = report["tests"]["tests"]
    assert list(tests) == ["invariant origin", "directional delay up", "perturbed 0.05"]
    assert not tests["invariant origin"]["passed"]
    assert tests["directional delay up"]["passed"]
    assert tests["invariant origin"]["worst"]["changed"].keys() == {"origin"}
    importance = report["importance"]["features"]
    assert importance["delay"]["importance"] > 0.0
    assert importance["origin"]["importance"] > 0.0
    assert report["feedback"]["items"] == 3
    assert not report["fairness"]["origin positive_rate"]["kept"]
    assert set(report["fairness"]["origin positive_rate"]["groups"]) == {"ATL", "ORD", "HNL"}


def test_looking_changes_no_model_and_a_replay_sees_the_same(tmp_path: Path) -> None:
    declared, streams = pipeline(**WATCHED), files(tmp_path, 2_500)
    run = LocalRun(declared, keep_examples=True)
    Playing(run).play_files(*streams)
    plain = LocalRun(pipeline())
    Playing(plain).play_files(*streams)
    assert run.learner.digests() == plain.learner.digests()
    again, records = build_learner(declared), list(run.examples or ())
    for start in range(0, len(records), 77):
        again.fold(records[start : start + 77])
        if start == 1_540:
            entries = again.snapshot()
            again.fold(records[start + 77 : start + 700])
            again.restore(entries)
    assert again.monitors.report() == run.learner.monitors.report()
    assert again.monitors.signals() == run.learner.monitors.signals()
    assert again.monitors.signals()["tests.failing"] >= 1.0


def test_settings_are_part_of_the_field_where_they_are_declared_alone() -> None:
    assert pipeline().field.parts() == pipeline(tests=(), fair=(), importance=None).field.parts()
    assert pipeline(importance=True).field.parts() == pipeline(importance=Importance()).field.parts()
    assert pipeline(importance=False).field.parts() == pipeline().field.parts()
    changed = pipeline().field.difference(pipeline(**WATCHED).field).settings
    assert changed.keys() == {f"monitors.{name}" for name in ("tests", "importance", "feedback", "fairness")}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"tests": [Invariant("airport")]}, "`airport` is no feature"),
        ({"tests": [Directional("origin")]}, "`origin` is of type str"),
        ({"tests": Invariant("origin")}, "no list|tests is"),
        ({"tests": [Invariant("origin"), Invariant("origin", change_max=0.2)]}, "twice"),
        ({"tests": [Perturbed(noise=n / 100) for n in range(1, 23)]}, "22 parts"),
        ({"importance": "all"}, "importance is 'all'"),
        ({"feedback": Feedback("airport")}, "`airport` is no feature"),
        ({"feedback": "origin"}, "feedback is 'origin'"),
        ({"fair": [Fair("sex")]}, "`sex` is no feature"),
        ({"tests": TESTS, "per": "origin"}, "tests is not offered with per="),
        (
            {
                "models": {"line": linear_model.LinearRegression()},
                "champion": "line",
                "fair": [Fair("origin")],
            },
            "the task is regression",
        ),
        (
            {
                "models": {"line": linear_model.LinearRegression()},
                "champion": "line",
                "feedback": Feedback("origin"),
            },
            "shows no items",
        ),
    ],
)
def test_what_cannot_be_looked_at_is_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(DefinitionError, match=said) as refusal:
        pipeline(**options)
    assert refusal.value.hint


@pytest.mark.parametrize(
    "made",
    [
        lambda: Invariant("x", change_max=-1.0),
        lambda: Invariant("x", failing_max=1.0),
        lambda: Directional("x", step=0.0),
        lambda: Perturbed(noise=1.0),
        lambda: Importance(rows=1),
        lambda: Importance(fading=1.0),
        lambda: Feedback("x", block=1),
        lambda: Feedback("x", items_max=10**9),
        lambda: Fair("x", "recall"),  # type: ignore[arg-type]
        lambda: Fair("x", difference_max=0.0),
        lambda: Fair("x", rows_min=0),
    ],
)
def test_bounds_that_are_none_are_refused(made: Any) -> None:
    with pytest.raises(DefinitionError) as refusal:
        made()
    assert refusal.value.hint
