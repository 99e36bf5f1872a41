"""The administration of topics: they are compared with the plan and created, never deleted or changed.

Lives here: the comparison of `topics/catalog.py`'s plan with a cluster, the settings of topics that can
refuse a write, and the largest record that a pipeline makes.  Never here: names and rules (the catalog), how
a record is cut (`topics/headers.py`).

Strategy: look first, say everything that is wrong, create only what is missing and ours.  The write side
must never be refused, or one record ends the worker at every start.  Times are clamped, dead letters are cut;
for answers and examples, which must stay whole, a worker compares at start what a topic takes with the
largest that there can be.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

import structlog
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from engine.kafka.client import ask_broker, open_client
from engine.settings import KafkaSettings
from topics.catalog import FOREVER_MS, MESSAGE_BYTES_DEFAULT, Catalog, Role, TopicPlan
from topics.codec import decode_example, decode_prediction
from topics.errors import BrokerError
from topics.headers import LETTER_BYTES_MIN
from topics.messages import Outgoing

__all__ = [
    "ENVELOPE_BYTES",
    "LETTER_LIMIT_MIN",
    "TopicLimits",
    "TopicProblem",
    "TopicState",
    "check_limits",
    "ensure_topics",
    "limits_of",
    "partition_counts",
    "prepare_topics",
    "record_too_large",
    "topic_problems",
    "topic_states",
]

EXISTS = 36
"""TOPIC_ALREADY_EXISTS: another worker was faster, which is as good."""
UNKNOWN_TOPIC = 3
APPEAR_DEADLINE_S = 15.0
"""A created topic gets its leaders within moments; a busy cluster gets this long."""
LOOK_S = 0.05
BEHIND_FOREVER_MS = 1 << 62
SLACK = 64
"""One in so many bytes is left free: a compressed batch of what cannot be compressed is a little larger."""
ENVELOPE_BYTES = 4_096
"""Key, headers and the record's own lengths, beside a value of ours: all of them are bounded."""
LETTER_LIMIT_MIN = LETTER_BYTES_MIN + LETTER_BYTES_MIN // 32
"""Of a topic for dead letters."""

_Answer = TypeVar("_Answer")

log = structlog.get_logger("headrace")


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
        """Settings that work but are likely not meant."""
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
        if "compact" in plan.cleanup and policy is not None and "compact" not in policy:
            said.append(f"{name} is not compacted and grows for ever: set cleanup.policy=compact")
        return tuple(said)

    def line(self) -> str:
        """Return what a printed plan says of this topic."""
        settings = " ".join(f"{name}={value}" for name, value in self.plan.configs.items())
        state = "create" if self.missing and self.plan.create else "MISSING" if self.missing else "exists"
        return f"{state:8} {self.plan.name}  partitions={self.plan.partitions}  {settings}"


async def _ask_admin(kafka: KafkaSettings, ask: Callable[[Any], Awaitable[_Answer]]) -> _Answer:
    """Return what `ask` returns of a client of its own."""
    async with open_client(lambda: AIOKafkaAdminClient(**kafka.aiokafka_options()), kafka) as client:
        return await ask_broker(lambda: ask(client), "asking for topics", kafka)


async def partition_counts(kafka: KafkaSettings, names: Iterable[str]) -> dict[str, int | None]:
    """Return how many partitions each topic has; None where there is no such topic.  Raises BrokerError."""
    wanted = list(names)
    return await _ask_admin(kafka, lambda client: _counts(client, wanted))


async def _counts(client: Any, names: list[str]) -> dict[str, int | None]:
    existing = set(await client.list_topics())  # asking for a missing one by name may create it
    existing_names = [name for name in names if name in existing]
    described = await client.describe_topics(existing_names) if existing_names else []
    counts: dict[str, int | None] = dict.fromkeys(names)
    for topic in described:
        if topic["error_code"] != UNKNOWN_TOPIC and topic["partitions"]:
            counts[topic["topic"]] = len(topic["partitions"])
    return counts


async def topic_states(kafka: KafkaSettings, plan: Sequence[TopicPlan]) -> tuple[TopicState, ...]:
    """Return the plan beside what is there.  Changes nothing.  Raises BrokerError."""

    async def ask(client: Any) -> tuple[TopicState, ...]:
        counts = await _counts(client, [topic.name for topic in plan])
        configs = await _configs(client, [name for name, count in counts.items() if count is not None])
        return tuple(TopicState(topic, counts[topic.name], configs.get(topic.name, {})) for topic in plan)

    return await _ask_admin(kafka, ask)


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
    if wrong := [problem for state in states for problem in topic_problems(state)]:
        fixes = "; ".join(dict.fromkeys(problem.fix for problem in wrong))
        raise BrokerError("; ".join(problem.what for problem in wrong), hint=fixes)
    missing = [state.plan for state in states if state.missing]
    if missing:
        await _ask_admin(kafka, lambda client: _create(client, kafka, missing))
    return tuple(topic.name for topic in missing)


class TopicProblem(NamedTuple):
    """Why no worker may start with a topic as it is."""

    what: str
    fix: str


