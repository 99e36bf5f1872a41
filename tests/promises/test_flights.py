"""The flights sample: complete, in arrival order, free of what is known only later, and reproducible."""

from __future__ import annotations

import csv
import gzip
import json
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from paths import CHECKOUT

FLIGHTS = CHECKOUT / "examples" / "flights"
HOUR_MS = 3_600_000

Lines = list[dict[str, Any]]


def read(name: str) -> Lines:
    with gzip.open(FLIGHTS / f"{name}.jsonl.gz", "rt") as lines:
        return [json.loads(line) for line in lines]


@pytest.fixture(scope="module")
def events() -> Lines:
    return read("departures")


@pytest.fixture(scope="module")
def labels() -> Lines:
    return read("arrivals")


@pytest.fixture(scope="module")
def maker() -> dict[str, Any]:
    return runpy.run_path(str(FLIGHTS / "make_sample.py"))


def row(**changes: str) -> dict[str, str]:
    known = {
        "year": "2013",
        "month": "1",
        "day": "1",
        "sched_dep_time": "515",
        "carrier": "UA",
        "flight": "1545",
    }
    later = {"dep_delay": "2", "arr_delay": "11", "air_time": "227", "dep_time": "517", "arr_time": "830"}
    return known | later | {"origin": "EWR", "dest": "IAH", "distance": "1400"} | changes


def test_every_departure_has_exactly_one_label(events: Lines, labels: Lines) -> None:
    ids = [event["event_id"] for event in events]
    assert len(ids) == len(set(ids)) == 80_789
    assert sorted(ids) == sorted(label["event_id"] for label in labels)
    assert sum(label["label"] for label in labels) == 20_671


def test_events_hold_only_what_is_known_at_scheduled_departure(events: Lines) -> None:
    known = {"event_id", "event_time", "carrier", "origin", "dest", "distance"}
    assert all(event.keys() == known for event in events)


def test_labels_come_later_under_the_key_of_their_event(events: Lines, labels: Lines) -> None:
    event_of = {event["event_id"]: event for event in events}
    delays = []
    for label in labels:
        event = event_of[label["event_id"]]
        assert label.keys() == {"event_id", "label", "label_time", "origin"}
        assert label["origin"] == event["origin"]
        delays.append(label["label_time"] - event["event_time"])
    assert min(delays) > 0
    assert 3.3 * HOUR_MS < sum(delays) / len(delays) < 3.5 * HOUR_MS
    assert max(delays) < 36 * HOUR_MS, "the pipeline waits 36 hours"


def test_both_files_are_in_arrival_order(events: Lines, labels: Lines) -> None:
    order = [(event["event_time"], event["event_id"]) for event in events]
    assert order == sorted(order)
    place = {event["event_id"]: number for number, event in enumerate(events)}
    landed = [(label["label_time"], place[label["event_id"]]) for label in labels]
    assert landed == sorted(landed)


def test_a_flight_becomes_an_event_and_a_label(maker: dict[str, Any]) -> None:
    event, label = maker["messages"](row())
    assert event["event_time"] == 1_357_017_300_000  # 2013-01-01 05:15
    assert label["label"] is False
    assert label["label_time"] - event["event_time"] == (2 + 227 + 35) * 60_000


@pytest.mark.parametrize(
    ("changes", "late"),
    [
        ({"arr_delay": "15"}, False),
        ({"arr_delay": "16"}, True),
        ({"arr_delay": "NA"}, True),
        ({"arr_delay": ""}, True),
    ],
)
def test_late_means_more_than_fifteen_minutes_or_never(
    maker: dict[str, Any], changes: dict[str, str], late: bool
) -> None:
    assert maker["messages"](row(**changes))[1]["label"] is late


def test_what_is_known_later_cannot_change_an_event(maker: dict[str, Any]) -> None:
    messages: Callable[[dict[str, str]], tuple[Any, Any]] = maker["messages"]
    storm = row(dep_delay="400", arr_delay="390", air_time="300", dep_time="1155", arr_time="1500")
    assert messages(storm)[0] == messages(row())[0]


@pytest.mark.data
def test_the_sample_is_made_again_to_the_byte(maker: dict[str, Any], tmp_path: Path, data_dir: Path) -> None:
    with maker["open_table"](data_dir / "nycflights" / "demo_q1.csv.gz") as table:
        rows = list(csv.DictReader(table))
    events, labels = maker["sample"](iter(reversed(rows)))
    for name, lines in (("departures", events), ("arrivals", labels)):
        maker["write"](tmp_path / name, lines)
        assert gzip.decompress((tmp_path / name).read_bytes()) == gzip.decompress(
            (FLIGHTS / f"{name}.jsonl.gz").read_bytes()
        ), "the uncompressed bytes: another zlib may pack them differently"


def test_the_race_over_the_whole_quarter_reaches_its_figures() -> None:
    """River's figures for the same three models on the same features, and a blend better than each."""
    from engine.definition.file import load_pipeline
    from engine.offline.backtest import backtest

    pipeline = load_pipeline(FLIGHTS / "pipeline.py")
    report = backtest(pipeline, FLIGHTS / "departures.jsonl.gz", FLIGHTS / "arrivals.jsonl.gz", warmup=10_000)
    roc_auc = {"linear": 0.664, "tree": 0.616, "adaptive": 0.590}
    models = {name: report["models"][name] for name in roc_auc}
    assert {name: one["ROCAUC"] for name, one in models.items()} == pytest.approx(roc_auc, abs=0.003)
    assert report["served"]["Brier"] == pytest.approx(0.1802, abs=0.0025)
    assert report["served"]["Brier"] < 0.96 * min(one["Brier"] for one in models.values())
    assert (report["champion"], report["swaps"]) == ("blend", []), "nothing is proven better than the blend"
    assert report["dead_letters"] == 0
