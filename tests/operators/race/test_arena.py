"""The lifecycle follows its table; every change is a decision; the roster never lies."""

from __future__ import annotations

import math
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st
from river import linear_model

from operators.drift.detectors import Detection
from operators.models.mixture import Mixture
from operators.models.scoring import Racer, Roster
from operators.race.approval import Approvals
from operators.race.arena import GROWN_AFTER, PREVIOUS_MAX, TRANSITIONS, Arena, Moment
from operators.race.candidates import Challenge, Drifted
from operators.race.commands import COMMANDS_MAX, NO_COMMAND, Commands
from operators.race.evidence import Promotion, Verdict
from operators.race.good_versions import GoodVersions
from topics.messages import Command

RISEN = Detection("ADWIN", "loss", False, 0.1, 0.3, 500, 1)
FALLEN = RISEN._replace(improved=True)


def arena(names="abc", **settings):
    candidates = [
        Racer(name, linear_model.LogisticRegression(), version=n) for n, name in enumerate(names, 1)
    ]
    promotion = Promotion(**{"min_examples": 10, "cooldown": 100, **settings})
    roster = Roster("binary", candidates, names[0])
    found = Arena("p", 3, roster, promotion)
    found.approvals = Approvals(promotion, found, "binary", 0.5, lambda _, __: 0.25)
    found.approval = found.approvals if found.approvals.asks else None
    found.commands = Commands(found, GoodVersions(pickle.dumps, pickle.loads, roster), found.approvals)
    return found


def at(n):
    return Moment(n, n * 1_000, n)


def proven(name, effect=0.1, examples=1_000):
    return Verdict(name, 50.0, 40.0, effect, examples, 20)


def same_loss(_):
    return 0.5


def command(found, name, n=0, model=None, command_id=None):
    asked = Command(command_id or f"{name}{n}", name, 7, model_name=model, actor="kim")
    return found.commands.act(at(n), asked)


def test_evidence_promotes_and_the_dethroned_stays_in_the_race():
    found = arena()
    [decision] = found.swap(at(5), [proven("b")])
    assert (decision.type, decision.model_name, decision.model_version) == ("model.promoted", "b", 2)
    assert (decision.from_model, decision.from_version, decision.reason) == ("a", 1, "evidence")
    assert (decision.decision_id, decision.offset, decision.time, decision.examples) == (
        "p:3:5:0",
        5,
        5_000,
        5,
    )
    assert decision.evidence["evidence"] == 50.0
    assert (found.roster.champion, found.roster.previous) == ("b", ("a",))
    assert found.states == {"a": "challenger", "b": "champion", "c": "challenger"}


@pytest.mark.parametrize(
    ("settings", "verdict"),
    [({"min_examples": 1_001}, proven("b")), ({"min_effect": 0.11}, proven("b")), ({}, proven("a"))],
)
def test_evidence_alone_is_not_enough(settings, verdict):
    found = arena(**settings)
    assert found.swap(at(5), [verdict]) == []
    assert found.roster.champion == "a"


def test_the_next_in_line_may_meet_what_the_first_does_not():
    found = arena(min_effect=0.05)
    assert found.swap(at(5), [proven("b", effect=0.01), proven("c")])[0].model_name == "c"


@pytest.mark.parametrize(("cooldown", "soon", "later"), [(100, 104, 105), ("1m", 64, 65)])
def test_swaps_keep_their_distance(cooldown, soon, later):
    found = arena(cooldown=cooldown)
    assert found.swap(at(5), [proven("b")])
    assert found.swap(at(soon), [proven("a")]) == []
    assert found.swap(at(later), [proven("a")])


def test_every_change_of_line_up_moves_the_revision():
    found = arena()
    seen = [found.roster.revision]
    for act in (
        lambda: found.swap(at(5), [proven("b")]),
        lambda: command(found, "promote", 6, "c"),
        lambda: command(found, "rollback", 7),
        lambda: found.quarantine(at(8), "c", "sick", same_loss),
    ):
        assert act()
        seen.append(found.roster.revision)
    assert seen == sorted(set(seen))


def test_rollback_goes_back_step_by_step_and_not_in_circles():
    found = arena()
    command(found, "promote", 1, "b")
    command(found, "promote", 2, "c")
    assert found.roster.previous == ("b", "a")
    [decision] = command(found, "rollback", 3)
    assert (decision.type, decision.model_name, decision.from_model, decision.actor) == (
        "model.rolled_back",
        "b",
        "c",
        "kim",
    )
    assert found.roster.previous == ("a",)
    assert command(found, "rollback", 4)[0].model_name == "a"
    assert command(found, "rollback", 5)[0].type == "command.refused"