def topic_problems(state: TopicState) -> list[TopicProblem]:
    """Return what is wrong with a topic: it is missing, has other partitions, or loses records."""
    name, plan = state.plan.name, state.plan
    if state.partitions is None:
        what = f"the {plan.role} topic {name} does not exist"
        fix = "`headrace topics create PIPELINE.py` creates what is missing"
        return [] if plan.create else [TopicProblem(what, fix)]
    problems = []
    if state.partitions != plan.partitions:
        what = f"{plan.role} topic {name} has {state.partitions} partitions, must have {plan.partitions}"
        problems.append(TopicProblem(what, "partitions cannot be taken away again: make the topic anew"))
    if plan.retention_ms == FOREVER_MS and "compact" in state.configs.get("cleanup.policy", ""):
        what = f"{plan.role} topic {name} is compacted, which would delete records of the log"
        problems.append(TopicProblem(what, f"set cleanup.policy=delete on {name}"))
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
        while (counts := await _counts(client, list(wanted))) != wanted:
            if wrong := [name for name, count in counts.items() if count not in {None, wanted[name]}]:
                raise BrokerError(
                    f"another process created it with {counts[wrong[0]]} partitions, not {wanted[wrong[0]]}",
                    hint="start all workers with one definition",
                    topic=wrong[0],
                )
            await asyncio.sleep(LOOK_S)


# -- what topics take -----------------------------------------------------------------------------


@dataclass(frozen=True)
class TopicLimits:
    """The limits of one topic, by its settings."""

    bytes_max: int = MESSAGE_BYTES_DEFAULT
    """Of one batch, as `max.message.bytes` counts."""
    behind_ms: int = BEHIND_FOREVER_MS
    """How far a record's timestamp may lie behind the broker's clock."""
    record_bytes_max: int = field(init=False, repr=False)
    """The largest record that surely fits, counted uncompressed."""
    age_max_ms: int = field(init=False, repr=False)
    """How far a record's timestamp may surely lie behind ours: a tenth is left for clocks that differ."""

    def __post_init__(self) -> None:
        """Leave room."""
        object.__setattr__(self, "record_bytes_max", self.bytes_max - self.bytes_max // SLACK)
        object.__setattr__(self, "age_max_ms", self.behind_ms * 9 // 10)


def limits_of(configs: Mapping[str, str | None]) -> TopicLimits:
    """Return what a topic with these settings takes; those that a broker does not tell are Kafka's own.

    >>> limits_of({"max.message.bytes": "2000"})
    TopicLimits(bytes_max=2000, behind_ms=4611686018427387904)
    """
    size = configs.get("max.message.bytes")
    behind = [
        int(value)
        for name in ("message.timestamp.before.max.ms", "message.timestamp.difference.max.ms")
        if (value := configs.get(name)) is not None
    ]
    if configs.get("message.timestamp.type") == "LogAppendTime":
        behind = []
    return TopicLimits(
        MESSAGE_BYTES_DEFAULT if size is None else int(size), min([*behind, BEHIND_FOREVER_MS])
    )


async def prepare_topics(kafka: KafkaSettings, plan: Sequence[TopicPlan]) -> dict[str, TopicLimits]:
    """Create what is missing and ours, and return what each topic takes.

    Raises BrokerError for topics that are not as they must be.
    """
    created = await ensure_topics(kafka, plan)
    if created:
        log.info("topics created", topics=created)
    states = await topic_states(kafka, plan)
    for warning in check_limits(states):
        log.warning(warning)
    return {state.plan.name: limits_of(state.configs) for state in states}


def check_limits(states: Sequence[TopicState]) -> list[str]:
    """Return warnings about settings that are likely not meant, and about what topics take.

    Raises BrokerError where a topic does not take the largest record that the pipeline makes: it would
    end the worker when that comes, and at every start from then on.
    """
    wrong: list[tuple[str, int, str]] = []
    warnings: list[str] = []
    limits_by_role: dict[Role, TopicLimits] = {}
    for state in states:
        if state.missing:
            continue
        plan = state.plan
        warnings += state.warnings
        limits_by_role[plan.role] = limits = limits_of(state.configs)
        needed = plan.bytes_needed and plan.bytes_needed + ENVELOPE_BYTES
        if plan.role == "dead-letters":
            needed = LETTER_BYTES_MIN
        if limits.record_bytes_max < needed:
            wrong.append((plan.name, limits.bytes_max, plan.configs["max.message.bytes"]))
    if wrong:
        said = "; ".join(
            f"{name} takes records of {has} bytes, it needs {needs}" for name, has, needs in wrong
        )
        fixes = " and ".join(
            f"kafka-configs.sh --alter --entity-type topics --entity-name {name}"
            f" --add-config max.message.bytes={needs}"
            for name, _, needs in wrong
        )
        raise BrokerError(f"the largest record would be refused: {said}", hint=fixes)
    letters = limits_by_role.get("dead-letters")
    for role in ("events", "labels"):
        users = limits_by_role.get(role)
        if letters is not None and users is not None and letters.bytes_max < users.bytes_max:
            warnings.append(
                f"{role} takes records of {users.bytes_max} bytes, dead letters {letters.bytes_max}:"
                " larger ones are cut"
            )
    return warnings


def record_too_large(record: Outgoing, bytes_max: int, catalog: Catalog) -> BrokerError:
    """Return the BrokerError for a too large answer or example, with the record that it is made of.

    Of an example that is its label's, as its event may lie behind the checkpoint.
    """
    value, topic = record.value or b"", catalog[record.target]
    made_of, partition = catalog["events"], record.partition or 0
    if record.target == "examples":
        example = decode_example(value)
        partition, offset = example.source_partition, example.event_offset
        if example.label_offset >= 0:
            made_of, offset = catalog["labels"], example.label_offset
    else:
        offset = decode_prediction(value).event_offset
    place = f"{made_of}:{partition}:{offset}"
    return BrokerError(
        f"what was made of {place} has {len(value)} bytes, the topic takes {bytes_max}",
        hint=f"raise max.message.bytes of {topic}; or go on without the record: "
        f"headrace run PIPELINE.py --skip {place}",
        topic=topic,
    )
