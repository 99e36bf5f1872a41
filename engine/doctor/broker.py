"""Kafka: is it there, are the topics as the pipeline needs them, may we read and write, is its clock ours.

Lives here: which answers are faults.  Never here: the asking (`engine/kafka`).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator
from typing import TYPE_CHECKING

from engine.doctor.findings import DoctorFinding
from engine.kafka.cluster import ClusterFacts, WritingFacts, cluster_facts, write_once
from engine.kafka.log_reader import log_bounds
from engine.kafka.topic_admin import TopicState, check_limits, topic_problems, topic_states
from engine.settings import KafkaSettings
from topics.catalog import FOREVER_MS, Role
from topics.durations import duration_text
from topics.errors import BrokerError

if TYPE_CHECKING:
    from engine.definition.pipeline import Pipeline

__all__ = ["broker_findings", "clock_finding", "retention_findings", "topic_findings"]

SKEW_WARN_MS, SKEW_FAIL_MS = 1_000.0, 60_000.0
"""Clocks that are kept differ by milliseconds; a minute is `max_ahead`'s default, beyond which events are
refused."""
PATIENCE_MS = 5_000
"""How long a broker that does not answer is tried."""
REREAD: frozenset[Role] = frozenset({"events", "labels", "predictions"})
"""Topics that a start without a checkpoint reads again."""


async def broker_findings(
    kafka: KafkaSettings, pipeline: Pipeline | None, *, write: bool
) -> AsyncIterator[DoctorFinding]:
    """Yield what there is to say of a cluster, and of a pipeline's topics in it.

    `write` says to make a topic, write one record and delete it: that alone shows rights and clock.
    """
    kafka = kafka.model_copy(update={"connect_deadline_ms": min(kafka.connect_deadline_ms, PATIENCE_MS)})
    try:
        facts = await cluster_facts(kafka)
    except BrokerError as error:
        yield DoctorFinding("broker", "fail", error.message, error.hint or "is Kafka up?")
        return
    yield _cluster_finding(kafka, facts)
    if pipeline is not None:
        plan = pipeline.catalog.plan(events=pipeline.events.partitions)
        states = await topic_states(kafka, plan)
        for finding in topic_findings(states):
            yield finding
        looks_back_ms = max(pipeline.labels.wait_ms, pipeline.plan.window_max_ms)
        for finding in retention_findings(states, looks_back_ms):
            yield finding
        async for finding in _reading(kafka, states):
            yield finding
    if write:
        stem = "headrace.doctor" if pipeline is None else f"{pipeline.name}.doctor"
        try:
            yield clock_finding(await write_once(kafka, stem))
        except BrokerError as error:
            yield DoctorFinding(
                "writing", "fail", error.message, error.hint or "give this user WRITE and CREATE"
            )


def _cluster_finding(kafka: KafkaSettings, facts: ClusterFacts) -> DoctorFinding:
    told = f"{kafka.bootstrap_servers}: cluster {facts.cluster_id}, {facts.brokers} brokers"
    if not facts.release:
        return DoctorFinding("broker", "fail", f"{told}, older than Kafka 2.3", "upgrade Kafka")
    return DoctorFinding("broker", "ok", f"{told}, speaks as Kafka {facts.release} or later")


def topic_findings(states: Iterable[TopicState]) -> Iterator[DoctorFinding]:
    """Yield one finding a topic, and one for each setting of it that is likely not meant."""
    states = tuple(states)
    for state in states:
        name, plan = state.plan.name, state.plan
        problems = topic_problems(state)
        for problem in problems:
            yield DoctorFinding("topic", "fail", problem.what, problem.fix)
        if not problems:
            there = (
                "is not there yet: a worker makes it" if state.missing else f"{state.partitions} partitions"
            )
            yield DoctorFinding("topic", "ok", f"{name} ({plan.role}): {there}")
    try:
        warnings = check_limits(states)
    except BrokerError as error:
        yield DoctorFinding("record size", "fail", error.message, str(error.hint))
    else:
        for warning in warnings:
            told, _, fix = warning.partition(": ")
            yield DoctorFinding("setting", "warn", told, fix)


def retention_findings(states: Iterable[TopicState], looks_back_ms: int) -> Iterator[DoctorFinding]:
    """Yield whether the logs reach back as far as windows and waits do."""
    wrong = False
    for state in states:
        kept_ms = int(state.configs.get("retention.ms") or FOREVER_MS)
        if state.missing or state.plan.role not in REREAD or not 0 <= kept_ms < looks_back_ms:
            continue
        wrong = True
        yield DoctorFinding(
            "retention",
            "warn",
            f"{state.plan.name} keeps {duration_text(kept_ms)}, windows and labels look back "
            f"{duration_text(looks_back_ms)}: a start without a checkpoint does not find all",
            f"kafka-configs.sh --alter --entity-type topics --entity-name {state.plan.name} "
            f"--add-config retention.ms={looks_back_ms}   (-1 keeps all)",
        )
    if not wrong:
        yield DoctorFinding(
            "retention", "ok", f"topics keep {duration_text(looks_back_ms)} or more, as windows need"
        )


async def _reading(kafka: KafkaSettings, states: Iterable[TopicState]) -> AsyncIterator[DoctorFinding]:
    """Yield whether the topics that are there may be read."""
    read = 0
    for state in states:
        if state.missing:
            continue
        try:
            await log_bounds(kafka, state.plan.name)
        except BrokerError as error:
            fix = error.hint or "give this user READ on it"
            yield DoctorFinding("reading", "fail", f"{state.plan.name}: {error.message}", fix)
        else:
            read += 1
    if read:
        yield DoctorFinding("reading", "ok", f"{read} topics may be read")


def clock_finding(facts: WritingFacts) -> DoctorFinding:
    """Return whether this machine's clock and the broker's show one time.

    >>> clock_finding(WritingFacts(4.0, -2_000.0)).said
    "the broker's clock is 2.0 s behind ours; a record was acknowledged after 4 ms"
    """
    told = f"a record was acknowledged after {facts.acknowledged_ms:.0f} ms"
    if facts.ahead_ms is None:
        return DoctorFinding("writing", "ok", f"{told}; it stamps no records, so its clock is not known")
    apart, word = abs(facts.ahead_ms), "ahead of" if facts.ahead_ms > 0 else "behind"
    if apart < SKEW_WARN_MS:
        return DoctorFinding("clock", "ok", f"the broker's clock agrees with ours; {told}")
    return DoctorFinding(
        "clock",
        "fail" if apart >= SKEW_FAIL_MS else "warn",
        f"the broker's clock is {apart / 1_000:.1f} s {word} ours; {told}",
        "let both keep their time by NTP (chrony): events ahead of their arrival are refused",
    )
