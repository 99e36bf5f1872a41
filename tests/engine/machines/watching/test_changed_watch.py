"""A verdict that lasts ends where it is watched by other settings, or no more: decisions and alerts alike."""

from __future__ import annotations

from dataclasses import replace

import pytest
from fields import Source
from river import linear_model

from engine.machines.learner import Learner
from engine.machines.watching import verdicts_of
from operators.drift.watch import Watch
from operators.race.field import RaceField
from topics import headers
from topics.codec import encode
from topics.messages import Block, FieldChange, Record

DAY_MS = 86_400_000
MOVED_FROM, BLOCKS = 40, 45
WATCH = Watch(reference_span="14d")
CLAIM = b'{"source_partition":0,"claim":1}'
FIRST = RaceField.of({"linear": linear_model.LogisticRegression()}, champion="linear", watch=WATCH)


def block(number: int) -> Block:
    centre = 0.3 if number >= MOVED_FROM else 0.0
    values = [centre + (7 * row + number) % 20 / 10 for row in range(40)]
    start = number * DAY_MS
    return Block(
        number, start, start + DAY_MS, 40, 0, {}, {"champion": 40}, list(range(40)),
        {"x": values}, [0.5] * 40, source_partition=0, claim=1, sequence=number,
    )  # fmt: skip


@pytest.mark.parametrize("watch", [replace(WATCH, rows_max=100), None])
def test_the_verdict_that_lasts_ends_with_its_watch(watch: Watch | None) -> None:
    other = replace(FIRST, watch=watch)
    learner = Learner(pipeline="p", task="binary", field=FIRST, source=Source(fields=[FIRST, other]))
    log = [(CLAIM, headers.CLAIM), (encode(FieldChange(FIRST.field_id, 0)), headers.FIELD)]
    log += [(encode(block(number)), headers.BLOCK) for number in range(BLOCKS)]
    log += [(encode(FieldChange(other.field_id, 0, FIRST.field_id)), headers.FIELD)]
    decisions = learner.fold(
        [Record("p.examples", 0, offset, 0, None, value, kind) for offset, (value, kind) in enumerate(log)]
    )
    shifts = [one for one in decisions if one.type.startswith("shift.")]
    assert [one.type for one in shifts] == ["shift.found", "shift.ended"]
    assert shifts[1].evidence["given_up"] == 1.0
    (verdict,) = verdicts_of(decisions)
    assert verdict["since"] == MOVED_FROM * DAY_MS
    assert verdict["until"] > verdict["since"]
    assert learner.alerts is not None
    told = [(one.state, one.alert_id) for one in learner.alerts.take() if one.policy == "shift"]
    assert [state for state, _ in told] == ["firing", "resolved"]
    assert len({alert_id for _, alert_id in told}) == 1
