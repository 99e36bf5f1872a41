"""Every scenario as its command runs it: real worker, embedded broker, one answer for each event."""

from __future__ import annotations

import io
import re
import tempfile
from collections import Counter
from pathlib import Path

import pytest
from rich.console import Console

from engine.definition.file import load_pipeline
from loadtest.demo.command import Scenarios, run
from loadtest.demo.race import TwoThirds
from loadtest.demo.scenarios import SCENARIOS, Scenario

MADE_UP = [scenario for name, scenario in SCENARIOS.items() if name != "flights"]
RATE = 10_000.0


def test_the_command_takes_every_scenario() -> None:
    assert [one.value for one in Scenarios] == list(SCENARIOS)


@pytest.mark.parametrize("scenario", SCENARIOS.values(), ids=list(SCENARIOS))
def test_its_topics_are_those_of_its_file(scenario: Scenario) -> None:
    catalog = load_pipeline(scenario.folder / "pipeline.py").catalog
    assert scenario.catalog.pipeline == catalog.pipeline
    assert scenario.catalog.items() <= catalog.items()


@pytest.mark.parametrize("scenario", MADE_UP, ids=lambda one: one.name)
def test_a_made_up_stream_is_the_same_each_time_and_whole(scenario: Scenario) -> None:
    pipeline = load_pipeline(scenario.folder / "pipeline.py")
    sample, again = (scenario.sample(pipeline, scenario.folder, 1_000) for _ in range(2))
    assert sample == again
    lines = sample.lines
    assert [line.time_ms for line in lines] == sorted(line.time_ms for line in lines)
    counts = Counter((line.event_id, line.is_label) for line in lines)
    assert set(counts.values()) == {1}
    assert len(sample.truth) == sample.events == 1_000
    assert counts.keys() == {(name, is_label) for name in sample.truth for is_label in (True, False)}
    wait_ms = pipeline.labels.wait_ms
    for line in lines:
        assert not line.is_label or 0 < line.time_ms - sample.times[line.event_id] <= wait_ms


def ran(scenario: str, events: int, monkeypatch: pytest.MonkeyPatch, folder: Path) -> str:
    """Run the demo; return what it printed."""
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    out = io.StringIO()
    code = run(
        TwoThirds(RATE), scenario=SCENARIOS[scenario], events=events, console=Console(file=out, width=200)
    )
    text = out.getvalue()
    assert code == 0, text
    assert f"predictions    {events:,}, exactly one for each event" in text
    assert f"labels joined  {events:,} of {events:,}; learned {events:,}" in text
    assert re.search(r"the page of the worker: http://127\.0\.0\.1:\d+/", text.splitlines()[0])
    return text


def test_fraud(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    text = ran("fraud", 400, monkeypatch, tmp_path)
    assert "opening        no champion is named: blend served from the first event on" in text


def test_drift_ends_with_the_swap_that_was_planted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    text = ran("drift", 2_400, monkeypatch, tmp_path)
    (verdict,) = re.findall(
        r"verdict +.* PROMOTED +tree v2, champion was linear v1: .*\(([\d,]+) labels\)", text
    )
    assert int(verdict.replace(",", "")) > 1_200, "it comes after the change, not before"


def test_bandit_answers_by_every_arm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    text = ran("bandit", 600, monkeypatch, tmp_path)
    answered = dict(re.findall(r"(linear|tree|bayes) [\d.]+ over ([\d,]+)", text))
    assert answered.keys() == {"linear", "tree", "bayes"}
    told = sum(int(count.replace(",", "")) for count in answered.values())
    assert 550 < told <= 600, "all but the first answers, which had no opinion"
