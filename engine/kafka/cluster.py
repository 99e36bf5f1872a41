"""Facts of a cluster that no worker needs and a person asks for: its size, version, clock, offsets of groups.

Lives here: asking for them.  Never here: topics as a pipeline needs them (`topic_admin.py`).

Kafka's protocol names no release and tells no time.  The release is taken from the highest version of a fetch
that a broker takes; the time from a record that a broker stamps with its arrival, in a topic of its own.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any, NamedTuple

from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import GroupCoordinatorNotAvailableError

from engine.kafka.client import REFUSED, ask_broker, broker_error, open_client
from engine.settings import KafkaSettings

__all__ = ["ClusterFacts", "WritingFacts", "cluster_facts", "committed_offsets", "write_once"]

FETCH = 1
"""The key of the request."""
RELEASES: Mapping[int, str] = {
    11: "2.3", 12: "2.7", 13: "3.1", 14: "3.5", 15: "3.5", 16: "3.7", 17: "3.9", 18: "4.1",
}  # fmt: skip
"""Kafka's first release with a version of a fetch."""


COORDINATOR_S, LOOK_S = 10.0, 0.2
"""How long a cluster that was never asked for a group may take to name its coordinator; between two tries."""


class ClusterFacts(NamedTuple):
    """What a cluster says of itself."""

    cluster_id: str
    brokers: int
    release: str
    """Of Kafka, at least; empty where the version of a fetch is older than 2.3's."""


class WritingFacts(NamedTuple):
    """What came of one record."""

    acknowledged_ms: float
    """From the sending to the acknowledgement."""
    ahead_ms: float | None
    """By how much the broker's clock is ahead of ours, below 0 behind; None where it stamps nothing."""


async def cluster_facts(kafka: KafkaSettings) -> ClusterFacts:
    """Return what a cluster says of itself.  Raises BrokerError."""
    async with open_client(lambda: AIOKafkaAdminClient(**kafka.aiokafka_options()), kafka) as client:
        told = await ask_broker(client.describe_cluster, "asking for the cluster", kafka)
        versions = [getattr(conn, "_versions", {}).get(FETCH, (0, 0))[1] for conn in _connections(client)]
    newest = max((number for number in RELEASES if number <= max(versions, default=0)), default=None)
    release = "" if newest is None else RELEASES[newest]
    return ClusterFacts(str(told["cluster_id"]), len(told["brokers"]), release)


async def committed_offsets(
    kafka: KafkaSettings, group: str, places: Iterable[TopicPartition]
) -> dict[TopicPartition, int]:
    """Return the offsets that a group has committed, of `places` that have one.  Raises BrokerError."""
    wanted = list(places)
    async with open_client(lambda: AIOKafkaAdminClient(**kafka.aiokafka_options()), kafka) as client:

        async def ask() -> Any:
            # A cluster makes its log of offsets when it is first asked for a group.
            deadline_s = time.monotonic() + COORDINATOR_S
            while True:
                try:
                    return await client.list_consumer_group_offsets(group, partitions=wanted)
                except GroupCoordinatorNotAvailableError:
                    if time.monotonic() > deadline_s:
                        raise
                    await asyncio.sleep(LOOK_S)

        told = await ask_broker(ask, f"asking for the offsets of {group}", kafka)
    return {place: held.offset for place, held in told.items() if held.offset >= 0}


def _connections(client: Any) -> list[Any]:
    return list(client._client._conns.values())


async def write_once(
    kafka: KafkaSettings, stem: str, clock_ms: Callable[[], float] = lambda: time.time() * 1_000
) -> WritingFacts:
    """Make a topic whose name begins with `stem`, write one record, delete the topic.  Raises BrokerError."""
    name = f"{stem}-{uuid.uuid4().hex[:8]}"
    stamped = {"message.timestamp.type": "LogAppendTime"}
    topic = NewTopic(name, 1, kafka.replication_factor, {} if kafka.replication_factor < 0 else None, stamped)
    async with open_client(lambda: AIOKafkaAdminClient(**kafka.aiokafka_options()), kafka) as client:
        made = await ask_broker(lambda: client.create_topics([topic]), "making a topic", kafka)
        for _, code, *said in made.topic_errors:
            if code:
                reason = next((text for text in said if text), f"Kafka's error {code}")
                raise broker_error(ValueError(reason), "making a topic", kafka)
        try:
            return await _write(kafka, name, clock_ms)
        finally:
            with suppress(*REFUSED):
                await client.delete_topics([name])


async def _write(kafka: KafkaSettings, topic: str, clock_ms: Callable[[], float]) -> WritingFacts:
    options = {**kafka.aiokafka_options(), "enable_idempotence": kafka.enable_idempotence}
    async with open_client(lambda: AIOKafkaProducer(**options), kafka) as producer:
        await ask_broker(lambda: producer.partitions_for(topic), "looking for the topic", kafka)
        before = clock_ms()
        told = await ask_broker(lambda: producer.send_and_wait(topic, b"doctor"), "writing a record", kafka)
        after = clock_ms()
    stamped = told.timestamp if told.timestamp_type == 1 else None
    return WritingFacts(after - before, None if stamped is None else _ahead(stamped, before, after))


def _ahead(stamped: float, before: float, after: float) -> float:
    """Return by how much a clock is ahead that showed `stamped` at some moment between two of ours.

    >>> _ahead(5, 1, 9), _ahead(10, 1, 9), _ahead(0, 1, 9)
    (0.0, 1, -1)
    """
    if before <= stamped <= after:
        return 0.0
    return stamped - after if stamped > after else stamped - before
