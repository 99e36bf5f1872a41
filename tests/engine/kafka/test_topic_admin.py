"""Topics: what is created, refused and warned about; the times and sizes that they take."""

from __future__ import annotations

import asyncio
import json

import msgspec
import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from brokers.ports import fresh, made, run
from river import compose, linear_model

from engine import Labels, Pipeline, Topic
from engine.kafka.log_reader import log_bounds
from engine.kafka.topic_admin import (
    ENVELOPE_BYTES,
    TopicLimits,
    TopicState,
    check_limits,
    ensure_topics,
    limits_of,
    partition_counts,
    record_too_large,
    topic_states,
)
from engine.offline.backtest import LocalRun
from engine.settings import KafkaSettings
from operators import by, cross, field
from topics.catalog import Catalog, TopicPlan
from topics.codec import BYTES_MAX, TEXT_MAX
from topics.errors import BrokerError
from topics.messages import Record

NOW_MS = 1_700_000_000_000
DAY_MS = 86_400_000


class Visit(msgspec.Struct):
    event_id: str
    event_time: int
    user: str
    page: str
    seconds: float


PIPELINE = Pipeline(
    name="visits",
    events=Topic("visits.events", Visit, key="user"),
    labels=Labels("visits.labels", wait="1h"),
    features={
        "page": field("page"),
        "again": field("page").default(""),
        "both": cross(field("user"), field("page")),
        "last": by("user").last("page", "1h"),
        "seconds": field("seconds"),
        "mean": by("user").mean("seconds", "1h"),
    },
    models={"linear": compose.SelectType(int, float) | linear_model.LogisticRegression()},
)
NEEDED = PIPELINE.plan.message_bytes_max(Visit, ["linear"])


def flights(name: str, events: int) -> tuple[Catalog, tuple[TopicPlan, ...]]:
    catalog = Catalog(name, events=f"{name}.departures", labels=f"{name}.arrivals")
    return catalog, catalog.plan(events=events)


def test_missing_topics_are_created_once_and_as_planned(broker: KafkaSettings) -> None:
    async def play() -> None:
        catalog, plan = flights(fresh("planned"), 3)
        await made(broker, catalog["events"], catalog["labels"], partitions=3)
        created = await ensure_topics(broker, plan)
        assert set(created) == {topic.name for topic in plan if topic.create}
        assert await ensure_topics(broker, plan) == ()
        states = await topic_states(broker, plan)
        assert [(state.partitions, state.warnings) for state in states] == [(t.partitions, ()) for t in plan]
        by_role = {state.plan.role: state.configs for state in states}
        assert by_role["examples"]["retention.ms"] == by_role["decisions"]["retention.ms"] == "-1"
        assert by_role["models"]["cleanup.policy"] == "compact"

    run(play())


def test_two_workers_may_create_the_same_topics_at_once(broker: KafkaSettings) -> None:
    async def play() -> None:
        catalog, plan = flights(fresh("at-once"), 2)
        await made(broker, catalog["events"], catalog["labels"], partitions=2)
        await asyncio.gather(*(ensure_topics(broker, plan) for _ in range(4)))
        counts = await partition_counts(broker, [topic.name for topic in plan])
        assert counts == {topic.name: topic.partitions for topic in plan}

    run(play())


def test_unequal_partition_counts_are_refused_with_both_numbers(broker: KafkaSettings) -> None:
    async def play() -> None:
        catalog, plan = flights(fresh("unequal"), 4)
        await made(broker, catalog["events"], partitions=4)
        await made(broker, catalog["labels"], partitions=3)
        with pytest.raises(BrokerError, match=rf"{catalog['labels']} has 3 partitions, must have 4"):
            await ensure_topics(broker, plan)
        assert (await partition_counts(broker, [catalog["examples"]])) == {catalog["examples"]: None}

    run(play())


def test_the_users_topics_are_missed_not_created(broker: KafkaSettings) -> None:
    async def play() -> None:
        catalog, plan = flights(fresh("missing"), 4)
        with pytest.raises(BrokerError, match=catalog["events"]):
            await ensure_topics(broker, plan)
        counts = await partition_counts(broker, [topic.name for topic in plan])
        assert set(counts.values()) == {None}
        with pytest.raises(BrokerError, match="no such topic"):
            await log_bounds(broker, catalog["events"])

    run(play())


@pytest.mark.kafka
def test_settings_that_would_hurt_are_refused_or_warned_about(kafka: KafkaSettings) -> None:
    async def play() -> None:
        catalog, plan = flights(fresh("settings"), 1)
        rows = {topic.role: topic for topic in plan}
        for arrival in ("events", "predictions"):  # of events, a broker's arrival is as good as any
            await created_with(catalog[arrival], {"message.timestamp.type": "LogAppendTime"})
        await created_with(catalog["decisions"], {"retention.ms": "1000"})
        await created_with(catalog["models"], {"cleanup.policy": "delete"})
        asked = [rows[role] for role in ("events", "predictions", "decisions", "models")]
        warnings = check_limits(await topic_states(kafka, asked))
        assert len(warnings) == 3
        for expected in ("LogAppendTime", "after 1000 ms", "not compacted"):
            assert any(expected in warning for warning in warnings)
        await created_with(catalog["examples"], {"cleanup.policy": "compact"})
        with pytest.raises(BrokerError, match="compacted"):
            await ensure_topics(kafka, [rows["examples"]])

    async def created_with(name: str, configs: dict[str, str]) -> None:
        admin = AIOKafkaAdminClient(bootstrap_servers=kafka.bootstrap_servers)
        await admin.start()
        await admin.create_topics([NewTopic(name, 1, 1, topic_configs=configs)])
        await admin.close()

    run(play())


