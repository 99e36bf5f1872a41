"""Run a command beside a fresh Kafka: `PYTHONPATH=tests python -m brokers COMMAND ...`.

The command finds it in KAFKA_BOOTSTRAP_SERVERS and HEADRACE_KAFKA__BOOTSTRAP_SERVERS.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from brokers.kafka import kafka_server


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="headrace-kafka-") as directory:
        try:
            with kafka_server(Path(directory)) as kafka:
                servers = kafka.bootstrap_servers
                names = ("KAFKA_BOOTSTRAP_SERVERS", "HEADRACE_KAFKA__BOOTSTRAP_SERVERS")
                environment = {**os.environ, **dict.fromkeys(names, servers)}
                return subprocess.run(sys.argv[1:], env=environment, check=False).returncode
        except (pytest.skip.Exception, pytest.fail.Exception) as reason:
            print(reason, file=sys.stderr)
            return 1


if __name__ == "__main__":
    raise SystemExit(main())
