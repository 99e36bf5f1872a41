"""The predictions topic, read with aiokafka: what counts, up to its present end or as it comes.

Lives here: where reading begins, the order of partitions, what an error of the broker becomes.  Never here:
which records count (`operators/claims/answers.py`).

A reader has no consumer group: it reads all partitions, and keeps `AnswerReader.read` to go on later.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

from aiokafka import TopicPartition

from engine.kafka.client import REFUSED, MissingTopics, assigned_consumer, broker_error
from engine.kafka.log_reader import log_bounds, read_log
from engine.kafka.source import checked_positions, records_of
from engine.settings import KafkaSettings
from operators.claims.answers import AnswerReader
from topics.messages import Prediction

__all__ = ["follow_answers", "followed", "read_answers"]

FETCH_MS = 100
"""Longest wait for records before it is looked whether the topic is still there."""


async def read_answers(
    kafka: KafkaSettings | str, topic: str, answers: AnswerReader | None = None
) -> AsyncGenerator[Prediction]:
    """Yield the answers on a predictions topic that count, one partition after the other, up to its end now.

    `kafka` is an address, or whole settings where Kafka wants TLS or a password.  `answers` says where to go
    on and keeps up to where was read; without it the topic is read from its beginning.  Use
    `contextlib.aclosing` where the loop may be left early.  Raises BrokerError, also where there is no such
    topic or it no longer has what is to be read next.
    """
    settings, answers = _settings(kafka), answers or AnswerReader()
    read = answers.read
    for partition, (start, end) in sorted((await log_bounds(settings, topic)).items()):
        position = read[partition].position if partition in read else start
        batches = read_log(settings, topic, partition, position, end)
        async with aclosing(batches):
            async for records in batches:
                for record in records:
                    answer = answers.take(partition, record.offset, record.value, record.headers)
                    if answer is not None:
                        yield answer


async def follow_answers(
    kafka: KafkaSettings | str, topic: str, answers: AnswerReader | None = None
) -> AsyncGenerator[Prediction]:
    """Yield the answers on a predictions topic that count, each partition's in its order, as they come.

    Never ends by itself: a broker that is away is waited for.  Arguments and errors are those of
    `read_answers`.
    """
    async with aclosing(followed(kafka, topic, answers)) as coming:
        async for _, answer in coming:
            yield answer


async def followed(
    kafka: KafkaSettings | str, topic: str, answers: AnswerReader | None = None
) -> AsyncGenerator[tuple[int, Prediction]]:
    """Yield what `follow_answers` yields, each answer with its partition, which is that of its event."""
    settings, answers = _settings(kafka), answers or AnswerReader()
    bounds = {TopicPartition(topic, number): of for number, of in (await log_bounds(settings, topic)).items()}
    read = answers.read
    wanted = {tp: read[tp.partition].position if tp.partition in read else None for tp in bounds}
    positions = await checked_positions(settings, wanted, bounds)
    async with assigned_consumer(settings, positions) as consumer:
        for tp, position in positions.items():
            consumer.seek(tp, position)
        missing = MissingTopics()
        while True:
            for tp, records in (await _fetched(consumer, settings, topic)).items():
                for record in records_of(tp, records):
                    answer = answers.take(tp.partition, record.offset, record.value, record.headers)
                    if answer is not None:
                        yield tp.partition, answer
            missing.check(consumer._client, [topic])  # noqa: SLF001  aiokafka asks for it for ever


async def _fetched(consumer: Any, kafka: KafkaSettings, topic: str) -> dict[TopicPartition, Sequence[Any]]:
    try:
        fetched: dict[TopicPartition, Sequence[Any]] = await consumer.getmany(timeout_ms=FETCH_MS)
    except REFUSED as error:
        raise broker_error(error, f"reading {topic}", kafka) from error
    return fetched


def _settings(kafka: KafkaSettings | str) -> KafkaSettings:
    return KafkaSettings(bootstrap_servers=kafka) if isinstance(kafka, str) else kafka
