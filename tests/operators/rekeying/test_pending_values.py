"""Values that come back, in any order, until an event has all of them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from operators.rekeying.pending_values import Gather


@given(st.permutations(["expect", "own", "one", "two"]))
def test_an_event_is_complete_when_all_have_come_in_any_order(steps: list[str]) -> None:
    gather = Gather(parts=3)
    for number, step in enumerate(steps):
        if number and "expect" in steps[:number]:
            assert not gather.complete(5)
        match step:
            case "expect":
                gather.expect(5)
            case "own":
                gather.sent(5, {"own": 1}, late=False)
            case _:
                gather.put(5, {step: 2}, late=step == "two")
    assert gather.complete(5)
    assert gather.outstanding == 0
    values, late = gather.take(5)
    assert (values, late) == ({"own": 1, "one": 2, "two": 2}, True)
    assert len(gather) == 0


def test_an_event_that_nobody_sent_out_waits_for_nothing() -> None:
    gather = Gather(parts=2)
    assert gather.complete(9)
    assert gather.take(9) == ({}, False)


def test_outstanding_counts_what_is_on_its_way_and_outlives_a_restart() -> None:
    gather = Gather(parts=2)
    for offset in range(3):
        gather.expect(offset)
    assert gather.outstanding == 0
    for offset in range(3):
        gather.sent(offset, {}, late=False)
    gather.put(1, {"a": 1}, late=False)
    restored = Gather(parts=2)
    restored.restore(gather.snapshot())
    assert gather.outstanding == restored.outstanding == 2
