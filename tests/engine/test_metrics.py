"""What a scrape holds: from its first moment on, and from which worker."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from paths import CHECKOUT
from prometheus_client.parser import text_string_to_metric_families
from river import drift
from structlog.testing import capture_logs

from engine import Drift, Pipeline, Rule
from engine.definition.file import load_pipeline
from engine.metrics import COUNTERS, Metrics
from engine.offline.backtest import Backtest
from engine.offline.json_lines import read_lines
from engine.settings import Settings
from engine.worker.follower import Follower
from operators import apply, field
from operators.stopwatch import Stopwatch
from topics.messages import Decision, Example, Record

ROOT = CHECKOUT
FLIGHTS = ROOT / "examples/flights"
REFERENCE = (ROOT / "docs/metrics.md").read_text()


def half(value: float) -> float:
    return value / 2


@pytest.fixture(scope="module")
def flights() -> Pipeline:
    return load_pipeline(FLIGHTS / "pipeline.py")


@pytest.fixture(scope="module")
def pipeline(flights: Pipeline) -> Pipeline:
    """Flights with everything that has series of its own."""
    return replace(
        flights,
        features={**flights.features, "half": apply(half, field("distance"), returns=float)},
        drift=[Drift(drift.ADWIN()), Drift(drift.PageHinkley(), on="feature:distance")],
        rules=[Rule(field("distance"), between=(0, 9_000), action="clip", name="far away")],
    )


def samples(metrics: Metrics) -> dict[tuple[str, tuple[str, ...]], float]:
    return {
        (sample.name, tuple(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(metrics.exposition().decode())
        for sample in family.samples
    }


def test_every_series_stands_at_zero_before_anything_happens(pipeline: Pipeline) -> None:
    found = samples(Metrics(pipeline))
    for name, *labels in (
        ("dead_letters", "decode"),
        ("labels", "unmatched"),
        ("predictions", "prior"),
        ("model_failures", "linear", "score"),
        ("model_failures", "linear", "learn"),
        ("promotions", "quarantine"),
        ("drift_detections", "ADWIN", "worse", "loss"),
        ("drift_detections", "ADWIN", "better", "loss"),
        ("drift_detections", "PageHinkley", "worse", "feature:distance"),
        ("rule_hits", "clip", "far away"),
        ("function_failures", f"{__name__}:half"),
        ("alerts", "firing", "quarantined"),
    ):
        assert found[f"headrace_{name}_total", tuple(labels)] == 0
    ours = {labels for (name, labels), value in found.items() if name.startswith("headrace") and value}
    assert len(ours) == 1, "only build_info is not zero"


def test_nothing_is_counted_that_was_not_there_at_zero(pipeline: Pipeline) -> None:
    """Flights with their arrivals, and what goes wrong in a day: repeats, late ones, garbage, strangers."""
    departures = next(read_lines(FLIGHTS / "departures.jsonl.gz", "flights.departures"))
    arrivals = next(read_lines(FLIGHTS / "arrivals.jsonl.gz", "flights.arrivals"))
    broken = (b"[]", (departures[0].value or b"").replace(b"}", b', "gate": 1}'))
    stranger = (arrivals[0].value or b"").replace(b'"event_id":"', b'"event_id":"x')
    run = Backtest(pipeline)
    run.play(
        [departures, *([replaced(departures[-1], value)] for value in (departures[0].value, *broken))],
        [[*arrivals, replaced(arrivals[-1], b"{}"), replaced(arrivals[-1], stranger), arrivals[-1]]],
    )
    counts = run.run.scorer.counts
    assert len(counts) >= 8, counts
    metrics = Metrics(pipeline)
    assert counts.keys() <= metrics.counts.keys()
    metrics.absorb(counts)
    page = metrics.exposition().decode()
    events = [json.loads(record.value or b"") for record in departures]
    told = {str(event[name]) for event in events for name in ("event_id", "origin", "dest", "carrier")}
    assert not {value for value in told if f'"{value}"' in page}, "of one event, or one key"


def replaced(record: Record, value: bytes | None) -> Record:
    return msgspec.structs.replace(record, value=value)


def test_latencies_are_told_apart_up_to_a_minute(pipeline: Pipeline) -> None:
    metrics = Metrics(pipeline)
    metrics.end_to_end.observe_ms([20_000, 59_000])
    found = samples(metrics)
    bucket = "headrace_end_to_end_latency_seconds_bucket"
    assert [found[bucket, (edge,)] for edge in ("10.0", "30.0", "60.0", "+Inf")] == [0, 1, 2, 2]


def test_process_and_platform_are_there(pipeline: Pipeline) -> None:
    found = {name for name, _ in samples(Metrics(pipeline))}
    assert {"process_resident_memory_bytes", "process_open_fds", "python_info"} <= found


def test_series_of_challengers_that_have_left_go_with_them(pipeline: Pipeline) -> None:
    """A challenger nearly daily, for years: its series would make each scrape longer for ever."""
    metrics, watch = Metrics(pipeline), Stopwatch()
    at_first = samples(metrics).keys()
    for version in range(4, 40):
        clone = f"linear-{version}"
        watch.models["learn", clone] = watch.models["learn", "linear"] = 0.5
        metrics.absorb(Counter({("arms", clone): 2, ("model_failures", f"score {clone}"): 1}))
        metrics.absorb(Counter({("blend_left_out", f"blend {clone}"): 1}))
        metrics.absorb_seconds(watch, {"adaptive", "tree", clone})
        told = {label for _, labels in samples(metrics) for label in labels}
        assert {label for label in told if "linear-" in label} == {clone}
    metrics.absorb_seconds(watch, {"adaptive", "tree"})
    found = samples(metrics)
    assert found.keys() == at_first, "those of the file stay, racing or not"
    assert found["headrace_model_seconds_total", ("linear", "learn")] == 18


def test_every_label_value_is_documented(flights: Pipeline) -> None:
    told = set(re.findall(r"`([^`\n]+)`", REFERENCE))
    for family in COUNTERS:
        if len(family.labels) == 1:
            assert set(family.values(flights)) <= told, family.name


class _Log:
    """A sink that has written so many records of the examples log."""

    written = 7

    def last_offset(self, _: Any) -> int:
        return self.written - 1


@pytest.fixture
def follower(pipeline: Pipeline, tmp_path: Path) -> Follower:
    settings = Settings(state_dir=tmp_path)
    return Follower(pipeline, settings, Metrics(pipeline), _Log())  # type: ignore[arg-type]


@pytest.mark.parametrize("leading", [True, False])
def test_scores_come_from_the_leader_alone(follower: Follower, leading: bool) -> None:
    follower.leading = leading
    scores = {"linear": 0.7, "tree": 0.4, "adaptive": 0.5}
    example = Example("e", "k", 1, 2, True, {}, scores, 0.5, "champion", "adaptive", 0, 0, 0, 1, 0)
    follower.learner.evaluation.add([example], [(0.1, dict.fromkeys(scores, 0.1))])
    status = follower.status(lag={}, pending=0, partitions=1)
    assert (("linear", "ROCAUC", "all") in status.scores) == leading
    assert (("served", "ROCAUC", "recent") in status.scores) == leading
    assert status.leading == leading
    assert [model.name for model in status.models] == ["adaptive", "tree", "linear", "blend"]


def test_a_decision_carries_the_trace_of_the_record_that_led_to_it(follower: Follower) -> None:
    trace, follower.leading = (("traceparent", b"00-1-1-01"),), True
    record = Record("t", 0, 7, 1, None, b"", (("headrace-kind", b"example"), *trace))
    told = [
        Decision("d", "drift.detected", 1, "linear", 1, 1, "ADWIN on loss", "headrace", n) for n in (7, 8)
    ]
    follower._decided_at([record, msgspec.structs.replace(record, offset=8, headers=())], told)
    sent = [one for one in follower.take_decisions() if one.target == "decisions"]
    assert [one.headers for one in sent] == [trace, ()]


def test_a_decision_is_logged_as_loud_as_it_matters(follower: Follower) -> None:
    def told(kind: str, reason: str) -> Decision:
        return Decision("d", kind, 1, "linear", 1, 1, reason, "headrace", 1)  # type: ignore[arg-type]

    with capture_logs() as lines:
        follower._decided(
            [
                told("drift.detected", "ADWIN on loss"),
                told("drift.improved", "ADWIN on loss"),
                told("drift.detected", "PageHinkley on feature:distance"),
                told("model.quarantined", "TypeError"),
            ]
        )
    levels = {line["event"]: line["log_level"] for line in lines}
    assert levels == {"drift.detected": "info", "drift.improved": "debug", "model.quarantined": "warning"}
    counts = follower._metrics.counts
    assert counts["drifts", "ADWIN worse loss"] == counts["drifts", "ADWIN better loss"] == 1
    assert counts["drifts", "PageHinkley worse feature:distance"] == 1
