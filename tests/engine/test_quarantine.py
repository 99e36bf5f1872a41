"""A model in quarantine is seen: in the backtest, in the log, in the metrics; and its old scores are not."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families
from river import base, linear_model
from structlog.testing import capture_logs

from engine import Labels, Pipeline, Topic
from engine.cli.offline.backtest import print_report
from engine.metrics import Metrics, Status
from engine.offline.backtest import Backtest, LocalRun, backtest
from engine.offline.json_lines import read_lines
from engine.race_view import RaceView
from engine.watches import EVERY_S, CountWatch, counted_lines
from operators import field

EVENTS = 40
SICK_AT = 7
"""The number of the first event at which a model fails; the rows of a trial at load never reach it."""


class Event(msgspec.Struct):
    event_id: str
    event_time: int
    key: str
    x: float
    label: bool = False


class Sick(base.Classifier):
    """Says yes, and raises from some event on while it does `step`."""

    def __init__(self, step: str, at: int = SICK_AT) -> None:
        self.step = step
        self.at = at

    def learn_one(self, x: dict[str, Any], y: bool) -> None:  # noqa: ARG002
        self._feel("learn", x)

    def predict_proba_one(self, x: dict[str, Any]) -> dict[bool, float]:
        self._feel("score", x)
        return {True: 1.0}

    def _feel(self, step: str, x: dict[str, Any]) -> None:
        if step == self.step and x["x"] >= self.at:
            raise OverflowError("too [hot]")


def pipeline(*, inside: bool, champion: str | None = None, **models: Any) -> Pipeline:
    return Pipeline(
        name="q",
        events=Topic("q.events", Event, key="key"),
        labels=Labels(field="label") if inside else Labels("q.labels", wait="1h"),
        features={"x": field("x")},
        models=models or {"well": linear_model.LogisticRegression(), "s": Sick("score"), "l": Sick("learn")},
        champion=champion or next(iter(models or {"well": None})),
    )


@pytest.fixture
def files(tmp_path: Path) -> dict[bool, tuple[Path, Path | None]]:
    """Return (events, labels) by whether labels come inside; each label comes after its event."""
    events, labels = tmp_path / "events.jsonl", tmp_path / "labels.jsonl"
    rows = [
        {"event_id": f"e{n}", "event_time": 10 * n, "key": "k", "x": float(n), "label": n % 3 == 0}
        for n in range(EVENTS)
    ]
    events.write_text("".join(json.dumps(row) + "\n" for row in rows))
    truths = [
        {"event_id": row["event_id"], "label": row["label"], "label_time": int(str(row["event_time"])) + 5}
        for row in rows
    ]
    labels.write_text("".join(json.dumps(row) + "\n" for row in truths))
    return {True: (events, None), False: (events, labels)}


Files = dict[bool, tuple[Path, Path | None]]


@pytest.mark.parametrize("inside", [True, False])
def test_a_backtest_says_who_was_quarantined_where_and_why(
    files: Files, capsys: pytest.CaptureFixture[str], inside: bool
) -> None:
    report = backtest(pipeline(inside=inside), *files[inside])
    assert report["quarantined"] == {
        "s": {"time": report["quarantined"]["s"]["time"], "examples": 7, "alias": "challenger",
              "reason": "OverflowError: too [hot]"},
        "l": {"time": report["quarantined"]["l"]["time"], "examples": 8, "alias": "challenger",
              "reason": "learning: OverflowError: too [hot]"},
    }  # fmt: skip
    assert list(report["models"]) == ["well", "s", "l"]
    assert report["models"]["well"]["Accuracy"] > 0
    assert report["models"]["s"] == report["models"]["l"] == {}
    print_report(report)
    table, _, rest = capsys.readouterr().out.partition("\n\n")
    assert "s (quarantined at example 7)" in table
    assert "l (quarantined at example 8)" in table
    assert "s (challenger) was quarantined at example 7: OverflowError: too [hot]" in rest


def test_a_model_that_dies_at_its_first_lesson_keeps_its_row(files: Files) -> None:
    models = {"well": linear_model.LogisticRegression(), "l": Sick("learn", at=0)}
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("engine.worker.model_factory.check_model", lambda *_: None)
        report = backtest(pipeline(inside=False, **models), *files[False])
    assert report["models"]["l"] == {}
    assert report["quarantined"]["l"]["examples"] == 1


def played(files: Files, made: Pipeline, *, inside: bool) -> LocalRun:
    events, labels = files[inside]
    run = Backtest(made)
    run.play(read_lines(events, "q.events"), read_lines(labels, "q.labels") if labels else ())
    return run.run


def scraped(run: LocalRun) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Return what Prometheus would see of a worker that has done this: series -> value."""
    metrics = Metrics(run.pipeline)
    metrics.absorb(run.scorer.counts)
    metrics.absorb(run.learner.counts)
    race, learner = RaceView(metrics), run.learner
    with capture_logs():
        race.decided(run.decisions, learner.roster)
    metrics.status = lambda: Status(
        lag={},
        pending=0,
        examples=learner.examples,
        unlearned=0,
        checkpoint_time_s=0.0,
        partitions=1,
        leading=True,
        paused=False,
        champion_quarantined=learner.roster.champion in learner.roster.quarantined,
        models=race.candidates(learner),
        scores=race.scores(learner),
    )
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(metrics.exposition().decode())
        for sample in family.samples
    }


