"""Versions are a function of the log: good ones, released ones, restored ones, however it is cut."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_learner import command, history, learner, models, shell, state_of

from operators.models.digest import digest
from operators.race import good_versions
from operators.race.candidates import Candidate, Challenge, Drifted, Every, Release, Worse
from operators.race.evidence import Promotion
from operators.race.field import RaceField
from operators.race.routing import Guard
from topics.codec import decode_example
from topics.messages import Command, Quarantine

EVERY = 16
SIZE = 220


@pytest.fixture(autouse=True)
def _often(monkeypatch):
    monkeypatch.setattr(good_versions, "GOOD_EVERY", EVERY)


def released():
    plain = learner()
    fresh = models()
    candidates = {**fresh, "tree": Candidate(fresh["tree"], release=Release(every=24))}
    settings = {name: getattr(plain.field, name) for name in ("champion", "drift", "promotion")}
    return learner(field=RaceField.of(candidates, **settings))


def rollback(n, to, model=None):
    return Command(f"c{n}", "rollback", 9, model_name=model, to=to, actor="kim")


ACTS = {
    "at_40": command("pause", 1),
    "at_44": rollback(2, "1@0", "tree"),
    "at_50": command("resume", 3),
    "at_90": Quarantine("e9", "linear", 2, "boom", 0, 9, claim=1, sequence=0),
    "at_101": command("release", 4, "linear"),
    "at_120": command("promote", 5, "linear"),
    "at_150": Quarantine("e9", "tree-twin", 1, "boom", 0, 9, claim=1, sequence=0),
    "at_160": command("release", 6, "tree-twin"),
    "at_200": rollback(7, "9@9"),
}


def kinds(decisions):
    return [(d.type, d.model_name) for d in decisions]


def test_the_log_has_all_of_it():
    decisions = shell(released(), history(SIZE, **ACTS))
    told = kinds(decisions)
    for expected in (
        ("version.released", "tree"),
        ("version.restored", "tree"),
        ("model.rolled_back", "tree"),
        ("model.released", "linear"),
        ("model.released", "tree-twin"),
    ):
        assert expected in told
    [refused] = [d for d in decisions if d.type == "command.refused"]
    assert "`9@9` is no good version" in refused.reason
    versions = [d.model_version for d in decisions if d.type in {"version.released", "model.released"}]
    assert versions == sorted(set(versions)), "never used twice"


def asked():
    """A person decides, a part of the rows is protected, and challengers start by themselves."""
    promotion = Promotion(
        false_swap_every=60,
        evidence_block=5,
        min_examples=20,
        cooldown=20,
        approve="manual",
        proposal_expires=70,
        veto=[Guard(0.3)],
    )
    challenges = [
        Challenge(Every(50), start="champion"),
        Challenge(Every("1m"), of="linear"),
        Challenge(Drifted(), start="champion", of="linear"),
        Challenge(Worse(by=0.05, than=3_200)),
    ]
    return learner(promotion=promotion, challenges=challenges)


def answered(word):
    """A log in which the first proposal is answered thirty records later."""
    opened = next(d for d in shell(asked(), history(SIZE)) if d.type == "proposal.opened")
    told = Command("said", word, 9, proposal_id=opened.decision_id, actor="kim")
    return history(SIZE, **{f"at_{opened.offset + 30}": told})


def test_a_person_decides_about_what_is_due():
    plain, accepted, refused = (
        kinds(shell(asked(), log)) for log in (history(SIZE), answered("approve"), answered("refuse"))
    )
    assert ("proposal.opened", "linear") in plain
    assert ("proposal.expired", "linear") in plain
    assert not [kind for kind, _ in plain if kind == "model.promoted"]
    at = accepted.index(("proposal.accepted", "linear"))
    assert accepted[at + 1] == ("model.promoted", "linear")
    at = refused.index(("proposal.refused", "linear"))
    assert ("model.promoted", "linear") not in refused
    assert {kind for kind, _ in plain} >= {"challenger.started", "challenger.retired"}


CASES = {
    "versions": (released, lambda: history(SIZE, **ACTS)),
    "accepted": (asked, lambda: answered("approve")),
    "refused": (asked, lambda: answered("refuse")),
}


@pytest.mark.parametrize("case", CASES)
@settings(max_examples=8, deadline=None)
@given(cuts=st.sets(st.integers(1, SIZE - 1), max_size=8), restored_at=st.integers(1, SIZE - 1))
def test_batches_and_restores_change_nothing(case, cuts, restored_at):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(good_versions, "GOOD_EVERY", EVERY)
        made, log_of = CASES[case]
        log = log_of()
        whole, before, after, entries = made(), made(), made(), {}
        expected = shell(whole, log)
        decisions = []
        while before.reading < restored_at and before.position < restored_at:
            end = min([cut for cut in (*cuts, restored_at) if cut > before.reading])
            decisions += before.fold(log[before.reading : end])
            for name, data in before.delta().items():
                if data is None:
                    del entries[name]
                else:
                    entries[name] = data
        assert entries.keys() == before.snapshot().keys()
        after.restore(entries)
        assert state_of(after) == state_of(before)
        decisions += shell(after, log, sorted(cuts))
        assert decisions == expected
        assert state_of(after) == state_of(whole)
        assert kept(after) == kept(whole)


def kept(found):
    return {
        name: [(one.label, digest(found.good.model(name, one))) for one in found.good.of(name)]
        for name in found.roster.racers
    }


def test_a_good_version_is_the_model_as_it_was_then():
    """Folded one by one, with the digest of every model taken at each stop."""
    log = history(SIZE)
    found, single, seen = learner(), learner(), {}
    shell(found, log)
    for entry in log:
        single.fold([entry])
        if single.examples % EVERY == 0:
            for racer in single.roster.racers.values():
                seen.setdefault((racer.name, racer.label), digest(racer.model))
    for name in found.roster.racers:
        assert len(found.good.of(name)) <= good_versions.GOOD_KEPT
        for one in found.good.of(name):
            assert digest(found.good.model(name, one)) == seen[name, one.label]


def test_a_learner_that_keeps_no_versions_decides_the_same():
    log = history(SIZE)
    plain, found = released(), released()
    found.keep_no_versions()
    assert shell(found, log) == shell(plain, log)
    assert state_of(found) == state_of(plain)
    assert kept(plain)["linear"]
    assert kept(found) == {name: [] for name in found.roster.racers}


@pytest.mark.parametrize("champion", ["tree", "linear"])
def test_a_restored_model_goes_on_from_where_it_was(champion):
    """It learns what comes after, as a learner would that had seen nothing in between."""
    found = learner(drift=(), champion=champion)
    log = history(SIZE, at_100=rollback(1, f"{1 + (champion == 'linear')}@96"))
    found.fold(log[:98])
    then = found.good.find("2@96", "linear")
    model = found.good.model(*then)
    decisions = found.fold(log[98:])
    if champion == "tree":
        assert kinds(decisions)[0] == ("version.restored", "tree")
        return
    [restored] = [d for d in decisions if d.type == "version.restored"]
    assert (restored.from_version, restored.model_version) == (2, 3)
    assert restored.evidence["replaced"] == "2@99"
    assert restored.evidence["digest"] == digest(model)
    for entry in log[101:]:
        example = decode_example(entry.value)
        model.learn_one(example.features, example.label)
    assert digest(found.roster.racers["linear"].model) == digest(model)
    assert found.roster.racers["linear"].updates == 96 + SIZE - 101


def test_the_released_model_is_a_copy_of_the_twin_at_the_release_point():
    found, single, twin = released(), released(), {}
    log = history(SIZE)
    shell(found, log)
    for entry in log:
        single.fold([entry])
        racers = single.roster.racers
        twin[racers["tree-twin"].updates] = digest(racers["tree-twin"].model)
        assert digest(racers["tree"].model) == twin.get(racers["tree"].updates, twin.get(0))
    assert state_of(found) == state_of(single)
    assert found.roster.racers["tree"].updates > 0
