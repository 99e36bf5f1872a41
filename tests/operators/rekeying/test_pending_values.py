"""Values that come back, in any order, until an event has all of them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from operators.rekeying.pending_values import PendingValues


@given(st.permutations(["expect", "own", "one", "two"]))
def test_an_event_is_complete_when_all_have_come_in_any_order(steps: list[str]) -> None:
    pending = PendingValues(parts=3)
    for number, step in enumerate(steps):
        if number and "expect" in steps[:number]:
            assert not pending.complete(5)
        match step:
            case "expect":
                pending.expect(5)
            case "own":
                pending.sent(5, {"own": 1}, late=False)
            case _:
                pending.put(5, {step: 2}, late=step == "two")
    assert pending.complete(5)
    assert pending.outstanding == 0
    values, late = pending.take(5)
    assert (values, late) == ({"own": 1, "one": 2, "two": 2}, True)
    assert len(pending) == 0


def test_an_event_that_nobody_sent_out_waits_for_nothing() -> None:
    pending = PendingValues(parts=2)
    assert pending.complete(9)
    assert pending.take(9) == ({}, False)


def test_outstanding_counts_what_is_on_its_way_and_outlives_a_restart() -> None:
    pending = PendingValues(parts=2)
    for offset in range(3):
        pending.expect(offset)
    assert pending.outstanding == 0
    for offset in range(3):
        pending.sent(offset, {}, late=False)
    pending.put(1, {"a": 1}, late=False)
    restored = PendingValues(parts=2)
    restored.restore(pending.snapshot())
    assert pending.outstanding == restored.outstanding == 2
