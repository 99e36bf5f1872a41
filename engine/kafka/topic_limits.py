"""The limits of topics on a record's size and times, and whether they suffice.

Lives here: the settings of topics that can refuse a write, and the largest record that a pipeline makes.
Never here: how a record is cut (`topics/dead_letters.py`), creating topics (`topic_admin.py`).

Strategy: the write side must never be refused, or one record ends the worker at every start.  Times are
clamped, dead letters are cut; for answers and examples, which must stay whole, a worker compares at start
what a topic takes with the largest that there can be.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import structlog

from engine.kafka.topic_admin import TopicState, ensure_topics, topic_states
from engine.settings import KafkaSettings
from topics.catalog import MESSAGE_BYTES_DEFAULT, Catalog, Role, TopicPlan
from topics.codec import decode_example, decode_prediction
from topics.dead_letters import LETTER_BYTES_MIN
from topics.errors import BrokerError
from topics.messages import Outgoing

__all__ = [
    "ENVELOPE_BYTES",
    "LETTER_LIMIT_MIN",
    "TopicLimits",
    "check_limits",
    "limits_of",
    "record_too_large",
    "usable_topics",
]

BEHIND_FOREVER_MS = 1 << 62
SLACK = 64
"""One in so many bytes is left free: a compressed batch of what cannot be compressed is a little larger."""
ENVELOPE_BYTES = 4_096
"""Key, headers and the record's own lengths, beside a value of ours: all of them are bounded."""


LETTER_LIMIT_MIN = LETTER_BYTES_MIN + LETTER_BYTES_MIN // 32
"""Of a topic for dead letters."""

log = structlog.get_logger("headrace")


@dataclass(frozen=True)
class TopicLimits:
    """The limits of one topic."""

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


async def usable_topics(kafka: KafkaSettings, plan: Sequence[TopicPlan]) -> dict[str, TopicLimits]:
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
    found: dict[Role, TopicLimits] = {}
    for state in states:
        if state.missing:
            continue
        plan = state.plan
        warnings += state.warnings
        found[plan.role] = limits = limits_of(state.configs)
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
    letters = found.get("dead-letters")
    for role in ("events", "labels"):
        users = found.get(role)
        if letters is not None and users is not None and letters.bytes_max < users.bytes_max:
            warnings.append(
                f"{role} takes records of {users.bytes_max} bytes, dead letters {letters.bytes_max}:"
                " larger ones are cut"
            )
    return warnings


def record_too_large(record: Outgoing, bytes_max: int, catalog: Catalog) -> BrokerError:
    """Return the error of an answer or an example that does not fit, with the record that it is made of.

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
        hint=f"raise max.message.bytes of {topic}; or go on without the record: headrace run --skip {place}",
        topic=topic,
    )
