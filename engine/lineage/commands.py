"""A command to a running pipeline, and the decisions that answer it.

Lives here: who signs it, sending, and waiting for the answer until a deadline.  Never here: what a command
does (`operators/race/arena.py`), arguments.

The end of the decisions log is looked up before the command leaves, so no answer can be missed.  Decisions
of one command stand side by side at one offset; what is read with the first is all of them, or the rest
comes with the next batch within SETTLE_S.  Where each key has a race of its own, a command that names none is
answered by every partition.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Mapping

from aiokafka import TopicPartition

from engine.definition.pipeline import Pipeline
from engine.kafka.client import REFUSED, assigned_consumer, broker_error
from engine.kafka.log_reader import LOOK_MS, log_bounds
from engine.kafka.sink import open_sink, partition_of
from engine.settings import KafkaSettings, Settings
from operators.race.commands import OF_ALL_RACES
from topics.codec import decode_decision, encode
from topics.errors import BrokerError, SettingsError
from topics.messages import Command, Content, Decision
from topics.signatures import signed_by

__all__ = ["answer_of", "asking", "fresh_command_id"]

SETTLE_S = 0.5
"""How long further decisions of an answered command are waited for: one worker writes them in one turn."""


def fresh_command_id() -> str:
    """Return an id that no command had: the time, for people, and 48 random bits."""
    return f"{time.strftime('%Y-%m-%dT%H%M%SZ', time.gmtime())}-{uuid.uuid4().hex[:12]}"


def asking(settings: Settings, actor: str | None) -> str | None:
    """Return the name whose key signs a command, None where there are no keys.

    That is `actor`, or who has the only key.  Raises SettingsError where it cannot be told.
    """
    names = sorted(settings.command_keys)
    if not names:
        return None
    if actor is None and len(names) == 1:
        return names[0]
    if actor not in names:
        raise SettingsError(
            "commands are signed here, and there is "
            + (f"no key of `{actor}`" if actor is not None else "more than one key"),
            hint=f"--actor with one of: {', '.join(names)} (HEADRACE_COMMAND_KEYS)",
        )
    return actor


async def answer_of(
    pipeline: Pipeline, settings: Settings, command: Command, *, deadline_s: float
) -> list[Decision]:
    """Send a command, signed where its actor has a key; return the decisions that answer it, refusals too.

    Raises BrokerError where a partition has answered none within `deadline_s`: the command stays in its
    topic.
    """
    kafka, asked, value = settings.kafka, pipeline.catalog["commands"], encode(command)
    key_of_actor = settings.command_secrets().get(command.actor)
    signature = (
        () if key_of_actor is None else signed_by(command.actor, key_of_actor, topic=asked, value=value)
    )
    topic = pipeline.catalog["decisions"]
    bounds = await log_bounds(kafka, topic)
    if command.key:
        answering = [partition_of(command.key.encode(), len(bounds))]
    else:
        every = pipeline.per is not None and command.command in OF_ALL_RACES
        answering = sorted(bounds) if every else [0]
    ends = {TopicPartition(topic, partition): bounds[partition][1] for partition in answering}
    await log_bounds(kafka, asked)  # says that there is no such topic, if so
    key = command.command_id.encode()
    async with open_sink(kafka) as sink:
        await sink.send(asked, None, [Content(key, value, signature, command.time)])
        await sink.flush()
    answers = await _answers(kafka, ends, command.command_id, deadline_s)
    if unanswered := [str(tp.partition) for tp, found in answers.items() if not found]:
        of = f" on partitions {', '.join(unanswered)}" if len(answers) > 1 else ""
        raise BrokerError(
            f"no decision answered command {command.command_id} within {deadline_s:g} s{of}",
            hint=f"does a worker of {pipeline.name} run? The command stays in its topic and acts when one "
            "does: do not send it twice",
            topic=topic,
        )
    known: dict[str, Decision] = {one.decision_id: one for found in answers.values() for one in found}
    return list(known.values())


async def _answers(
    kafka: KafkaSettings, ends: Mapping[TopicPartition, int], command_id: str, deadline_s: float
) -> dict[TopicPartition, list[Decision]]:
    """Return the decisions behind these offsets that answer a command, when all have one, or at the deadline.

    Raises BrokerError.
    """
    answers: dict[TopicPartition, list[Decision]] = {tp: [] for tp in ends}
    try:
        async with asyncio.timeout(deadline_s) as deadline, assigned_consumer(kafka, ends) as consumer:
            for tp, end in ends.items():
                consumer.seek(tp, end)
            while True:
                complete = all(answers.values())
                for tp, records in (await consumer.getmany(timeout_ms=LOOK_MS)).items():
                    decisions = [decode_decision(record.value) for record in records if record.value]
                    answers[tp] += [one for one in decisions if one.evidence.get("command_id") == command_id]
                if not complete and all(answers.values()):
                    deadline.reschedule(asyncio.get_running_loop().time() + SETTLE_S)
    except TimeoutError:
        return answers
    except REFUSED as error:
        raise broker_error(error, "reading decisions", kafka) from error
