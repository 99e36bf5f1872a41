"""What a backtest says beside its metrics: slices, calibration, estimates, predictions that abstain."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from river import compose, linear_model, preprocessing

from engine import (
    Calibration,
    Candidate,
    Estimated,
    Guard,
    Importance,
    Labels,
    Pipeline,
    Promotion,
    Split,
    Topic,
    Watch,
    Worst,
)
from engine.offline.backtest import LocalRun, Playing, backtest
from engine.worker.assembly import build_learner
from operators import cross, field
from topics.errors import DefinitionError


class Flight(msgspec.Struct):
    event_id: str
    event_time: int
    origin: str
    carrier: str
    distance: float


def encoded(model: Any) -> Any:
    words, numbers = compose.SelectType(str), compose.SelectType(int, float)
    return ((words | preprocessing.OneHotEncoder()) + (numbers | preprocessing.StandardScaler())) | model


def pipeline(**options: Any) -> Pipeline:
    return Pipeline(
        name="flights",
        events=Topic("flights.departures", Flight, key="origin"),
        labels=Labels("flights.arrivals", wait="1h"),
        features={name: field(name) for name in ("origin", "carrier", "distance")},
        models={"linear": encoded(linear_model.LogisticRegression())},
        champion="linear",
        drift=(),
        **options,
    )


def files(folder: Path, rows: int, seed: int = 3) -> tuple[Path, Path]:
    """Flights whose delay follows from the distance, but for those from `HNL`, which are a coin."""
    rng = random.Random(seed)
    events, labels = folder / "events.jsonl", folder / "labels.jsonl"
    with events.open("w") as event_file, labels.open("w") as label_file:
        for number in range(rows):
            time, x = number * 1_000, rng.uniform(-2, 2)
            origin, carrier = rng.choice(("ATL", "ORD", "HNL")), rng.choice(("AA", "DL"))
            label = rng.random() < 0.5 if origin == "HNL" else x + rng.gauss(0, 0.3) > 0
            event = {"event_id": f"{number}", "event_time": time, "origin": origin, "carrier": carrier}
            event_file.write(json.dumps(event | {"distance": x}) + "\n")
            told = {"event_id": f"{number}", "label": label, "label_time": time + 60_000, "origin": origin}
            label_file.write(json.dumps(told) + "\n")
    return events, labels


def test_a_backtest_tells_slices(tmp_path: Path) -> None:
    declared = pipeline(slices=["origin", cross("origin", "carrier"), "distance"], slice_values_max=5)
    report = backtest(declared, *files(tmp_path, 2_000))
    slices = report["slices"]
    assert list(slices) == ["origin", "origin × carrier", "distance"]
    assert set(slices["origin"]) == {"ATL", "ORD", "HNL"}
    assert slices["origin"]["HNL"]["served"]["Accuracy"] < 0.6
    assert slices["origin"]["ATL"]["linear"]["Accuracy"] > 0.8
    assert "HNL × AA" in slices["origin × carrier"]
    assert sum(told["served"]["rows"] for told in slices["distance"].values()) == report["examples"]
    assert report["worst"]["slices"][0]["slice"] == {"origin": "HNL"}
    losses = [row["loss"] for row in report["worst"]["rows"]]
    assert losses == sorted(losses, reverse=True)
    assert set(report["worst"]["rows"][0]["features"]) == {"origin", "carrier", "distance"}


def test_a_backtest_tells_calibration_and_the_estimate_without_being_asked(tmp_path: Path) -> None:
    report = backtest(pipeline(estimate=Estimated("1m")), *files(tmp_path, 2_000))
    calibration, estimate = report["calibration"]["served"], report["estimate"]["served"]
    assert calibration["rows"] == report["examples"]
    assert calibration["Brier"] == pytest.approx(report["served"]["Brier"])
    assert estimate["error"] < 0.15
    assert estimate["last"][-1]["true"]["Accuracy"] > 0.5
    silent = backtest(pipeline(calibration=None, estimate=None), *files(tmp_path, 50))
    assert "estimate" not in silent
    assert silent["calibration"] == silent["slices"] == {}, "there for every reader, and empty"


def test_answers_count_before_their_labels_come_if_asked_for(tmp_path: Path) -> None:
    """The last hour has no label yet; a backtest knows all the same what is to be expected of it."""
    asked = pipeline(estimate=Estimated("10m", answered=True))
    events, labels = files(tmp_path, 6_000)
    kept = [line for line in labels.read_text().splitlines() if json.loads(line)["label_time"] < 2_400_000]
    labels.write_text("\n".join(kept))
    run = Playing(LocalRun(asked, keep_examples=True))
    run.play_files(events, labels)
    learner = run.run.learner
    told = learner.monitors.report()["estimate"]["served"]["answered"]
    assert [one["rows"] for one in told["last"]] == [600] * 9, "the tenth is open"
    assert [one["labelled"] for one in told["last"]] == [600, 600, 600, 540, 0, 0, 0, 0, 0]
    truth = told["last"][2]["true"]["Accuracy"]
    assert all(abs(one["estimated"]["Accuracy"] - truth) < 0.1 for one in told["last"][4:])
    assert told["error"] < 0.25, "the first block is of a model that has learned nothing"
    again = build_learner(asked)
    again.fold(run.run.examples or [])
    assert again.monitors.report() == learner.monitors.report()


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"watch": Watch(block="1h", reference_span="1d")}, "estimate.block is '1d' and watch.block '1h'"),
        ({"per": "origin"}, "races by key"),
    ],
)
def test_answers_that_cannot_be_counted_are_refused(options: dict[str, Any], why: str) -> None:
    with pytest.raises(DefinitionError, match=why):
        pipeline(estimate=Estimated(answered=True), **options)


def test_unsure_predictions_abstain_and_are_counted(tmp_path: Path) -> None:
    run = Playing(LocalRun(pipeline(abstain_below=0.7)))
    answers: list[Any] = []
    run.play_files(*files(tmp_path, 500), on_scored=lambda scored: answers.extend(one[0] for one in scored))
    for answer in answers:
        assert answer.abstain == (max(answer.prediction_score, 1 - answer.prediction_score) < 0.7)
    abstained = sum(answer.abstain for answer in answers)
    assert 50 < abstained < 490
    assert run.run.scorer.counts["abstained", "confidence"] == abstained


def test_a_recalibrated_candidate_races_and_its_log_gives_its_digests(tmp_path: Path) -> None:
    plain = pipeline()
    model = plain.candidates["linear"].model
    declared = replace(
        plain,
        models={"plain": model, "honest": Candidate(model, recalibrate="isotonic")},
        champion="plain",
    )
    run = LocalRun(declared, keep_examples=True)
    Playing(run).play_files(*files(tmp_path, 800))
    again = build_learner(declared)
    again.fold(run.examples or [])
    assert again.digests() == run.learner.digests()
    assert run.learner.roster.racers.keys() == {"plain", "honest"}


def test_the_search_for_worse_slices_and_the_bins_are_as_asked_for() -> None:
    declared = pipeline(slices=["distance"], slice_bins=7, worst=Worst(false_slice_every=5_000, rows_max=3))
    asked = dict(declared.field.monitors)
    assert asked["slices"].bins == 7
    assert asked["worst"] == declared.worst
    assert "worst" in dict(pipeline(worst=Worst()).field.monitors)
    assert "worst" not in dict(pipeline().field.monitors)
    with pytest.raises(DefinitionError, match="worst is 3"):
        pipeline(worst=3)
    with pytest.raises(DefinitionError, match=r"slices\.bins is 1"):
        pipeline(slice_bins=1)


def test_a_slice_that_was_found_is_asked_for_a_veto(tmp_path: Path) -> None:
    model = pipeline().candidates["linear"].model
    declared = replace(
        pipeline(slices=["origin"], promotion=Promotion(veto=[Guard(0.01, slice="found")])),
        models={"linear": model, "other": encoded(linear_model.PAClassifier())},
        features={"origin": field("origin"), "distance": field("distance")},
    )
    run = Playing(LocalRun(declared))
    run.play_files(*files(tmp_path, 2_500))
    race = run.run.learner
    told = race.approvals._found("linear", "other")
    assert told["origin is HNL"] != 0.0
    assert told == race.monitors.parts["worst"].worse_where_found("linear", "other")  # type: ignore[attr-defined]
    with pytest.raises(DefinitionError, match="looks at rows by 'found'"):
        pipeline(promotion=Promotion(veto=[Guard(0.01, slice="found")]))


@pytest.mark.parametrize("asked", [{"slices": ["origin"]}, {"importance": Importance()}])
def test_a_monitor_that_a_race_per_key_does_not_keep_is_refused(asked: dict[str, Any]) -> None:
    pipeline(per="origin", calibration=Calibration(bins=20), estimate=Estimated("6h"))
    with pytest.raises(DefinitionError, match="is not offered with per=") as refusal:
        pipeline(per="origin", **asked)
    assert refusal.value.hint


def test_drawn_rows_are_told_where_a_policy_draws(tmp_path: Path) -> None:
    model = pipeline().candidates["linear"].model
    drawn = replace(
        pipeline(),
        models={"linear": model, "other": model.clone()},
        serving=Split({"linear": 0.9, "other": 0.1}),
    )
    report = backtest(drawn, *files(tmp_path, 1_000))
    told = report["random"]
    assert set(told) == {"served", "linear", "other"}
    assert told["served"]["all_rows"] == told["served"]["rows"] == report["examples"]
    assert told["linear"]["all_loss"] == pytest.approx(report["models"]["linear"]["Brier"])
    assert told["linear"]["low"] < told["linear"]["loss"] < told["linear"]["high"]
    assert "random" not in backtest(pipeline(), *files(tmp_path, 50))


def test_folding_the_log_gives_the_same_slices(tmp_path: Path) -> None:
    declared = pipeline(slices=["origin", "distance"])
    run = LocalRun(declared, keep_examples=True)
    Playing(run).play_files(*files(tmp_path, 1_000))
    again = build_learner(declared)
    for start in range(0, len(run.examples or ()), 77):
        again.fold((run.examples or [])[start : start + 77])
    assert again.monitors.report() == run.learner.monitors.report()


def test_a_field_without_monitors_is_the_one_that_it_was() -> None:
    plain, sliced = pipeline(), pipeline(slices=["origin"])
    assert not any(part.startswith("monitors") for part in plain.field.parts())
    assert plain.field.field_id != sliced.field.field_id
    assert plain.field.difference(sliced.field).settings.keys() == {"monitors.slices", "monitors.worst"}
    silent = pipeline(calibration=None)
    assert plain.field.difference(silent.field).settings == {"monitors.calibration": ("", "off")}
    assert plain.learner_definition() == sliced.learner_definition()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"slices": ["airport"]}, "`airport`, which is no feature"),
        ({"slices": "origin"}, "no list"),
        ({"slices": [cross("origin", "origin")]}, "slices has cross"),
        ({"slices": [cross(field("origin"), field("carrier"))]}, "slices has cross"),
        ({"slices": ["origin", "origin"]}, "twice"),
        ({"slices": ["origin"] * 21}, "21 parts"),
        ({"slices": ["origin"], "slice_values_max": 0}, "slice_values_max is 0"),
        ({"slices": ["origin"], "per": "origin"}, "not offered with per="),
        ({"calibration": 10}, "calibration is 10"),
        ({"estimate": "1d"}, "estimate is '1d'"),
        ({"abstain_below": 60}, "abstain_below is 60"),
    ],
)
def test_what_cannot_be_sliced_is_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(DefinitionError, match=said) as refusal:
        pipeline(**options)
    assert refusal.value.hint
