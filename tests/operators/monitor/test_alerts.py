"""Alerts begin, end and come back as their definition says, whatever the signals do."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from operators.language.alerts import (
    USUAL_ALERTS,
    Alert,
    changed_schema,
    checked_alerts,
    decided,
    new_category,
    novelty_plan,
    signal,
)
from operators.language.signals import SIGNALS
from operators.models.scoring import Roster
from operators.monitor import alerts as module
from operators.monitor.acks import Acks, Precision
from operators.monitor.alerts import AGAIN_MS, AlertBook
from operators.monitor.learner_alerts import LearnerAlerts
from topics.errors import DefinitionError
from topics.messages import AlertRecord, Decision

MINUTE = 60_000
NAN = float("nan")
LAG = Alert(when=signal("lag_records") > 10, for_="2m", severity="critical", runbook="https://wiki/lag")


def play(book: AlertBook, values: list[float | None], step_ms: int = MINUTE) -> list[AlertRecord]:
    told = []
    for number, value in enumerate(values):
        told += book.read(number * step_ms, {} if value is None else {"lag_records": {"0": value}})
    return told


def brief(records: list[AlertRecord]) -> list[tuple[str, int, int]]:
    return [(one.state, one.time // MINUTE, one.count) for one in records]


def test_a_signal_fires_when_it_has_been_beyond_its_bound_for_long_enough() -> None:
    told = play(AlertBook("p", [LAG]), [1, 20, 30, 30, 40, 5, 5])
    assert brief(told) == [("firing", 3, 1), ("resolved", 5, 1)]
    assert {one.alert_id for one in told} == {f"p:lag_records:0:{MINUTE}"}
    first = told[0]
    assert (first.severity, first.runbook, first.since, first.value) == (
        "critical",
        "https://wiki/lag",
        MINUTE,
        30.0,
    )
    assert first.says.startswith("lag_records of 0 is 30, above 10: ")
    assert first.costs
    assert first.act
    assert first.look


def test_a_signal_that_is_well_again_before_its_time_tells_nobody() -> None:
    assert play(AlertBook("p", [LAG]), [20, 20, 5, 20, 20, 5]) == []


def test_a_signal_that_is_not_known_changes_nothing() -> None:
    assert brief(play(AlertBook("p", [LAG]), [20, None, None, 20, None, None, 5])) == [
        ("firing", 3, 1),
        ("resolved", 6, 1),
    ]


def test_one_that_comes_back_within_a_while_is_the_same_one() -> None:
    again = [20.0] * 3 + [5.0] * 2 + [20.0] * 3 + [5.0]
    told = play(AlertBook("p", [LAG]), again)
    assert brief(told) == [("firing", 2, 1), ("resolved", 3, 1), ("firing", 7, 2), ("resolved", 8, 2)]
    assert len({one.alert_id for one in told}) == 1
    later = [20.0] * 3 + [5.0] * (AGAIN_MS // MINUTE + 1) + [20.0] * 3
    assert len({one.alert_id for one in play(AlertBook("p", [LAG]), later)}) == 2


def test_a_trembling_signal_tells_a_bounded_number_of_times() -> None:
    plain = Alert(when=signal("lag_records") > 10)
    told = play(AlertBook("p", [plain]), [20.0, 5.0] * 200 + [5.0] * 20)
    assert brief(told)[:5] == [
        ("firing", 0, 1),
        ("resolved", 1, 1),
        ("firing", 2, 2),
        ("resolved", 3, 2),
        ("firing", 4, 3),
    ]
    assert len(told) == 6
    assert told[-1].state == "resolved"
    assert told[-1].time == 399 * MINUTE + AGAIN_MS


@given(
    st.lists(
        st.tuples(
            st.integers(0, 5 * MINUTE), st.sampled_from(["", "a", "b"]), st.sampled_from([0, 20, None])
        ),
        max_size=60,
    ),
    st.integers(0, 60),
)
def test_records_alternate_and_a_restart_makes_no_second_id(rows: list[Any], cut: int) -> None:
    """Against the whole run: one that is restored from its state, and one that adopts what was told."""

    def run(book: AlertBook, part: list[Any], now: int) -> tuple[list[AlertRecord], int]:
        told = []
        for wait, subject, value in part:
            now += wait
            told += book.read(now, {} if value is None else {"lag_records": {subject: float(value)}})
        return told, now

    whole, _ = run(AlertBook("p", [LAG]), rows, 0)
    states: dict[str, list[str]] = {}
    for one in whole:
        states.setdefault(one.alert_id, []).append(one.state)
    for told in states.values():
        assert told == ["firing", "resolved"] * (len(told) // 2) + ["firing"] * (len(told) % 2)
    first = AlertBook("p", [LAG])
    before, now = run(first, rows[:cut], 0)
    second = AlertBook("p", [LAG])
    second.restore(first.snapshot())
    after, _ = run(second, rows[cut:], now)
    assert before + after == whole
    heir = AlertBook("p", [LAG])
    heir.adopt({one.alert_id: one for one in before}.values())
    assert heir.open() == first.open()


def test_bounds_are_kept_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "OPEN_MAX", 2)
    monkeypatch.setattr(module, "PLACES_MAX", 3)
    counts: Counter[tuple[str, str]] = Counter()
    book = AlertBook("p", [Alert(when=signal("lag_records") > 10)], counts)
    told = book.read(0, {"lag_records": dict.fromkeys("abcde", 20.0)})
    assert [one.subject for one in told] == ["a", "b"]
    assert counts["alerts", "lag_records left_out"] == 3
    assert book.firing == 2


def test_other_alerts_resolve_those_that_are_gone() -> None:
    book = AlertBook("p", [LAG])
    play(book, [20.0] * 3)
    assert brief(book.follow([Alert(when=signal("lag_records") > 50)], 9 * MINUTE)) == [("resolved", 9, 1)]
    assert not book.firing


def test_a_decision_is_told_once() -> None:
    book = AlertBook("p", [Alert(when=decided("model.over_budget"), severity="info")])
    decision = Decision("p:0:7:0", "model.over_budget", 5, "tree", 2, 100, "takes 9 ms", "headrace", 7)
    (told,) = book.told(decision)
    assert (told.alert_id, told.state, told.kind, told.severity, told.subject) == (
        "p:model.over_budget:tree:7",
        "told",
        "decision",
        "info",
        "tree",
    )


def test_each_alert_about_a_decision_is_told_of_it() -> None:
    loud = Alert(when=decided("model.over_budget", "model.promoted"), severity="critical", name="loud")
    book = AlertBook("p", [Alert(when=decided("model.over_budget")), loud])
    decision = Decision("p:0:7:0", "model.over_budget", 5, "tree", 2, 100, "takes 9 ms", "headrace", 7)
    assert [one.policy for one in book.told(decision)] == ["model.over_budget", "loud"]


@pytest.mark.parametrize(
    ("made", "says"),
    [
        (lambda: signal("lag"), "no signal 'lag'"),
        (lambda: signal("lag_records") > "many", "compared with a number"),
        (lambda: signal("lag_records") > NAN, "compared with a number"),
        (lambda: signal("lag_records") > 1 and signal("loss_ratio") > 2, "cannot be joined"),
        (lambda: 1 < signal("lag_records") < 5, "cannot be joined"),
        (lambda: Alert(when=signal("lag_records") == 3), "no condition"),
        (lambda: Alert(when=signal("lag_records")), "no condition"),
        (lambda: Alert(when=new_category("a"), for_="1m"), "happens once"),
        (lambda: Alert(when=signal("shift") > 0, severity="bad"), "severity"),
        (lambda: Alert(when=signal("shift") > 0, channel="mail"), "channel"),
        (lambda: Alert(when=signal("shift") > 0, for_="soon"), "no duration"),
        (lambda: Alert(when=signal("shift") > 0, name="a:b"), "part of ids"),
        (new_category, "of nothing"),
        (lambda: new_category("a", "a"), "named twice"),
        (lambda: new_category("a", learning=0), "learning=0"),
        (lambda: decided("model.lost"), "no decision"),
        (lambda: checked_alerts([LAG, LAG], keyed=False), "two alerts"),
        (lambda: checked_alerts("lag", keyed=False), "no list"),
        (lambda: checked_alerts([Alert(when=signal("shift") > 0)], keyed=True), "of one race"),
        (lambda: novelty_plan([Alert(when=new_category("a")), Alert(when=new_category("a", "b"))]), "same"),
        (
            lambda: novelty_plan([Alert(when=new_category("a")), Alert(when=changed_schema(learning=5))]),
            "hold for all",
        ),
    ],
)
def test_what_cannot_be_meant_is_refused(made: Any, says: str) -> None:
    with pytest.raises(DefinitionError, match=says) as caught:
        made()
    assert caught.value.hint


def test_the_usual_alerts_watch_what_there_is() -> None:
    assert len({one.name for one in USUAL_ALERTS}) == len(USUAL_ALERTS)
    assert {one.when.signal for one in USUAL_ALERTS if hasattr(one.when, "signal")} <= SIGNALS.keys()
    assert {one.scope for one in checked_alerts(None, keyed=True)} == {"worker", "skew"}
    assert novelty_plan(USUAL_ALERTS) is None


def shift_decision(kind: str, verdict: str, time: int, **more: Any) -> Decision:
    evidence = {"shift_id": "p:7", "verdict": verdict, "since": 5} | more
    made: Any = kind
    return Decision(
        f"p:0:{time}:0",
        made,
        time,
        "m",
        1,
        0,
        verdict,
        "headrace",
        time,
        evidence=evidence,
        features=["a", "b"],
    )


def test_an_open_shift_is_told_again_under_its_id_when_it_is_another_one() -> None:
    made = LearnerAlerts("p", [Alert(when=signal("shift") > 0)], Roster("binary", (), "m"), Counter())
    made.decided([shift_decision("shift.found", "label_shift", 1_000, act="correct the prior")])
    made.decided([decision_of_another_kind(2_000)])
    made.decided([shift_decision("shift.updated", "concept_drift", 3_000, act="learn anew", true_loss=0.25)])
    again = LearnerAlerts("p", [Alert(when=signal("shift") > 0)], Roster("binary", (), "m"), Counter())
    again.restore(made.snapshot())
    again.decided([shift_decision("shift.ended", "concept_drift", 4_000)])
    told = made.take() + again.take()
    assert [(one.state, one.time, one.count) for one in told] == [
        ("firing", 1_000, 1),
        ("firing", 3_000, 1),
        ("resolved", 4_000, 1),
    ]
    assert {(one.alert_id, one.subject, one.since) for one in told} == {
        ("p:shift:label_shift:1000", "label_shift", 1_000)
    }
    assert told[0].says.endswith("above 0: label_shift; features a, b")
    assert told[1].says.endswith("found as label_shift, now concept_drift; features a, b; true_loss 0.25")
    assert "no longer above 0: found as label_shift" in told[2].says
    assert [one.act for one in told] == ["correct the prior", "learn anew", "learn anew"]


def decision_of_another_kind(time: int) -> Decision:
    return Decision(f"p:0:{time}:0", "model.promoted", time, "m", 1, 0, "better", "headrace", time)


def test_the_last_word_on_an_alert_holds() -> None:
    acks = Acks("p", {"lag_records", "shift"})
    acks.ack("p:lag_records:0:1", false_alarm=True)
    acks.ack("p:lag_records:0:1", false_alarm=False)
    acks.ack("p:lag_records:0:2", false_alarm=True)
    acks.ack("p:lag_records:0:2", false_alarm=True)
    assert acks.precision() == {"lag_records": Precision(2, 1)}
    assert acks.precision()["lag_records"].share == 0.5
    assert acks.refusal("q:lag_records:0:1")
    again = Acks("p", {"lag_records"})
    again.restore(acks.snapshot())
    assert again.precision() == acks.precision()


def test_what_is_said_is_counted_by_the_names_of_alerts_that_there_are() -> None:
    acks = Acks("p", {"lag_records", "shift"})
    acks.ack("p:lag_records:0:1", false_alarm=True)
    acks.ack("p:shift:label_shift:1", false_alarm=True)
    assert acks.refusal("p:invented:0:1") == "`p` has no alert called `invented`"
    acks.follow({"shift"})
    assert acks.precision() == {"shift": Precision(1, 1)}
    assert acks.refusal("p:lag_records:0:1")
    acks.follow({"shift", "lag_records"})
    acks.ack("p:lag_records:0:1", false_alarm=False)
    assert acks.precision()["lag_records"] == Precision(1, 0), "nothing of before is remembered"
