"""How partitions are shared out where the member that leads the learner shall answer fewer of them.

Lives here: Kafka's range assignor with a bound for the first member.  Never here: who leads and what leading
is (`engine/worker`), when partitions move (the group).

Strategy.  What is assigned follows from the members' names, the partitions and the bound, and from nothing
else: a rebalance that changes none of them moves nothing.  The first member by name has partition 0, as by
range, so the same one leads with and without the bound.  Every member joins under the name of range and says
its bound in its user data: only where all say the same one is it applied, and the group shares by range
until then, as during a rolling restart.  A second protocol would say that more plainly, but aiokafka joins a
group once for each that it offers, and two such members chase each other from rebalance to rebalance.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from aiokafka.coordinator.assignors.abstract import AbstractPartitionAssignor
from aiokafka.coordinator.assignors.range import RangePartitionAssignor
from aiokafka.coordinator.protocol import ConsumerProtocolMemberAssignment, ConsumerProtocolMemberMetadata

__all__ = ["BoundedLeader", "assignor", "shares"]


def assignor(leader_partitions_max: int) -> Any:
    """Return what shares out partitions; a bound of 0 is none."""
    return BoundedLeader(leader_partitions_max) if leader_partitions_max else RangePartitionAssignor


def shares(partitions: Sequence[int], members: int, leader_partitions_max: int) -> list[Sequence[int]]:
    """Return the partitions of each member, the leader first: the others share alike what it leaves.

    >>> [list(share) for share in shares(range(8), 3, 1)]
    [[0], [1, 2, 3, 4], [5, 6, 7]]
    >>> [list(share) for share in shares(range(2), 1, 1)]
    [[0, 1]]
    """
    if members == 1:
        return [partitions]
    own = min(leader_partitions_max, -(-len(partitions) // members))
    found, at = [partitions[:own]], own
    for left in range(members - 1, 0, -1):
        share = -(-(len(partitions) - at) // left)
        found.append(partitions[at : at + share])
        at += share
    return found


class BoundedLeader(AbstractPartitionAssignor):  # type: ignore[misc]  # aiokafka is not typed
    """The range assignor, but that the first member has no more than so many partitions of a topic."""

    name = RangePartitionAssignor.name
    version = RangePartitionAssignor.version

    def __init__(self, leader_partitions_max: int) -> None:
        self._max = leader_partitions_max
        self._told = b"headrace leader_partitions_max=%d" % leader_partitions_max

    def assign(
        self, cluster: Any, members: Mapping[str, ConsumerProtocolMemberMetadata]
    ) -> dict[str, ConsumerProtocolMemberAssignment]:
        """Share out every topic among the members that read it; partition 3 of each goes to the same one."""
        if {member.user_data for member in members.values()} != {self._told}:
            by_range: dict[str, ConsumerProtocolMemberAssignment] = RangePartitionAssignor.assign(
                cluster, members
            )
            return by_range
        given: dict[str, dict[str, Sequence[int]]] = {member: {} for member in members}
        for topic in sorted({topic for metadata in members.values() for topic in metadata.subscription}):
            readers = sorted(member for member in members if topic in members[member].subscription)
            partitions = sorted(cluster.partitions_for_topic(topic) or ())
            for member, share in zip(readers, shares(partitions, len(readers), self._max), strict=True):
                given[member][topic] = share
        return {
            member: ConsumerProtocolMemberAssignment(
                self.version, [(topic, list(share)) for topic, share in sorted(topics.items())], b""
            )
            for member, topics in given.items()
        }

    def metadata(self, topics: Iterable[str]) -> ConsumerProtocolMemberMetadata:
        """Return what a member tells when it joins: what it reads, and its bound."""
        return ConsumerProtocolMemberMetadata(self.version, list(topics), self._told)

    def on_assignment(self, assignment: ConsumerProtocolMemberAssignment) -> None:
        """Do nothing: nothing is kept between two assignments."""
