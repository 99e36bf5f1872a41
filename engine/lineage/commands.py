"""A command to a running pipeline, and the decisions that answer it.

Lives here: who signs it, sending, and waiting for the answer until a deadline.  Never here: what a command
does (`operators/race/arena.py`), arguments.

The end of the decisions log is looked up before the command leaves, so no answer can be missed.  Decisions
of one command stand side by side at one offset; what is read with the first is all of them, or the rest
comes with the next batch within SETTLE_S.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from contextlib import aclosing

from engine.definition.pipeline import Pipeline
from engine.kafka.log_reader import log_bounds, read_log
from engine.kafka.sink import open_sink, partition_of
from engine.lineage.sources import decode_decision
from engine.settings import Settings
from topics.codec import encode
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

    Raises BrokerError where none has come within `deadline_s`: the command stays in its topic.
    """
    kafka, asked, value = settings.kafka, pipeline.catalog["commands"], encode(command)
    key_of_actor = settings.command_secrets().get(command.actor)
    signature = (
        () if key_of_actor is None else signed_by(command.actor, key_of_actor, topic=asked, value=value)
    )
    topic = pipeline.catalog["decisions"]
    bounds = await log_bounds(kafka, topic)
    partition = partition_of(command.key.encode(), len(bounds)) if command.key else 0
    _, end = bounds[partition]
    await log_bounds(kafka, asked)  # says that there is no such topic, if so
    key = command.command_id.encode()
    async with open_sink(kafka) as sink:
        await sink.send(asked, None, [Content(key, value, signature, command.time)])
        await sink.flush()
    answers: list[Decision] = []
    try:
        async with asyncio.timeout(deadline_s) as deadline:
            async with aclosing(read_log(kafka, topic, partition, end)) as batches:
                async for records in batches:
                    decisions = [decode_decision(record.value) for record in records if record.value]
                    found = [one for one in decisions if one.evidence.get("command_id") == command.command_id]
                    if found and not answers:
                        deadline.reschedule(asyncio.get_running_loop().time() + SETTLE_S)
                    answers += found
    except TimeoutError:
        pass
    if not answers:
        raise BrokerError(
            f"no decision answered command {command.command_id} within {deadline_s:g} s",
            hint=f"does a worker of {pipeline.name} run? The command stays in its topic and acts when one "
            "does: do not send it twice",
            topic=topic,
        )
    known: dict[str, Decision] = {one.decision_id: one for one in answers}
    return list(known.values())