def value(series: dict[tuple[str, frozenset[tuple[str, str]]], float], name: str, **labels: str) -> Any:
    found = [number for (of, has), number in series.items() if of == name and has >= labels.items()]
    return sum(found) if found else None


@pytest.mark.parametrize("inside", [True, False])
def test_a_scrape_shows_quarantine_and_hides_the_scores_that_stand_still(files: Files, inside: bool) -> None:
    seen = scraped(played(files, pipeline(inside=inside), inside=inside))
    failures = {
        (step, model): value(seen, "headrace_model_failures_total", step=step, model=model)
        for step in ("score", "learn")
        for model in ("well", "s", "l")
    }
    assert {key for key, count in failures.items() if count} == {("score", "s"), ("learn", "l")}
    assert set(failures.values()) == {0.0, 1.0}
    for model, alias in (("well", "champion"), ("s", "quarantined"), ("l", "quarantined")):
        assert value(seen, "headrace_model_info", model=model, alias=alias) == 1.0
    assert value(seen, "headrace_model_score", model="well", metric="Accuracy") is not None
    assert value(seen, "headrace_model_score", model="s") is None
    assert value(seen, "headrace_model_score", model="l") is None
    assert value(seen, "headrace_champion_quarantined") == 0.0


def test_a_scrape_shows_that_nobody_but_the_prior_is_left(files: Files) -> None:
    seen = scraped(played(files, pipeline(inside=False, s=Sick("score")), inside=False))
    assert value(seen, "headrace_champion_quarantined") == 1.0
    assert value(seen, "headrace_model_info", model="s", alias="quarantined") == 1.0
    assert value(seen, "headrace_predictions_total", served_by="prior") == EVENTS - SICK_AT
    assert value(seen, "headrace_promotions_total", reason="quarantine") == 0.0


def test_quarantine_is_a_warning_and_that_of_the_champion_an_error(files: Files) -> None:
    made = pipeline(inside=True)
    run = played(files, made, inside=True)
    with capture_logs() as lines:
        RaceView(Metrics(made)).decided(run.decisions, run.learner.roster)
    assert [(line["log_level"], line["event"], line["model"]) for line in lines] == [
        ("warning", "model.quarantined", "s"),
        ("warning", "model.quarantined", "l"),
    ]
    for made, told in (
        (
            pipeline(inside=True, champion="s"),
            [("error", "model.quarantined"), ("info", "model.promoted"), ("warning", "model.quarantined")],
        ),
        (
            pipeline(inside=True, s=Sick("score")),
            [("error", "model.quarantined"), ("error", "every candidate is in quarantine")],
        ),
    ):
        run = played(files, made, inside=True)
        with capture_logs() as lines:
            RaceView(Metrics(made)).decided(run.decisions, run.learner.roster)
        assert [(line["log_level"], line["event"].partition(":")[0]) for line in lines] == told


def test_that_the_prior_answers_is_said_once_a_minute() -> None:
    watch, counts = CountWatch(counted_lines(pipeline(inside=True).labels)), Counter[tuple[str, str]]()
    with capture_logs() as lines:
        for second in range(int(3 * EVERY_S)):
            counts["predictions", "prior"] += second < 1.5 * EVERY_S
            for _ in range(3):
                watch.tell(counts, float(second))
    assert [line["log_level"] for line in lines] == ["error"] * 3
    assert sum(line["predictions"] for line in lines) == 1.5 * EVERY_S
