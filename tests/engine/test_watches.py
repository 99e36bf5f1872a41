"""What a worker's log says of itself: counters that grew, refused records, labels that find no event."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from running import FLIGHTS
from structlog.testing import capture_logs

from engine import Labels
from engine.definition.file import load_pipeline
from engine.metrics import COUNTERS, Metrics
from engine.settings import Settings
from engine.watches import (
    EVERY_S,
    LABELS_MIN,
    UNMATCHED_SHARE_MAX,
    CountWatch,
    LabelWatch,
    LetterWatch,
    counted_lines,
    unmatched,
)
from engine.worker.loop import Worker
from topics.headers import dead_letter
from topics.messages import Outgoing, Record

Counts = Counter[tuple[str, str]]


def test_a_counter_that_grew_is_told_at_once_and_the_next_together_a_minute_later() -> None:
    watch = CountWatch(counted_lines(Labels("keys.labels", wait="1h")))
    counts = Counts()
    with capture_logs() as lines:
        watch.tell(counts, 0.0)
        counts["key_mismatches", "event"] = 1
        watch.tell(counts, 1.0)
        counts["key_mismatches", "event"] = 5
        counts["key_mismatches", "label"] = 2
        watch.tell(counts, 60.9)
        assert len(lines) == 1
        watch.tell(counts, 61.0)
        watch.tell(counts, 500.0)
    assert [(line["events"], line["labels"]) for line in lines] == [(1, 0), (4, 2)]
    assert all("headrace send TOPIC FILE --key" in line["fix"] for line in lines)
    assert {line["log_level"] for line in lines} == {"warning"}


def letter(offset: int, stage: str) -> Outgoing:
    refused = Record("e", 3, offset, None, None, b"x")
    headers = dead_letter(refused, stage=stage, exception="ValueError", message=f"wrong {offset}")
    return Outgoing("dead-letters", None, None, b"x", headers, 0)


def test_the_first_letter_is_told_at_once_and_a_flood_once_a_minute() -> None:
    watch, nothing = LetterWatch("p.dead-letters"), Counts()
    with capture_logs() as lines:
        watch.tell(nothing, 0.0)
        assert lines == []
        watch.see([letter(7, "decode")])
        watch.tell(nothing, 1.0)
        for offset in range(100, 200):
            watch.see([letter(offset, "label" if offset % 4 else "decode")])
            watch.tell(nothing, 2.0)
        assert len(lines) == 1
        watch.tell(nothing, 61.0)
        watch.tell(nothing, 200.0)
    first, flood = lines
    assert first["log_level"] == flood["log_level"] == "warning"
    place = "topic e partition 3 offset {}"
    assert first["stages"] == {"decode": {"count": 1, "first": "wrong 7", "place": place.format(7)}}
    assert (first["count"], flood["count"]) == (1, 100)
    assert flood["stages"] == {
        "decode": {"count": 25, "first": "wrong 100", "place": place.format(100)},
        "label": {"count": 75, "first": "wrong 101", "place": place.format(101)},
    }
    assert "headrace tail p.dead-letters" in first["fix"]


def counts(*, expired: int = 0, given_up: int = 0, **labels: int) -> Counts:
    found: Counts = Counter({("labels", outcome): count for outcome, count in labels.items()})
    found["predictions_dropped", "expired"] = expired
    found["predictions_dropped", "given_up"] = given_up
    return found


@given(st.integers(0, 500), st.integers(0, 500), st.integers(0, 500), st.integers(0, 500))
def test_it_is_said_from_five_percent_on(joined: int, alone: int, late: int, twice: int) -> None:
    found = unmatched(counts(joined=joined, unmatched=alone, late=late, duplicate=twice))
    labels, lost = joined + alone + late + twice, alone + late
    if labels < LABELS_MIN or lost <= UNMATCHED_SHARE_MAX * labels:
        assert found is None
    else:
        assert found is not None
        assert (found.labels, found.unmatched) == (labels, lost)
        assert found.share == pytest.approx(lost / labels, abs=1e-4)


@pytest.mark.parametrize(
    ("span", "cause", "fix"),
    [
        (counts(joined=10, unmatched=90, expired=88), "had waited for `wait`", "raise Labels(wait=...)"),
        (counts(joined=10, unmatched=90, implicit=88), "had waited for `wait`", "raise Labels(wait=...)"),
        (counts(joined=10, late=90), "had waited for `wait`", "raise Labels(wait=...)"),
        (counts(joined=10, unmatched=90), "no event with their ids", "compare the id fields"),
        (counts(joined=10, unmatched=90, given_up=95), "given up", "raise Labels(pending_max=...)"),
        (counts(early=400), "no event with the id of any", "compare the id fields"),
    ],
)
def test_the_likely_cause_and_what_to_do(span: Counts, cause: str, fix: str) -> None:
    found = unmatched(span)
    assert found is not None
    assert cause in found.cause
    assert fix in found.fix


@pytest.mark.parametrize(
    "span",
    [counts(), counts(joined=3, early=400), counts(early=LABELS_MIN - 1), counts(implicit=900, unmatched=3)],
)
def test_few_labels_and_labels_that_only_wait_say_nothing(span: Counts) -> None:
    assert unmatched(span) is None


def test_it_is_said_again_for_as_long_as_it_lasts_and_then_no_more() -> None:
    watch, running = LabelWatch(), Counts()
    said = []
    for second in range(600):
        running["labels", "joined"] += 10
        running["labels", "unmatched"] += 10 * (second < 200)
        if (found := watch.look(float(second), running)) is not None:
            said.append((second, found.labels, found.unmatched))
    every = int(EVERY_S)
    assert said == [
        (every, 20 * (every + 1), 10 * (every + 1)),
        (2 * every, 20 * every, 10 * every),
        (3 * every, 20 * every, 10 * every),
        (4 * every, 10 * every + 190, 190),
    ]


def test_the_span_grows_until_a_share_means_something() -> None:
    watch, running = LabelWatch(), Counts()
    said = []
    for minute in range(100):
        running["labels", "unmatched"] += 1
        if (found := watch.look(minute * EVERY_S, running)) is not None:
            said.append(found.unmatched)
    assert said == [LABELS_MIN] * (100 // LABELS_MIN)


def test_the_counts_looked_at_are_those_that_scorers_keep() -> None:
    known = {
        (family.counted_as, value)
        for family in COUNTERS
        if family.counted_as in {"labels", "predictions_dropped"}
        for value in family.values(None)  # type: ignore[arg-type]
    }
    assert counts(joined=1, early=1, late=1, duplicate=1, conflicting=1, unmatched=1).keys() <= known


def test_a_worker_warns_with_the_figures(tmp_path: Path) -> None:
    pipeline = load_pipeline(FLIGHTS / "pipeline.py")
    metrics = Metrics(pipeline)
    running = Worker(pipeline, Settings(state_dir=tmp_path), metrics)
    with capture_logs() as lines:
        for _ in range(3):
            running._count()
            metrics.counts.update(counts(joined=60, unmatched=40))
            running._turned_s += EVERY_S / 2
    (line,) = [line for line in lines if line["event"] == "labels find no prediction"]
    assert line["log_level"] == "warning"
    assert (line["labels"], line["unmatched"], line["share"]) == (200, 80, 0.4)
    assert line["cause"]
    assert line["fix"]