def test_who_is_retired_is_gone_from_the_roster_the_sick_too():
    found = arena()
    command(found, "promote", 1, "b")
    found.quarantine(at(2), "c", "sick", same_loss)
    revision = found.roster.revision
    for n, name in ((3, "a"), (4, "c")):
        [decision] = command(found, "retire", n, name)
        assert (decision.type, decision.model_name, decision.reason) == ("challenger.retired", name, "retire")
        assert decision.actor == "kim"
    assert list(found.roster.racers) == list(found.states) == ["b"]
    assert (found.roster.previous, found.roster.quarantined) == ((), set())
    assert found.roster.revision > revision
    assert command(found, "retire", 5, "b")[0].reason == "`b` is the champion"


def test_pause_and_resume():
    found = arena()
    assert command(found, "pause", 1)[0].type == "learning.paused"
    assert found.paused
    assert command(found, "pause", 2)[0].type == "command.refused"
    assert command(found, "resume", 3)[0].type == "learning.resumed"
    assert not found.paused


def kinds(decisions):
    return [(decision.type, decision.model_name) for decision in decisions]


def test_evidence_does_not_move_a_pinned_champion():
    found = arena()
    [decision] = command(found, "pin", 1)
    assert (decision.type, decision.model_name, decision.actor) == ("champion.pinned", "a", "kim")
    assert (decision.reason, decision.evidence["command_id"]) == ("pin", "pin1")
    assert found.swap(at(500), [proven("b")]) == []
    assert (found.pinned, found.roster.champion) == (True, "a")


def test_a_challenger_is_promoted_and_pinned_by_one_command():
    found = arena()
    decisions = command(found, "pin", 1, "b")
    assert kinds(decisions) == [("model.promoted", "b"), ("champion.pinned", "b")]
    assert [decision.decision_id for decision in decisions] == ["p:3:1:0", "p:3:1:1"]
    assert found.swap(at(500), [proven("a")]) == []


def test_a_person_moves_the_pin():
    found = arena()
    command(found, "pin", 1)
    assert kinds(command(found, "promote", 2, "b")) == [("model.promoted", "b")]
    assert found.swap(at(500), [proven("c")]) == []
    assert kinds(command(found, "pin", 3, "c")) == [("model.promoted", "c"), ("champion.pinned", "c")]
    assert kinds(command(found, "rollback", 4)) == [("model.rolled_back", "b")]
    assert found.pinned
    [again] = command(found, "pin", 5, "b")
    assert (again.type, again.reason) == ("command.refused", "`b` is pinned already")


def test_a_sick_champion_is_succeeded_though_it_is_pinned():
    found = arena()
    command(found, "promote", 1, "b")
    command(found, "pin", 2)
    assert kinds(found.quarantine(at(3), "c", "sick", same_loss)) == [("model.quarantined", "c")]
    assert found.pinned
    decisions = found.quarantine(at(4), "b", "sick", same_loss)
    assert kinds(decisions) == [
        ("model.quarantined", "b"),
        ("champion.unpinned", "b"),
        ("model.promoted", "a"),
    ]
    assert {decision.reason for decision in decisions[1:]} == {"quarantine"}
    assert not found.pinned
    assert found.swap(at(900), [proven("a")]) == []


def test_nobody_is_pinned_when_nobody_is_left():
    found = arena("a")
    command(found, "pin", 1)
    assert kinds(found.quarantine(at(2), "a", "sick", same_loss))[1:] == [("champion.unpinned", "a")]
    [refused] = command(found, "pin", 3)
    assert (refused.type, refused.reason) == ("command.refused", "`a` is quarantined")


def test_the_cooldown_begins_with_the_unpin():
    found = arena(cooldown=100)
    command(found, "pin", 1)
    assert kinds(command(found, "unpin", 300)) == [("champion.unpinned", "a")]
    assert found.swap(at(399), [proven("b")]) == []
    assert found.swap(at(400), [proven("b")])


def test_what_is_no_command_is_refused_and_its_id_may_come_again():
    found = arena()
    refused = found.commands.refuse(at(1), "Object missing required field `time`", "x")
    assert (refused.type, refused.evidence) == ("command.refused", {"command_id": "x", "fix": NO_COMMAND})
    assert found.commands.refuse(at(2), "y" * 900, "").evidence == {"fix": NO_COMMAND}
    assert command(found, "promote", 3, "b", command_id="x")


