"""A group's member on both brokers: nothing lost, nothing silent, nothing unfair."""

from __future__ import annotations

import asyncio

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, RecordsToDelete
from brokers.ports import (
    WAIT_S,
    Owner,
    fresh,
    made,
    numbered,
    poll_until_refused,
    polled,
    run,
    source_of,
    until_read,
    values,
    whole,
)

from engine.kafka.client import LogPartition
from engine.kafka.sink import open_sink
from engine.kafka.source import Source
from engine.settings import KafkaSettings
from topics.errors import BrokerError
from topics.messages import Record


def test_a_partition_is_silent_until_it_is_sought(broker: KafkaSettings) -> None:
    async def play() -> None:
        topic = fresh("silent")
        await made(broker, topic)
        async with open_sink(broker) as sink, source_of(broker, topic) as (source, owner):
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
        async with open_sink(broker) as sink:
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

    async def source_first(source: Source, at: LogPartition, count: int) -> list[Record]:
        got = await polled(source, count, records_max=count)
        assert len(got[at]) == count
        return got[at]

    run(play())


@pytest.mark.parametrize("position", [11, 1_000])
def test_a_position_past_the_end_is_refused(broker: KafkaSettings, position: int) -> None:
    async def play() -> None:
        topic = fresh("past-the-end")
        await made(broker, topic)
        async with open_sink(broker) as sink, source_of(broker, topic) as (source, _):
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
    async def play() -> None:
        topic = fresh("deleted")
        await made(kafka, topic)
        async with open_sink(kafka) as sink, source_of(kafka, topic) as (source, _):
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
        async with open_sink(kafka) as sink, source_of(kafka, topic) as (source, owner):
            for partition in range(4):
                await sink.send(topic, partition, numbered(1_000))
            await sink.flush()
            await source.seek(dict.fromkeys(owner.held))
            while sum(len(buffer.records) for buffer in source._open.values()) < 4_000:
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
        async with open_sink(broker) as sink, source_of(broker, topic) as (source, _):
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
            async with open_sink(broker) as sink:
                await sink.send(topic, 0, numbered(1))
                await sink.flush()
            assert values((await polled(source, 1))[topic, 0]) == [0]

    run(play())


def test_two_members_share_both_topics_partition_by_partition(broker: KafkaSettings) -> None:
    """Events and labels of one number belong together; what one had is handed over and read on."""

    async def play() -> None:
        events, labels, group = fresh("events"), fresh("labels"), fresh("group")
        await made(broker, events, labels, partitions=4)
        async with open_sink(broker) as sink, source_of(broker, events, labels, group=group) as (first, one):
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
        patient = kafka.model_copy(update={"session_timeout_ms": 20_000})  # longer than a restart takes
        names = [patient.model_copy(update={"group_instance_id": name}) for name in ("pod-0", "pod-1")]
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
        async def on_assigned(self, partitions: frozenset[LogPartition]) -> None:
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


@pytest.mark.kafka
@pytest.mark.parametrize(("change", "says"), [("delete", "deleted"), ("grow", "3 partitions now, it had 2")])
def test_a_topic_that_changes_while_it_is_read_ends_the_reading(
    kafka: KafkaSettings, change: str, says: str
) -> None:
    async def play() -> None:
        topic = fresh("changed")
        await made(kafka, topic, partitions=2)
        async with source_of(kafka, topic) as (source, owner):
            await source.seek(dict.fromkeys(owner.held))
            admin = AIOKafkaAdminClient(bootstrap_servers=kafka.bootstrap_servers)
            await admin.start()
            if change == "delete":
                await admin.delete_topics([topic])
            else:
                await admin.create_partitions({topic: NewPartitions(3)})
                await source._consumer._client.force_metadata_update()  # or within five minutes
            await admin.close()
            await poll_until_refused(source, says)

    run(play())


def test_a_group_that_can_not_be_joined_again_is_an_error_not_silence(broker: KafkaSettings) -> None:
    from aiokafka.errors import GroupAuthorizationFailedError

    async def play() -> None:
        topic = fresh("refused")
        await made(broker, topic)
        async with source_of(broker, topic) as (source, _):
            await source._revoked(set())
            source._consumer._coordinator._push_error_to_user(GroupAuthorizationFailedError("g")).close()
            await poll_until_refused(source, "READ on the consumer group")

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


@pytest.mark.kafka
def test_a_session_that_the_broker_refuses_says_which_setting_helps(kafka: KafkaSettings) -> None:
    async def play() -> None:
        topic = fresh("session")
        await made(kafka, topic)
        hasty = kafka.model_copy(update={"session_timeout_ms": 100, "heartbeat_interval_ms": 50})
        with pytest.raises(BrokerError, match="session_timeout_ms"):
            await Source(hasty, group=fresh("group"), topics=[topic], listener=Owner()).start()

    run(play())


def test_nothing_reads_with_a_groups_committed_offset(broker: KafkaSettings) -> None:
    """The checkpoint says where to go on, whatever the group committed."""

    async def play() -> None:
        topic, group = fresh("committed"), fresh("group")
        await made(broker, topic)
        async with open_sink(broker) as sink:
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
