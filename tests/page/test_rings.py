"""What a worker remembers for its page, and what of that leaves for whom."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from engine.machines.outbox import Scored
from engine.page.facts import shown_mark
from engine.page.rings import ANSWERS_MAX, MARKS, MARKS_MAX, RaceMark, Rings
from topics.codec import encode
from topics.headers import dead_letter
from topics.messages import AlertRecord, Decision, DecisionType, Outgoing, Prediction, Record


def answer(number: int, key: str) -> Scored:
    made = Prediction(
        f"p:e{number}", f"e{number}", number, number, "tree", 1, 5,
        "champion", 0.5, True, "champion", {}, 0, 1, number,
    )  # fmt: skip
    return made, key, {"tree": 0.5}


def decision(kind: DecisionType, offset: int, **more: Any) -> Decision:
    reason = "so it is"
    return Decision(f"p:0:{offset}:0", kind, offset, "tree", 1, offset, reason, "headrace", offset, **more)


def numbers(marks: Iterable[RaceMark]) -> list[int]:
    return [mark.number for mark in marks]


def test_rings_are_bounded_and_a_hundred_alarms_push_out_no_swap() -> None:
    rings = Rings()
    rings.decided([decision("model.promoted", 1)])
    for offset in range(2, 500):
        rings.decided([decision("drift.detected", offset)])
        rings.answered([answer(offset, "k") for _ in range(3)])
    marks = rings.marks()
    assert [mark.kind for mark in marks] == ["swap"] + ["drift"] * MARKS_MAX
    assert numbers(marks) == [1, *range(500 - MARKS_MAX, 500)]
    assert len(rings.answers) == ANSWERS_MAX


def test_what_is_decided_again_in_a_replay_is_one_mark() -> None:
    rings = Rings()
    for _ in range(3):
        rings.decided([decision("model.promoted", 7), decision("canary.stepped", 9)])
    assert numbers(rings.marks()) == [1, 2]


def test_what_is_about_keys_and_sources_is_no_mark() -> None:
    told: tuple[DecisionType, ...] = ("key.erased", "source.quarantined", "source.released", "alert.acked")
    rings = Rings()
    rings.decided([decision(kind, 1) for kind in told])
    assert not rings.marks()
    assert not MARKS.keys() & set(told)


def test_a_key_that_is_erased_is_forgotten() -> None:
    rings = Rings()
    rings.answered([answer(1, "ann"), answer(2, "bob")])
    for key, stage in ((b"ann", "decode"), (b"bob", "label")):
        record = Record("events", 0, 7, 0, key, b"{}")
        letter = dead_letter(record, stage=stage, exception="ValueError", message="no")
        rings.refused([Outgoing("dead-letters", None, key, b"{}", letter, 0)])
    rings.erased(["ann"])
    assert [key for _, key, _ in rings.answers] == ["bob"]
    assert set(rings.letters) == {"label"}
    rings.answered([answer(number, "eve") for number in range(ANSWERS_MAX + 5)])
    assert len(rings.answers) == ANSWERS_MAX


def test_marks_leave_without_keys_and_without_what_an_event_held() -> None:
    rings = Rings()
    promoted = decision("model.promoted", 1, key="ann")
    rings.decided([msgspec.structs.replace(promoted, decision_id="p:0:ann:1:0")])
    alert = AlertRecord(
        "p:new:country:ann", "new", "told", "new_category", "info", 5, 1, "country ann is new", subject="ann",
        look="ann", field="country", category="ann", event_id="ann-1",
    )  # fmt: skip
    rings.alerted([Outgoing("alerts", None, b"a", encode(alert), (), 5)])
    shown = [msgspec.json.encode(shown_mark(mark)) for mark in rings.marks()]
    assert len(shown) == 2
    assert not [one for one in shown if b"ann" in one]
