"""A pipeline as it stands, asked of its topics alone: workers, lag, last decisions.

Lives here: what is asked, and when that is no healthy pipeline.  Never here: how it is printed
(`engine/cli/watching/status.py`).

No worker is needed: where none runs, that is the answer.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec
from aiokafka import TopicPartition

from engine.definition.pipeline import Pipeline
from engine.group.log import read_members
from engine.group.members import Member, totals
from engine.kafka.cluster import committed_offsets
from engine.kafka.log_reader import log_bounds, record_tail
from engine.settings import KafkaSettings
from topics.codec import decode_decision
from topics.messages import REPORTED, Decision

__all__ = ["Overview", "PartitionLag", "overview", "plain_overview", "troubles_of"]

LOOK_BACK = 1_000
"""Records at the end of each decisions log among which the last decisions are looked for."""


class PartitionLag(NamedTuple):
    """Records of one partition that lie behind the offsets of the group."""

    topic: str
    partition: int
    records: int
    committed: int | None
    """None where the group has committed none: all are unread."""


class Overview(NamedTuple):
    """A pipeline as it stands."""

    members: tuple[Member, ...]
    lag: tuple[PartitionLag, ...]
    decisions: tuple[Decision, ...]
    """The last ones, newest first; reports are left out."""
    troubles: tuple[str, ...]
    """Why it is not healthy; empty where it is."""


async def overview(kafka: KafkaSettings, pipeline: Pipeline, now_ms: int, *, decisions_max: int) -> Overview:
    """Return a pipeline as it stands; `now_ms` is the wall clock.  Raises BrokerError, also without topics.

    `decisions_max` is how many of the last decisions are told.
    """
    catalog = pipeline.catalog
    members = tuple((await read_members(kafka, catalog["status"])).told(now_ms))
    lag = await _lag(kafka, pipeline)
    decisions = await _decisions(kafka, catalog["decisions"], decisions_max)
    return Overview(members, lag, decisions, tuple(troubles_of(members, pipeline.events.partitions)))


async def _lag(kafka: KafkaSettings, pipeline: Pipeline) -> tuple[PartitionLag, ...]:
    """Return how many records of each input partition the group has not read."""
    topics = [pipeline.events.name, *([pipeline.labels.topic] if pipeline.labels.topic else [])]
    logs = {
        TopicPartition(topic, partition): limits
        for topic in topics
        for partition, limits in sorted((await log_bounds(kafka, topic)).items())
    }
    committed = await committed_offsets(kafka, pipeline.name, logs)
    found = []
    for place, (start, end) in logs.items():
        at = committed.get(place)
        records = end - start if at is None else max(0, end - max(at, start))
        found.append(PartitionLag(place.topic, place.partition, records, at))
    return tuple(found)


async def _decisions(kafka: KafkaSettings, topic: str, count: int) -> tuple[Decision, ...]:
    """Return the last decisions, newest first."""
    records = sorted(await record_tail(kafka, topic, LOOK_BACK), key=lambda one: one.timestamp_ms or 0)
    decisions = [decode_decision(record.value or b"{}") for record in records]
    return tuple([one for one in decisions if one.type not in REPORTED][: -count - 1 : -1])


def troubles_of(members: tuple[Member, ...], partitions: int) -> list[str]:
    """Return why workers as they are make no healthy pipeline of so many partitions; empty where they do."""
    sums = totals(members)
    found = [
        f"{one.status.worker} has been silent for {one.silent_ms // 1_000} s" for one in members if one.gone
    ]
    if not sums.workers:
        return [*found, "no worker runs"]
    if sums.partitions < partitions:
        found.append(f"{partitions - sums.partitions} of {partitions} partitions have no worker")
    found += [
        f"{one.status.worker} is not ready: {one.status.standing}"
        for one in members
        if not one.gone and not one.status.ready
    ]
    if not sums.leaders:
        found.append("nobody leads: nothing is learned or decided")
    versions = {one.status.features_version for one in members if not one.gone}
    if len(versions) > 1:
        found.append("workers run different features: a restart is under way, or was forgotten")
    return found


def plain_overview(found: Overview) -> dict[str, Any]:
    """Return an overview as plain values, for JSON."""
    return {
        "healthy": not found.troubles,
        "troubles": list(found.troubles),
        "totals": totals(found.members)._asdict(),
        "workers": [
            {"gone": one.gone, "silent_ms": one.silent_ms, **msgspec.to_builtins(one.status)}
            for one in found.members
        ],
        "lag": [one._asdict() for one in found.lag],
        "decisions": msgspec.to_builtins(found.decisions),
    }
