"""One learner, many races: commands, changed fields and failures reach the right ones; what is refused."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from fields import Source
from keyed_world import COMMANDS, KEYED, KEYS, PLAIN, Sale, definition, factory_of, folded, log_of, played
from msgspec.structs import replace
from river import drift as river_drift
from river import dummy, naive_bayes

from engine import (
    Alert,
    Artefact,
    Calibration,
    Canary,
    Candidate,
    Drift,
    Labels,
    LatencyGuard,
    Pipeline,
    Serve,
    Topic,
    signal,
)
from engine.machines.field_records import change_of
from engine.machines.keyed.keyed_learner import KeyedLearner
from engine.machines.learner import Learner
from engine.offline.keyed.keyed_backtest import KeyedRun
from engine.worker.assembly import build_keyed_learner, build_learner
from operators import by
from topics import headers
from topics.codec import decode_example, encode
from topics.errors import DefinitionError, ModelError
from topics.messages import Claim, Command, FieldChange, Record

# -- what is seen over all races ---------------------------------------------------------------------------


def test_calibration_and_the_estimate_are_of_all_races_together() -> None:
    """By brute force from the log, whichever races are in memory; a checkpoint takes them along."""
    rows = [(KEYS[n % 3], (-1) ** n / (n + 1), n % 2) for n in range(60)]
    watched = dataclasses.replace(KEYED, per_max=1, calibration=Calibration(bins=4))
    _, log = log_of(rows, {})
    learner = build_keyed_learner(watched, source=factory_of(PLAIN))
    folded(learner, log)
    examples = [decode_example(one.value or b"") for one in log if one.headers == headers.EXAMPLE]
    served = [(float(e.served_score), float(e.label)) for e in examples if e.served_score is not None]  # type: ignore[arg-type]
    report = learner.totals.monitors.report()
    told = report["calibration"]["served"]
    assert told["rows"] == len(served) > 50
    assert told["Brier"] == pytest.approx(sum((score - true) ** 2 for score, true in served) / len(served))
    assert sum(one["rows"] for one in report["estimate"]["served"]["last"]) == len(served)
    assert set(report["calibration"]) == {"served", "lr", "no", "tree"}, "no challengers of one key"
    assert all(one.monitors.parts == {} for one in learner.races.resident.values()), "none by key"
    again = build_keyed_learner(watched, source=factory_of(PLAIN))
    again.restore(learner.snapshot())
    assert again.totals.monitors.report() == report


def test_other_bins_hold_from_their_place_in_the_log() -> None:
    changed = definition(calibration=Calibration(bins=2))
    learner = build_keyed_learner(KEYED, source=Source("binary", [PLAIN.field, changed.field, KEYED.field]))
    begins = Record(
        "shops.examples", 0, 0, 0, b"", encode(FieldChange(KEYED.field.field_id, 0)), headers.FIELD
    )
    log = [begins, *(replace(one, offset=one.offset + 1) for one in log_of([(KEYS[0], 0.5, 0)] * 9, {})[1])]
    learner.fold(log)
    assert learner.totals.monitors.report()["calibration"]["served"]["rows"] > 0
    learner.fold([field_record(learner, changed, len(log))])
    assert learner.totals.monitors.report()["calibration"] == {}


def test_no_alert_is_about_what_nobody_tells() -> None:
    with pytest.raises(DefinitionError, match=r"calibration\.error"):
        definition(per="store", alerts=[Alert(when=signal("calibration.error") > 0.1)])


# -- what acts on races beside examples ------------------------------------------------------------------


def test_a_command_acts_in_the_race_of_its_key() -> None:
    rows = [(KEYS[n % 3], (-1) ** n / (n + 1), 0) for n in range(30)]
    _, log = log_of(rows, COMMANDS)
    learner = build_keyed_learner(KEYED, source=factory_of(PLAIN))
    by_command = {
        str(one.evidence["command_id"]): one for one in folded(learner, log) if "command_id" in one.evidence
    }
    told = {name: (one.type, one.key, one.model_name) for name, one in by_command.items()}
    assert told["c1"] == ("model.promoted", "a", "tree")
    assert told["c2"] == ("champion.pinned", "b", "no")
    assert told["c3"] == ("learning.paused", "", "")
    assert told["c4"] == ("challenger.retired", KEYS[2], "lr")
    assert told["c5"] == ("command.refused", "", "")
    assert told["c6"] == ("model.rolled_back", "a", "no")
    assert told["c7"] == ("learning.resumed", "", "")
    assert "no race of `nobody`" in by_command["c5"].reason
    assert [one.roster.champion for one in map(learner.races.peek, KEYS) if one] == ["no", "no", "no"]
    assert learner.begun == 3, "a command begins no race"


def test_pauses_are_of_all_races_and_what_is_old_or_of_one_key_is_refused() -> None:
    rows = [(KEYS[n % 2], (-1) ** n / (n + 1), 0) for n in range(40)]
    asked = {
        4: Command("p", "pause", 10, actor="kim"),
        5: Command("p", "pause", 10, actor="kim"),
        6: Command("of-a", "resume", 11, key="a"),
        7: Command("again", "pause", 12),
        8: Command("old", "resume", 9),
        12: Command("r", "resume", 13, reason="mended"),
        13: Command("r", "resume", 13, reason="mended"),
        14: Command("over", "resume", 14),
        15: Command("p", "pause", 10, actor="kim"),
    }
    _, log = log_of(rows, asked)
    learner = build_keyed_learner(KEYED, source=factory_of(PLAIN))
    told = [
        (one.evidence.get("command_id"), one.type, one.reason, one.actor)
        for one in folded(learner, log)
        if "command_id" in one.evidence
    ]
    repeat = "is before that of the last `pause` or `resume`: a repeat?"
    assert told == [
        ("p", "learning.paused", "pause", "kim"),
        ("of-a", "command.refused", "`resume` is of all races, not of one", "headrace"),
        ("again", "command.refused", "learning is paused already", "headrace"),
        ("old", "command.refused", f"its time, 9, {repeat}", "headrace"),
        ("r", "learning.resumed", "mended", "headrace"),
        ("over", "command.refused", "learning is not paused", "headrace"),
        ("p", "command.refused", f"its time, 10, {repeat}", "kim"),
    ]
    assert (learner.paused, learner.examples, learner.position) == (False, 40, len(log))


def test_what_waits_in_a_long_pause_is_told_and_may_not_be_skipped() -> None:
    learner = build_keyed_learner(KEYED, source=factory_of(PLAIN))
    _, log = log_of([(KEYS[0], 0.5, 0)] * 30, {2: Command("p", "pause", 0), 20: Command("r", "resume", 1)})
    claim = log[0]
    told = learner.fold([replace(log[number], offset=number) for number in range(4)])
    assert [one.type for one in told] == ["learning.paused"]
    waiting = learner.fold([replace(claim, offset=4 + n) for n in range(1_200)])
    assert [(one.type, one.offset, one.evidence) for one in waiting] == [
        ("learning.backlog", 4 + 999, {"records": 1_000})
    ]
    assert (learner.paused, learner.position, learner.reading) == (True, 4, 1_204)
    resume = next(one for one in log if one.value and b'"resume"' in one.value)
    learner.fold([replace(resume, offset=1_204)])
    assert (learner.paused, learner.position, learner.reading) == (False, 4, 4)
    with pytest.raises(ModelError, match="from offset 4 on have not been folded"):
        learner.fold([replace(claim, offset=1_205)])


def field_record(learner: KeyedLearner | Learner, pipeline: Pipeline, offset: int) -> Record:
    """Return the record of a change from the learner's field to that of a pipeline."""
    change = FieldChange(pipeline.field.field_id, 0, learner.field.field_id)
    step = learner.planned(change)
    assert step is not None
    return Record("shops.examples", 0, offset, 0, b"", encode(change_of(step, 0, {})), headers.FIELD)


