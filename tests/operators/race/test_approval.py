"""Between a proof and the swap: vetoes told once, proposals that are answered, expire or fall away."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from river import metrics

from operators.models.scoring import Racer, Roster
from operators.race.approval import LOOK_EVERY, VETO_ROWS, VETO_ROWS_MIN, Approvals
from operators.race.arena import Arena, Moment
from operators.race.commands import Commands
from operators.race.evidence import Promotion, Verdict
from operators.race.good_versions import GoodVersions
from operators.race.routing import Guard, check_guards
from topics.errors import DefinitionError
from topics.messages import Command, Example

DAY = 86_400_000


class Race:
    """Three candidates, and what stands between their proofs and a swap."""

    def __init__(self, churn=0.25, **promotion):
        self.settings = Promotion(**{"min_examples": 1, "cooldown": 0, **promotion})
        self.roster = Roster("binary", [Racer(n, n, version=v) for v, n in enumerate("abc", 1)], "a")
        self.arena = Arena("p", 0, self.roster, self.settings)
        self.approvals = Approvals(self.settings, self.arena, "binary", 0.5, lambda _, __: churn)
        self.arena.approval = self.approvals if self.approvals.asks else None
        self.good = GoodVersions(str.encode, bytes.decode, self.roster)
        self.commands = Commands(self.arena, self.good, self.approvals)

    def restored(self):
        """Another one that goes on from here."""
        other = Race.__new__(Race)
        other.__init__(**{name: getattr(self.settings, name) for name in Promotion.__dataclass_fields__})
        for part in ("arena", "approvals", "commands"):
            getattr(other, part).restore(getattr(self, part).snapshot())
        return other

    def prove(self, n, *names):
        return self.arena.swap(at(n), [Verdict(name, 50.0, 40.0, 0.1, 1_000, 20) for name in names])

    def say(self, n, word, proposal_id, command_id=None):
        asked = Command(
            command_id or f"c{n}", word, 7, proposal_id=proposal_id, actor="kim", reason="why not"
        )
        return self.commands.act(at(n), asked)

    def see(self, rows):
        for features, losses in rows:
            example = Example("e", "k", 0, 0, True, features, {}, 0.5, "champion", "a", 0, 0, 0, 1, 0)
            self.approvals.observe([example], [(None, losses)])


def at(n, time=None):
    return Moment(n, n if time is None else time, n)


def kinds(decisions):
    return [(d.type, d.model_name) for d in decisions]


def test_nothing_stands_between_by_default():
    race = Race()
    assert race.arena.approval is None
    assert not race.approvals.stops
    assert kinds(race.prove(1, "b")) == [("model.promoted", "b")]


def test_a_due_swap_becomes_a_proposal_once_and_a_person_accepts_it():
    race = Race(approve="manual")
    [opened] = race.prove(1, "b")
    assert (opened.type, opened.model_name, opened.reason) == ("proposal.opened", "b", "evidence")
    assert (opened.evidence["effect"], opened.evidence["churn"]) == (0.1, 0.25)
    assert race.prove(2, "b") == [], "told once"
    assert race.roster.champion == "a"
    accepted, promoted = race.say(3, "approve", opened.decision_id)
    assert kinds([accepted, promoted]) == [("proposal.accepted", "b"), ("model.promoted", "b")]
    assert (accepted.actor, promoted.actor, promoted.reason) == ("kim", "kim", "why not")
    assert promoted.evidence["proposal_id"] == opened.decision_id
    assert promoted.evidence["effect"] == 0.1, "the proof that was proposed"
    [refused] = race.say(4, "approve", opened.decision_id)
    assert (refused.type, refused.reason) == (
        "command.refused",
        f"there is no open proposal `{opened.decision_id}`",
    )


def test_a_refused_proposal_swaps_nothing():
    race = Race(approve="manual")
    [opened] = race.prove(1, "b")
    [refused] = race.say(2, "refuse", opened.decision_id)
    assert (refused.type, refused.model_name) == ("proposal.refused", "b")
    assert race.roster.champion == "a"
    assert race.approvals.open() == {}


def test_an_unknown_proposal_is_refused_with_those_that_are_open():
    race = Race(approve="manual")
    [opened] = race.prove(1, "b")
    [refused] = race.say(2, "approve", "p:0:9:9")
    assert (refused.reason, refused.evidence["fix"]) == (
        "there is no open proposal `p:0:9:9`",
        f"open are: `{opened.decision_id}` of `b`",
    )


@pytest.mark.parametrize(
    ("expires", "before", "after"),
    [(100, Moment(0, 0, 100), Moment(0, 0, 101)), ("1d", Moment(0, DAY, 99), Moment(0, DAY + 1, 99))],
)
def test_a_proposal_expires(expires, before, after):
    race = Race(approve="manual", proposal_expires=expires)
    assert race.approvals.stops == (LOOK_EVERY,)
    [opened] = race.prove(1, "b")
    assert race.approvals.stop(before) == []
    [expired] = race.approvals.stop(after)
    assert (expired.type, expired.model_name, expired.reason) == (
        "proposal.expired",
        "b",
        "nobody has answered it",
    )
    assert expired.evidence == {"proposal_id": opened.decision_id}
    assert race.say(5, "approve", opened.decision_id)[0].type == "command.refused"


def test_what_can_no_longer_be_carried_out_is_refused_and_expires():
    race = Race(approve="manual")
    (first, second) = race.prove(1, "b", "c")
    race.say(2, "approve", second.decision_id)
    assert race.say(3, "approve", first.decision_id)[0].reason == "`c` serves since"
    assert [d.reason for d in race.approvals.stop(at(4))] == ["`c` serves since"]
    [third] = race.prove(5, "b")
    race.arena.retire(at(6), "b", "retire")
    assert race.say(7, "approve", third.decision_id)[0].reason == "`b` is retired"
    assert kinds(race.approvals.stop(at(8))) == [("proposal.expired", "c")]


def test_with_a_field_that_asks_nobody_open_proposals_expire():
    race = Race(approve="manual")
    race.prove(1, "b")
    race.approvals.follow(Promotion(), 0.5)
    assert race.approvals.stops == (LOOK_EVERY,)
    assert [d.reason for d in race.approvals.stop(at(2))] == ["nobody needs to approve any more"]
    assert not race.approvals.stops


def test_a_pinned_champion_is_not_proposed_against():
    race = Race(approve="manual")
    race.commands.act(at(1), Command("c", "pin", 0))
    assert race.prove(2, "b") == []


# -- vetoes -------------------------------------------------------------------------------------------

SMALL = Guard(0.05, slice=("airport", "small"))


def rows(difference, count=VETO_ROWS_MIN, airport="small"):
    return [({"airport": airport}, {"a": 0.2, "b": 0.2 + difference, "c": 0.2})] * count


def test_a_protected_slice_vetoes_once_and_the_next_in_line_may_pass():
    race = Race(veto=[SMALL])
    race.see([*rows(0.06), *rows(-0.5, 500, "large")])
    [vetoed] = race.prove(1, "b")
    assert (vetoed.type, vetoed.model_name) == ("promotion.vetoed", "b")
    assert vetoed.evidence[SMALL.named] == pytest.approx(0.06)
    assert vetoed.evidence["effect"] == 0.1
    assert race.prove(2, "b") == [], "told once"
    assert kinds(race.prove(3, "b", "c")) == [("model.promoted", "c")]


def test_a_slice_that_is_well_again_forbids_nothing_and_a_new_fault_is_told():
    race = Race(veto=[SMALL])
    race.see(rows(0.06))
    assert kinds(race.prove(1, "b")) == [("promotion.vetoed", "b")]
    race.see(rows(0.0, 500))
    assert kinds(race.prove(2, "b")) == [("model.promoted", "b")]


@pytest.mark.parametrize("given_rows", [rows(0.9, VETO_ROWS_MIN - 1), rows(0.9, 500, "large"), []])
def test_too_few_rows_say_nothing(given_rows):
    race = Race(veto=[SMALL])
    race.see(given_rows)
    assert kinds(race.prove(1, "b")) == [("model.promoted", "b")]


def test_another_loss_than_that_of_the_race():
    race = Race(veto=[Guard(0.1, loss="zero_one")])
    example = Example(
        "e", "k", 0, 0, True, {}, {"a": 0.6, "b": 0.4, "c": 0.7}, 0.6, "champion", "a", 0, 0, 0, 1, 0
    )
    race.approvals.observe([example] * 50, [(0.1, {"a": 0.16, "b": 0.36, "c": 0.09})] * 50)
    [vetoed] = race.prove(1, "b")
    assert vetoed.evidence["zero_one"] == 1.0
    assert kinds(race.prove(2, "c")) == [("model.promoted", "c")]


def test_a_river_metric_as_the_second_loss():
    race = Race(veto=[Guard(0.1, loss=metrics.Accuracy())])
    scores = {"a": 0.6, "b": 0.4, "c": 0.7}
    example = Example("e", "k", 0, 0, True, {}, scores, 0.6, "champion", "a", 0, 0, 0, 1, 0)
    race.approvals.observe([example] * 50, [(0.1, {"a": 0.16, "b": 0.36, "c": 0.09})] * 50)
    [vetoed] = race.restored().prove(1, "b")
    assert vetoed.evidence["Accuracy"] == 1.0
    again = [Guard(0.1, loss=metrics.Accuracy())]
    race.approvals.follow(Promotion(veto=again), 0.5)
    assert kinds(race.prove(1, "b")) == [("promotion.vetoed", "b")], "another object of the same guard"


@pytest.mark.parametrize(("most", "expected"), [(0.25, "model.promoted"), (0.24, "promotion.vetoed")])
def test_churn_has_a_limit(most, expected):
    race = Race(churn_max=most)
    [decision] = race.prove(1, "b")
    assert (decision.type, decision.evidence["churn"]) == (expected, 0.25)


def test_a_veto_comes_before_a_proposal():
    race = Race(approve="manual", veto=[SMALL])
    race.see(rows(0.06))
    assert kinds(race.prove(1, "b", "c")) == [("promotion.vetoed", "b"), ("proposal.opened", "c")]


@pytest.mark.parametrize(
    ("setting", "value"),
    [("approve", "later"), ("veto", ["small"]), ("churn_max", 1.5), ("proposal_expires", 0)],
)
def test_settings_that_cannot_work_are_refused(setting, value):
    with pytest.raises(DefinitionError, match=setting):
        Promotion(**{setting: value})


act = st.one_of(
    st.tuples(st.just("see"), st.floats(-0.2, 0.2)),
    st.tuples(st.just("prove"), st.sampled_from(["b", "c", "bc", "cb"])),
    st.tuples(st.sampled_from(["approve", "refuse"]), st.integers(0, 3)),
    st.tuples(st.just("stop"), st.none()),
    st.tuples(st.just("retire"), st.sampled_from("bc")),
    st.tuples(st.just("promote"), st.sampled_from("abc")),
)


@settings(deadline=None)
@given(st.lists(act, max_size=40), st.integers(0, 40))
def test_a_swap_needs_a_word_and_no_veto_and_a_restored_one_says_the_same(acts, cut):
    rng = np.random.default_rng(len(acts))
    settings_of = {"approve": "manual", "veto": [Guard(0.05)], "proposal_expires": 9}
    race, twin, seen, opened = Race(**settings_of), None, [], []
    for n, (kind, what) in enumerate(acts):
        if n == cut:
            twin = race.restored()
        decisions = []
        for one in (race, twin):
            if one is None:
                continue
            if kind == "see":
                if one is race:
                    new = [
                        ({}, {"a": 0.3, "b": 0.3 + what + noise, "c": 0.3})
                        for noise in rng.normal(0, 0.1, 40).tolist()
                    ]
                    seen = [*seen, *new][-VETO_ROWS:]
                one.see(new)
                told = []
            elif kind == "prove":
                told = one.prove(n, *what)
            elif kind in {"approve", "refuse"}:
                told = one.say(n, kind, opened[what] if what < len(opened) else "none")
            elif kind == "stop":
                told = one.approvals.stop(at(n))
            elif kind == "retire" and (what not in one.roster.racers or one.roster.champion == what):
                told = []
            elif kind == "retire":
                told = one.arena.retire(at(n), what, "retire")
                one.approvals.forget(what)
            else:
                told = one.commands.act(at(n), Command(f"c{n}", "promote", 0, model_name=what))
            decisions.append(told)
        assert decisions[0] == decisions[-1]
        for decision in decisions[0]:
            if decision.type == "proposal.opened":
                opened.append(decision.decision_id)
                difference = [losses[decision.model_name] - losses["a"] for _, losses in seen]
                champion = decision.evidence
                assert champion["churn"] == 0.25
                if race.roster.champion == "a" and len(difference) >= VETO_ROWS_MIN:
                    assert np.mean(difference) <= 0.05 + 1e-12
            if decision.type == "model.promoted":
                assert kind in {"approve", "promote"}
        open_now = race.approvals.open()
        assert len({proposal.proposal_id for proposal in open_now.values()}) == len(open_now)
        assert {proposal.proposal_id for proposal in open_now.values()} <= set(opened)


def test_guards_that_would_look_at_nothing_are_refused():
    with pytest.raises(DefinitionError, match="`airprot`, which is no feature"):
        check_guards([Guard(0.1, slice=("airprot", "small"))], {"airport": str}, "binary")
    with pytest.raises(DefinitionError, match="a regression has no such loss"):
        check_guards([Guard(0.1, loss="log")], {"airport": str}, "regression")
    check_guards([SMALL, Guard(0.1)], {"airport": str}, "regression")


def test_the_rows_of_a_model_that_has_left_are_not_those_of_the_next_of_its_name():
    race = Race(veto=[SMALL])
    race.see(rows(0.9, 500))
    race.approvals.forget("b")
    assert kinds(race.prove(1, "b")) == [("model.promoted", "b")]


def test_a_slice_that_was_found_forbids_a_swap_and_is_named() -> None:
    race = Race(veto=[Guard(0.05, slice="found")])
    found = {"origin is B": 0.2, "origin is C": 0.01}
    race.approvals._found = lambda champion, name: found if (champion, name) == ("a", "b") else {}
    (vetoed,) = race.prove(1, "b")
    assert vetoed.type == "promotion.vetoed"
    assert "origin is B" in vetoed.reason
    assert "origin is C" not in vetoed.reason
    assert 0.2 in vetoed.evidence.values()
    assert [one.type for one in race.prove(2, "c")] == ["model.promoted"]


@pytest.mark.parametrize(
    "guard", [Guard(0.1, slice="found"), Guard(0.1, slice="origin"), Guard(0.1, "zero_one", slice="found")]
)
def test_a_guard_of_found_slices_needs_the_search_and_the_loss_of_the_race(guard) -> None:
    with pytest.raises(DefinitionError) as refusal:
        check_guards([guard], {"origin": str}, "binary", searched=guard.loss is not None)
    assert 'slice="found"' in refusal.value.hint
    check_guards([Guard(0.1, slice="found")], {}, "binary", searched=True)
