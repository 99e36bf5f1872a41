"""Whether a log is still the one that was read, told by its last record."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete
from brokers.ports import fresh, made, numbered, record, whole
from structlog.testing import capture_logs

from engine.kafka.sink import open_sink
from engine.settings import KafkaSettings
from engine.worker.claim import check_same_logs, fingerprint
from topics.errors import CheckpointError
from topics.messages import Record


def test_each_part_of_a_record_tells_it_apart() -> None:
    one = Record("t", 0, 7, 5, b"k", b"v")
    others = (
        Record("t", 0, 8, 5, b"k", b"v"),
        Record("t", 0, 7, 6, b"k", b"v"),
        Record("t", 0, 7, 5, b"l", b"v"),
        Record("t", 0, 7, 5, b"k", b"w"),
        Record("t", 0, 7, None, None, None),
    )
    assert len({fingerprint(each) for each in (one, *others)}) == 6
    assert fingerprint(one) == fingerprint(Record("u", 1, 7, 5, b"k", b"v", (("h", b""),)))


def test_the_same_log_is_known_again_and_another_is_refused(broker: KafkaSettings) -> None:
    async def play() -> None:
        topic, longer, shorter, empty = (fresh(name) for name in ("one", "longer", "shorter", "empty"))
        await made(broker, topic, longer, shorter, empty)
        async with open_sink(broker) as sink:
            await sink.send(topic, 0, numbered(5))
            await sink.send(longer, 0, numbered(9, 1))
            await sink.send(shorter, 0, numbered(3))
            await sink.flush()
        log = await whole(broker, topic)
        await check_same_logs(broker, {})
        for read in log:
            await check_same_logs(broker, {(topic, 0): fingerprint(read)})
        last = fingerprint(log[-1])
        for other, why in (
            (longer, "another record lies where"),
            (shorter, "ends at 3, before"),
            (empty, "ends at 0, before"),
        ):
            with pytest.raises(
                CheckpointError,
                match=f"of another log: .*{why}(?s:.)*an empty store .another HEADRACE_STATE_DIR",
            ) as refused:
                await check_same_logs(broker, {(topic, 0): last, (other, 0): last})
            assert (refused.value.topic, refused.value.offset) == (other, 4)

    run(play())


@pytest.mark.kafka
def test_a_record_that_was_deleted_is_told_and_no_error(kafka: KafkaSettings) -> None:
    async def play() -> None:
        topic = fresh("deleted")
        await made(kafka, topic)
        async with open_sink(kafka) as sink:
            await sink.send(topic, 0, [*numbered(5), record()])
            await sink.flush()
        read = fingerprint((await whole(kafka, topic))[2])
        await delete(kafka, topic, before=3)
        with capture_logs() as told:
            await check_same_logs(kafka, {(topic, 0): read})
        assert [(line["topic"], line["offset"], line["log_starts_at"]) for line in told] == [(topic, 2, 3)]

    run(play())


async def delete(kafka: KafkaSettings, topic: str, *, before: int) -> None:
    """Delete what retention would delete some day."""
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka.bootstrap_servers)
    await admin.start()
    try:
        await admin.delete_records({TopicPartition(topic, 0): RecordsToDelete(before_offset=before)})
    finally:
        await admin.close()


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(work)
