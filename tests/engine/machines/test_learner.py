"""The learner is a pure function of its log: batches, pauses and restarts change nothing."""

from __future__ import annotations

import itertools
import random
from dataclasses import fields

import pytest
from fields import Source
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from river import drift, linear_model, metrics, preprocessing, tree

from engine.machines.learner import Learner
from operators.drift.detectors import Drift
from operators.models.scoring import Scoring
from operators.race.evidence import Promotion
from operators.race.field import RaceField
from topics import headers
from topics.codec import encode
from topics.errors import ModelError
from topics.messages import Claim, Command, Example, Quarantine, Record

TOPIC = "p.examples"


def models():
    return {
        "tree": tree.HoeffdingTreeClassifier(grace_period=20),
        "linear": preprocessing.StandardScaler() | linear_model.LogisticRegression(),
    }


FIELD = {one.name for one in fields(RaceField)}


def learner(**given_settings):
    fixed = {"pipeline": "p", "task": "binary", "source": Source()}
    settings = {
        "champion": "tree",
        "drift": [Drift(drift.ADWIN(clock=1))],
        "promotion": Promotion(
            false_swap_every=60, evidence_block=5, min_examples=20, cooldown=20, fresh_challengers_max=1
        ),
    }
    settings |= {name: given for name, given in given_settings.items() if name in FIELD}
    fixed |= {name: given for name, given in given_settings.items() if name not in FIELD}
    return Learner(**{"field": RaceField.of(fixed.pop("models", models()), **settings)} | fixed)


def record(offset, message, kind):
    value = message if isinstance(message, bytes) else encode(message)
    return Record(TOPIC, 0, offset, 0, b"k", value, kind)


def example(n, rng=random, claim=1, sequence=None):
    """Scores are made up: `linear` is the better one until example 120, then the worse."""
    x = {"a": rng.random(), "b": rng.random()}
    y = x["a"] > 0.5
    good, bad = (0.8, 0.2) if y else (0.2, 0.8)
    scores = {"tree": 0.5 * bad + 0.25 + 0.1 * rng.random(), "linear": good if n < 120 else bad}
    return Example(
        f"e{n}", "k", n * 1_000, n * 1_000 + 500, y, x, scores, scores["tree"], "champion", "tree", 0, n, n,
        claim=claim, sequence=n if sequence is None else sequence,
    )  # fmt: skip


def command(name, n, model=None):
    return Command(f"c{n}", name, 9, model_name=model, actor="kim")


def history(size=220, seed=0, **acts):
    """A claim, then examples; `acts` puts other records at offsets: `at_40=command(...)`."""
    rng = random.Random(seed)
    numbers = itertools.count()
    log = [record(0, Claim(0, 1), headers.CLAIM)]
    for offset in range(1, size):
        act = acts.get(f"at_{offset}")
        if act is None:
            log.append(record(offset, example(next(numbers), rng), headers.EXAMPLE))
        elif isinstance(act, Command):
            log.append(record(offset, act, headers.COMMAND))
        elif isinstance(act, Quarantine):
            log.append(record(offset, replace(act, sequence=next(numbers)), headers.QUARANTINE))
        else:
            log.append(act)
    return log


def shell(found, log, cuts=()):
    """What the process around a learner does: read from `reading`, in batches that end at the cuts."""
    decisions = []
    while found.reading < len(log):
        end = min([cut for cut in cuts if cut > found.reading], default=len(log))
        decisions += found.fold(log[found.reading : end])
    return decisions


def state_of(found):
    return found.digests(), found.roster.champion, found.examples, found.position, found.evaluation.counts()


ACTS = {
    "at_30": command("pause", 1),
    "at_33": command("pause", 2),
    "at_36": command("promote", 3, "linear"),
    "at_41": command("resume", 4),
    "at_50": command("pin", 8, "tree"),
    "at_60": command("rollback", 5),
    "at_61": command("rollback", 5),
    "at_100": command("pause", 6),
    "at_101": command("resume", 7),
    "at_160": record(160, b"{not json", headers.EXAMPLE),
    "at_161": record(161, b"{not json", headers.COMMAND),
    "at_162": record(162, b"?", ()),
    "at_170": command("unpin", 9),
    "at_190": Quarantine("e9", "tree", 1, "boom", 0, 9, claim=1, sequence=0),
}


def test_the_log_swaps_drifts_and_starts_a_challenger():
    """The histories the other tests fold are not dull."""
    found = learner()
    kinds = {decision.type for decision in shell(found, history())}
    assert {"model.promoted", "drift.detected", "challenger.started"} <= kinds
    assert found.examples == 219
    more = {decision.type for decision in shell(learner(), history(**ACTS))}
    assert kinds | {"model.rolled_back", "model.quarantined", "command.refused", "learning.resumed"} <= more


@settings(max_examples=15, deadline=None)
@given(st.sets(st.integers(1, 219), max_size=12))
def test_batches_change_nothing(cuts):
    log = history(**ACTS)
    whole, cut = learner(), learner()
    assert shell(cut, log, sorted(cuts)) == shell(whole, log)
    assert state_of(cut) == state_of(whole)
    assert cut.refused == whole.refused == 2


