"""A worker process of one's own: started, asked for its pages, stopped by its own id.

Lives here: one `headrace run` as a subprocess and the requests to its web server.  Never here: what its
metrics mean (`worker_page.py`).

Strategy: the worker is the very command a user types; it hears of the broker and its ports
through the environment alone, and runs in a folder of its own, where no stray
`headrace.toml` lies.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from pydantic import SecretStr

from engine.kafka.embedded import free_port
from engine.settings import ENV_PREFIX, KafkaSettings
from topics.errors import BrokerError

__all__ = ["WorkerProcess", "environment", "worker_command"]

DRAIN_DEADLINE_S = 30.0
"""The worker gives itself 25 s to leave."""
KILL_DEADLINE_S = 5.0
HTTP_DEADLINE_S = 5.0
"""The page shares the worker's loop, which one batch may hold for some hundred milliseconds."""
LOG_TAIL_MAX = 12
LOG_LINE_MAX = 400
"""Lines of the worker's log shown when it dies, and characters of each: a traceback's end."""
_HOST = "127.0.0.1"


def environment(kafka: KafkaSettings, *, state_dir: Path, web_port: int) -> dict[str, str]:
    """Return this process's environment with the worker's settings in place of any other HEADRACE_ ones."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ENV_PREFIX)}
    told = kafka.model_dump(exclude_unset=True, exclude_none=True).items()
    given = {
        f"{ENV_PREFIX}KAFKA__{name.upper()}": (
            value.get_secret_value() if isinstance(value, SecretStr) else str(value)
        )
        for name, value in told
    }
    return (
        kept
        | given
        | {
            f"{ENV_PREFIX}STATE_DIR": str(state_dir),
            f"{ENV_PREFIX}WEB__HOST": _HOST,
            f"{ENV_PREFIX}WEB__PORT": str(web_port),
        }
    )


def worker_command(pipeline: Path) -> list[str]:
    """Return `headrace run` of this very installation."""
    return [sys.executable, "-m", "headrace", "run", str(pipeline.resolve())]


class WorkerProcess:
    """One worker that lives at most as long as the `with` block."""

    def __init__(self, command: Sequence[str], kafka: KafkaSettings, folder: Path) -> None:
        self.port = free_port()
        self.log = folder / "worker.log"
        self._folder = folder
        self._command = list(command)
        self._environment = environment(kafka, state_dir=folder / "state", web_port=self.port)
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        # Its own process group: Ctrl-C at the terminal reaches the command that started it, which then stops
        # the worker first and the broker after it.
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(  # noqa: S603 - this very interpreter, no shell
                self._command,
                cwd=self._folder,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> int | None:
        """Let it drain and leave; return its exit code, None if it was never started or is long gone."""
        process, self._process = self._process, None
        if process is None:
            return None
        try:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            return process.wait(DRAIN_DEADLINE_S)
        except subprocess.TimeoutExpired:
            return None
        finally:
            if process.poll() is None:
                process.kill()
                process.wait(KILL_DEADLINE_S)

    def check(self) -> None:
        """Raise BrokerError with the end of its log if the worker has died."""
        if self._process is None or self._process.poll() is None:
            return
        tail = self.log.read_text(errors="replace").splitlines()[-LOG_TAIL_MAX:]
        tail = [line if len(line) <= LOG_LINE_MAX else f"... {line[-LOG_LINE_MAX:]}" for line in tail]
        raise BrokerError(
            "\n  ".join([f"the worker died with exit code {self._process.returncode}:", *tail]),
            hint=f"read {self.log}",
        )

    def metrics(self) -> str | None:
        """Return the text of `/metrics`, None while it does not answer."""
        return self._page("/metrics")

    def ready(self) -> bool:
        """Return whether it can answer events."""
        return self._page("/readyz") is not None

    def _page(self, path: str) -> str | None:
        connection = http.client.HTTPConnection(_HOST, self.port, timeout=HTTP_DEADLINE_S)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            text = response.read().decode()
        except (OSError, http.client.HTTPException):
            return None
        finally:
            connection.close()
        return text if response.status == http.HTTPStatus.OK else None
