"""What no checkpoint holds is bounded: one is due early, then no more is taken until it is written."""

from __future__ import annotations

from engine.worker.unsaved import Unsaved


def test_what_is_answered_while_a_checkpoint_is_written_belongs_to_the_next() -> None:
    unsaved = Unsaved(100)
    unsaved.take(30)
    unsaved.captured()
    unsaved.take(15)
    unsaved.saved()
    assert int(unsaved) == 15
    unsaved.captured()
    unsaved.clear()
    unsaved.saved()
    assert int(unsaved) == 0


def test_a_bound_is_told_once_and_counted_and_ends_with_a_checkpoint() -> None:
    unsaved = Unsaved(100)
    unsaved.take(49)
    assert (unsaved.due, unsaved.full()) == (False, False)
    unsaved.take(1)
    assert (unsaved.due, unsaved.full()) == (True, False)
    unsaved.captured()
    unsaved.take(60)
    assert [unsaved.full(), unsaved.full()] == [True, True]
    assert unsaved.counts == {("intake_pauses", "unsaved"): 1}
    unsaved.saved()
    assert (int(unsaved), unsaved.full()) == (60, False)
    unsaved.take(40)
    assert unsaved.full()
    assert unsaved.counts == {("intake_pauses", "unsaved"): 2}
