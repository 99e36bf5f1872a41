"""The demo's order of publishing: the older first, labels on ties, each label with its event."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from engine.definition.file import load_pipeline
from loadtest.demo.sample import EXAMPLE_FOLDER, read_sample
from topics.errors import SettingsError

FLIGHTS = load_pipeline(EXAMPLE_FOLDER / "pipeline.py")


def written(folder: Path) -> Path:
    events = [("a", 10), ("b", 20), ("c", 30)]
    labels = [("a", 20), ("c", 35), ("b", 40)]
    with gzip.open(folder / "departures.jsonl.gz", "wt") as out:
        for event_id, time in events:
            print(json.dumps({"event_id": event_id, "event_time": time, "origin": "JFK"}), file=out)
    with gzip.open(folder / "arrivals.jsonl.gz", "wt") as out:
        for event_id, time in labels:
            line = {"event_id": event_id, "label": event_id == "b", "label_time": time, "origin": "JFK"}
            print(json.dumps(line), file=out)
    return folder


def test_events_and_labels_are_one_order_labels_first_on_ties(tmp_path: Path) -> None:
    sample = read_sample(FLIGHTS, written(tmp_path))
    order = [(one.event_id, one.is_label) for one in sample.lines]
    assert order == [("a", False), ("a", True), ("b", False), ("c", False), ("c", True), ("b", True)]
    assert sample.truth == {"a": False, "b": True, "c": False}
    assert all(one.key == b"JFK" and json.loads(one.value) for one in sample.lines)


def test_a_cut_sample_holds_the_labels_of_its_events_only(tmp_path: Path) -> None:
    sample = read_sample(FLIGHTS, written(tmp_path), events_max=2)
    assert sample.events == 2
    assert {one.event_id for one in sample.lines} == {"a", "b"}
    assert len(sample.lines) == 4


def test_the_committed_sample_reads(tmp_path: Path) -> None:
    sample = read_sample(FLIGHTS, EXAMPLE_FOLDER, events_max=2_000)
    assert (sample.events, len(sample.lines), len(sample.truth)) == (2_000, 4_000, 2_000)
    times = [one.time_ms for one in sample.lines]
    assert times == sorted(times)
    with pytest.raises(SettingsError, match=r"make_sample\.py"):
        read_sample(FLIGHTS, tmp_path)
