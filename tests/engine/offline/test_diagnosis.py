"""A run in which everything failed says so, which mistake it was, and what to do; a good one says nothing."""

import base64
import gzip
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner, Result

from engine.cli.main import app

START_MS = 1_700_000_000_000
STEP_MS = 1_000
COUNT = 200
PIPELINE = """
from msgspec import Struct
from river import linear_model, tree

from engine import Labels, Pipeline, Rule, Topic
from operators import by, field


class Packet(Struct):
    event_id: str
    event_time: int
    service: str
    size: float


pipeline = Pipeline(
    name="diagnosed",
    events=Topic("diagnosed.packets", Packet, key="service", grace="1s"),
    labels=Labels("diagnosed.labels", wait="20s"),
    features={"size": field("size"), "n": by("service").count("1m")},
    models={"m": MODEL},
    OPTIONS
)
"""
Row = dict[str, Any]


class Files:
    """A pipeline, its events and its labels, all of them right unless changed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.events: list[Row] = [
            {
                "event_id": f"e{n}",
                "event_time": START_MS + n * STEP_MS,
                "service": "http",
                "size": float(n % 7),
            }
            for n in range(COUNT)
        ]
        self.labels: list[Row] = [
            {"event_id": row["event_id"], "label": row["size"] > 3, "label_time": row["event_time"] + 5_000}
            for row in self.events
        ]
        self.model, self.options, self.waits = "linear_model.LogisticRegression()", "", '"20s"'
        self.raw: dict[str, bytes] = {}

    def run(self, *arguments: str, swap: bool = False, inside: str = "") -> Result:
        """`inside` declares the field `label` of events that carry their labels."""
        text = (
            PIPELINE.replace('"20s"', self.waits)
            .replace("MODEL", self.model)
            .replace("OPTIONS", self.options)
        )
        if inside:
            text = text.replace("    size: float\n", f"    size: float\n    label: {inside}\n")
            text = text.replace('Labels("diagnosed.labels", wait="20s")', 'Labels(field="label")')
        (self.folder / "p.py").write_text(text)
        paths = []
        for name, rows in (("events.jsonl", self.events), ("labels.jsonl", self.labels)):
            data = "".join(json.dumps(row) + "\n" for row in rows).encode()
            (self.folder / name).write_bytes(self.raw.get(name, data))
            paths.append(str(self.folder / name))
        if swap:
            paths.reverse()
        files = ("--events", paths[0]) if inside else ("--events", paths[0], "--labels", paths[1])
        return CliRunner().invoke(app, ["backtest", str(self.folder / "p.py"), *files, *arguments])


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def csv(rows: list[Row]) -> bytes:
    lines = [",".join(rows[0]), *(",".join(map(str, row.values())) for row in rows)]
    return "\n".join(lines).encode()


def little_room(files: Files) -> None:
    files.waits = '"20s", pending_max=2'


def text_classes(files: Files) -> None:
    """KDD without `task=`: text labels where the models leave the task open."""
    files.model = "tree.HoeffdingTreeClassifier()"
    for row in files.labels:
        row["label"] = "smurf" if row["label"] else "normal"


def fractions(files: Files) -> None:
    for n, row in enumerate(files.labels):
        row["label"] = n / 7


def numbered_classes(files: Files) -> None:
    text_classes(files)
    files.options = 'task="multiclass",'
    for row in files.labels:
        row["label"] = len(row["label"])


def other_ids(files: Files) -> None:
    for row in files.labels:
        row["event_id"] = row["event_id"].removeprefix("e")


def slow_labels(files: Files) -> None:
    for row in files.labels:
        row["label_time"] += 60_000


def seconds_in_events(files: Files) -> None:
    for row in files.events:
        row["event_time"] //= 1_000


def seconds_in_labels(files: Files) -> None:
    for row in files.labels:
        row["label_time"] //= 1_000


def csv_events(files: Files) -> None:
    files.raw["events.jsonl"] = csv(files.events)


def csv_labels(files: Files) -> None:
    files.raw["labels.jsonl"] = csv(files.labels)


def json_array(files: Files) -> None:
    files.raw["events.jsonl"] = json.dumps(files.events).encode()


def other_label_fields(files: Files) -> None:
    files.labels = [
        {"id": row["event_id"], "y": row["label"], "ts": row["label_time"]} for row in files.labels
    ]


def renamed_field(files: Files) -> None:
    for row in files.events:
        row["bytes"] = row.pop("size")


def wrong_type(files: Files) -> None:
    for row in files.events:
        row["size"] = f"{row['size']} kB"


def strict_rule(files: Files) -> None:
    files.options = 'rules=[Rule(field("size"), between=(100, None), action="dead_letter")],'


def labels_before_events(files: Files) -> None:
    for row in files.labels:
        row["label_time"] -= 3_600_000


def shuffled_events(files: Files) -> None:
    files.events.sort(key=lambda row: row["event_id"][::-1])


def few_labels(files: Files) -> None:
    files.labels = files.labels[:20]


def events_twice(files: Files) -> None:
    files.labels = files.events


def labels_twice(files: Files) -> None:
    files.events = files.labels


def no_labels(files: Files) -> None:
    files.raw["labels.jsonl"] = b""


def no_events(files: Files) -> None:
    files.raw["events.jsonl"] = b"\n"


MISTAKES: list[tuple[Callable[[Files], None], list[str], str]] = [
    (text_classes, ["task is binary", '"normal" (text)'], "task='multiclass'"),
    (fractions, ["task is binary", "(number)"], "task='regression'"),
    (numbered_classes, ["a class label is text", "not 6"], "a label that fits"),
    (other_ids, ["ids do not match", "'e0'", "'0'"], "Labels(id=...)"),
    (little_room, ["more waited than is kept", "answers"], "pending_max"),
    (slow_labels, ["`wait` is 20s, but labels take longer", "65s"], 'wait="72s"'),
    (seconds_in_events, ["times of events.jsonl are seconds"], "multiply them by 1,000"),
    (seconds_in_labels, ["`label_time` of labels.jsonl is seconds"], "multiply it by 1,000"),
    (csv_events, ["events.jsonl holds CSV", "event_id,event_time"], "one JSON object a line"),
    (csv_labels, ["labels.jsonl holds CSV", "event_id,label"], "one JSON object a line"),
    (json_array, ["events.jsonl holds a JSON array"], "jq -c '.[]'"),
    (
        other_label_fields,
        ["labels of labels.jsonl have no field `event_id`", "id, y, ts"],
        "Labels(..., id=...",
    ),
    (renamed_field, ["have no field `size`", "bytes"], "fields of the Struct"),
    (wrong_type, ["Expected `float`, got `str` - at `$.size`"], "declare the field"),
    (strict_rule, ["the rules refuse most events"], "the rule's bound"),
    (labels_before_events, ["dated before their events"], "time zones"),
    (shuffled_events, ["events.jsonl is not in the order of its times"], "sort it"),
    (few_labels, ["20 labels for 200 events"], "on_timeout"),
    (events_twice, ["labels.jsonl holds events, no labels"], "--labels"),
    (labels_twice, ["events.jsonl holds labels, no events"], "--events"),
    (no_labels, ["labels.jsonl holds no line"], "--labels"),
    (no_events, ["events.jsonl holds no line"], "--events"),
]


@pytest.mark.parametrize(
    ("mistake", "said", "fix"), MISTAKES, ids=lambda value: getattr(value, "__name__", "")
)
def test_a_mistake_ends_with_code_1_its_name_and_its_fix(
    files: Files, mistake: Callable[[Files], None], said: list[str], fix: str
) -> None:
    mistake(files)
    done = files.run()
    assert done.exit_code == 1, done.output
    assert "error: the run failed: " in done.stderr
    causes = [line for line in done.stderr.splitlines() if line.startswith("  cause: ")]
    for words in said:
        assert words in causes[0], done.stderr
    assert fix in done.stderr.split("    fix: ")[1].splitlines()[0], done.stderr
    assert "next:" not in done.stdout


INSIDE: list[tuple[str, Callable[[Row], object], list[str], str]] = [
    ("bool | float", lambda row: row["size"] + 0.5, ["task is binary", "(number)"], "task='regression'"),
    ("bool | None = None", lambda _: None, ["carries a label in the field"], "name the field"),
    ("bool", lambda _: "yes", ["Expected `bool`, got `str` - at `$.label`"], "declare the field"),
]


@pytest.mark.parametrize(("declared", "label", "said", "fix"), INSIDE, ids=lambda value: str(value)[:20])
def test_labels_inside_events_have_mistakes_of_their_own(
    files: Files, declared: str, label: Callable[[Row], object], said: list[str], fix: str
) -> None:
    for row in files.events:
        row["label"] = label(row)
    done = files.run(inside=declared)
    assert done.exit_code == 1, done.output
    (cause, *_) = [line for line in done.stderr.splitlines() if line.startswith("  cause: ")]
    for words in said:
        assert words in cause, done.stderr
    assert fix in done.stderr.split("    fix: ")[1], done.stderr


def test_labels_inside_events_that_are_right_have_no_diagnosis(files: Files) -> None:
    for row in files.events:
        row["label"] = row["size"] > 3
    assert files.run(inside="bool").exit_code == 0


def test_progress_on_a_terminal_shows_rate_and_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    from engine.cli import report

    shown = io.StringIO()
    monkeypatch.setattr(report, "err", Console(file=shown, force_terminal=True, width=100))
    with report.progress(1_000) as advance:
        assert advance is not None
        advance(300, 250)
        advance(300, 500)
    text = shown.getvalue()
    assert "50%" in text
    assert "600 records" in text
    assert re.search(r"records +[\d,]+/s", text)
    assert re.search(r"\d:\d\d:\d\d|-:--:--", text)


def test_swapped_files_are_seen(files: Files) -> None:
    done = files.run(swap=True)
    assert done.exit_code == 1
    assert "the files are swapped: labels.jsonl holds events" not in done.stderr
    assert "the files are swapped: labels.jsonl holds labels, events.jsonl holds events" in done.stderr
    assert "give --events events.jsonl --labels labels.jsonl" in done.stderr


def test_json_carries_the_diagnosis_and_the_exit_code_stays(files: Files) -> None:
    other_ids(files)
    done = files.run("--json")
    assert done.exit_code == 1
    report = json.loads(done.stdout)
    assert report["diagnosis"]["failures"][0] == "no example was learned from 200 events"
    assert "ids do not match" in report["diagnosis"]["causes"][0]["what"]
    assert report["outcomes"]["labels"]["early"] == 200
    assert report["outcomes"]["labels"]["unmatched"] + report["labels_waiting"] == 200


def test_a_good_run_has_no_diagnosis(files: Files) -> None:
    done = files.run()
    assert done.exit_code == 0, done.output
    assert "dead letters: " not in done.output
    assert not done.stderr
    assert json.loads(files.run("--json").stdout)["diagnosis"] is None


def test_a_few_dead_letters_are_shown_with_their_line_and_fail_nothing(files: Files) -> None:
    files.events[7]["size"] = None
    files.events[9]["size"] = "x"
    files.labels[3]["label"] = "maybe"
    files.labels.insert(8, files.labels[5])
    done = files.run()
    assert done.exit_code == 0, done.output
    shown = [line for line in done.stdout.splitlines() if line.startswith("dead letters: ")]
    events, labels = files.folder / "events.jsonl", files.folder / "labels.jsonl"
    assert f"dead letters: 2 decode: Expected `float`, got `null` - at `$.size` ({events} line 8)" in shown
    assert any("1 label: " in line and line.endswith(f"({labels} line 4)") for line in shown)
    assert any("join: duplicate label for event e5" in line and f"{labels} line 9" in line for line in shown)
    report = json.loads(files.run("--json").stdout)
    assert report["dead_letters"] == sum(one["count"] for one in report["dead_letters_by_stage"].values())
    assert report["outcomes"]["predictions_dropped"]["expired"] >= 1


def test_a_late_label_and_one_without_an_event_have_words_of_their_own(files: Files) -> None:
    files.labels[20]["label_time"] += 16_000
    files.labels[50]["event_id"] = "nobody"
    files.labels.sort(key=lambda row: int(row["label_time"]))
    shown = files.run("--json")
    assert shown.exit_code == 0, shown.output
    out = files.folder / "dead.jsonl"
    files.run("--dead-letters-out", str(out))
    said = {json.loads(line)["message"] for line in out.read_text().splitlines()}
    assert "late label for event e20: dated more than 20000 ms after it" in said
    assert "no event nobody waited for this label, nor came within 20000 ms of its time" in said


def test_half_is_not_yet_a_failure_and_more_is(files: Files) -> None:
    for row in files.events[: COUNT // 2]:
        row["size"] = None
    files.labels = files.labels[COUNT // 2 :]
    assert files.run().exit_code == 0
    files.events[COUNT // 2]["size"] = None
    done = files.run()
    assert done.exit_code == 1
    assert "101 of 200 events were refused" in done.stderr


def test_dead_letters_can_be_written_down(files: Files) -> None:
    files.raw["events.jsonl"] = b"\xff\xfe\n" + b"".join(
        json.dumps(row).encode() + b"\n" for row in files.events
    )
    files.labels[0]["label"] = "maybe"
    out = files.folder / "dead.jsonl"
    assert files.run("--dead-letters-out", str(out)).exit_code == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    by_stage = {row["stage"]: row for row in rows}
    assert base64.b64decode(by_stage["decode"]["value_base64"]) == b"\xff\xfe"
    assert (by_stage["decode"]["topic"], by_stage["decode"]["offset"]) == ("diagnosed.packets", 0)
    assert json.loads(by_stage["label"]["value"]) == files.labels[0]
    assert "maybe" in by_stage["label"]["message"]


@pytest.mark.parametrize("packed", [False, True])
def test_progress_reaches_the_size_of_the_files(files: Files, packed: bool) -> None:
    from engine.definition.file import load_pipeline
    from engine.offline.backtest import backtest
    from engine.offline.json_lines import LINES_MAX

    files.run()
    paths = [files.folder / "events.jsonl", files.folder / "labels.jsonl"]
    for path in paths:
        data = path.read_bytes() * (2 + LINES_MAX // COUNT)
        if packed:
            path.with_suffix(".gz").write_bytes(gzip.compress(data))
        else:
            path.write_bytes(data)
    if packed:
        paths = [path.with_suffix(".gz") for path in paths]
    told: list[tuple[int, int]] = []
    backtest(
        load_pipeline(files.folder / "p.py"),
        *paths,
        on_progress=lambda count, read: told.append((count, read)),
    )
    reads = [read for _, read in told]
    assert reads == sorted(reads)
    assert reads[-1] == sum(path.stat().st_size for path in paths)
    assert sum(count for count, _ in told) == 2 * COUNT * (2 + LINES_MAX // COUNT)
