"""Topics: what is created, what is refused, what is warned about."""

from __future__ import annotations

import asyncio

import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from brokers.ports import fresh, made, run

from engine.kafka.log_ends import log_bounds
from engine.kafka.topic_admin import ensure_topics, partition_counts, topic_states
from engine.kafka.topic_limits import check_limits
from engine.settings import KafkaSettings
from topics.catalog import Catalog, TopicPlan
from topics.errors import BrokerError


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
