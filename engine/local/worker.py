"""A worker of one's own: started, asked for its pages, stopped by its own id; and what its page says.

Lives here: one `headrace run` (or, beside it, a peer's program) as a subprocess, the requests to its web
server, `/metrics` as figures.  Never here: judging or showing them.

Strategy: the worker is the very command a user types; it hears of the broker and its ports
through the environment alone, and runs in a folder of its own, where no stray
`headrace.toml` lies.
"""

from __future__ import annotations

import contextlib
import http.client
import math
import os
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import NamedTuple, Self

from prometheus_client.parser import text_string_to_metric_families
from pydantic import SecretStr

from engine.kafka.embedded import free_port
from engine.settings import ENV_PREFIX, KafkaSettings
from topics.errors import BrokerError

__all__ = ["ModelFigures", "WorkerPage", "WorkerProcess", "environment", "read_page", "worker_command"]

DRAIN_DEADLINE_S = 30.0
"""The worker gives itself 25 s to leave."""
KILL_DEADLINE_S = 5.0
HTTP_DEADLINE_S = 5.0
"""The page shares the worker's loop, which one batch may hold for some hundred milliseconds."""
LOG_TAIL_MAX = 12
LOG_LINE_MAX = 400
"""Lines of the worker's log shown when it dies, and characters of each."""
_HOST = "127.0.0.1"


def environment(kafka: KafkaSettings, *, state_dir: Path, web_port: int) -> dict[str, str]:
    """Return this process's environment with the worker's settings in place of any other HEADRACE_ ones."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ENV_PREFIX)}
    told = {
        f"{ENV_PREFIX}KAFKA__{name.upper()}": (
            value.get_secret_value() if isinstance(value, SecretStr) else str(value)
        )
        for name, value in kafka.model_dump(exclude_unset=True, exclude_none=True).items()
    }
    own = {"STATE_DIR": str(state_dir), "WEB__HOST": _HOST, "WEB__PORT": str(web_port)}
    return kept | told | {f"{ENV_PREFIX}{name}": value for name, value in own.items()}


def worker_command(pipeline: Path) -> list[str]:
    """Return `headrace run` of this very installation."""
    return [sys.executable, "-m", "headrace", "run", str(pipeline.resolve())]


class WorkerProcess:
    """One worker that lives at most as long as the `with` block; `told` is more of its environment."""

    def __init__(
        self,
        command: Sequence[str],
        kafka: KafkaSettings,
        folder: Path,
        told: Mapping[str, str] = MappingProxyType({}),
        *,
        port: int | None = None,
    ) -> None:
        """`port` is that of its pages; None takes a free one."""
        self.port = port or free_port()
        self.log = folder / "worker.log"
        self._folder = folder
        self._command = list(command)
        self._environment = {**environment(kafka, state_dir=folder / "state", web_port=self.port), **told}
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
        """Drain and stop the worker; return its exit code, None if it was not started or has ended."""
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

    @property
    def exit_code(self) -> int | None:
        """The exit code; None while it runs."""
        return None if self._process is None else self._process.poll()

    @property
    def pid(self) -> int:
        """The process id.  AssertionError unless it was started."""
        assert self._process is not None
        return self._process.pid

    @property
    def state_dir(self) -> Path:
        """The directory of its checkpoints."""
        return self._folder / "state"

    def check(self) -> None:
        """Raise BrokerError with the end of its log if the worker has died."""
        if self.exit_code is not None:
            said = "\n  ".join([f"the worker died with exit code {self.exit_code}:", *self.log_tail()])
            raise BrokerError(said, hint=f"read {self.log}")

    def log_tail(self) -> list[str]:
        """Return the last lines of its log: a traceback's end."""
        tail = self.log.read_text(errors="replace").splitlines()[-LOG_TAIL_MAX:]
        return [line if len(line) <= LOG_LINE_MAX else f"... {line[-LOG_LINE_MAX:]}" for line in tail]

    def cpu_seconds(self) -> float | None:
        """Return the processor time it has used so far, None where the system does not say."""
        if self._process is None:
            return None
        try:
            stat = Path(f"/proc/{self._process.pid}/stat").read_text(encoding="ascii")
        except OSError:
            return None
        user, system = stat[stat.rindex(")") + 2 :].split()[11:13]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")

    def metrics(self) -> WorkerPage | None:
        """Return what `/metrics` says, None while it does not answer."""
        text = self.page("/metrics")
        return None if text is None else read_page(text)

    def ready(self) -> bool:
        """Return whether it can answer events."""
        return self.page("/readyz") is not None

    def page(self, path: str) -> str | None:
        """Return the text of a page, None while it does not answer with 200."""
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


