"""Partitions among members: all of them once, the same of each topic together, few for the leader."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from aiokafka.coordinator.assignors.range import RangePartitionAssignor
from brokers.ports import Owner, fresh, made, run, source_of
from hypothesis import given
from hypothesis import strategies as st

from engine.kafka.assignor import BoundedLeader, assignor
from engine.settings import KafkaSettings

TOPICS = ["events", "labels"]
NAMES = st.lists(st.text("abc-", min_size=1, max_size=4), min_size=1, max_size=7, unique=True)


class Cluster:
    """As many partitions of every topic."""

    def __init__(self, partitions: int) -> None:
        self._partitions = set(range(partitions))

    def partitions_for_topic(self, _topic: str) -> set[int]:
        return self._partitions


def assigned(
    by: Any, names: Sequence[str], partitions: int, others: Any = None
) -> dict[str, list[tuple[str, list[int]]]]:
    """Return what each member has, the last of them told by `others` where that is another assignor."""
    members = {name: by.metadata(TOPICS) for name in names}
    if others is not None:
        members[names[-1]] = others.metadata(TOPICS)
    found = by.assign(Cluster(partitions), members)
    return {
        name: [(topic, list(numbers)) for topic, numbers in one.assignment] for name, one in found.items()
    }


@given(names=NAMES, partitions=st.integers(1, 40), leader_max=st.integers(1, 40), draw=st.randoms())
def test_all_is_shared_out_once_and_the_leader_has_no_more_than_its_bound(
    names: list[str], partitions: int, leader_max: int, draw: Any
) -> None:
    found = assigned(BoundedLeader(leader_max), names, partitions)
    for one in found.values():
        assert [topic for topic, _ in one] == TOPICS
        assert one[0][1] == one[1][1], "topics are not assigned together"
    held = {name: one[0][1] for name, one in found.items()}
    assert sorted(number for one in held.values() for number in one) == list(range(partitions))
    leader, *others = sorted(names)
    assert 0 in held[leader], "another one leads than by range"
    if others:
        assert len(held[leader]) <= leader_max
        each = [len(held[name]) for name in others]
        assert max(each) - min(each) <= 1
        assert len(held[leader]) <= max(each) + 1
    # Nothing moves when nothing changes, in whatever order the members are told.
    draw.shuffle(names)
    assert assigned(BoundedLeader(leader_max), names, partitions) == found


@given(names=NAMES, partitions=st.integers(1, 40))
def test_a_bound_that_binds_nobody_is_the_range_assignor(names: list[str], partitions: int) -> None:
    by_range = assigned(RangePartitionAssignor, names, partitions)
    assert assigned(BoundedLeader(partitions), names, partitions) == by_range


@given(
    names=NAMES,
    partitions=st.integers(1, 40),
    other=st.sampled_from([RangePartitionAssignor, BoundedLeader(2)]),
)
def test_members_that_say_different_bounds_share_by_range(
    names: list[str], partitions: int, other: Any
) -> None:
    by_range = assigned(RangePartitionAssignor, names, partitions)
    assert assigned(BoundedLeader(1), names, partitions, other) == by_range


def test_every_member_joins_under_one_name() -> None:
    assert assignor(0) is RangePartitionAssignor
    assert assignor(1).name == RangePartitionAssignor.name


@pytest.mark.kafka
def test_members_share_by_the_bound_once_all_have_it_and_by_range_until_then(kafka: KafkaSettings) -> None:
    async def play() -> None:
        topic, group = fresh("bounded"), fresh("group")
        await made(kafka, topic, partitions=4)
        first, second, third = Owner(), Owner(), Owner()

        def sizes(*owners: Owner) -> list[int]:
            return sorted(len(owner.held) for owner in owners)

        async with source_of(kafka, topic, group=group, owner=first, leader_partitions_max=1):
            async with source_of(kafka, topic, group=group, owner=second):
                await first.until(lambda: sizes(first, second) == [2, 2])
            async with source_of(kafka, topic, group=group, owner=third, leader_partitions_max=1):
                await first.until(lambda: sizes(first, third) == [1, 3])
                (leader,) = (owner for owner in (first, third) if len(owner.held) == 1)
                assert leader.held == {(topic, 0)}
            await first.until(lambda: sizes(first) == [4])

    run(play())


def test_topics_that_not_all_read_are_shared_among_those_that_do() -> None:
    bounded = BoundedLeader(1)
    members = {
        "a": bounded.metadata(["events"]),
        "b": bounded.metadata(TOPICS),
    }
    found = bounded.assign(Cluster(3), members)
    assert {name: one.assignment for name, one in found.items()} == {
        "a": [("events", [0])],
        "b": [("events", [1, 2]), ("labels", [0, 1, 2])],
    }
