"""Reports as records: the figures of a backtest at their offset, however records are cut, bounded in size."""

from __future__ import annotations

import json
import random
from functools import cache
from typing import Any

import msgspec
import pytest
from river import compose, linear_model

from engine import Labels, Pipeline, Topic
from engine.cli.export import json_schema
from engine.offline.backtest import Backtest, LocalRun
from engine.worker.assembly import build_learner
from engine.worker.model_factory import ModelFactory
from operators import cross, field
from operators.models.scoring import Roster
from operators.monitor.monitors import MonitorContext
from operators.monitor.rows import Rows
from operators.monitor.slices import NAME_CHARS_MAX, REPORTED_MAX, Slices
from topics.codec import decode_decision, encode
from topics.errors import DefinitionError
from topics.messages import REPORTED, Decision, Example, Record

EVERY, EVENTS = 100, 700


class Sale(msgspec.Struct):
    event_id: str
    event_time: int
    shop: str
    amount: float


def pipeline(**more: Any) -> Pipeline:
    return Pipeline(
        name="sales",
        events=Topic("sales.made", Sale, key="shop"),
        labels=Labels("sales.returned", wait="60s"),
        features={name: field(name) for name in ("shop", "amount")},
        models={"linear": numeric(), "other": numeric()},
        champion="linear",
        drift=(),
        slices=["shop", cross("shop", "amount")],
        **{"report_every": EVERY} | more,
    )


def numeric() -> Any:
    return compose.Select("amount") | linear_model.LogisticRegression()


def stream() -> tuple[list[Record], list[Record]]:
    """Events, and labels of which some are late, twice, of nothing, or no labels at all."""
    rng = random.Random(5)
    events, labels = list[Record](), list[Record]()

    def add(topic: str, into: list[Record], value: dict[str, Any]) -> None:
        into.append(Record(topic, 0, len(into), None, value["shop"].encode(), json.dumps(value).encode()))

    due: list[tuple[int, dict[str, Any]]] = []
    for number in range(EVENTS):
        time, shop, amount = number * 1_000, rng.choice("abc"), rng.uniform(-1, 1)
        event = {"event_id": f"e{number}", "event_time": time, "shop": shop, "amount": amount}
        add("sales.made", events, event)
        if (kind := rng.random()) < 0.9:
            at = time + (90_000 if kind < 0.05 else rng.randrange(20_000))
            label = {"event_id": f"e{number}", "label": rng.random() < 0.5 + amount / 3, "label_time": at}
            due += [(at, label | {"shop": shop})] * (2 if 0.05 < kind < 0.1 else 1)
        elif kind < 0.93:
            due.append((time, {"event_id": f"x{number}", "label": True, "label_time": time, "shop": shop}))
        elif kind < 0.96:
            due.append((time, {"event_id": f"e{number}", "label": "maybe", "label_time": time, "shop": shop}))
    for _, label in sorted(due, key=lambda one: one[0]):
        add("sales.returned", labels, label)
    return events, labels


EVENT_RECORDS, LABEL_RECORDS = stream()


class Run(LocalRun):
    """A local run that keeps what its scorer tells on the decisions topic."""

    def __init__(self, **options: Any) -> None:
        super().__init__(pipeline(**options), keep_examples=True)
        self.scorers: list[Decision] = []

    def advance(self, **named: Any) -> Any:
        out = super().advance(**named)
        told = [one.value for one in out or () if one.target == "decisions"]
        self.scorers += [decode_decision(value) for value in told]
        return out


@cache
def played(chunk: int, **options: Any) -> tuple[Run, dict[str, Any]]:
    backtest = Backtest(pipeline(**options))
    run = backtest.run = Run(**options)
    backtest.play(
        (EVENT_RECORDS[at : at + chunk] for at in range(0, len(EVENT_RECORDS), chunk)),
        (LABEL_RECORDS[at : at + chunk] for at in range(0, len(LABEL_RECORDS), chunk)),
    )
    return run, backtest.report()


def reported(run: Run) -> list[Decision]:
    return [one for one in run.decisions if one.type in REPORTED]


def test_a_report_has_the_figures_of_the_log_up_to_its_offset() -> None:
    run, last = played(50)
    told = reported(run)
    assert {one.type for one in told} == {"slices.reported", "calibration.reported"}
    assert {one.examples for one in told} == {*range(EVERY, run.learner.examples + 1, EVERY)}
    learner, log = build_learner(pipeline()), iter(run.examples or ())
    for one in told:
        while learner.position <= one.offset:
            learner.fold([next(log)])
        seen = learner.monitors.report()
        if one.type == "slices.reported":
            assert one.slices == {one.reason: seen["slices"][one.reason]}
        else:
            assert msgspec.to_builtins(one.calibration) == seen["calibration"]
    assert last["slices"].keys() == {one.reason for one in told if one.slices}


