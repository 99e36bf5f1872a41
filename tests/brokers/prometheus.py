"""Prometheus on a free port, scraping what a test names."""

from __future__ import annotations

import contextlib
import json
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from brokers.process import LOOK_S, READY_DEADLINE_S, program, running
from engine.kafka.embedded import free_port

ANSWER_DEADLINE_S = 20.0


@contextlib.contextmanager
def prometheus_server(directory: Path, targets: Sequence[str], rules: Sequence[Path] = ()) -> Iterator[str]:
    """Yield the address of a Prometheus that scrapes `targets` (`host:port`) twice a second."""
    config = {
        "global": {"scrape_interval": "500ms", "evaluation_interval": "500ms"},
        "rule_files": [str(rule) for rule in rules],
        "scrape_configs": [{"job_name": "headrace", "static_configs": [{"targets": list(targets)}]}],
    }
    with prometheus_with(directory, config) as address:
        yield address


@contextlib.contextmanager
def prometheus_with(directory: Path, config: Mapping[str, Any]) -> Iterator[str]:
    """Yield the address of a Prometheus with a configuration."""
    port = free_port()
    file = directory / "prometheus.yml"
    file.write_text(json.dumps(config))  # JSON is YAML, and needs no writer of it
    command = [
        program("prometheus", "prometheus"),
        f"--config.file={file}",
        f"--storage.tsdb.path={directory / 'tsdb'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--rules.alert.resend-delay=1s",
    ]
    address = f"http://127.0.0.1:{port}"
    with running(command, port, directory / "prometheus.log"):
        # It listens before it answers questions.
        deadline = time.monotonic() + READY_DEADLINE_S
        while not ready(address) and time.monotonic() < deadline:
            time.sleep(LOOK_S)
        yield address


def ready(address: str) -> bool:
    with contextlib.suppress(OSError), urllib.request.urlopen(f"{address}/-/ready", timeout=1):
        return True
    return False


def asked(address: str, query: str) -> list[dict[str, Any]]:
    """Ask Prometheus; each result has its labels and one value.  It refuses what it cannot evaluate."""
    url = f"{address}/api/v1/query?{urllib.parse.urlencode({'query': query})}"
    with urllib.request.urlopen(url, timeout=ANSWER_DEADLINE_S) as answer:
        found: list[dict[str, Any]] = json.load(answer)["data"]["result"]
    return found