@pytest.mark.parametrize("per_max", [1, 3])
def test_a_changed_field_acts_in_every_race_as_of_its_offset(per_max: int) -> None:
    """Each race carries it out before what it does next; one that begins later begins with the new field."""
    models = {**PLAIN.models, "nb": naive_bayes.GaussianNB()}
    changed = definition(models=models, champion="no")
    source = Source("binary", [PLAIN.field, changed.field])
    rows = [(KEYS[n % 2], (-1) ** n / (n + 1), 0) for n in range(20)]
    late = [(KEYS[n % 3], (-1) ** n / (n + 1), 0) for n in range(50)]
    begins = Record(
        "shops.examples", 0, 0, 0, b"", encode(FieldChange(PLAIN.field.field_id, 0)), headers.FIELD
    )
    log = [begins, *(replace(one, offset=one.offset + 1) for one in log_of(rows + late)[1])]
    at = 1 + len(log_of(rows)[1])
    learner = build_keyed_learner(dataclasses.replace(KEYED, per_max=per_max), source=source)
    decisions = learner.fold(log[:at])
    learner.fold([field_record(learner, changed, at)])
    moved = [replace(record, offset=record.offset + 1) for record in log[at:]]
    half = len(moved) // 2
    decisions += learner.fold(moved[:half])
    restored = build_keyed_learner(dataclasses.replace(KEYED, per_max=per_max), source=source)
    restored.restore(learner.snapshot())
    decisions += restored.fold(moved[half:])
    entered = [(one.key, one.offset) for one in decisions if one.type == "candidate.entered"]
    assert sorted(entered) == [(key, at) for key in sorted(KEYS[:2])]
    races = [restored.race(key) for key in KEYS]
    assert all(race is not None and "nb" in race.roster.racers for race in races)
    versions = [race.roster.racers["nb"].version for race in races if race is not None]
    assert versions[2] == 4, "the third began with all four"
    assert min(versions[:2]) > 4
    for key, race in zip(KEYS[:2], races, strict=False):
        alone = build_learner(PLAIN, source=source)
        alone.fold([begins, Record("shops.examples", 0, 1, 0, b"", encode(Claim(0, 1)), headers.CLAIM)])
        fold_alone(alone, [one for one in log[:at] if one.key == key.encode()])
        alone.fold([field_record(alone, changed, alone.reading)])
        fold_alone(alone, [one for one in log[at:] if one.key == key.encode()])
        assert race is not None
        assert race.digests() == alone.digests()