def test_one_by_one_is_the_same_as_all_at_once():
    log = history(**ACTS)
    whole, single = learner(), learner()
    expected = shell(whole, log)
    assert shell(single, log, range(1, 221)) == expected
    assert state_of(single) == state_of(whole)


def test_a_pause_skips_nothing_and_repeats_nothing():
    paused, plain = learner(), learner()
    acts = {"at_50": command("pause", 1), "at_80": command("resume", 2)}
    # The same examples without the two commands: other records stand in their places.
    idle = {name: record(int(name[3:]), b"?", ()) for name in acts}
    first = shell(paused, history(**acts))
    second = shell(plain, history(**idle))
    assert state_of(paused) == state_of(plain)
    assert [d for d in first if not d.type.startswith("learning.")] == second
    assert [(d.type, d.offset) for d in first if d.type.startswith("learning.")] == [
        ("learning.paused", 50),
        ("learning.resumed", 80),
    ]


def test_position_stands_still_while_reading_runs_ahead():
    log = history(at_50=command("pause", 1), at_80=command("resume", 2))
    found = learner()
    found.fold(log[:70])
    assert (found.paused, found.position, found.reading, found.examples) == (True, 51, 70, 49)
    found.fold(log[70:])
    assert (found.paused, found.position, found.reading, found.examples) == (False, 51, 51, 49)
    found.fold(log[51:])
    assert (found.position, found.reading, found.examples) == (220, 220, 217)


def test_a_rollback_during_a_pause_acts_at_once_and_only_once():
    log = history(
        at_40=command("promote", 1, "linear"),
        at_41=command("pause", 2),
        at_45=command("rollback", 3),
        at_50=command("resume", 4),
    )
    found = learner(promotion=Promotion())
    found.fold(log[:48])
    assert (found.paused, found.roster.champion) == (True, "tree")
    decisions = shell(found, log)
    assert not [d for d in decisions if d.type == "model.rolled_back"]


def test_a_pin_holds_against_evidence_and_the_race_begins_anew_with_the_unpin():
    """Without the pin `linear` takes over before example 120: it is proven long before the unpin."""
    plain = learner(drift=())
    promoted = [d.offset for d in shell(plain, history(120)) if d.type == "model.promoted"]
    assert promoted
    found = learner(drift=())
    log = history(220, at_1=command("pin", 1), at_100=command("unpin", 2))
    decisions = found.fold(log[:100])
    assert [d.type for d in decisions] == ["champion.pinned"]
    assert found.evidence.standing()["linear"] > 1, "weighed all the same"
    decisions = found.fold(log[100:])
    swap = next(d for d in decisions if d.type == "model.promoted")
    assert swap.offset >= 100 + 20, "min_examples and cool-down count from the unpin"
    assert swap.evidence["examples"] <= swap.offset - 100, "only what came after the unpin counts"


@pytest.mark.parametrize(
    ("value", "reason", "found_id"),
    [
        (b"{not json", "JSON is malformed", None),
        (b'{"command_id": "i", "command": "undo", "time": 1}', ": promote | rollback | pin", "i"),
        (b'{"command_id": "i", "command": "pause"}', "missing required field `time`", "i"),
        (b'{"command_id": "i", "command": "pause", "time": "now"}', "Expected `int`, got `str`", "i"),
        (b'{"command_id": "i", "reason": "%s"}' % (b"x" * 20_000), "at most 16,384 bytes", None),
        (b"[" * 10_000, "got `array`", None),
        (b'{"command_id": "", "command": "pause", "time": 1}', "1 to 256 characters", None),
    ],
)
@pytest.mark.parametrize("paused", [False, True])
def test_what_is_no_command_is_refused_by_a_decision(value, reason, found_id, paused):
    acts = {"at_10": command("pause", 1)} if paused else {}
    log = history(30, **acts, at_20=record(20, value, headers.COMMAND))
    found = learner()
    refused = [d for d in shell(found, log) if d.type == "command.refused"]
    assert [(d.offset, d.decision_id) for d in refused] == [(20, "p:0:20:0")]
    assert reason in refused[0].reason
    assert refused[0].evidence.get("command_id") == found_id
    assert found.refused == 1


@settings(max_examples=10, deadline=None)
@given(st.sets(st.integers(1, 219), max_size=6))
def test_a_backlog_is_told_once_for_each_factor(cuts):
    log = history(at_20=command("pause", 1), at_195=command("resume", 2), at_215=command("pause", 3))
    found = learner()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("engine.machines.positions.BACKLOGS_TOLD", (10, 100, 1_000))
        decisions = shell(found, log, sorted(cuts))
    told = [(d.decision_id, d.evidence) for d in decisions if d.type == "learning.backlog"]
    assert told == [("p:0:30:backlog", {"records": 10}), ("p:0:120:backlog", {"records": 100})]
    ids = [d.decision_id for d in decisions]
    assert len(ids) == len(set(ids))