def test_a_command_acts_once():
    found = arena()
    assert command(found, "promote", 1, "b", command_id="x")
    assert command(found, "promote", 2, "b", command_id="x") == []
    assert found.roster.champion == "b"


def test_another_command_under_a_used_id_is_refused():
    found = arena()
    assert command(found, "promote", 1, "b", command_id="x")
    [refused] = command(found, "promote", 2, "c", command_id="x")
    assert (refused.type, refused.reason) == ("command.refused", "command_id `x` was another command's")
    again = arena()
    again.restore(found.snapshot())
    again.commands.restore(found.commands.snapshot())
    assert command(again, "promote", 3, "b", command_id="x") == [], "a repeat of what was done"
    assert command(again, "rollback", 4, command_id="x")[0].type == "command.refused"
    assert found.roster.champion == "b"


def test_a_command_that_somebody_kept_acts_once_however_late_it_is_sent_again():
    """Ids are forgotten after a thousand; the signature of an old command is as right as ever."""
    found = arena()

    def ask(n, time):
        return found.commands.act(at(n), Command(f"c{n}", "promote", time, model_name="bc"[n % 2]))

    for n in range(COMMANDS_MAX + 10):
        assert ask(n, 1_000 + n)[0].type == "model.promoted"
    assert sum(map(len, found.commands.snapshot().values())) < 30 * COMMANDS_MAX
    for _ in range(2):
        serves = found.roster.champion
        assert ask(COMMANDS_MAX + 9, 1_000 + COMMANDS_MAX + 9) == [], "its id is known"
        for n in range(10):
            (refused,) = ask(n, 1_000 + n)
            assert refused.type == "command.refused"
            assert "a repeat?" in refused.reason
        assert found.roster.champion == serves
        kept = found.commands.snapshot()
        found.commands.restore(kept)
        assert found.commands.snapshot() == kept
    (done,) = ask(COMMANDS_MAX + 10, 5_000)
    assert done.type == "model.promoted"


def test_a_checkpoint_from_before_times_were_kept_is_read():
    found = arena()
    command(found, "promote", 1, "b", command_id="x")
    kept = found.commands.snapshot()
    again = arena()
    again.restore(found.snapshot())
    again.commands.restore({"commands": kept["commands"]})
    assert command(again, "promote", 3, "b", command_id="x") == []
    assert command(again, "promote", 3, "c")[0].type == "model.promoted"


def test_a_sick_champion_is_succeeded_by_the_one_before():
    found = arena()
    command(found, "promote", 1, "b")
    sick, promoted = found.quarantine(at(9), "b", "RuntimeError: boom", same_loss)
    assert (sick.type, sick.model_name, sick.reason) == ("model.quarantined", "b", "RuntimeError: boom")
    assert (promoted.type, promoted.model_name, promoted.from_model, promoted.reason) == (
        "model.promoted",
        "a",
        "b",
        "quarantine",
    )
    assert (sick.decision_id, promoted.decision_id) == ("p:3:9:0", "p:3:9:1")
    assert (found.roster.champion, found.roster.previous, found.roster.quarantined) == ("a", (), {"b"})


def test_without_earlier_champions_the_best_of_late_succeeds():
    found = arena()
    losses = {"b": 0.3, "c": 0.2}
    assert found.quarantine(at(9), "a", "sick", losses.__getitem__)[1].model_name == "c"


def test_the_last_one_standing_can_fall_too():
    found = arena("a")
    assert [decision.type for decision in found.quarantine(at(1), "a", "sick", same_loss)] == [
        "model.quarantined"
    ]
    assert found.roster.racing() == []


def test_reports_about_the_sick_or_unknown_change_nothing():
    found = arena()
    assert found.quarantine(at(1), "b", "sick", same_loss)
    before = found.snapshot()
    assert found.quarantine(at(2), "b", "sick again", same_loss) == []
    assert found.quarantine(at(2), "zzz", "who", same_loss) == []
    assert found.snapshot() == before


def test_drift_is_an_alarm_and_nothing_more_where_nobody_may_start():
    found = arena(fresh_challengers_max=0)
    decisions = found.alarms(at(5), [RISEN, FALLEN], same_loss)
    assert [(decision.type, decision.reason) for decision in decisions] == [
        ("drift.detected", "ADWIN on loss"),
        ("drift.improved", "ADWIN on loss"),
    ]
    assert decisions[0].evidence == {"before": 0.1, "after": 0.3, "examples": 500, "detections": 1}
    assert len(found.roster.racers) == 3


