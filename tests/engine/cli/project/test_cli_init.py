"""`headrace init`: what it writes runs at once, and nothing that is there is touched."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from paths import CHECKOUT
from typer.testing import CliRunner

from engine.cli.main import app
from engine.definition.file import load_pipeline
from engine.settings import ENV_PREFIX, Settings
from topics.codec import Decoded
from topics.errors import HeadraceError, SettingsError
from topics.messages import Record

DATA = CHECKOUT.parent / "shared" / "data"
ORDERS = """order id,when,shop,Total €,class,paid,note
1,1704067200,north,9.5,a,,first
2,1704070800,south,3.25,b,yes,second
3,1704074400,north,4,a,no,third
4,1704078000,south,2.5,c,yes,fourth
"""
FILES = ["README.md", "compose.yaml", "events.jsonl", "pipeline.py", "test_pipeline.py"]


def headrace(*arguments: object) -> Any:
    done = CliRunner().invoke(app, [*map(str, arguments)])
    if isinstance(done.exception, HeadraceError):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.output


def orders(folder: Path) -> Path:
    path = folder / "orders.csv"
    path.write_text(ORDERS)
    return path


def decoded(folder: Path) -> list[Decoded]:
    """Decode every event message of a project with the decoder of its own pipeline."""
    decoder = load_pipeline(folder / "pipeline.py").event_decoder()
    lines = (folder / "events.jsonl").read_bytes().splitlines()
    events = decoder.decode_all(
        [Record("", 0, number, None, None, line) for number, line in enumerate(lines)]
    )
    refused = [event for event in events if not isinstance(event, Decoded)]
    assert not refused, refused[:3]
    return [event for event in events if isinstance(event, Decoded)]


def test_a_project_has_its_files(tmp_path: Path) -> None:
    """That its own test, `check` and `backtest` pass, `tests/engine/cli/project/test_tutorial.py` shows."""
    headrace("init", tmp_path / "shop", "--from", orders(tmp_path), "--label", "class")
    assert sorted(path.name for path in (tmp_path / "shop").iterdir()) == FILES


def test_names_that_are_none_in_python_and_times_in_seconds(tmp_path: Path) -> None:
    said = json.loads(
        headrace("init", tmp_path / "shop", "--from", orders(tmp_path), "--label", "class", "--json")
    )
    assert [field["name"] for field in said["fields"]] == [
        "event_time", "order_id", "shop", "Total", "class_", "note", "paid",
    ]  # fmt: skip
    assert [field["wire"] for field in said["fields"] if field["optional"]] == ["paid"]
    events = decoded(tmp_path / "shop")
    assert [event.event_time for event in events] == [1_704_067_200_000 + 3_600_000 * n for n in range(4)]
    assert [event.label for event in events] == ["a", "b", "a", "c"]
    assert json.loads((tmp_path / "shop" / "events.jsonl").read_text().splitlines()[0]) == {
        "order id": 1, "shop": "north", "Total €": 9.5, "class": "a", "note": "first",
        "event_time": 1_704_067_200_000,
    }  # fmt: skip


@pytest.mark.data
@pytest.mark.parametrize(
    ("file", "more"),
    [
        ("bikes/hour.csv", ()),
        ("elec2/electricity.csv", ()),
        ("sea/sea.csv", ()),
        ("nycflights/demo_q1.csv.gz", ("--label-time", "label_ts", "--without", "dep_time")),
    ],
)
def test_every_row_of_a_real_file_is_an_event_that_its_pipeline_takes(
    tmp_path: Path, file: str, more: tuple[str, ...]
) -> None:
    said = json.loads(headrace("init", tmp_path / "p", "--from", DATA / file, *more, "--json"))
    events = decoded(tmp_path / "p")
    assert len(events) == said["events"]
    assert len({event.event_id for event in events}) == len(events)
    times = [event.event_time for event in events]
    assert times == sorted(times)


def test_labels_of_a_topic_of_their_own_are_decoded_and_joined(tmp_path: Path) -> None:
    folder = tmp_path / "shop"
    made = ("--label", "class", "--label-delay", "2h")
    headrace("init", folder, "--from", orders(tmp_path), *made)
    pipeline = load_pipeline(folder / "pipeline.py")
    assert (pipeline.labels.topic, pipeline.labels.wait) == ("shop.labels", "6h")
    report = json.loads(
        headrace(
            *("backtest", folder / "pipeline.py", "--json"),
            *("--events", folder / "events.jsonl", "--labels", folder / "labels.jsonl"),
        )
    )
    assert (report["events"], report["examples"], report["dead_letters"]) == (4, 4, 0)


def test_nothing_that_is_there_is_touched(tmp_path: Path) -> None:
    kept = tmp_path / "shop" / "pipeline.py"
    kept.parent.mkdir()
    kept.write_text("mine")
    with pytest.raises(SettingsError, match="nothing is overwritten"):
        headrace("init", tmp_path / "shop", "--from", orders(tmp_path), "--label", "class")
    assert [path.name for path in kept.parent.iterdir()] == ["pipeline.py"]
    assert kept.read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["orders.csv", "shop"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("sh op", "--label", "class"), "no name Kafka takes"),
        (("shop",), None),
        (("shop", "--label", "paid"), "has no value in 1 rows"),
        (("shop", "--label", "class", "--label-delay", "1h", "--label-time", "when"), "leave one out"),
        (("shop", "--label", "class", "--label-time", "shop"), "no column of times"),
    ],
)
def test_what_cannot_be_is_told(tmp_path: Path, arguments: tuple[str, ...], said: str | None) -> None:
    name, *more = arguments
    command = ("init", tmp_path / name, "--from", orders(tmp_path), *more)
    if said is None:  # `class` is telling enough
        assert "class" in headrace(*command)
        return
    with pytest.raises(HeadraceError) as caught:
        headrace(*command)
    assert said in str(caught.value)
    assert not (tmp_path / name).exists()


def test_the_compose_file_names_settings_that_exist(tmp_path: Path) -> None:
    headrace("init", tmp_path / "shop", "--from", orders(tmp_path), "--label", "class")
    compose = yaml.safe_load((tmp_path / "shop" / "compose.yaml").read_text())
    repository = yaml.safe_load((CHECKOUT / "docker-compose.yml").read_text())
    services = compose["services"]
    assert set(services) == {"kafka", "topics", "worker"}
    told = ("image", "environment", "ports", "volumes", "healthcheck")  # one Kafka, told twice
    assert all(services["kafka"][what] == repository["services"]["kafka"][what] for what in told)
    for name in services["worker"]["environment"]:
        setting, _, part = name.removeprefix(ENV_PREFIX).lower().partition("__")
        held = getattr(Settings(), setting)
        assert not part or hasattr(held, part)
    used = {volume.split(":")[0] for one in services.values() for volume in one.get("volumes", ())}
    assert used == set(compose["volumes"])
