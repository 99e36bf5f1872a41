"""`headrace drift list` says what a backtest reports, and by its exit code whether a shift lasts."""

from __future__ import annotations

import json
import random
import textwrap
from pathlib import Path

import pytest
from typer.testing import CliRunner

from engine.cli.main import app
from topics.errors import SettingsError

SOURCE = """
    from msgspec import Struct
    from river import drift, linear_model

    from engine import Drift, Labels, Pipeline, Topic, Watch
    from operators import field


    class Reading(Struct):
        event_id: str
        event_time: int
        sensor: str
        value: float
        high: bool


    pipeline = Pipeline(
        name="readings",
        events=Topic("readings", Reading, key="sensor"),
        labels=Labels(field="high"),
        features={"value": field("value")},
        models={"linear": linear_model.LogisticRegression()},
        SETTINGS
    )
"""
WATCH = 'watch=Watch(block="10m", reference_span="140m", false_alarm_every="7d", rows_max=50),'
DETECTOR = 'drift=[Drift(drift.ADWIN(), on="label")],'
BLOCK_MS, PER_BLOCK = 600_000, 60
MOVED, BACK, BLOCKS = 33, 38, 60
FIELDS = (
    "verdict", "since", "until", "features", "pace", "reference_loss", "estimated_loss", "true_loss", "act"
)  # fmt: skip
LASTED = (MOVED + 4) * PER_BLOCK
"""Events up to which it lasts."""


def lines(count: int) -> str:
    rng = random.Random(7)
    rows = []
    for number in range(count):
        value = rng.gauss(0, 1) + (2 if MOVED <= number // PER_BLOCK < BACK else 0)
        time = 1_700_000_400_000 + number * BLOCK_MS // PER_BLOCK
        row = {"event_id": f"e{number}", "event_time": time, "sensor": "s", "value": value, "high": value > 0}
        rows.append(json.dumps(row))
    return "\n".join(rows)


def recorded(folder: Path, count: int, settings: str) -> tuple[str, str, dict[str, object]]:
    """Return the file of a pipeline, a recording of some events, and what the backtest says of them."""
    file, events, recording = folder / "readings.py", folder / "events.jsonl", folder / "recording"
    file.write_text(textwrap.dedent(SOURCE.replace("SETTINGS", settings)))
    events.write_text(lines(count))
    arguments = ["backtest", str(file), "--events", str(events), "--record", str(recording), "--json"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    return str(file), str(recording), json.loads(result.output)


def of_log(decisions: Path) -> dict[str, object]:
    """Return the verdict that stands last in a decisions log, by the fields that messages.md names."""
    logged = [json.loads(line) for line in decisions.read_text().splitlines()]
    found = [one["value"] for one in logged if one["value"]["type"].startswith("shift.")]
    last = found[-1]
    return {name: last["evidence"].get(name) for name in FIELDS} | {"features": last.get("features", [])}


@pytest.mark.parametrize(("count", "code"), [(LASTED, 4), (BLOCKS * PER_BLOCK, 0)])
def test_the_verdict_of_the_backtest_stands_in_the_log(tmp_path: Path, count: int, code: int) -> None:
    file, recording, report = recorded(tmp_path, count, WATCH + DETECTOR)
    asked = ["drift", "list", file, "--recording", recording]
    result = CliRunner().invoke(app, [*asked, "--json"])
    assert result.exit_code == code, result.output
    told = json.loads(result.output)
    assert told["verdicts"] == report["verdicts"]
    assert told["drifts"] == report["drifts"]
    assert report["drifts"]
    (verdict,) = told["verdicts"]
    assert verdict == of_log(Path(recording) / "decisions.jsonl")
    assert told["lasts"] == (verdict if code else None)
    shown = CliRunner().invoke(app, asked)
    assert shown.exit_code == code
    assert ("no shift lasts" in shown.output) is not bool(code)
    assert verdict["verdict"] in shown.output
    assert "next: headrace models history" in shown.output


def test_a_pipeline_that_watches_for_nothing_is_told_how_to(tmp_path: Path) -> None:
    file, recording, _ = recorded(tmp_path, 200, "drift=(),")
    result = CliRunner().invoke(app, ["drift", "list", file, "--recording", recording])
    assert isinstance(result.exception, SettingsError)
    assert "watch=Watch()" in str(result.exception)
