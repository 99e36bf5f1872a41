"""Several sources as one: what goes, in which order, and what is late."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Struct

from operators.rekeying.merge import Merge, Taken
from topics.rekeying import EVENT, Order


class Reading(Struct):
    number: int


def order(time: int, source: int, offset: int) -> Order:
    return Order.of_event(time, source, offset)


readings = st.lists(st.lists(st.integers(0, 50), max_size=12), min_size=1, max_size=4)
"""The times of each source, as they come."""


@given(readings, st.integers(0, 60), st.randoms(use_true_random=False))
def test_any_interleaving_of_sources_gives_one_order(
    sources: list[list[int]], disorder: int, rng: random.Random
) -> None:
    """Each source tells of each item how far it has come; restarts in between change nothing."""
    merge: Merge[Reading] = Merge(len(sources), Reading)
    taken: list[Taken[Reading]] = []
    queues = [list(enumerate(times)) for times in sources]
    while any(queues):
        source = rng.choice([number for number, queue in enumerate(queues) if queue])
        offset, time = queues[source].pop(0)
        taken += merge.offer(order(time, source, offset), Reading(offset))
        promised = min((later for _, later in queues[source]), default=10**6) - 1
        taken += merge.progress(source, promised - rng.randrange(disorder + 1), idle=False)
        if rng.random() < 0.2:
            entries = merge.snapshot()
            merge = Merge(len(sources), Reading)
            merge.restore(entries)
    for source in range(len(sources)):
        taken += merge.progress(source, 10**6, idle=False)
    everything = [order(t, s, o) for s, times in enumerate(sources) for o, t in enumerate(times)]
    assert [one.order for one in taken] == sorted(everything)
    assert not any(one.late for one in taken)


@given(
    st.lists(
        st.tuples(st.sampled_from(["offer", "progress", "idle"]), st.integers(0, 2), st.integers(0, 30)),
        max_size=60,
    )
)
def test_everything_goes_once_and_late_is_what_the_horizon_has_passed(
    calls: list[tuple[str, int, int]],
) -> None:
    """Whatever sources do: nothing is lost, and nothing that is in time leaves before its turn."""
    merge: Merge[Reading] = Merge(3, Reading)
    offered: list[Order] = []
    taken: list[Taken[Reading]] = []
    horizon = merge.horizon
    for number, (kind, source, time) in enumerate(calls):
        if kind == "offer":
            offered.append(order(time, source, number))
            went = merge.offer(offered[-1], Reading(number))
            assert [one.late for one in went if one.order == offered[-1]] in ([], [time <= horizon])
        else:
            went = merge.progress(source, time, idle=kind == "idle")
        assert merge.horizon >= horizon
        horizon = merge.horizon
        assert all(one.late or one.order.time <= horizon or all(map(merge.idle, range(3))) for one in went)
        taken += went
    for source in range(3):
        taken += merge.progress(source, 100, idle=False)
    assert sorted(one.order for one in taken) == sorted(offered)
    assert len(merge) == 0


def test_an_idle_source_holds_nobody_up_until_it_wakes() -> None:
    merge: Merge[Reading] = Merge(2, Reading)
    assert merge.offer(order(10, 0, 0), Reading(0)) == []
    assert merge.progress(0, 10, idle=False) == []
    (went,) = merge.progress(1, 0, idle=True)
    assert (went.order.time, went.late) == (10, False)
    assert merge.progress(1, 0, idle=False) == []
    assert merge.offer(order(20, 0, 1), Reading(1)) == []
    assert merge.progress(0, 20, idle=False) == []
    assert merge.offer(order(9, 1, 0), Reading(2))[0].late
    assert [one.order.time for one in merge.progress(1, 30, idle=False)] == [20]


def test_when_all_are_idle_everything_goes_and_the_horizon_is_what_events_reached() -> None:
    merge: Merge[Reading] = Merge(2, Reading)
    merge.offer(order(90, 0, 0), Reading(0))
    merge.progress(0, 40, idle=True)
    assert [one.order.time for one in merge.progress(1, 50, idle=True)] == [90]
    assert merge.horizon == 50
    assert [one.late for one in merge.offer(order(60, 0, 1), Reading(1))] == [False]


def test_the_oldest_make_room_and_take_the_horizon_with_them() -> None:
    merge: Merge[Reading] = Merge(1, Reading, held_max=2)
    for offset, time in enumerate((30, 20)):
        assert merge.offer(order(time, 0, offset), Reading(offset)) == []
    assert [one.order.time for one in merge.offer(order(40, 0, 2), Reading(2))] == [20]
    assert (merge.forced, merge.horizon) == (1, 20)
    assert merge.offer(order(15, 0, 3), Reading(3))[0].late


@pytest.mark.parametrize("rank", [0, 1, EVENT])
def test_ties_go_by_rank_source_and_offset(rank: int) -> None:
    assert Order(5, rank, 9, 9) < Order(5, EVENT, 9, 10) < Order(6, 0, 0, 0)
    assert order(5, 0, 7) < Order.after_event(5, 0, 7) < order(5, 0, 8) < order(5, 1, 0)
