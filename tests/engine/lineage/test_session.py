"""The session that the documentation shows, run line by line over the first flights of the sample."""

import gzip
import itertools
import json
import re
import shlex
from pathlib import Path

import pytest
from paths import CHECKOUT
from typer.testing import CliRunner

from engine.cli.main import app

FLIGHTS = CHECKOUT / "examples" / "flights"
EVENTS = 700


def session() -> list[list[str]]:
    """The commands of the section on versions, as words."""
    section = (CHECKOUT / "docs" / "operations.md").read_text().partition("\n## Versions\n")[2]
    (block,) = re.findall(r"```console\n(.*?)```", section.partition("\n## ")[0], re.DOTALL)
    lines = block.replace("\\\n", " ").splitlines()
    return [shlex.split(line.removeprefix("$ headrace ")) for line in lines]


def first_flights(folder: Path) -> None:
    with gzip.open(FLIGHTS / "departures.jsonl.gz", "rt") as lines:
        departures = list(itertools.islice(lines, EVENTS))
    ids = {json.loads(line)["event_id"] for line in departures}
    with gzip.open(FLIGHTS / "arrivals.jsonl.gz", "rt") as lines:
        arrivals = [line for line in lines if json.loads(line)["event_id"] in ids]
    (folder / "departures.jsonl").write_text("".join(departures))
    (folder / "arrivals.jsonl").write_text("".join(arrivals))


def test_the_session_shown_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first_flights(tmp_path)
    (tmp_path / "examples").symlink_to(CHECKOUT / "examples")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HEADRACE_SIGNING_KEY", "sixteen bytes or more")
    said = {}
    for words in session():
        done = CliRunner().invoke(app, words)
        assert done.exit_code == 0, (words, done.output, done.exception)
        said[" ".join(words[:2])] = done.output
    assert "wrote linear.model: linear 3@500" in said["models export"]
    assert "equal" in said["models reproduce"]
    assert "HoeffdingAdaptiveTreeClassifier" in said["models list"]
    assert "0101-B64-JFK-0937" in said["explain examples/flights/pipeline.py"]
    assert Path("card.html").read_text().startswith("<!doctype html>")
