"""Dashboards are those that the script makes, and every panel asks for what a worker tells."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from itertools import combinations
from pathlib import Path

import pytest
import yaml
from boards import BOARDS, GRAFANA, panels, queries
from paths import CHECKOUT
from promql import labels_left, problems

COLUMNS = 24
ALL = [
    pytest.param(*query, id=f"{name}: {query[0]}")
    for name, board in BOARDS.items()
    for query in queries(board)
]


def test_the_dashboards_are_those_that_the_script_makes(tmp_path: Path) -> None:
    subprocess.run([sys.executable, GRAFANA / "build.py", "--to", tmp_path], check=True, timeout=120)
    made = {path.name: path.read_text() for path in tmp_path.iterdir()}
    kept = {path.name: path.read_text() for path in (GRAFANA / "dashboards").iterdir()}
    assert made == kept, "run .venv/bin/python deploy/grafana/build.py"


@pytest.mark.parametrize(("title", "expression", "legend"), ALL)
def test_a_panel_asks_for_what_a_worker_tells(title: str, expression: str, legend: str) -> None:
    assert problems(expression) == [], title
    named = set(re.findall(r"{{(\w+)}}", legend))
    assert named <= labels_left(expression), "the legend names a label that the result has not"


@pytest.mark.parametrize("name", BOARDS)
def test_a_dashboard_can_be_read(name: str) -> None:
    board = BOARDS[name]
    assert board["uid"] == f"headrace-{name}"
    assert board["editable"] is False
    shown = panels(board)
    assert all(panel["description"] and panel["title"] for panel in shown)
    assert all(panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"} for panel in shown)
    for panel in shown:
        refs = [target["refId"] for target in panel["targets"]]
        assert all(refs), "Grafana gives answers back by them"
        assert len(set(refs)) == len(refs)
    titles = [(panel["type"], panel["title"]) for panel in board["panels"]]
    assert len(set(titles)) == len(titles)
    places = [panel["gridPos"] for panel in board["panels"]]
    assert all(place["x"] + place["w"] <= COLUMNS for place in places)
    for one, other in combinations(places, 2):
        apart = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        above = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert apart or above, "two panels lie over each other"


@pytest.mark.parametrize("name", BOARDS)
def test_what_is_chosen_at_the_top_is_a_label_and_is_used(name: str) -> None:
    board = BOARDS[name]
    asked = json.dumps([expression for _, expression, _ in queries(board)])
    for variable in board["templating"]["list"]:
        if variable["type"] == "query":
            series, label = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"]).groups()  # type: ignore[union-attr]
            assert problems(series) == []
            assert label in labels_left(series)
            assert f'=~\\"${variable["name"]}\\"' in asked
            assert variable["allValue"] == ".*"


def test_grafana_is_told_where_they_are() -> None:
    provisioning = GRAFANA / "provisioning"
    (provider,) = yaml.safe_load((provisioning / "dashboards/headrace.yml").read_text())["providers"]
    assert provider["allowUiUpdates"] is False
    sources = yaml.safe_load((provisioning / "datasources/datasources.yml").read_text())["datasources"]
    assert [source["type"] for source in sources if source.get("isDefault")] == ["prometheus"]
    scraped = yaml.safe_load((CHECKOUT / "deploy/prometheus/prometheus.yml").read_text())["global"]
    assert sources[0]["jsonData"]["timeInterval"] == scraped["scrape_interval"]
