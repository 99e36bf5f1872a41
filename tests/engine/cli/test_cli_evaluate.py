"""Policies that never ran, as typed: a table, JSON, and what is refused with a fix."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from engine.cli.main import app
from engine.definition.file import load_pipeline
from engine.offline.backtest import Backtest
from engine.offline.replay import recorded_line
from topics.errors import HeadraceError

PIPELINE = """
from msgspec import Struct
from river import linear_model, naive_bayes
from headrace import Labels, Pipeline, Shadow, Split, Topic, field

class Visit(Struct):
    event_id: str
    event_time: int
    user: str
    a: float

pipeline = Pipeline(
    name="visits",
    events=Topic("visits.seen", Visit, key="user"),
    labels=Labels("visits.bought", wait="1d"),
    features={"a": field("a")},
    models={"bayes": naive_bayes.GaussianNB(), "linear": linear_model.LogisticRegression()},
    champion="bayes",
    serving=SERVING,
)
"""
SPLIT = 'Split({"bayes": 0.8, "linear": 0.2}, unit="event", min_examples=100_000)'
SERVED = SPLIT.replace("unit", 'outcome="served", unit')
VISITS = 600


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline that splits, the recording of its backtest, and the same without a policy."""
    folder, rng = tmp_path_factory.mktemp("visits"), random.Random(1)
    with (folder / "events.jsonl").open("w") as events, (folder / "labels.jsonl").open("w") as labels:
        for n in range(VISITS):
            a = rng.uniform(-2.0, 2.0)
            event = {"event_id": str(n), "event_time": 1_000 * n, "user": f"u{n % 50}", "a": a}
            label = {"event_id": str(n), "label": abs(a) < 1.0, "label_time": 1_000 * n + 3_000}
            events.write(json.dumps(event) + "\n")
            labels.write(json.dumps(label) + "\n")
    for name, serving in (("split", SPLIT), ("alone", "Shadow()"), ("served", SERVED)):
        file = folder / f"{name}.py"
        file.write_text(PIPELINE.replace("SERVING", serving))
        run = Backtest(load_pipeline(file), keep_examples=True)
        run.play_files(folder / "events.jsonl", folder / "labels.jsonl")
        (folder / name).mkdir()
        lines = [recorded_line(record) + b"\n" for record in run.run.examples or ()]
        (folder / name / "examples.jsonl").write_bytes(b"".join(lines))
    return folder


def typed(folder: Path, name: str, *words: str) -> Any:
    policies = [word for policy in words for word in ("--off-policy", policy)]
    command = ["evaluate", str(folder / f"{name}.py"), "--recording", str(folder / name), *policies]
    return CliRunner().invoke(app, [*command, "--json"] if name == "split" else command)


def test_the_arm_that_hardly_answered_is_known_all_the_same(folder: Path) -> None:
    done = typed(folder, "split", "bayes=1", "linear", "bayes=0.5,linear=0.5")
    assert done.exit_code == 0, (done.output, done.exception)
    report = json.loads(done.stdout)
    assert report["examples"] == VISITS
    assert report["rows"] == VISITS - 3, "before the first label there is nothing to say"
    bayes, linear, both = (told["estimates"] for told in report["policies"].values())
    assert bayes["dr"]["value"] > linear["dr"]["value"]
    assert both["dr"]["value"] == pytest.approx((bayes["dr"]["value"] + linear["dr"]["value"]) / 2, abs=1e-6)
    assert linear["ips"]["effective"] < bayes["ips"]["effective"]
    for by_method in (bayes, linear, both):
        for one in by_method.values():
            assert one["low"] <= by_method["dr"]["value"] <= one["high"]


UCB = "Bandit(bandit.UCB(0.3), every=20)"


def test_any_policy_is_played_over_the_log_by_its_own_machine(folder: Path) -> None:
    """Labels are shared here, so each learns from every example, and its value is known but for the keys."""
    (folder / "mine.py").write_text(
        "from headrace import Canary, LatencyGuard\nslow = Canary(hold=50, guards=[LatencyGuard(5.0)])\n"
    )
    halves = 'Split({"bayes": 0.5, "linear": 0.5}, unit="event", min_examples=50)'
    asked = ["Shadow()", halves, UCB, f"{folder / 'mine.py'}:slow", 'Switchback(("bayes", "linear"))']
    done = typed(folder, "split", "bayes=1", "linear=1", *asked)
    assert done.exit_code == 0, (done.output, done.exception)
    policies = json.loads(done.stdout)["policies"]
    bayes, linear = (policies[f"{name}=1"]["estimates"]["dr"]["value"] for name in ("bayes", "linear"))
    assert linear < bayes
    assert {policies[text]["learned"] for text in asked} == {VISITS}
    value = {text: policies[text]["estimates"]["dr"]["value"] for text in asked}
    assert value["Shadow()"] == pytest.approx(bayes, abs=1e-9), "nothing has proven better"
    assert value[asked[3]] == pytest.approx(bayes, abs=1e-9), "so no canary has begun"
    assert value[asked[4]] == pytest.approx((bayes + linear) / 2, abs=1e-6)
    assert (bayes + linear) / 2 < value[halves] < bayes
    assert policies[halves]["decisions"] == ["split.decided bayes"]
    assert policies[halves]["at_the_end"] == {"bayes": 1.0}
    assert (bayes + linear) / 2 < value[UCB] < bayes
    assert policies[UCB]["at_the_end"]["bayes"] > 0.9


def test_a_table_for_people(folder: Path) -> None:
    command = ["evaluate", folder / "split.py", "--recording", folder / "split", "--off-policy", "linear=1"]
    done = CliRunner().invoke(app, [str(word) for word in command])
    assert done.exit_code == 0, (done.output, done.exception)
    assert "597 of 600 examples say how likely their answer was, of 50 keys" in done.output
    assert [line.split()[1] for line in done.output.splitlines()[-3:]] == ["ips", "snips", "dr"]
    done = CliRunner().invoke(app, [*[str(word) for word in command[:-1]], UCB])
    assert done.exit_code == 0, (done.output, done.exception)
    assert "has learned from 600 examples; its shares at the end: bayes 0.99" in " ".join(done.output.split())


@pytest.mark.parametrize(
    ("name", "policy", "told"),
    [
        ("split", "tree=1", "`tree` is no model"),
        ("split", "bayes=0.5", "shares add up to 1"),
        ("split", "bayes=much", "shares add up to 1"),
        ("alone", "linear=1", "no example says with which probability"),
        ("split", "Split({'bayes': 0.5, 'tree': 0.5})", "`tree`, which is no model"),
        ("split", "Bandit(open('x'))", "cannot read"),
        ("split", "Guard(0.1)", "is a Guard and no serving policy"),
        ("served", "Canary()", "only the one that answered has an outcome"),
    ],
)
def test_what_cannot_be_said_is_refused(folder: Path, name: str, policy: str, told: str) -> None:
    done = typed(folder, name, policy)
    assert isinstance(done.exception, HeadraceError)
    assert told in str(done.exception)
    assert "fix: " in str(done.exception)