def test_a_shell_that_does_not_go_back_is_stopped():
    log = history(at_50=command("pause", 1), at_80=command("resume", 2))
    found = learner()
    found.fold(log[:90])
    with pytest.raises(ModelError, match="from offset 51 on have not been folded"):
        found.fold(log[90:])


@pytest.mark.parametrize("cut", [1, 35, 42, 100, 101, 140, 219])
def test_a_restored_learner_goes_on_as_if_nothing_had_happened(cut):
    log = history(**ACTS)
    whole, before, after, entries = learner(), learner(), learner(), {}
    expected = shell(whole, log)
    decisions = []
    while before.position < cut and before.reading < cut:
        decisions += before.fold(log[before.reading : min(cut, before.reading + 10)])
        for name, data in before.delta().items():
            if data is None:
                del entries[name]
            else:
                entries[name] = data
    assert entries.keys() == before.snapshot().keys()
    after.restore(entries)
    assert state_of(after) == state_of(before)
    decisions += shell(after, log)
    assert decisions == expected
    assert state_of(after) == state_of(whole)
    assert after.evaluation.model_scores() == whole.evaluation.model_scores()
    assert after.evidence.standing() == whole.evidence.standing()


def test_a_restored_learner_says_what_changed():
    log = history()
    found, again = learner(), learner()
    found.fold(log[:100])
    again.restore(found.snapshot())
    found.delta()
    assert found.delta().keys() == again.delta().keys() == {"place"}
    found.fold(log[100:101])
    changed = found.delta()
    assert {"model/tree", "model/linear", "metrics", "place", "learning", "reader/0"} <= changed.keys()


def test_a_retired_model_is_gone_from_the_delta():
    found = learner()
    found.delta()
    found.roster.racers["tree-3"] = found.roster.racers["linear"]
    assert found.delta()["model/tree-3"] is not None
    del found.roster.racers["tree-3"]
    assert found.delta()["model/tree-3"] is None


def test_the_roster_stays_the_same_object_and_scorers_follow_it():
    log = history()
    found, again = learner(), learner()
    scoring = Scoring("binary", again.roster)
    scoring.serve({"a": 0.1, "b": 0.2})
    found.fold(log)
    again.restore(found.snapshot())
    expected = Scoring("binary", found.roster).serve({"a": 0.1, "b": 0.2})
    assert scoring.serve({"a": 0.1, "b": 0.2}) == expected
    assert expected.model_updates > 0


def test_learning_row_by_row_equals_folding_the_log():
    log = history(at_0=None)
    folded, direct = learner(), learner()
    expected = shell(folded, log)
    direct.fold(log[:1])
    found, rng = [], random.Random(0)
    for n in range(219):
        found += direct.fold_at_once(example(n, rng))
    assert found == expected
    assert direct.digests() == folded.digests()
    assert direct.position == folded.position


def test_row_by_row_stops_at_a_pause():
    found = learner()
    found.fold([record(0, command("pause", 1), headers.COMMAND)])
    with pytest.raises(ModelError, match="paused"):
        found.fold_at_once(example(0))


def test_only_what_counts_is_learned():
    def one(offset, n, claim, sequence):
        return record(offset, example(n, random.Random(n), claim, sequence), headers.EXAMPLE)

    log = [
        one(0, 0, 1, 0),  # before any claim
        record(1, Claim(0, 1), headers.CLAIM),
        one(2, 1, 1, 0),
        one(3, 1, 1, 0),  # repeated
        record(4, Claim(0, 2), headers.CLAIM),
        one(5, 2, 1, 1),  # a zombie's
        one(6, 2, 2, 0),
        one(7, 4, 2, 2),  # after a gap
    ]
    found = learner()
    found.fold(log)
    assert found.examples == 2
    assert found.position == 8


def test_a_quarantine_must_count_too():
    def report(offset, sequence):
        message = Quarantine("e1", "tree", 1, "boom", 0, 1, claim=1, sequence=sequence)
        return record(offset, message, headers.QUARANTINE)

    found = learner()
    claim = record(0, Claim(0, 1), headers.CLAIM)
    assert found.fold([claim, report(1, 5)]) == []
    found = learner()
    quarantined, promoted = found.fold([claim, report(1, 0), report(2, 1)])
    assert (quarantined.type, quarantined.model_name, quarantined.offset) == ("model.quarantined", "tree", 1)
    assert (promoted.type, promoted.model_name) == ("model.promoted", "linear")
    assert found.fold([record(3, example(0, claim=1, sequence=2), headers.EXAMPLE)]) == []
    assert found.roster.racers["tree"].updates == 0
    assert found.roster.racers["linear"].updates == 1


def test_warm_up_and_metrics_are_passed_on():
    found = learner(metrics=[metrics.Accuracy()], warmup_offset=100)
    found.fold(history())
    assert found.evaluation.counts()["linear"][0] == 119
    assert found.evaluation.served_scores().keys() == {"Accuracy"}
