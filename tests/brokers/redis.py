"""redis-server on a free port, in memory, until the tests end."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from brokers.process import program, running
from engine.kafka.embedded import free_port


@contextlib.contextmanager
def redis_server(directory: Path) -> Iterator[str]:
    """Yield the address of an empty Redis, `redis://host:port/0`."""
    port = free_port()
    command = [program("redis-server", "redis-server"), "--port", str(port), "--bind", "127.0.0.1"]
    command += ["--save", "", "--appendonly", "no", "--dir", str(directory)]
    with running(command, port, directory / "redis.log"):
        yield f"redis://127.0.0.1:{port}/0"
