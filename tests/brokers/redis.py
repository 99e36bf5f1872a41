"""Redis: a server on a free port, in memory; a relay to it that counts round trips; one that hangs."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

from brokers.certificates import Authority
from brokers.process import program, running
from engine.kafka.embedded import free_port

CHUNK = 65_536


@contextlib.contextmanager
def redis_server(directory: Path, *options: str, port: int = 0) -> Iterator[str]:
    """Yield the address of a Redis, `redis://host:port/0`, empty unless `directory` has its files."""
    port = port or free_port()
    command = [program("redis-server", "redis-server"), "--port", str(port), "--bind", "127.0.0.1"]
    command += ["--save", "", "--appendonly", "no", "--dir", str(directory), *options]
    with running(command, port, directory / "redis.log"):
        yield f"redis://127.0.0.1:{port}/0"


@contextlib.contextmanager
def secured_redis(directory: Path, *users: str) -> Iterator[tuple[str, Authority, str]]:
    """Yield the address of a Redis that speaks TLS alone, to clients with a certificate, and knows `users`.

    Each is what follows `user` in its file of users.  With the address come its authority and the
    options that a client needs: they stand in the address, behind `?`.
    """
    authority, port = Authority(directory, "redis-authority"), free_port()
    server, client = authority.identity("redis", host="127.0.0.1"), authority.identity("worker")
    known = directory / "users.acl"
    known.write_text("".join(f"user {user}\n" for user in ("default off", *users)))
    options = ["--tls-port", str(port), "--tls-auth-clients", "yes", "--aclfile", str(known)]
    options += ["--tls-cert-file", str(server.certificate), "--tls-key-file", str(server.key)]
    options += ["--tls-ca-cert-file", str(authority.certificate)]
    command = [program("redis-server", "redis-server"), "--port", "0", "--bind", "127.0.0.1"]
    command += ["--save", "", "--appendonly", "no", "--dir", str(directory), *options]
    query = f"ssl_ca_certs={authority.certificate}&ssl_certfile={client.certificate}&ssl_keyfile={client.key}"
    with running(command, port, directory / "redis.log"):
        yield f"127.0.0.1:{port}/0", authority, query


class Relay:
    """A relay's address, and how often the client has spoken after the server had, or first."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.trips = 0
        self.asking = False


@asynccontextmanager
async def relay_to(url: str) -> AsyncGenerator[Relay]:
    """Pass everything on between clients and the server at `url`."""
    server = urlsplit(url)
    clients: set[asyncio.Task[None]] = set()

    async def copy(source: asyncio.StreamReader, target: asyncio.StreamWriter, *, asking: bool) -> None:
        with suppress(OSError):
            while data := await source.read(CHUNK):
                relay.trips += asking and not relay.asking
                relay.asking = asking
                target.write(data)
                await target.drain()
        target.close()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        clients.add(task)  # before it waits: who comes last may be here when nobody else is
        there, back = await asyncio.open_connection(server.hostname, server.port)
        try:
            await asyncio.gather(copy(reader, back, asking=True), copy(there, writer, asking=False))
        finally:
            back.close()
            writer.close()

    listener = await asyncio.start_server(accept, "127.0.0.1", 0)
    relay = Relay(f"redis://127.0.0.1:{listener.sockets[0].getsockname()[1]}/0")
    async with listener:
        yield relay
    if clients:
        await asyncio.wait(clients)


@asynccontextmanager
async def silent_server() -> AsyncGenerator[str]:
    """Take connections and everything that is said, and never answer: the address of a Redis that hangs."""
    writers: list[asyncio.StreamWriter] = []

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        with suppress(OSError):
            while await reader.read(CHUNK):
                pass
        writer.close()

    listener = await asyncio.start_server(accept, "127.0.0.1", 0)
    async with listener:
        yield f"redis://127.0.0.1:{listener.sockets[0].getsockname()[1]}/0"
        for writer in writers:
            writer.close()