class ModelFigures(NamedTuple):
    """One model as the worker's metrics describe it."""

    name: str
    version: int
    class_name: str
    alias: str
    labels: int
    scores: Mapping[str, float]
    """River metric -> value over everything learned."""
    evidence: float | None
    """Share of what a swap needs; None where the page has none."""


class WorkerPage(NamedTuple):
    """One reading of `/metrics`."""

    joined: int = 0
    learned: int = 0
    dead_letters: int = 0
    lag: int = 0
    answered: int = 0
    busy_s: float = 0.0
    """Seconds spent in steps other than sending."""
    latency_ms: tuple[float, float] | None = None
    """Median and 99th percentile from a record's poll to its prediction's send; None before the first."""
    candidates: tuple[ModelFigures, ...] = ()

    @property
    def champion(self) -> ModelFigures | None:
        """The candidate that serves, once the worker has named one."""
        return next((candidate for candidate in self.candidates if candidate.alias == "champion"), None)

    def candidate(self, name: str) -> ModelFigures | None:
        """Return the candidate of this name, None if the page has none."""
        return next((candidate for candidate in self.candidates if candidate.name == name), None)


def read_page(text: str) -> WorkerPage:
    """Return what a Prometheus text page says about a worker; what is missing counts as zero."""
    totals: Counter[str] = Counter()
    info: dict[str, dict[str, str]] = {}
    scores: defaultdict[str, dict[str, float]] = defaultdict(dict)
    updates: dict[str, int] = {}
    evidence: dict[str, float] = {}
    durations: list[tuple[float, float]] = []
    busy_s = 0.0
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = sample.labels
            match sample.name:
                case "headrace_labels_total":
                    totals[labels.get("outcome", "")] += int(sample.value)
                case (
                    "headrace_examples_total"
                    | "headrace_dead_letters_total"
                    | "headrace_consumer_lag_records"
                ):
                    totals[sample.name] += int(sample.value)
                case "headrace_step_seconds_total" if labels["step"] != "send":
                    busy_s += sample.value
                case "headrace_prediction_duration_seconds_bucket":
                    durations.append((float(labels["le"]), sample.value))
                case "headrace_model_info" if sample.value:
                    info[labels["model"]] = labels
                case "headrace_model_score" if labels["window"] == "all" and math.isfinite(sample.value):
                    scores[labels["model"]][labels["metric"]] = sample.value
                case "headrace_model_updates":
                    updates[labels["model"]] = int(sample.value)
                case "headrace_model_evidence":
                    evidence[labels["model"]] = sample.value
    candidates = tuple(
        ModelFigures(
            name=name,
            version=int(labels.get("version", "0")),
            class_name=labels.get("kind", ""),
            alias=labels.get("alias", ""),
            labels=updates.get(name, 0),
            scores=scores[name],
            evidence=evidence.get(name),
        )
        for name, labels in info.items()
    )
    return WorkerPage(
        joined=totals["joined"],
        learned=totals["headrace_examples_total"],
        dead_letters=totals["headrace_dead_letters_total"],
        lag=totals["headrace_consumer_lag_records"],
        answered=int(durations[-1][1]) if durations else 0,
        busy_s=busy_s,
        latency_ms=_percentiles_ms(durations),
        candidates=tuple(sorted(candidates, key=lambda one: (one.alias != "champion", one.name))),
    )


def _percentiles_ms(buckets: list[tuple[float, float]]) -> tuple[float, float] | None:
    """Return median and 99th percentile of a cumulative histogram in seconds, linear within a bucket.

    As Prometheus's `histogram_quantile`: beyond the last finite bound it is that bound.

    >>> _percentiles_ms([(0.01, 50.0), (0.02, 98.0), (0.1, 100.0), (float("inf"), 100.0)])
    (10.0, 60.0)
    """
    if not buckets or not buckets[-1][1]:
        return None
    return _quantile_ms(buckets, 0.5), _quantile_ms(buckets, 0.99)


def _quantile_ms(buckets: list[tuple[float, float]], share: float) -> float:
    wanted, low, below = share * buckets[-1][1], 0.0, 0.0
    for high, count in buckets:
        if count >= wanted:
            inside = (wanted - below) / (count - below) if count > below else 1.0
            return 1e3 * (low if math.isinf(high) else low + (high - low) * inside)
        low, below = high, count
    return 1e3 * low