def fold_alone(learner: Learner, examples: list[Record]) -> None:
    """Fold examples of one key as if no others had been between them."""
    for record in examples:
        example = replace(decode_example(record.value or b""), sequence=learner.examples)
        learner.fold([replace(record, offset=learner.reading, value=encode(example))])


class Odd(naive_bayes.GaussianNB):
    """A model that cannot score one amount."""

    def predict_proba_one(self, x: dict[str, Any]) -> Any:
        if x["amount"] == 2.0:
            raise RuntimeError("two")
        return super().predict_proba_one(x)


def test_what_a_scorer_saw_fail_leaves_the_race_of_its_key_alone() -> None:
    made = definition(per="store", models={**PLAIN.models, "odd": Odd()}, per_max=1)
    run = KeyedRun(made, keep_examples=True)
    played(run, [(KEYS[n % 2], 2.0 if n == 0 else 0.5, 3) for n in range(30)])
    assert run.examples is not None
    examples = [decode_example(one.value or b"") for one in run.examples if b'"scores"' in (one.value or b"")]
    of_others = [one for one in examples if one.key == "b"]
    assert all("odd" in one.scores for one in of_others), "it is asked again, by keys without a race too"
    (sick,) = {one.key for one in run.decisions if one.type == "model.quarantined"}
    assert sick == "a"
    healthy = run.learner.races.peek("b")
    assert healthy is not None
    assert healthy.roster.healthy("odd")


# -- what is refused ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"per": "amount"}, "the events' key 'store'"),
        ({"per_max": 0}, "per_max is 0"),
        ({"follow": "1s"}, "follow is not offered"),
        ({"labels": Labels(field="big")}, "a label inside the event is not offered"),
        ({"deadline": Serve("1s", backup="lr")}, "a deadline is not offered"),
        (
            {
                "models": {
                    "no": dummy.NoChangeClassifier(),
                    "x": Candidate(naive_bayes.GaussianNB(), start="log"),
                }
            },
            "the log",
        ),
        (
            {
                "models": {
                    "no": dummy.NoChangeClassifier(),
                    "x": Candidate(naive_bayes.GaussianNB(), start=Artefact("m")),
                }
            },
            "a file",
        ),
        ({"models": {"no": Candidate(dummy.NoChangeClassifier(), budget_ms=5)}}, "budget_ms"),
        ({"drift": [Drift(river_drift.ADWIN(), then="pause")]}, "pause"),
        ({"serving": Canary(guards=[LatencyGuard(5.0)])}, "LatencyGuard"),
        (
            {
                "events": Topic("shops.sales", Sale, key="store", partitions=2),
                "features": {"all": by().count("5s")},
            },
            "a window by another key",
        ),
    ],
)
def test_what_is_not_offered_is_refused_by_name(changed: dict[str, Any], named: str) -> None:
    with pytest.raises(DefinitionError, match=named):
        definition(**{"per": "store", **changed})


def test_who_asks_for_one_learner_of_many_is_refused() -> None:
    with pytest.raises(DefinitionError, match="each key has a race of its own"):
        build_learner(KEYED)
