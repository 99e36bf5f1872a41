"""What fault runs measure with: waits for answers, and a slow line that loses and reorders nothing."""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter

import pytest
from brokers.slow_link import HOST, Direction, SlowLink
from fault_runs.storm import leavings
from fault_runs.waits import Waits, quantile
from hypothesis import given
from hypothesis import strategies as st

from engine.kafka.embedded import free_port

EVENTS = st.lists(st.tuples(st.integers(0, 50), st.one_of(st.none(), st.integers(0, 60))), max_size=12)
"""When each event is published and how much later it is answered; None: never."""


@given(EVENTS, st.sets(st.integers(0, 100), min_size=1))
def test_every_wait_is_counted_once_and_ends_with_a_look(
    events: list[tuple[int, int | None]], looks: set[int]
) -> None:
    events.sort(key=lambda event: event[0])
    waits, first = Waits(), min(looks)
    for now in sorted(looks):
        published = [float(then) for then, _ in events if then <= now]
        answered = {
            f"r{number}"
            for number, (then, later) in enumerate(events)
            if later is not None and then + later <= now
        }
        waits.look(float(now), published, Counter(answered))
        assert waits.backlogs[-1] == len(published) - len(answered)
    expected: list[float] = []
    for then, later in events:
        if later is None or then + later <= first:
            continue
        expected += [look - then for look in sorted(looks) if look >= then + later][:1]
    assert sorted(waits.seconds) == sorted(expected)
    assert 0.0 <= waits.silence_s <= max(looks) - first


def test_silence_is_the_longest_time_in_which_events_waited_and_none_was_answered() -> None:
    waits = Waits()
    published = [0.0, 0.0, 30.0]
    for now, sent, answered in [
        (0, 2, 0),
        (3, 2, 1),
        (8, 2, 1),
        (9, 2, 2),
        (30, 2, 2),
        (31, 3, 2),
        (33, 3, 3),
    ]:
        waits.look(float(now), published[:sent], {f"r{number}": 1 for number in range(answered)})
    assert waits.silence_s == 6.0, "from 3 to 9: from 9 on nothing waited"


def test_quantiles_are_values_that_were_seen() -> None:
    assert [quantile(range(1, 101), share) for share in (0.01, 0.5, 0.99, 1.0)] == [1, 50, 99, 100]
    assert math.isnan(quantile([], 0.5))


def test_a_seed_decides_how_a_member_leaves() -> None:
    assert leavings(1, 600, 10) == leavings(1, 600, 10) != leavings(2, 600, 10)
    assert len(leavings(1, 600, 10)) == 30
    assert set(leavings(1, 600, 10)) == {"SIGTERM", "SIGKILL", "SIGSTOP"}


def test_a_line_takes_no_more_than_its_rate_and_what_it_takes_arrives_later() -> None:
    line = Direction()
    assert line.send(10**9, 5.0) == (5.0, 5.0), "as fast as the machine until it is made slow"
    line.delay_s, line.bytes_per_s = 0.5, 1_000.0
    assert [line.send(count, now_s) for count, now_s in [(1_000, 5.0), (500, 5.0), (1_000, 9.0)]] == [
        (6.0, 6.5),
        (6.5, 7.0),
        (10.0, 10.5),
    ]


@pytest.mark.parametrize(("delay_s", "bytes_per_s"), [(0.0, math.inf), (0.05, 400_000.0)])
def test_a_line_loses_and_reorders_nothing_and_closes_with_an_end(delay_s: float, bytes_per_s: float) -> None:
    sent = [bytes([number]) * 9_001 for number in range(8)]

    async def exchange() -> tuple[bytes, bytes, float]:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while data := await reader.read(1_000):
                writer.write(data)
                await writer.drain()
            writer.close()

        server = await asyncio.start_server(answer, HOST, 0)
        link = SlowLink(free_port(), server.sockets[0].getsockname()[1])
        link.set(delay_s=delay_s, bytes_per_s=bytes_per_s)
        async with link.open():
            reader, writer = await asyncio.open_connection(HOST, link.port)
            began_s = time.monotonic()
            for data in sent:
                writer.write(data)
            got = await reader.readexactly(sum(map(len, sent)))
            took_s = time.monotonic() - began_s
            writer.write_eof()
            assert await reader.read() == b"", "the line closes what one end has closed"
            writer.close()
            await writer.wait_closed()
        server.close()
        await server.wait_closed()
        assert link.carried_bytes == [len(got)] * 2
        return b"".join(sent), got, took_s

    wanted, got, took_s = asyncio.run(asyncio.wait_for(exchange(), 60))
    assert got == wanted
    assert took_s >= 2 * delay_s + len(got) / bytes_per_s


def test_a_line_that_is_cut_closes_all_and_carries_again_when_it_is_mended() -> None:
    async def play() -> None:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(await reader.read(1))
            await reader.read()
            writer.close()

        server = await asyncio.start_server(answer, HOST, 0)
        link = SlowLink(free_port(), server.sockets[0].getsockname()[1])

        async def said() -> tuple[asyncio.StreamReader, asyncio.StreamWriter, bytes]:
            reader, writer = await asyncio.open_connection(HOST, link.port)
            writer.write(b"a")
            return reader, writer, await reader.read(1)

        async with link.open():
            reader, writer, heard = await said()
            assert heard == b"a"
            link.cut()
            assert await reader.read() == b"", "a connection has outlived the cut"
            writer.close()
            _, other, heard = await said()
            assert heard == b"", "a connection was carried over a line that is cut"
            other.close()
            link.mend()
            _, writer, heard = await said()
            assert heard == b"a"
            writer.close()
        server.close()

    asyncio.run(asyncio.wait_for(play(), 60))
