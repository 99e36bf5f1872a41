"""A worker that stands still is told from one that waits, or has nothing to do."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.host.progress import LOOP_SILENT_S, ProgressWatch, Seen, Stall

DEADLINE_S, TAKEOVER_S = 60.0, 40.0


def looked(looks: Iterable[tuple[float, Seen]]) -> tuple[float, Stall] | None:
    """Return the first stall and when it was found."""
    progress = ProgressWatch(DEADLINE_S, takeover_s=TAKEOVER_S)
    for now_s, seen in looks:
        if (stall := progress.look(now_s, seen)) is not None:
            return now_s, stall
    return None


def standing(seconds: int = 1_000, **seen: Any) -> tuple[float, Stall] | None:
    return looked((float(second), Seen(**seen)) for second in range(seconds))


@pytest.mark.parametrize(
    ("seen", "subject", "waits_for"),
    [
        ({"unread": 1}, "answers", "broker"),
        ({"unread": 1, "paused": True, "unlearned": 5}, "answers", "broker"),
        ({"unread": 1, "loop_silent_s": LOOP_SILENT_S}, "answers", "loop"),
        ({"unread": 1, "loop_silent_s": LOOP_SILENT_S, "saving": True}, "answers", "store"),
        ({"unread": 1, "learner_waited_for": True}, "answers", "learner"),
        ({"unlearned": 5}, "lessons", "learner"),
        ({"unlearned": 5, "held": True, "store_away": True, "unread": 9}, "lessons", "learner"),
        ({"unread": 9, "held": True, "saving": True}, "answers", "store"),
        ({"restored": False}, "partitions", "group"),
    ],
)
def test_work_that_stands_for_the_deadline_is_a_stall_with_its_cause(
    seen: dict[str, Any], subject: str, waits_for: str
) -> None:
    found = standing(**seen)
    assert found is not None
    now_s, stall = found
    assert (now_s, stall.subject, stall.waits_for, stall.seconds) == (
        DEADLINE_S,
        subject,
        waits_for,
        DEADLINE_S,
    )


@pytest.mark.parametrize(
    "seen",
    [
        {},
        {"unlearned": 5, "paused": True},
        {"unread": 5, "held": True, "store_away": True},
        {"unread": 5, "unlearned": 5, "broker_away": True},
        {"restored": False, "broker_away": True},
    ],
    ids=["an empty topic", "a pause", "a bound that waits for a store", "no broker", "no broker at a start"],
)
def test_what_waits_with_a_reason_is_none(seen: dict[str, Any]) -> None:
    assert standing(**seen) is None


def test_a_takeover_may_wait_for_stores_besides() -> None:
    found = standing(restored=False, restoring=True)
    assert found is not None
    assert found[0] == DEADLINE_S + TAKEOVER_S
    assert found[1].waits_for == "loop"


def test_the_time_begins_anew_when_a_reason_is_over() -> None:
    away = [(float(second), Seen(unread=5, broker_away=True)) for second in range(300)]
    back = [(float(second), Seen(unread=5)) for second in range(300, 600)]
    found = looked(away + back)
    assert found is not None
    assert found[0] == 300 + DEADLINE_S


def test_how_long_it_has_stood_is_told_before_the_end() -> None:
    progress = ProgressWatch(DEADLINE_S, takeover_s=TAKEOVER_S)
    shown = []
    for now_s, seen in (
        (0.0, Seen(unread=1)),
        (5.0, Seen(unread=1)),
        (6.0, Seen(unread=1, taken=1)),
        (7.0, Seen()),
    ):
        assert progress.look(now_s, seen) is None
        shown.append(progress.stalled_s)
    assert shown == [0.0, 5.0, 0.0, 0.0]


@dataclass
class Step:
    """What a second brings: a record, its reading, a lesson."""

    arrives: int
    takes: bool
    learns: bool


@given(st.lists(st.builds(Step, st.integers(0, 3), st.booleans(), st.booleans()), max_size=300))
def test_a_stall_is_found_exactly_when_one_subject_has_work_and_has_not_moved_for_the_deadline(
    steps: list[Step],
) -> None:
    """Against the definition, second by second."""
    deadline, progress = 5, ProgressWatch(5.0, takeover_s=0.0)
    unread = taken = logged = learned = 0
    history: list[tuple[bool, int, bool, int]] = []
    for second, step in enumerate(steps):
        unread += step.arrives
        if step.takes and unread:
            unread, taken, logged = unread - 1, taken + 1, logged + 1
        if step.learns and learned < logged:
            learned += 1
        history.append((unread > 0, taken, logged > learned, learned))
        last = history[-deadline - 1 :]
        stalled = len(last) == deadline + 1 and any(
            all(moment[work] for moment in last) and len({moment[place] for moment in last}) == 1
            for work, place in ((0, 1), (2, 3))
        )
        seen = Seen(unread=unread, taken=taken, unlearned=logged - learned, learned=learned)
        assert (progress.look(float(second), seen) is not None) == stalled
        if stalled:
            return
