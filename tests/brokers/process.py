"""A child process that is waited for and ended; and what happens where a server is not installed."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NoReturn

import pytest

READY_DEADLINE_S = 60.0
STOP_DEADLINE_S = 10.0
LOOK_S = 0.02


def missing(what: str) -> NoReturn:
    """Skip with one line; in CI, where everything is promised to be there, fail."""
    if os.environ.get("CI"):
        pytest.fail(f"CI must have {what}", pytrace=False)
    pytest.skip(f"left out: {what} is not here")


def program(name: str, package: str) -> str:
    found = shutil.which(name)
    return found or missing(f"{name} (Debian: apt-get install {package})")


@contextlib.contextmanager
def running(command: Sequence[str], port: int, log: Path) -> Iterator[int]:
    """Run a server until the block ends; yields its process id once it takes connections on `port`."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd=log.parent
        )
    try:
        deadline = time.monotonic() + READY_DEADLINE_S
        while not answers(port):
            if process.poll() is not None or time.monotonic() > deadline:
                text = log.read_text(errors="replace")[-2_000:]
                pytest.fail(f"{command[0]} did not come up on port {port}:\n{text}", pytrace=False)
            time.sleep(LOOK_S)
        yield process.pid
    finally:
        process.terminate()
        try:
            process.wait(STOP_DEADLINE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(STOP_DEADLINE_S)


def answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False
