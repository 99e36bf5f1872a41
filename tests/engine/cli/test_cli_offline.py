"""Questions to a past, as typed: tables, JSON, the picture, and what is refused with a fix."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from engine.cli.main import app
from engine.definition.file import load_pipeline
from engine.offline.backtest import Backtest
from engine.offline.replay import recorded_line
from engine.offline.what_if import asked_of
from operators.race.candidates import Candidate
from topics.errors import HeadraceError

PIPELINE = """
from msgspec import Struct
from river import linear_model, tree
from headrace import Labels, Pipeline, Promotion, Topic, field

class Row(Struct):
    event_id: str
    event_time: int
    key: str
    a: float
    b: float

pipeline = Pipeline(
    name="rows",
    events=Topic("rows.events", Row, key="key"),
    labels=Labels("rows.labels", wait="30d"),
    features={"a": field("a"), "b": field("b")},
    models={"tree": tree.HoeffdingTreeClassifier(), "linear": linear_model.LogisticRegression()},
    champion="tree",
)
"""
OTHER = """
from river import naive_bayes, tree
bayes = naive_bayes.GaussianNB()
tree = tree.HoeffdingTreeClassifier(grace_period=30)
loose = {"rule": 1}
"""
ROW_MS = 60_000


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline, 240 events with labels two rows late, and the recording of their backtest."""
    folder = tmp_path_factory.mktemp("past")
    (folder / "rows.py").write_text(PIPELINE)
    (folder / "other.py").write_text(OTHER)
    with (folder / "events.jsonl").open("w") as events, (folder / "labels.jsonl").open("w") as labels:
        for n in range(240):
            a, b = float(n % 7), float(n % 5)
            event = {"event_id": str(n), "event_time": n * ROW_MS, "key": "k", "a": a, "b": b}
            label = {"event_id": str(n), "label": a > b, "label_time": (n + 2) * ROW_MS}
            events.write(json.dumps(event) + "\n")
            labels.write(json.dumps(label) + "\n")
    run = Backtest(load_pipeline(folder / "rows.py"), keep_examples=True)
    run.play_files(folder / "events.jsonl", folder / "labels.jsonl")
    (folder / "recording").mkdir()
    lines = [recorded_line(record) + b"\n" for record in run.run.examples or ()]
    (folder / "recording" / "examples.jsonl").write_bytes(b"".join(lines))
    return folder


def typed(*words: object) -> Any:
    return CliRunner().invoke(app, [str(word) for word in words])


def asked(folder: Path, *words: object) -> dict[str, Any]:
    done = typed("backtest", folder / "rows.py", *words, "--json")
    assert done.exit_code == 0, (done.output, done.exception)
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def test_files_and_their_recording_give_the_same_answer(folder: Path) -> None:
    change = ("--what-if", f"challenger={folder / 'other.py'}:bayes", "--what-if", "champion=linear")
    files = files_of(folder)
    report = asked(folder, *files, *change)
    assert report == asked(folder, "--recording", folder / "recording", *change)
    assert report["scores_same"] == report["scores_compared"] == 2 * 240
    assert report["examples"] == 240
    assert set(report["what_if"]["series"]) == {"served", "tree", "linear", "bayes"}
    assert report["what_if"]["champion"] == "linear"
    assert report["recorded"]["series"]["linear"] == report["what_if"]["series"]["linear"]
    assert report["what_if"]["series"]["served"] == report["what_if"]["series"]["linear"]


def test_a_candidate_of_the_same_name_takes_the_others_place(folder: Path) -> None:
    change = f"challenger={folder / 'other.py'}:tree"
    report = asked(folder, "--recording", folder / "recording", "--what-if", change)
    assert report["scores_compared"] == 240, "of the linear model alone"
    assert report["recorded"]["series"]["tree"] != report["what_if"]["series"]["tree"]


def test_people_read_both_runs_side_by_side(folder: Path) -> None:
    rule = "promotion=Promotion(false_swap_every=1_000, evidence_block=4, min_examples=16, cooldown=16)"
    done = typed("backtest", folder / "rows.py", "--recording", folder / "recording", "--what-if", rule)
    assert done.exit_code == 0, (done.output, done.exception)
    assert "recorded: 0 swaps, tree at the end" in done.output
    assert "what if: " in done.output
    assert "warning" not in done.output


def test_freshness_as_table_json_and_picture(folder: Path, tmp_path: Path) -> None:
    svg = tmp_path / "freshness.svg"
    words = ("freshness", folder / "rows.py", "--recording", folder / "recording", "--withhold", "1h")
    done = typed(*words, "--svg", svg)
    assert done.exit_code == 0, (done.output, done.exception)
    assert "updates withheld for 1h cost" in done.output
    assert svg.read_text().startswith("<svg")
    assert svg.read_text().count("<polyline") == 3
    report = json.loads(typed(*words, "--withhold", "30m", "--json").stdout)
    assert [run["withheld"] for run in report["runs"]] == ["0", "30m", "1h"]
    assert {run["series"]["served"]["rows"] for run in report["runs"]} == {report["rows"]}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--what-if", "colour=red"], "`colour=red` cannot be asked"),
        (["--what-if", "champion=nobody"], "no model"),
        (["--what-if", "challenger=rows"], "names no object of a file"),
        (["--what-if", "challenger=OTHER:nothing"], "has no `nothing`"),
        (["--what-if", "challenger=OTHER:loose"], "not a River estimator"),
        (["--what-if", "promotion=Promotion(min_examples=open('x'))"], "cannot read"),
        (["--what-if", "promotion=exec('1')"], "cannot read"),
        (["--what-if", "promotion=Promotion(colour=1)"], "unexpected keyword argument 'colour'"),
        (["--what-if", "promotion=Promotion(colour=1)"], "takes, as plain values, false_swap_every: int, "),
        (["--what-if", "promotion=Promotion(typo)"], "false_swap_every=typo is no plain value"),
        (["--what-if", "promotion=Promotion(min_examples='x')"], "min_examples: int"),
        (["--what-if", "promotion=Promotion(1"], "'(' was never closed"),
        (["--what-if", "serving=Split()"], "missing a required argument: 'shares'"),
        (["--what-if", "champion=linear", "--warmup", "3"], "leave --warmup"),
        (["--what-if", "champion=linear", "--recording", "nowhere"], "there is no recording"),
        (["--what-if", "champion=linear", "--labels", "l.jsonl"], "there are no events"),
        (["--what-if", "serving=Split({'tree': 0.5, 'linear': 0.5}, outcome='served')"], 'outcome="served"'),
        (["--what-if", "serving=Bandit(open)"], "cannot read"),
        ([], "a backtest without --what-if reads events"),
    ],
)
def test_what_cannot_be_asked_is_refused_with_a_fix(folder: Path, words: list[str], told: str) -> None:
    words = [word.replace("OTHER", str(folder / "other.py")) for word in words]
    done = typed("backtest", folder / "rows.py", *words)
    assert isinstance(done.exception, HeadraceError), done.output
    assert told in str(done.exception)


