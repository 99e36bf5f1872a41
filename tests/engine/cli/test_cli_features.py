"""The catalogue as a user types for it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from paths import CHECKOUT
from test_cli import headrace
from typer.testing import CliRunner

from engine.cli.features import COLUMNS, catalogue, features_app, markdown
from engine.definition.file import load_pipeline

FLIGHTS = CHECKOUT / "examples" / "flights"
FILE = str(FLIGHTS / "pipeline.py")


def typed(*arguments: str) -> str:
    done = CliRunner().invoke(features_app, arguments)
    assert done.exit_code == 0, done.output
    return done.output


def test_a_list_is_one_line_a_feature() -> None:
    heading, *rows = [line.split("\t") for line in typed("list", FILE).splitlines()]
    assert heading == list(COLUMNS)
    assert len(rows) == 21
    (row,) = [row for row in rows if row[0] == "dest_late_24h"]
    definition = 'by("dest").mean(label, "1d").default(0.0)'
    assert row[2:7] == ["float", "dest", "1d", definition, "operations"]
    assert len(row[1]) == 12
    assert len(row[7]) > 10


def test_one_feature_is_shown_whole() -> None:
    shown = dict(line.split(maxsplit=1) for line in typed("show", FILE, "hour").splitlines() if " " in line)
    assert shown["definition"] == 'field("event_time").hour()'
    assert (shown["type"], shown["kind"], shown["source"]) == ("int", "hour", "event")
    assert json.loads(typed("show", FILE, "hour", "--json"))["version"] == shown["version"]


def test_list_and_export_give_the_same_object() -> None:
    found = json.loads(typed("export", FILE, "--json"))
    assert found == json.loads(typed("list", FILE, "--json"))
    assert found["pipeline"] == "flights"
    entry = found["features"][-1]
    assert entry["source_fields"] == []
    assert (entry["name"], entry["key"], entry["window_ms"]) == ("all_landed_24h", "all", 86_400_000)


def test_the_page_beside_the_example_is_the_catalogue() -> None:
    """Make it again: headrace features export examples/flights/pipeline.py --markdown > features.md."""
    assert typed("export", FILE, "--markdown") == (FLIGHTS / "features.md").read_text()


def test_a_table_survives_bars_and_line_breaks(tmp_path: Path) -> None:
    file = tmp_path / "pay.py"
    file.write_text(
        "from msgspec import Struct\n"
        "from river import linear_model\n"
        "from engine import Labels, Pipeline, Topic\n"
        "from operators import by, field\n"
        "class Payment(Struct):\n    event_id: str\n    event_time: int\n    card: str\n    amount: float\n"
        "odd = (field('amount') < 1) | (field('amount') > 9)\n"
        "pipeline = Pipeline(name='pay', events=Topic('pay.events', Payment, key='card'),\n"
        "    labels=Labels('pay.labels', wait='1d'), models={'lr': linear_model.LogisticRegression()},\n"
        "    features={'odd': by('card').count('1h', where=odd)\n"
        "        .describe('very\\nodd\\t| so', owner='[b]x')})\n"
    )
    pipeline = load_pipeline(file)
    row = markdown(pipeline).splitlines()[-1]
    assert row.replace(r"\|", "").count("|") == 10
    assert r"very odd \| so" in row
    assert typed("list", str(file)).splitlines()[1].endswith("\t[b]x\tvery odd | so")
    assert catalogue(pipeline)["features"][0]["description"] == "very\nodd\t| so"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["show", FILE, "dest_late_25h"], "it has dest_late_24h"),
        (["export", FILE], "give either --markdown or --json"),
        (["export", FILE, "--markdown", "--json"], "give either --markdown or --json"),
    ],
)
def test_what_is_typed_wrong_is_exit_code_2(arguments: list[str], said: str) -> None:
    done = headrace("features", *arguments)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_on_a_terminal_it_is_a_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "300")
    shown = typed("list", FILE)
    assert "\t" not in shown
    assert "21 features, version" in shown