# -- what topics take -----------------------------------------------------------------------------


def states(**sizes: int) -> list[TopicState]:
    plan = PIPELINE.catalog.plan(events=1)
    return [
        TopicState(
            topic,
            1,
            {"max.message.bytes": str(sizes.get(topic.role.replace("-", "_"), 2_000_000))},
        )
        for topic in plan
    ]


@pytest.mark.parametrize("filler", ["x", "×", "\\", '"', "\x01", "é", "😀"])
def test_no_answer_is_larger_than_the_definition_says(filler: str) -> None:
    """The largest events that the decoder takes, of text that grows most where it is written."""
    times = BYTES_MAX // len(json.dumps(filler, ensure_ascii=False).encode()[1:-1])
    value = b""
    while not value or len(value) > BYTES_MAX:
        times -= 50
        visit = {
            "event_id": "i" * TEXT_MAX,
            "event_time": NOW_MS,
            "user": "u" * TEXT_MAX,
            "page": filler * times,
            "seconds": 1e15 / 7,
        }
        value = json.dumps(visit, ensure_ascii=False).encode()
    run = LocalRun(PIPELINE)
    run.scorer.intake.offer_events([Record("visits.events", 0, 0, NOW_MS, b"k", value)])
    taken = run.scorer.intake.next_run(events_unread=False, labels_unread=False)
    assert taken is not None
    (answer,) = next(run.scorer.step(taken, NOW_MS))
    assert answer.target == "predictions"
    assert BYTES_MAX < len(answer.value or b"") <= NEEDED


def test_a_timestamp_may_lie_surely_less_far_behind_than_the_broker_takes() -> None:
    assert 0 < limits_of({"message.timestamp.before.max.ms": str(DAY_MS)}).age_max_ms < DAY_MS
    for configs in (
        {},
        {"message.timestamp.before.max.ms": str((1 << 63) - 1)},
        {"message.timestamp.before.max.ms": "1", "message.timestamp.type": "LogAppendTime"},
    ):
        assert limits_of(configs).age_max_ms > NOW_MS


def test_topics_of_ours_are_created_large_enough() -> None:
    plan = {topic.role: topic for topic in PIPELINE.catalog.plan(events=1)}
    for role in ("predictions", "shadow-predictions", "examples"):
        limits = limits_of(plan[role].configs)
        assert limits.record_bytes_max - ENVELOPE_BYTES >= NEEDED
    assert int(plan["dead-letters"].configs["max.message.bytes"]) > 1_048_588
    assert "max.message.bytes" not in plan["events"].configs


@pytest.mark.parametrize("role", ["predictions", "shadow_predictions", "examples"])
def test_a_topic_that_cannot_take_the_largest_answer_is_refused_with_the_fix(role: str) -> None:
    with pytest.raises(BrokerError, match=f"visits.{role.replace('_', '-')} takes records of 2000 b") as said:
        check_limits(states(**{role: 2_000}))
    assert "--add-config max.message.bytes=" in said.value.hint
    enough = said.value.hint.rpartition("=")[2]
    assert check_limits(states(**{role: int(enough)})) == []


def test_dead_letters_may_be_cut_but_not_to_nothing() -> None:
    (warning,) = check_limits(states(events=3_000_000))
    assert "dead letters 2000000: larger ones are cut" in warning
    assert len(check_limits(states(dead_letters=5_000))) == 2
    with pytest.raises(BrokerError, match="dead-letters"):
        check_limits(states(dead_letters=4_000))


def test_an_answer_that_does_not_fit_is_told_with_its_event_and_the_way_on() -> None:
    run = LocalRun(PIPELINE)
    value = json.dumps({"event_id": "e", "event_time": NOW_MS, "user": "u", "page": "p", "seconds": 1.0})
    run.scorer.intake.offer_events([Record("visits.events", 0, 41, NOW_MS, b"u", value.encode())])
    taken = run.scorer.intake.next_run(events_unread=False, labels_unread=False)
    assert taken is not None
    (answer,), _ = run.scorer.step(taken, NOW_MS)
    error = record_too_large(answer, 100, PIPELINE.catalog)
    assert "made of visits.events:0:41 has" in error.message
    assert "raise max.message.bytes of visits.predictions" in error.hint
    assert "--skip visits.events:0:41" in error.hint
    truth = json.dumps({"event_id": "e", "label": True, "label_time": NOW_MS})
    run.scorer.intake.offer_labels([Record("visits.labels", 0, 7, NOW_MS, b"u", truth.encode())])
    (example,) = run.advance() or ()
    assert "--skip visits.labels:0:7" in record_too_large(example, 100, PIPELINE.catalog).hint


def test_kafkas_own_sizes_stand_where_a_broker_tells_none() -> None:
    assert limits_of({}) == TopicLimits()