def test_a_risen_loss_may_start_a_clone_and_the_worst_clone_makes_room():
    found = arena(fresh_challengers_max=2)
    found.roster.racers["a"].model.learn_one({"x": 1.0}, True)

    def drifts(n):
        return [
            (d.type, d.model_name)
            for d in found.alarms(at(n), [RISEN], {"a-4": 0.9, "a-5": 0.2}.__getitem__)
            if d.type != "drift.detected"
        ]

    assert drifts(100) == [("challenger.started", "a-4")]
    fresh = found.roster.racers["a-4"]
    assert (fresh.version, fresh.updates, fresh.definition) == (4, 0, "a")
    assert fresh.model.weights == {}
    assert drifts(150) == [], "one per cool-down"
    assert drifts(200) == [("challenger.started", "a-5")]
    assert drifts(300) == [("challenger.retired", "a-4"), ("challenger.started", "a-6")]
    assert list(found.roster.racers) == ["a", "b", "c", "a-5", "a-6"]
    assert found.alarms(at(900), [FALLEN], same_loss)[0].type == "drift.improved"
    assert list(found.roster.racers) == ["a", "b", "c", "a-5", "a-6"]


def test_a_young_clone_makes_no_room_and_that_is_counted():
    """Alarms come daily where evidence takes weeks: no clone would last until it had shown anything."""
    found = arena(fresh_challengers_max=2, cooldown=0)
    grown = GROWN_AFTER * 10

    def starts(n, loss=same_loss):
        return [d.model_name for d in found.alarms(at(n), [RISEN], loss) if d.type == "challenger.started"]

    assert starts(100) == ["a-4"]
    assert starts(120) == ["a-5"]
    assert starts(130) == starts(99 + grown) == []
    assert [d.type for d in found.alarms(at(99 + grown), [RISEN], same_loss)] == ["drift.detected"]
    again = arena(fresh_challengers_max=2, cooldown=0)
    again.restore(found.snapshot())
    for racer in again.roster.racers.values():
        racer.model = linear_model.LogisticRegression()
    found.counts.clear()
    worse_is_young = {"a-4": 0.1, "a-5": 0.9}.__getitem__
    for one in (found, again):
        alarms = one.alarms(at(100 + grown), [RISEN], worse_is_young)
        assert [d.model_name for d in alarms[1:]] == ["a-4", "a-6"], "the worse one is too young"
    assert found.snapshot() == again.snapshot()
    assert found.counts == {("challengers", "started"): 1}
    found.quarantine(at(200 + grown), "a-6", "sick", same_loss)
    assert starts(201 + grown) == ["a-7"], "one in quarantine holds no place"


def test_what_becomes_of_a_start_is_counted():
    found = arena(fresh_challengers_max=1, min_examples=100)
    for n in (100, 150, 210):
        found.alarms(at(n), [RISEN], same_loss)
    found.quarantine(at(900), "a", "sick", same_loss)
    found.quarantine(at(900), "b", "sick", same_loss)
    found.quarantine(at(900), "c", "sick", same_loss)
    found.quarantine(at(900), "a-4", "sick", same_loss)
    found.alarms(at(901), [RISEN], same_loss)
    assert found.counts == {
        ("challengers", "started"): 1,
        ("challengers", "cooldown"): 1,
        ("challengers", "field_young"): 1,
        ("challengers", "nobody_to_clone"): 1,
    }


def test_a_clone_of_a_clone_is_named_after_the_first():
    found = arena(fresh_challengers_max=1)
    found.alarms(at(100), [RISEN], same_loss)
    command(found, "promote", 101, "a-4")
    found.alarms(at(300), [RISEN], same_loss)
    assert "a-5" in found.roster.racers


def test_other_alarms_start_nothing():
    found = arena(fresh_challengers_max=1)
    decisions = found.alarms(at(100), [RISEN._replace(on="label"), FALLEN], same_loss)
    assert {decision.type for decision in decisions} == {"drift.detected", "drift.improved"}


def test_a_sick_champion_is_not_cloned():
    found = arena("a", fresh_challengers_max=1)
    found.quarantine(at(1), "a", "sick", same_loss)
    assert [decision.type for decision in found.alarms(at(200), [RISEN], same_loss)] == ["drift.detected"]