def test_what_is_not_asked_about_stays_as_the_file_says(folder: Path) -> None:
    pipeline = load_pipeline(folder / "rows.py")
    frozen = Candidate(pipeline.estimators["linear"], learn="never")
    asked_about = replace(pipeline, models={**pipeline.models, "linear": frozen})
    asked = asked_of(asked_about, [f"challenger={folder / 'other.py'}:bayes"])
    assert asked.pipeline.candidates["linear"].learn == "never"
    assert list(asked.pipeline.candidates) == ["tree", "linear", "bayes"]
    assert asked.others == {"bayes"}


def test_withholding_more_than_there_is_says_so(folder: Path) -> None:
    words = ("freshness", folder / "rows.py", "--recording", folder / "recording", "--withhold")
    done = typed(*words, "7d")
    assert "no event was answered by a model that had learned" in str(done.exception)
    assert "no duration" in str(typed(*words, "soon").exception)


STARTED = """
from dataclasses import replace
from headrace import Artefact, Candidate
tree = Candidate(pipeline.models["tree"].model, start=Artefact(FILE))
pipeline = replace(pipeline, models=pipeline.models | {"tree": tree})
"""


@pytest.fixture
def begun(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """A pipeline whose tree starts with what a backtest saved, and the file of that tree."""
    monkeypatch.setenv("HEADRACE_STATE_DIR", str(tmp_path / "state"))
    done = typed("backtest", folder / "rows.py", *files_of(folder), "--save", tmp_path / "saved")
    assert done.exit_code == 0, done.output
    model = tmp_path / "saved" / "0-tree.model"
    pipeline = tmp_path / "begun.py"
    pipeline.write_text(PIPELINE + STARTED.replace("FILE", repr(str(model))))
    return pipeline, model


def files_of(folder: Path) -> tuple[object, ...]:
    return "--events", folder / "events.jsonl", "--labels", folder / "labels.jsonl"


def test_a_backtest_starts_with_what_a_candidate_brings(folder: Path, begun: tuple[Path, Path]) -> None:
    """And so do questions to it, to its recording, and to a second backtest of the same file."""
    pipeline, model = begun
    assert typed("check", pipeline).exit_code == 0
    fresh = json.loads(typed("backtest", folder / "rows.py", *files_of(folder), "--json").stdout)
    recording = model.with_name("recording")
    done = typed("backtest", pipeline, *files_of(folder), "--record", recording, "--json")
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert report["on_own_rows"]["tree"] != fresh["on_own_rows"]["tree"]
    assert report["on_own_rows"]["linear"] == fresh["on_own_rows"]["linear"]
    question = "backtest", pipeline, "--what-if", "champion=linear", "--json"
    answer = json.loads(typed(*question, *files_of(folder)).stdout)
    assert answer["scores_same"] == answer["scores_compared"] == 2 * 240
    assert answer["recorded"] == json.loads(typed(*question, "--recording", recording).stdout)["recorded"]
    told = typed("backtest", pipeline, *files_of(folder), "--what-if", f"challenger={pipeline}:tree")
    assert "learned elsewhere" in str(told.exception)


@pytest.mark.parametrize("damage", ["missing", "garbage", "changed", "no key", "another key"])
def test_a_start_that_cannot_be_is_refused_before_the_run_is(
    folder: Path, begun: tuple[Path, Path], damage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline, model = begun
    said = {
        "missing": "cannot be read: No such file",
        "garbage": "7 bytes are no model artefact",
        "changed": "changed after it was signed",
        "no key": "there is no key here to check it by",
        "another key": "artefact signed with key",
    }
    match damage:
        case "missing":
            model.unlink()
        case "garbage":
            model.write_bytes(b"garbage")
        case "changed":
            model.write_bytes(model.read_bytes()[:-1] + b"?")
        case "no key":
            monkeypatch.setenv("HEADRACE_STATE_DIR", str(model.with_name("elsewhere")))
        case "another key":
            monkeypatch.setenv("HEADRACE_SIGNING_KEY", "another key of thirty-two bytes!")
    for words in (["check", pipeline], ["backtest", pipeline, *files_of(folder)]):
        done = typed(*words)
        assert isinstance(done.exception, HeadraceError), (words, done.output)
        assert f"candidate `tree` starts from {model}" in done.exception.message
        assert said[damage] in done.exception.message
        assert done.exception.hint
