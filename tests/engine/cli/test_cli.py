"""The command: exit codes, one-line errors with a fix, JSON for scripts."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from paths import CHECKOUT

from engine.definition.file import load_pipeline
from engine.settings import KafkaSettings
from topics.errors import DefinitionError

REPORT = [
    "events",
    "labels",
    "examples",
    "seconds",
    "champion",
    "judged_by",
    "baselines",
    "on_own_rows",
    "losses",
    "rows",
    "rows_left_out",
    "openings",
    "swaps",
    "starts",
    "drifts",
    "verdicts",
    "rules",
    "alerts",
    "function_failures",
    "outcomes",
    "labels_waiting",
    "slices",
    "calibration",
    "completeness",
    "estimate",
    "weak",
    "served",
    "models",
    "quarantined",
    "correlated",
    "model_seconds",
    "dead_letters",
    "dead_letters_by_stage",
    "diagnosis",
]
FLIGHTS = CHECKOUT / "examples" / "flights"


def headrace(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    import os

    return subprocess.run(
        [sys.executable, "-m", "headrace", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, **env},
        check=False,
    )


def test_check_lists_every_feature_with_its_window() -> None:
    done = headrace("check", str(FLIGHTS / "pipeline.py"), "--json")
    assert done.returncode == 0, done.stderr
    described = json.loads(done.stdout)
    assert described["champion"] == "blend"
    rows = {row["name"]: row for row in described["features"]}
    assert rows["dest_late_24h"]["window_ms"] == 86_400_000
    assert rows["dest_late_24h"]["source"] == "labels"
    assert len(rows) == 21


def test_check_prints_what_is_computed_where_on_several_partitions(tmp_path: Path) -> None:
    text = (FLIGHTS / "pipeline.py").read_text()
    assert 'key="origin"' in text
    (tmp_path / "p.py").write_text(text.replace('key="origin"', 'key="origin", partitions=4', 1))
    described = json.loads(headrace("check", str(tmp_path / "p.py"), "--json").stdout)
    stages = {row["key"]: row["partitions"] for row in described["stages"]}
    assert stages == {"the topic's key": 4, "carrier": 4, "dest": 4, "all events": 1}
    windows = [window for row in described["stages"] for window in row["windows"]]
    wanted = [row for row in described["features"] if row["window_ms"]]
    assert len(windows) == len(set(windows)) == len(wanted)
    printed = headrace("check", str(tmp_path / "p.py")).stdout
    assert "flights.departures -> flights.rekey -> flights.rekeyed" in printed
    assert "re-keying" not in headrace("check", str(FLIGHTS / "pipeline.py")).stdout


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "there is no file"),
        ("x = 1\n", "has no `pipeline`"),
        ("import nothing_like_it\n", "does not run: ModuleNotFoundError"),
        ("from engine import Labels\nLabels()\n", "labels need a topic or a field"),
    ],
)
def test_a_file_that_holds_no_pipeline_is_refused(tmp_path: Path, content: str | None, said: str) -> None:
    file = tmp_path / "mine.py"
    if content is not None:
        file.write_text(content)
    with pytest.raises(DefinitionError) as caught:
        load_pipeline(file)
    assert said in caught.value.message
    assert caught.value.hint


def test_errors_are_one_message_with_a_fix_and_exit_code_2(tmp_path: Path) -> None:
    done = headrace("check", str(tmp_path / "none.py"))
    assert done.returncode == 2
    assert done.stderr.startswith("error: there is no file")
    assert "fix:" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_backtest_of_the_sample_prints_a_table_and_writes_both_files(tmp_path: Path) -> None:
    import gzip

    for name in ("departures", "arrivals"):
        with gzip.open(FLIGHTS / f"{name}.jsonl.gz", "rb") as source:
            (tmp_path / f"{name}.jsonl").write_bytes(b"".join(source.readline() for _ in range(400)))
    done = headrace(
        "backtest",
        str(FLIGHTS / "pipeline.py"),
        *("--events", str(tmp_path / "departures.jsonl"), "--labels", str(tmp_path / "arrivals.jsonl")),
        *("--features-out", str(tmp_path / "F.jsonl"), "--predictions-out", str(tmp_path / "P.jsonl")),
        "--json",
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert set(report) == set(REPORT)
    assert (report["events"], report["labels"]["read"], report["dead_letters"]) == (400, 400, 0)
    assert set(report["models"]) == {"adaptive", "tree", "linear", "blend"}
    rows = [json.loads(line) for line in (tmp_path / "F.jsonl").read_text().splitlines()]
    answers = [json.loads(line) for line in (tmp_path / "P.jsonl").read_text().splitlines()]
    assert [row["event_id"] for row in rows] == [answer["event_id"] for answer in answers]
    assert len(rows) == 400
    assert rows[-1]["features"] == answers[-1]["features"]
    assert set(answers[-1]["scores"]) == {"adaptive", "tree", "linear", "blend"}


def test_labels_where_none_are_wanted_and_none_where_they_are() -> None:
    done = headrace(
        "backtest", str(FLIGHTS / "pipeline.py"), "--events", str(FLIGHTS / "departures.jsonl.gz")
    )
    assert done.returncode == 2
    assert "give --labels FILE" in done.stderr


def test_topics_send_and_tail(tansu: KafkaSettings, tmp_path: Path) -> None:
    env = {"HEADRACE_KAFKA__BOOTSTRAP_SERVERS": tansu.bootstrap_servers}
    env |= {"HEADRACE_KAFKA__ENABLE_IDEMPOTENCE": "false", "HEADRACE_KAFKA__REPLICATION_FACTOR": "1"}
    created = headrace("topics", "create", str(FLIGHTS / "pipeline.py"), **env)
    assert created.returncode == 0, created.stderr
    assert "flights.predictions" in created.stdout
    lines = tmp_path / "lines.jsonl"
    lines.write_text('{"event_id":"a","origin":"JFK","at":1357017300000}\nnot json\n')
    sent = headrace("send", "flights.departures", str(lines), "--key", "origin", "--time", "at", **env)
    assert "sent 2 records" in sent.stdout, sent.stderr
    shown = headrace("tail", "flights.departures", "--from-beginning", "-n", "2", **env)
    rows = [json.loads(line) for line in shown.stdout.splitlines()]
    assert [(row["key"], row["value"]) for row in rows] == [
        ("JFK", {"event_id": "a", "origin": "JFK", "at": 1357017300000}),
        (None, "not json"),
    ]
    assert rows[0]["timestamp"] == 1_357_017_300_000


def test_commands_that_load_no_pipeline_start_without_river() -> None:
    said = subprocess.run(
        [sys.executable, "-c", "import engine.cli.main, sys; print('river' in sys.modules)"],
        capture_output=True,
        check=True,
        cwd=CHECKOUT,
    )
    assert said.stdout == b"False\n"


def test_a_command_of_another_room_that_is_not_registered_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib import metadata

    from typer.testing import CliRunner

    from engine.cli.main import app

    monkeypatch.setattr(metadata, "entry_points", lambda **_: ())
    for name in ("demo", "bench"):
        done = CliRunner().invoke(app, [name, "--rate", "5"])
        assert f"headrace[{name}]" in str(done.exception)
