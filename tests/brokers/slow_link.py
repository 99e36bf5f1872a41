"""A line between clients and a broker that delays, takes so many bytes a second, and can be cut."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

HOST = "127.0.0.1"
CHUNK_BYTES = 4_096
"""Connections take turns after so many bytes: at 256 KB/s one waits 16 ms for another."""


class Direction:
    """One direction of a line that connections share; as fast as the machine until it is made slow."""

    def __init__(self) -> None:
        self.delay_s = 0.0
        self.bytes_per_s = math.inf
        self._free_s = -math.inf

    def send(self, count: int, now_s: float) -> tuple[float, float]:
        """Return when so many bytes have left, and when they arrive.

        >>> line = Direction()
        >>> line.send(1_000, 5.0)
        (5.0, 5.0)
        >>> line.delay_s, line.bytes_per_s = 0.5, 1_000.0
        >>> line.send(1_000, 5.0), line.send(500, 5.0), line.send(1_000, 9.0)
        ((6.0, 6.5), (6.5, 7.0), (10.0, 10.5))
        """
        self._free_s = max(self._free_s, now_s) + count / self.bytes_per_s
        return self._free_s, self._free_s + self.delay_s


class SlowLink:
    """What listens on one port, and carries every connection to another, both ways."""

    def __init__(self, port: int, broker_port: int) -> None:
        self.port, self._broker_port = port, broker_port
        self._there, self._back = Direction(), Direction()
        self.carried_bytes = [0, 0]
        """To the broker, and from it."""
        self._connections: set[asyncio.Task[None]] = set()
        self._is_cut = False

    def set(self, *, delay_s: float, bytes_per_s: float) -> None:
        """Be so slow from now on, each way; what is under way arrives as it would have."""
        for direction in (self._there, self._back):
            direction.delay_s, direction.bytes_per_s = delay_s, bytes_per_s

    def cut(self) -> None:
        """Close every connection now, and each that comes, until `mend`: to clients no broker is there."""
        self._is_cut = True
        for task in self._connections:
            task.cancel()

    def mend(self) -> None:
        """Carry connections again."""
        self._is_cut = False

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Listen during the block."""
        connections = self._connections

        def taken(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            if self._is_cut:
                writer.close()
                return
            task = asyncio.create_task(self._carry(reader, writer))
            connections.add(task)
            task.add_done_callback(connections.discard)

        server = await asyncio.start_server(taken, HOST, self.port)
        try:
            yield
        finally:
            server.close()
            for task in list(connections):
                task.cancel()
            await asyncio.gather(*connections, return_exceptions=True)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry one connection until either end has closed it."""
        broker_writer = None
        try:
            broker_reader, broker_writer = await asyncio.open_connection(HOST, self._broker_port)
            pumps = {
                asyncio.create_task(self._pump(0, self._there, reader, broker_writer)),
                asyncio.create_task(self._pump(1, self._back, broker_reader, writer)),
            }
            try:
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for pump in pumps:
                    pump.cancel()
                await asyncio.gather(*pumps, return_exceptions=True)
        except OSError:
            pass  # no broker there: the client sees a connection that closes
        finally:
            for each in (writer, broker_writer):
                if each is not None:
                    each.close()

    async def _pump(
        self, way: int, direction: Direction, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Carry bytes one way until they end.

        The next are read when these have left, so that a sender is held back as by a line that is full.
        """
        under_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
        delivering = asyncio.create_task(_deliver(under_way, writer))
        try:
            with contextlib.suppress(OSError):
                while data := await reader.read(CHUNK_BYTES):
                    self.carried_bytes[way] += len(data)
                    leaves_s, arrives_s = direction.send(len(data), time.monotonic())
                    under_way.put_nowait((arrives_s, data))
                    await _sleep_until(leaves_s)
            under_way.put_nowait((0.0, b""))
            await delivering
        finally:
            delivering.cancel()


async def _deliver(under_way: asyncio.Queue[tuple[float, bytes]], writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while True:
            arrives_s, data = await under_way.get()
            if not data:
                return
            await _sleep_until(arrives_s)
            writer.write(data)
            await writer.drain()


async def _sleep_until(when_s: float) -> None:
    left_s = when_s - time.monotonic()
    if left_s > 0:
        await asyncio.sleep(left_s)
