"""Curves in a file, and runs that are kept and compared."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from test_watched_examples import files
from typer.testing import CliRunner

from engine.cli.main import app
from engine.offline.runs.curves import fading_means, rolling_means
from engine.offline.runs.records import RUNS_MAX, Runs
from topics.errors import SettingsError

DEFINITION = """
from msgspec import Struct
from river import linear_model, preprocessing, tree
from headrace import Labels, Pipeline, Topic, field

class Flight(Struct):
    event_id: str
    event_time: int
    origin: str
    carrier: str
    distance: float

pipeline = Pipeline(
    name="flights", events=Topic("flights.departures", Flight, key="origin"),
    labels=Labels("flights.arrivals", wait="1h"), features={"distance": field("distance")},
    models={
        "linear": preprocessing.StandardScaler() | linear_model.LogisticRegression(l2=0.0),
        "tree": tree.HoeffdingTreeClassifier(),
    },
    champion="linear", drift=(),
)
"""


def run(folder: Path, *more: str) -> Any:
    definition = folder / "flights.py"
    if not definition.exists():
        definition.write_text(DEFINITION)
        files(folder, 600)
    places = "--events", str(folder / "events.jsonl"), "--labels", str(folder / "labels.jsonl")
    done = CliRunner().invoke(app, ["backtest", str(definition), *places, "--json", *more])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def asked(*words: str) -> Any:
    done = CliRunner().invoke(app, [*words, "--json"])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_curves_reach_a_file_by_both_times(tmp_path: Path) -> None:
    report = run(tmp_path, "--curves-out", str(tmp_path / "curves.csv"))
    with (tmp_path / "curves.csv").open() as file:
        rows = list(csv.DictReader(file))
    for by in ("event_time", "label_time"):
        for model in ("served", "linear", "tree"):
            mine = [row for row in rows if (row["by"], row["model"]) == (by, model)]
            counted = sum(int(row["rows"]) for row in mine)
            assert counted == report["examples"] or model == "tree", "a tree has no opinion at first"
            mean = sum(int(row["rows"]) * float(row["loss"]) for row in mine) / report["examples"]
            if model == "linear":
                assert mean == pytest.approx(report["on_own_rows"]["linear"]["Brier"])
            assert mine == sorted(mine, key=lambda row: int(row["start_ms"]))
    run(tmp_path, "--curves-out", str(tmp_path / "curves.json"))
    told = json.loads((tmp_path / "curves.json").read_text())
    assert len(told["curves"]) == len(rows)
    done = CliRunner().invoke(app, ["backtest", "--help"])
    assert "--curves-out" in done.output


def test_rolling_and_fading_means_are_those_of_single_rows() -> None:
    points = [(number, float(number % 5), 1) for number in range(50)]
    losses = [loss for _, loss, _ in points]
    rolling, fading = rolling_means(points, 7), fading_means(points, 0.9)
    for at in range(50):
        last = losses[max(0, at - 6) : at + 1]
        assert rolling[at] == pytest.approx(sum(last) / len(last))
        weights = [0.9 ** (at - row) for row in range(at + 1)]
        mean = sum(w * loss for w, loss in zip(weights, losses, strict=False)) / sum(weights)
        assert fading[at] == pytest.approx(mean)


def test_two_runs_are_told_apart_by_what_differs(tmp_path: Path) -> None:
    kept = "--save-run", "--runs", str(tmp_path / "runs")
    run(tmp_path, *kept)
    definition = tmp_path / "flights.py"
    definition.write_text(definition.read_text().replace("l2=0.0", "l2=0.5"))
    run(tmp_path, *kept)
    listed = asked("runs", "list", "--runs", str(tmp_path / "runs"))["runs"]
    assert len(listed) == 2
    assert {"served", "linear", "tree"} <= listed[0]["metrics"].keys()
    told = asked("runs", "diff", "-2", "-1", "--runs", str(tmp_path / "runs"))
    assert told["parameters"].keys() == {"candidates.linear"}
    assert "l2=0.5" in told["parameters"]["candidates.linear"]["after"]
    assert told["files"] == told["versions"] == {}
    assert told["metrics"]["linear"]["Brier"]["change"] != 0.0
    assert told["metrics"]["tree"]["Brier"]["change"] == 0.0
    words = CliRunner().invoke(app, ["runs", "diff", "-2", "-1", "--runs", str(tmp_path / "runs")])
    assert "candidates.linear: " in words.output


def test_a_folder_keeps_the_last_runs(tmp_path: Path) -> None:
    run(tmp_path, "--runs", str(tmp_path / "runs"))
    (first,) = (tmp_path / "runs").glob("*.json")
    for number in range(RUNS_MAX):
        (tmp_path / "runs" / f"{number}-0.json").write_bytes(first.read_bytes())
    run(tmp_path, "--runs", str(tmp_path / "runs"))
    assert len(list((tmp_path / "runs").glob("*.json"))) == RUNS_MAX
    with pytest.raises(SettingsError, match="called 'nobody'") as refusal:
        Runs(tmp_path / "runs").get("nobody")
    assert refusal.value.hint
    done = CliRunner().invoke(app, ["backtest", str(tmp_path / "flights.py"), "--events",
                                    str(tmp_path / "events.jsonl"), "--labels",
                                    str(tmp_path / "labels.jsonl"), "--curves-out", "x.txt"])  # fmt: skip
    assert isinstance(done.exception, SettingsError)
