"""Job J: the contestants agree, the ratios are those of their rounds, and the driver counts every answer."""

import asyncio
from pathlib import Path

import pytest

from engine.definition.file import load_pipeline
from loadtest.job_j import __main__ as job_j
from loadtest.job_j import in_process as job_j_local
from loadtest.job_j.__main__ import FAUST, RIVER, WORKER, Round, summary
from loadtest.job_j.over_kafka import Contestant, Throughput, faust_agent, headrace_worker, measure
from loadtest.job_j.plain import features_of, make_events
from topics.errors import BrokerError, ModelError


@pytest.fixture(scope="module")
def pipeline():
    return load_pipeline(Path(job_j.__file__).with_name("pipeline.py"))


def test_headrace_and_the_plain_job_agree(pipeline):
    worst = job_j_local.check_equal(pipeline, make_events(1_500))
    assert worst["exact"] == 0.0
    assert worst["sums"] <= 1e-9
    assert worst["scores"] <= 1e-9


def test_another_job_is_refused(pipeline, monkeypatch):
    def other(events):
        for features, label in features_of(events):
            yield {**features, "count_1m": features["count_1m"] + 1}, label

    monkeypatch.setattr(job_j_local, "features_of", other)
    with pytest.raises(ModelError, match="differs"):
        job_j_local.check_equal(pipeline, make_events(10))


def test_an_event_without_an_answer_is_refused(pipeline):
    with pytest.raises(ModelError, match="9 answers to 10 events"):
        list(job_j_local.headrace(pipeline, [*make_events(9), b"{"]))


def test_ratios_are_medians_of_ratios_within_rounds():
    river = [Round(100.0, 10.0), Round(200.0, 10.0), Round(50.0, 10.0)]
    worker = [
        Round(50.0, 20.0, Throughput(50.0, 20.0, 0, 1, 7)),
        Round(50.0, 40.0, Throughput(50.0, 40.0, 2, 0, 7)),
    ]
    found = summary({RIVER: river, WORKER: worker, FAUST: [Round(10.0, None), Round(5.0, None)]})
    row = next(row for row in found["rows"] if row["name"] == WORKER)
    assert row["to_river"] == {"median": 0.375, "min": 0.25, "max": 0.5}
    assert row["to_faust"] == {"median": 7.5, "min": 5.0, "max": 10.0}
    assert row["cpu_to_river"]["median"] == 0.375
    assert (row["lost"], row["duplicated"], row["examples"]) == (2, 1, [7, 7])
    assert next(row for row in found["rows"] if row["name"] == FAUST)["cpu_to_river"] is None


@pytest.mark.kafka
def test_both_contestants_answer_every_event(kafka):
    events = make_events(1_000)
    worker = asyncio.run(measure(kafka, "j-worker", headrace_worker("j-worker"), events))
    assert (worker.lost, worker.duplicated) == (0, 0)
    assert worker.examples > len(events)  # and one claim
    faust = asyncio.run(measure(kafka, "j-faust", faust_agent("j-faust", kafka), events))
    assert (faust.lost, faust.duplicated, faust.examples) == (0, 0, 0)


@pytest.mark.kafka
def test_a_contestant_that_ends_is_an_error_with_its_log(kafka):
    broken = Contestant(("sh", "-c", "echo no luck; exit 3"), {}, "id", keeps_examples=False)
    with pytest.raises(BrokerError, match=r"0 of 10 answers came, the contestant ended with 3(.|\n)*no luck"):
        asyncio.run(measure(kafka, "j-broken", broken, make_events(10)))
