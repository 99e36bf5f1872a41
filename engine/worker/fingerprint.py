"""Is a log still the one that was read?  Of the last record taken a checkpoint keeps what tells it apart.

Lives here: what is kept of a record, the comparison.  Never here: positions (`source.py`), when it is
compared (`partition.py`: before the group is joined, and before a partition is claimed).

A topic that was deleted and made anew has other records at the same offsets.  Kafka has an id for
each topic, which aiokafka's requests (metadata up to version 5) do not ask for; a record tells as much.
"""

from __future__ import annotations

from collections.abc import Mapping
from zlib import crc32

import structlog
from aiokafka import TopicPartition
from msgspec import Struct

from engine.kafka.client import LogPartition
from engine.kafka.log_reader import records_at
from engine.settings import KafkaSettings
from topics.errors import CheckpointError
from topics.messages import Record

__all__ = ["Fingerprint", "check_same_logs", "fingerprint"]

log = structlog.get_logger("headrace")


class Fingerprint(Struct, frozen=True):
    """What tells a record apart from one of another log at the same offset."""

    offset: int
    timestamp_ms: int | None
    crc: int
    """CRC-32 of its key and value."""


def fingerprint(record: Record) -> Fingerprint:
    """Return the fingerprint of a record.

    >>> fingerprint(Record("t", 0, 7, 5, b"k", b"v")) == fingerprint(Record("t", 0, 7, 5, b"k", b"w"))
    False
    """
    crc = crc32(record.value or b"", crc32(record.key or b""))
    return Fingerprint(record.offset, record.timestamp_ms, crc)


async def check_same_logs(kafka: KafkaSettings, known: Mapping[LogPartition, Fingerprint]) -> None:
    """Compare records that were read with what the logs hold there now.

    One that was deleted since (by retention, or as an older one of its key) cannot be compared, which
    is told and no error.  Raises CheckpointError where a log is another one, BrokerError.
    """
    wanted = {TopicPartition(*partition): kept.offset for partition, kept in known.items()}
    for tp, (start, end, record) in (await records_at(kafka, wanted)).items():
        kept = known[tp]
        if kept.offset >= end:
            what = f"the log ends at {end}, before the last record that was read of it"
        elif record is None:
            log.info(
                "the last record read is deleted: whether the log is the same cannot be told",
                topic=tp.topic,
                partition=tp.partition,
                offset=kept.offset,
                log_starts_at=start,
            )
            continue
        elif fingerprint(record) != kept:
            what = "another record lies where the last one was read"
        else:
            continue
        raise CheckpointError(
            f"the checkpoint is of another log: {what}",
            hint="was the topic deleted and made anew, or is this another cluster? Bring the log back, or"
            " begin with the first records of this one, with another HEADRACE_STATE_DIR and"
            " --accept-newer-claims",
            topic=tp.topic,
            partition=tp.partition,
            offset=kept.offset,
        )
