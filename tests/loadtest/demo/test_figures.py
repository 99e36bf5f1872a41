"""What the demo publishes, in which order, and what it counts: losses of what was served, label delays."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from engine.definition.file import load_pipeline
from engine.offline.publish import FileLine
from loadtest.bench.ledger import Ledger
from loadtest.demo.figures import EXAMPLE_FOLDER, Figures, ServedAnswer, read_sample
from topics.errors import SettingsError

FLIGHTS = load_pipeline(EXAMPLE_FOLDER / "pipeline.py")


def figures_of(**truth: bool) -> Figures:
    figures = Figures(Ledger("flights"), truth, dict.fromkeys(truth, 1_000))
    for event_id in truth:
        figures.sent(FileLine(False, 1_000, event_id, b"JFK", b""), 1.0)
    return figures


def answer(figures: Figures, event_id: str, model: str, score: float | None) -> None:
    figures.answered(ServedAnswer(f"flights:{event_id}", event_id, 1_000, model, score), b"JFK", 0, 2.0)


def test_the_loss_of_what_was_served_is_kept_by_model() -> None:
    figures = figures_of(a=True, b=False)
    answer(figures, "a", "tree", 0.5)
    assert (figures.ledger.waiting, figures.first_answer_s) == (1, 2.0)
    answer(figures, "b", "linear", 0.1)
    assert figures.ledger.complaint() is None
    assert figures.served["tree"].get() == 0.25
    assert figures.served["linear"].get() == pytest.approx(0.01)


def test_only_the_first_answer_to_an_event_has_a_loss() -> None:
    figures = figures_of(a=True)
    for event_id, score in (("a", None), ("a", 0.5), ("ghost", 0.5)):
        answer(figures, event_id, "tree", score)
    assert figures.answers == 3
    assert not figures.served, "no opinion is no loss"


def test_an_answer_that_lies_elsewhere_is_a_complaint() -> None:
    figures = figures_of(a=True)
    figures.answered(ServedAnswer("flights:a", "a", 1_000, "tree", 0.5), b"LGA", 0, 2.0)
    assert "1 predictions that do not fit their events" in (figures.ledger.complaint() or "")


def test_label_delay_is_the_median_on_the_samples_clock() -> None:
    figures = figures_of(a=True)
    assert figures.label_delay_ms is None
    for delay in (1, 5, 100):
        figures.sent(FileLine(True, 1_000 + delay, "a", b"JFK", b""), 3.0)
    assert (figures.label_delay_ms, figures.simulated_ms) == (5, 1_100)


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
