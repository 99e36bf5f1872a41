"""The administration of topics: they are compared with the plan and created, never deleted or changed.

Lives here: the comparison of `topics/catalog.py`'s plan with a cluster.  Never here: names
and rules (the catalog), records.

Strategy: look first, say everything that is wrong, create only what is missing and ours.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from engine.kafka.client import REFUSED, answered, broker_error, connected, stopped
from engine.settings import KafkaSettings
from topics.catalog import FOREVER_MS, TopicPlan
from topics.errors import BrokerError

__all__ = ["TopicState", "ensure_topics", "partition_counts", "topic_states"]

EXISTS = 36
"""TOPIC_ALREADY_EXISTS: another worker was faster, which is as good."""
UNKNOWN_TOPIC = 3
APPEAR_DEADLINE_S = 15.0
"""A created topic gets its leaders within moments; a busy cluster gets this long."""
LOOK_S = 0.05


class TopicState(NamedTuple):
    """A topic as planned, and as it is."""

    plan: TopicPlan
    partitions: int | None
    """None: there is no such topic."""
    configs: Mapping[str, str]

    @property
    def missing(self) -> bool:
        """Whether the topic is yet to be created."""
        return self.partitions is None

    @property
    def warnings(self) -> tuple[str, ...]:
        """What works but is likely not meant."""
        if self.missing:
            return ()
        said: list[str] = []
        name, plan = self.plan.name, self.plan
        ours = plan.role not in {"events", "labels"}
        if ours and self.configs.get("message.timestamp.type") == "LogAppendTime":
            said.append(
                f"{name} stamps records with their arrival (LogAppendTime): only payloads know event times"
            )
        kept = self.configs.get("retention.ms")
        if plan.retention_ms == FOREVER_MS and kept not in {None, str(FOREVER_MS)}:
            said.append(
                f"{name} deletes records after {kept} ms: set retention.ms=-1, models are rebuilt from it"
            )
        policy = self.configs.get("cleanup.policy")
        if plan.cleanup == "compact" and policy is not None and "compact" not in policy:
            said.append(f"{name} is not compacted and grows for ever: set cleanup.policy=compact")
        return tuple(said)

    def line(self) -> str:
        """Return what a printed plan says of this topic."""
        settings = " ".join(f"{name}={value}" for name, value in self.plan.configs.items())
        state = "create" if self.missing and self.plan.create else "MISSING" if self.missing else "exists"
        return f"{state:8} {self.plan.name}  partitions={self.plan.partitions}  {settings}"


@asynccontextmanager
async def _admin(kafka: KafkaSettings) -> AsyncGenerator[Any]:
    client = await connected(lambda: AIOKafkaAdminClient(**kafka.aiokafka_options()), kafka)
    try:
        async with asyncio.timeout(kafka.request_timeout_ms / 1000):
            yield client
    except (*REFUSED, TimeoutError) as error:
        raise broker_error(error, "asking for topics", kafka) from error
    finally:
        await stopped(client, kafka)


async def partition_counts(kafka: KafkaSettings, names: Iterable[str]) -> dict[str, int | None]:
    """Return how many partitions each topic has; None where there is no such topic.  Raises BrokerError."""
    client = await connected(lambda: AIOKafkaAdminClient(**kafka.aiokafka_options()), kafka)
    try:
        return await answered(lambda: _counts(client, list(names)), "asking for topics", kafka)
    finally:
        await stopped(client, kafka)


async def _counts(client: Any, names: list[str]) -> dict[str, int | None]:
    existing = set(await client.list_topics())  # asking for a missing one by name may create it
    known = [name for name in names if name in existing]
    described = await client.describe_topics(known) if known else []
    counts: dict[str, int | None] = dict.fromkeys(names)
    for topic in described:
        if topic["error_code"] != UNKNOWN_TOPIC and topic["partitions"]:
            counts[topic["topic"]] = len(topic["partitions"])
    return counts


async def topic_states(kafka: KafkaSettings, plan: Sequence[TopicPlan]) -> tuple[TopicState, ...]:
    """Return the plan beside what is there.  Changes nothing.  Raises BrokerError."""
    async with _admin(kafka) as client:
        counts = await _counts(client, [topic.name for topic in plan])
        configs = await _configs(client, [name for name, count in counts.items() if count is not None])
    return tuple(TopicState(topic, counts[topic.name], configs.get(topic.name, {})) for topic in plan)


async def _configs(client: Any, names: list[str]) -> dict[str, dict[str, str]]:
    if not names:
        return {}
    asked = [ConfigResource(ConfigResourceType.TOPIC, name) for name in names]
    configs: dict[str, dict[str, str]] = {}
    for response in await client.describe_configs(asked):
        for _, _, _, name, entries in response.resources:
            configs[name] = {entry[0]: entry[1] for entry in entries}
    return configs


async def ensure_topics(kafka: KafkaSettings, plan: Sequence[TopicPlan]) -> tuple[str, ...]:
    """Check every topic of the plan, create what is missing and ours, wait until it is there.

    Returns the names of those created.  Raises BrokerError naming all that is wrong:
    partition counts (labels and predictions must have as many as events, or keys do not
    meet), a user's topic that is not there, a log that is compacted.
    """
    states = await topic_states(kafka, plan)
    if wrong := [problem for state in states for problem in _problems(state)]:
        fixes = "; ".join(dict.fromkeys(problem.fix for problem in wrong))
        raise BrokerError("; ".join(problem.what for problem in wrong), hint=fixes)
    missing = [state.plan for state in states if state.missing]
    if missing:
        async with _admin(kafka) as client:
            await _create(client, kafka, missing)
    return tuple(topic.name for topic in missing)


class _Problem(NamedTuple):
    what: str
    fix: str


def _problems(state: TopicState) -> list[_Problem]:
    name, plan = state.plan.name, state.plan
    if state.partitions is None:
        what = f"the {plan.role} topic {name} does not exist"
        fix = "`headrace topics create PIPELINE.py` creates what is missing"
        return [] if plan.create else [_Problem(what, fix)]
    problems = []
    if state.partitions != plan.partitions:
        what = f"{plan.role} topic {name} has {state.partitions} partitions, must have {plan.partitions}"
        problems.append(_Problem(what, "partitions cannot be taken away again: make the topic anew"))
    if plan.retention_ms == FOREVER_MS and "compact" in state.configs.get("cleanup.policy", ""):
        what = f"{plan.role} topic {name} is compacted, which would delete records of the log"
        problems.append(_Problem(what, f"set cleanup.policy=delete on {name}"))
    return problems


async def _create(client: Any, kafka: KafkaSettings, missing: Sequence[TopicPlan]) -> None:
    # aiokafka wants a mapping of replicas exactly where the factor is left to the broker.
    replicas: dict[int, list[int]] | None = {} if kafka.replication_factor < 0 else None
    topics = [
        NewTopic(topic.name, topic.partitions, kafka.replication_factor, replicas, topic.configs)
        for topic in missing
    ]
    response = await client.create_topics(topics)
    for name, code, *said in response.topic_errors:
        if code not in {0, EXISTS}:
            reason = next((text for text in said if text), f"Kafka's error {code}")
            raise BrokerError(f"the topic cannot be created: {reason}", hint="create it by hand", topic=name)
    wanted = {topic.name: topic.partitions for topic in missing}
    async with asyncio.timeout(APPEAR_DEADLINE_S):
        while (found := await _counts(client, list(wanted))) != wanted:
            if wrong := [name for name, count in found.items() if count not in {None, wanted[name]}]:
                raise BrokerError(
                    f"another process created it with {found[wrong[0]]} partitions, not {wanted[wrong[0]]}",
                    hint="start all workers with one definition",
                    topic=wrong[0],
                )
            await asyncio.sleep(LOOK_S)
