"""A race beside hostile sources of labels: what is not trusted changes nothing of it."""

from __future__ import annotations

import random

import pytest
from fields import Source
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from river import linear_model, preprocessing, tree

from engine.machines.learner import Learner
from operators.race.field import RaceField
from operators.trust.sources import SourceRules, Trust
from topics import headers
from topics.codec import encode
from topics.messages import Claim, Command, Example, Record

ROWS = 700
ATTACK = range(200, 700)
RULES = SourceRules(per_source_max=20, window=200, trust=Trust(false_quarantine_every=1_000))
"""Small, so that 700 rows are enough."""


def learner(rules: SourceRules | None = RULES) -> Learner:
    models = {
        "tree": tree.HoeffdingTreeClassifier(grace_period=20),
        "linear": preprocessing.StandardScaler() | linear_model.LogisticRegression(),
    }
    race = RaceField.of(models, champion="tree", sources=rules)
    return Learner(pipeline="p", task="binary", source=Source(), field=race)


def record(offset: int, message: object, kind: object) -> Record:
    return Record("p.examples", 0, offset, 0, b"k", encode(message), kind)


def examples() -> list[Example]:
    chance = random.Random(5)
    made = []
    for n in range(ROWS):
        x = {"a": chance.random(), "b": chance.random()}
        hostile = n in ATTACK and chance.random() < 0.5
        truth = (x["a"] > 0.5) != hostile
        score = 0.9 if x["a"] > 0.5 else 0.1
        source = f"bad{chance.randrange(2)}" if hostile else f"s{chance.randrange(30)}"
        made.append(Example(
            f"e{n}", "k", n, n, truth, x, dict.fromkeys(("tree", "linear"), score), score, "champion",
            "tree", 0, n, n, claim=1, sequence=n, source=source,
        ))  # fmt: skip
    return made


def log_of(rows: list[Example], **acts: Command) -> list[Record]:
    log = [record(0, Claim(0, 1), headers.CLAIM)]
    for row in rows:
        if (act := acts.get(f"before_{row.sequence}")) is not None:
            log.append(record(len(log), act, headers.COMMAND))
        log.append(record(len(log), row, headers.EXAMPLE))
    return log


def fold(found: Learner, log: list[Record], cuts=()) -> list:
    decisions = []
    while found.reading < len(log):
        end = min([cut for cut in cuts if cut > found.reading], default=len(log))
        decisions += found.fold(log[found.reading : end])
    return decisions


def told(found: Learner):
    return found.digests(), found.examples, found.evaluation.served_scores(), found.roster.prior.score()


def test_what_is_not_trusted_is_not_there_for_the_race() -> None:
    rows, found = examples(), learner()
    decisions = fold(found, log_of(rows))
    quarantined = {one.evidence["source"] for one in decisions if one.type == "source.quarantined"}
    assert quarantined == {"bad0", "bad1"} == set(found.sources.quarantined)
    sources = type(found.sources)(RULES, "binary", "brier", 0.5)
    kept = [row for row in rows if not sources.admit(row)[0]]
    assert 0 < ROWS - len(kept) == sum(found.counts["examples_left_out", why] for why in WHY)
    alone = learner(None)
    fold(alone, log_of([replace(row, sequence=n) for n, row in enumerate(kept)]))
    assert told(found) == told(alone)


WHY = ("over_source_cap", "quarantined_source")


@settings(max_examples=10, deadline=None)
@given(st.sets(st.integers(1, ROWS), max_size=8))
def test_however_batches_are_cut_and_wherever_it_restarts(cuts) -> None:
    log, whole, cut = log_of(examples()), learner(), learner()
    expected = fold(whole, log)
    decisions = []
    for end in [*sorted(cuts), len(log)]:
        decisions += cut.fold(log[cut.reading : end])
        restored = learner()
        restored.restore(cut.snapshot())
        cut = restored
    assert decisions == expected
    assert told(cut) == told(whole)
    assert cut.sources.snapshot() == whole.sources.snapshot()


def test_a_command_trusts_a_source_again_once() -> None:
    release = Command("c1", "release", 9, actor="kim", reason="it was the scanner", source="bad0")
    nobody = Command("c2", "release", 9, source="s1")
    log = log_of(examples(), before_500=release, before_501=release, before_502=nobody)
    found = learner()
    decisions = [one for one in fold(found, log) if one.type.startswith(("source.", "command."))]
    kinds = [(one.type, one.evidence.get("source"), one.actor) for one in decisions]
    assert ("source.released", "bad0", "kim") in kinds
    assert [kind for kind, *_ in kinds].count("source.released") == 1
    [refused] = [one for one in decisions if one.type == "command.refused"]
    assert refused.reason == "source `s1` is not quarantined"
    assert str(refused.evidence["fix"]).startswith("quarantined are: ")
    again = [
        one for one in decisions if one.type == "source.quarantined" and one.evidence["source"] == "bad0"
    ]
    assert len(again) == 2  # it went on as before


def test_too_much_in_quarantine_pauses_until_a_person_resumes() -> None:
    rules = SourceRules(trust=Trust(false_quarantine_every=1_000, pause_above=0.0))
    rows = examples()
    found = learner(rules)
    log = log_of(rows)
    decisions = found.fold(log)
    assert [one.type for one in decisions][-2:] == ["source.quarantined", "learning.paused"]
    assert found.paused
    at = decisions[-1].offset
    assert found.position == at + 1
    log += [record(len(log), Command("c1", "resume", 9), headers.COMMAND)]
    fold(found, log)
    assert found.reading <= len(log)
    assert found.examples > at // 2


def test_a_field_without_rules_is_the_field_it_was() -> None:
    assert (
        learner(None).field.field_id
        == RaceField.of(
            {name: racer.model for name, racer in learner(None).field.candidates.items()}, champion="tree"
        ).field_id
    )
    assert "sources" not in learner(None).field.parts()


@pytest.mark.parametrize("rules", [None, SourceRules(per_source_max=3, window=50)])
def test_sources_without_a_quarantine(rules) -> None:
    found = learner(rules)
    fold(found, log_of(examples()))
    assert not found.sources.quarantined
    assert (found.examples == ROWS) == (rules is None)