def test_the_table_has_no_way_out_of_retirement():
    assert {before for before, _ in TRANSITIONS} == {"challenger", "champion", "twin", "quarantined"}
    assert ("champion", "retire") not in TRANSITIONS
    assert set(TRANSITIONS.values()) == {"champion", "challenger", "twin", "quarantined", "retired"}


act = st.one_of(
    st.tuples(st.just("swap"), st.sampled_from("abcd")),
    st.tuples(st.just("promote"), st.sampled_from("abcd")),
    st.tuples(st.just("rollback"), st.none()),
    st.tuples(st.just("quarantine"), st.sampled_from("abcd")),
    st.tuples(st.just("alarm"), st.none()),
    st.tuples(st.just("pause"), st.none()),
    st.tuples(st.just("pin"), st.sampled_from(["a", "b", None])),
    st.tuples(st.just("unpin"), st.none()),
    st.tuples(st.just("retire"), st.sampled_from("abcd")),
    st.tuples(st.just("release"), st.sampled_from("abcd")),
)


def do(found, n, kind, name):
    if kind == "swap":
        return found.swap(at(n), [proven(name)])
    if kind == "quarantine":
        return found.quarantine(at(n), name, "sick", lambda other: ord(other[0]) + math.sqrt(len(other)))
    if kind == "alarm":
        return found.alarms(at(n), [RISEN], same_loss)
    return command(found, kind, n, name)


@given(st.lists(act, max_size=40), st.integers(0, 40))
def test_the_roster_never_lies(acts, cut):
    found, ids = arena("abcd", cooldown=2, fresh_challengers_max=2), []
    twin = None
    pinned = None
    for n, (kind, name) in enumerate(acts):
        if n == cut:
            twin = arena("abcd", cooldown=2, fresh_challengers_max=2)
            twin.restore(found.snapshot())
            twin.commands.restore(found.commands.snapshot())
            assert twin.snapshot() == found.snapshot()
        decisions = do(found, n, kind, name)
        if twin is not None:
            # Models are entries of their own: a restored line-up gets them from the learner.
            for candidate in twin.roster.racers.values():
                candidate.model = linear_model.LogisticRegression()
            assert do(twin, n, kind, name) == decisions
        ids += [decision.decision_id for decision in decisions]
        roster, states = found.roster, found.states
        if pinned is not None and roster.champion != pinned:
            assert kind in {"promote", "rollback", "pin", "quarantine"}
        pinned = roster.champion if found.pinned else None
        assert pinned is None or states[pinned] == "champion"
        assert states.keys() == roster.racers.keys()
        champions = [other for other, state in states.items() if state == "champion"]
        if champions:
            assert champions == [roster.champion]
        else:
            assert states[roster.champion] == "quarantined"
            assert roster.racing() == []
        assert roster.quarantined == {other for other, state in states.items() if state == "quarantined"}
        assert all(states[other] == "challenger" for other in roster.previous)
        assert len(roster.previous) <= PREVIOUS_MAX
        versions = [candidate.version for candidate in roster.racers.values()]
        assert len(versions) == len(set(versions))
    assert len(ids) == len(set(ids))


def test_the_challenger_that_a_blend_listens_to_most_makes_no_room() -> None:
    """Else the best base model would be thrown out by the alarm that asks for another one."""
    mixture = Mixture("binary", eta=0.5, share=0.01, of=["a", "a-3"])
    mixture.weights = {"a": 0.2, "a-3": 0.8}
    racers = [Racer("a", linear_model.LogisticRegression(), version=1), Racer("blend", mixture, version=2)]
    challenge = Challenge(Drifted(), max=1)
    started = Arena("p", 0, Roster("binary", racers, "blend"), Promotion(), [challenge])
    for number in range(3):
        started.start(Moment(number, 0, number), challenge, "drift", lambda _: 0.5)
    assert list(started.roster.racers) == ["a", "blend", "a-3", "a-5"]


def test_a_challenge_that_says_what_the_default_says_starts_one_challenger():
    roster = Roster("binary", [Racer("a", linear_model.LogisticRegression(), version=1)], "a")
    found = Arena("p", 0, roster, Promotion(fresh_challengers_max=1), [Challenge(Drifted(), start="fresh")])
    decisions = found.alarms(at(100), [RISEN], same_loss)
    assert kinds(decisions) == [("drift.detected", "a"), ("challenger.started", "a-2")]