def test_the_report_at_the_end_is_that_of_the_backtest() -> None:
    run, _ = played(50)
    every = run.learner.examples
    again, report = played(50, report_every=every)
    told = reported(again)
    assert {name: by for one in told for name, by in one.slices.items()} == report["slices"]
    (calibration,) = [one.calibration for one in told if one.calibration]
    assert msgspec.to_builtins(calibration) == report["calibration"]


def test_labels_are_told_by_outcome_as_they_stand() -> None:
    run, report = played(50)
    assert [one.labels["read"] for one in run.scorers] == [*range(EVERY, len(LABEL_RECORDS) + 1, EVERY)]
    assert {"joined", "late", "duplicate", "unmatched", "expired"} <= report["labels"].keys()
    place = run.scorers[2].evidence["label_offset"]
    assert place == 3 * EVERY - 1
    last, whole = played(50, report_every=len(LABEL_RECORDS))
    (told,) = last.scorers
    came = {name: count for name, count in whole["labels"].items() if name != "expired"}
    assert {name: count for name, count in told.labels.items() if name != "expired"} == came
    by_metrics = {name: count for (metric, name), count in last.scorer.counts.items() if metric == "labels"}
    assert came == {
        "read": len(LABEL_RECORDS),
        **{name: count for name, count in by_metrics.items() if count},
    }


@pytest.mark.parametrize("chunk", [1, 7, 1_000])
def test_reports_are_the_same_however_records_are_cut(chunk: int) -> None:
    whole, cut = played(50)[0], played(chunk)[0]
    assert cut.scorers == whole.scorers
    assert reported(cut) == reported(whole)


def test_reports_go_on_after_a_restart_under_their_ids() -> None:
    whole, _ = played(50)
    log, half = whole.examples or [], len(whole.examples or ()) // 2
    source = ModelFactory(declared := pipeline())
    first, second = (build_learner(declared, source=source) for _ in range(2))
    before = first.fold(log[:half])
    second.restore(first.snapshot())
    assert [one for one in before + second.fold(log[half:]) if one.type in REPORTED] == reported(whole)


def test_no_reports_are_written_where_nobody_wants_any() -> None:
    run, report = played(50, report_every=None)
    assert not reported(run)
    assert not run.scorers
    assert report["slices"]
    assert report["labels"]["joined"]
    with pytest.raises(DefinitionError, match="report_every is 5"):
        pipeline(report_every=5)


def test_another_interval_holds_from_its_place_in_the_log() -> None:
    assert pipeline().field.field_id != pipeline(report_every=200).field.field_id
    change = pipeline().field.difference(pipeline(report_every=None).field)
    assert change.settings.keys() == {"report_every"}


def test_a_record_of_many_slices_is_bounded() -> None:
    """The largest slices have room; one with a name as long as an event has none, and all are counted."""
    context = MonitorContext("p", "binary", 0.5, "brier", Roster("binary", (), "a"))
    monitor = Slices((("shop",),), values_max=1_000).monitor(context)
    rows = [f"shop-{number}" for number in range(900)] + ["x" * 1_000] * 5 + ["shop-7"] * 9
    monitor.observe(
        Rows(
            [
                Example(
                    f"e{number}",
                    "k",
                    0,
                    9,
                    True,
                    {"shop": shop},
                    {"a": 0.8},
                    0.8,
                    "champion",
                    "a",
                    0,
                    0,
                    0,
                    1,
                    0,
                )
                for number, shop in enumerate(rows)
            ],
            [(0.1, {"a": 0.1})] * len(rows),
            "binary",
        )
    )
    (told,) = monitor.reported()
    kept = told.slices["shop"]
    assert len(kept) == REPORTED_MAX // 2
    assert next(iter(kept)) == "shop-7"
    assert max(map(len, kept)) <= NAME_CHARS_MAX
    assert told.left_out == 901 - len(kept)
    assert len(msgspec.json.encode(told)) < 65_536


def test_a_report_is_described_by_the_schema() -> None:
    run, _ = played(50)
    written = {name for one in reported(run) for name in json.loads(encode(one))}
    properties = json_schema()["$defs"]["Decision"]["properties"]
    assert written <= properties.keys()
    curve = json_schema()["$defs"]["CalibrationCurve"]
    (one, *_) = [one for one in reported(run) if one.calibration]
    for told in json.loads(encode(one))["calibration"].values():
        assert told.keys() == set(curve["required"])
