"""Connections that a broker resets: requests fail as over any lost connection, metadata comes again."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing, suppress
from types import SimpleNamespace
from typing import Any

import pytest
import uvloop
from aiokafka import AIOKafkaConsumer
from aiokafka.client import AIOKafkaClient, ConnectionGroup
from aiokafka.errors import KafkaConnectionError
from aiokafka.protocol.metadata import MetadataRequest

from engine.kafka import client as kafka_client
from engine.kafka.client import (
    MISSING_S,
    MissingTopics,
    connect,
    consumer_options,
    install_connection_check,
)
from engine.settings import KafkaSettings
from topics.errors import BrokerError

BROKER = 1
API_VERSIONS, METADATA = 18, 3
TURNS = range(12)
"""Turns of the event loop between a reset and a request; aiokafka closes its connection after three."""
DEADLINE_S = 10.0

LOOPS = pytest.mark.parametrize("loop_factory", [uvloop.new_event_loop, asyncio.new_event_loop])


def test_a_topic_must_be_missing_for_a_while_without_a_break(monkeypatch: pytest.MonkeyPatch) -> None:
    """A broker that was just started may not know all topics yet."""
    known, now_s = {"a": {0}, "b": {0}}, [100.0]
    monkeypatch.setattr(kafka_client.time, "monotonic", lambda: now_s[0])
    client = SimpleNamespace(cluster=SimpleNamespace(partitions_for_topic=known.get))
    missing = MissingTopics()

    def looked(after_s: float) -> None:
        now_s[0] += after_s
        missing.check(client, ["a", "b"])

    looked(0)
    del known["b"]
    looked(0)
    looked(MISSING_S - 0.1)
    known["b"] = {0}
    looked(1)
    assert not missing.since_s
    del known["b"]
    looked(0)
    looked(MISSING_S - 0.1)
    with pytest.raises(BrokerError, match="deleted while it was in use") as caught:
        looked(0.1)
    assert caught.value.topic == "b"


@LOOPS
def test_metadata_comes_again_whenever_the_connection_was_reset(loop_factory: Any) -> None:
    """The connection is reset some turns before, or after, the request."""

    async def ask() -> None:
        for turns in TURNS:
            for reset_first in (True, False):
                async with connected() as (client, transport):
                    if reset_first:
                        transport._force_close(ConnectionResetError())
                        await turned(turns)
                        asked = client.force_metadata_update()
                    else:
                        asked = client.force_metadata_update()
                        await turned(turns)
                        transport._force_close(ConnectionResetError())
                    async with asyncio.timeout(DEADLINE_S):
                        await asked
                        while not await client.force_metadata_update():
                            pass

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(ask())


@LOOPS
def test_a_request_over_a_connection_that_was_reset_fails_as_over_a_lost_one(loop_factory: Any) -> None:
    async def ask() -> None:
        for turns in TURNS:
            async with connected() as (client, transport):
                connection = client._conns[BROKER, ConnectionGroup.DEFAULT]
                transport._force_close(ConnectionResetError())
                await turned(turns)
                with pytest.raises(KafkaConnectionError):
                    await connection.send(MetadataRequest([]))
                assert not connection.connected()

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(ask())


@LOOPS
def test_a_client_that_is_cancelled_while_it_connects_leaves_no_connection_behind(loop_factory: Any) -> None:
    async def cancelled() -> None:
        asked = asyncio.Event()
        async with metadata_broker(asked) as port:
            kafka = KafkaSettings(bootstrap_servers=f"127.0.0.1:{port}")
            consumer = AIOKafkaConsumer(**consumer_options(kafka))
            connecting = asyncio.create_task(connect(lambda: consumer, kafka))
            async with asyncio.timeout(DEADLINE_S):
                await asked.wait()
                connecting.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await connecting

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(cancelled())


async def turned(turns: int) -> None:
    for _ in range(turns):
        await asyncio.sleep(0)


@asynccontextmanager
async def connected() -> AsyncIterator[tuple[Any, Any]]:
    """A client of aiokafka and the transport of its open connection to a broker."""
    install_connection_check()
    async with metadata_broker() as port:
        client = AIOKafkaClient(bootstrap_servers=f"127.0.0.1:{port}")
        await client.bootstrap()
        try:
            assert await client.ready(BROKER)
            yield client, client._conns[BROKER, ConnectionGroup.DEFAULT]._writer.transport
        finally:
            await client.close()


@asynccontextmanager
async def metadata_broker(unanswered: asyncio.Event | None = None) -> AsyncIterator[int]:
    """The port of a broker without topics: it says which requests it knows, and its own address.

    That alone is `unanswered` where it is given: set when somebody asks.  All clients must be gone in time.
    """

    serving: set[Any] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving.add(asyncio.current_task())
        with closing(writer), suppress(OSError, EOFError):
            while True:
                (size,) = struct.unpack(">i", await reader.readexactly(4))
                kind, _, correlation = struct.unpack_from(">hhi", await reader.readexactly(size))
                if kind == METADATA and unanswered is not None:
                    unanswered.set()
                    continue
                answer = struct.pack(">i", correlation) + answers[kind]
                writer.write(struct.pack(">i", len(answer)) + answer)
        with suppress(OSError):
            await writer.wait_closed()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port: int = server.sockets[0].getsockname()[1]
        host = b"127.0.0.1"
        answers = {
            API_VERSIONS: struct.pack(">hi6h", 0, 2, API_VERSIONS, 0, 0, METADATA, 0, 0),
            METADATA: struct.pack(f">iih{len(host)}sii", 1, BROKER, len(host), host, port, 0),
        }
        yield port
        await turned(len(TURNS))  # asyncio leaves a socket open that was accepted while the server closes
        _, left = await asyncio.wait(serving, timeout=DEADLINE_S)
        for one in left:
            one.cancel()
        assert not left, "a client keeps its connection"
