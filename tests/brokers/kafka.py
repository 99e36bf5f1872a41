"""Apache Kafka: one that runs already, or Kafka's own jars from Maven, or a container."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Self

import pytest

from brokers.process import missing, running
from engine.kafka.embedded import free_port
from engine.settings import KafkaSettings

HERE = Path(__file__).parent
VERSION = re.findall(r"<version>([\d.]+)</version>", (HERE / "pom.xml").read_text())[-1]
JARS = Path(os.environ.get("HEADRACE_KAFKA_JARS") or HERE.parents[1] / "var" / "kafka") / VERSION
JAVA_MIN = 17
DOWNLOAD_DEADLINE_S = 300
CLUSTER_ID = "aGVhZHJhY2UtdGVzdHMtMQ"
PROPERTIES = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}{more_listeners}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}{more_advertised}
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,SLOW:PLAINTEXT,CONTROLLER:PLAINTEXT,SSL:SSL,SASL_SSL:SASL_SSL
log.dirs={directory}
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=500
auto.create.topics.enable=false
log.retention.ms=-1
"""
"""Retention goes by the records' own times: the reference data, years old, would go within a minute."""


def settings(bootstrap_servers: str) -> KafkaSettings:
    """Sessions as short as the broker of these tests allows; deadlines that fail within the test's."""
    return KafkaSettings(
        bootstrap_servers=bootstrap_servers,
        session_timeout_ms=6_000 if "KAFKA_BOOTSTRAP_SERVERS" in os.environ else 2_000,
        heartbeat_interval_ms=300,
        rebalance_timeout_ms=6_000,
        fetch_max_wait_ms=50,
    )


@contextlib.contextmanager
def kafka_server(directory: Path) -> Iterator[KafkaSettings]:
    """Yield settings for a real Kafka; skip (in CI: fail) where there is no way to have one."""
    given = os.environ.get("KAFKA_BOOTSTRAP_SERVERS")
    if given:
        yield settings(given)
    elif java_is_new_enough() and have_jars():
        with NativeKafka(directory) as server:
            yield server.settings
    elif docker_runs():
        with container() as port:
            yield settings(f"127.0.0.1:{port}")
    else:
        missing(f"Apache Kafka (Maven and Java {JAVA_MIN}, KAFKA_BOOTSTRAP_SERVERS, or docker)")


def java_is_new_enough() -> bool:
    if not shutil.which("java"):
        return False
    said = subprocess.run(["java", "-version"], capture_output=True, text=True, check=False).stderr
    version = re.search(r'version "(\d+)', said)
    return version is not None and int(version[1]) >= JAVA_MIN


def have_jars() -> bool:
    """Kafka's jars are in the cache, or Maven can bring them (43 MB, once, by one process of several)."""
    if any(JARS.glob("kafka_2.13-*.jar")):
        return True
    if not shutil.which("mvn"):
        return False
    JARS.parent.mkdir(parents=True, exist_ok=True)
    with (JARS.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if JARS.exists():
            return True
        partial = JARS.with_suffix(f".{os.getpid()}")
        command = ["mvn", "-q", "-B", "-f", str(HERE / "pom.xml"), "dependency:copy-dependencies"]
        done = subprocess.run(
            [*command, f"-DoutputDirectory={partial}"], check=False, timeout=DOWNLOAD_DEADLINE_S
        ).returncode
        if done == 0:
            partial.rename(JARS)  # whole or not at all
        shutil.rmtree(partial, ignore_errors=True)
        return done == 0


class NativeKafka:
    """A Kafka of one's own: it may be killed, and started again on the same data and port."""

    def __init__(
        self,
        directory: Path,
        *,
        more_listeners: str = "",
        more_advertised: str | None = None,
        more_properties: str = "",
        format_arguments: Sequence[str] = (),
    ) -> None:
        """`more_advertised` is where clients are told to find `more_listeners`: None where these are."""
        self.port, controller = free_port(), free_port()
        self._log = directory / "kafka.log"
        properties = directory / "server.properties"
        plain = PROPERTIES.format(
            port=self.port,
            controller=controller,
            directory=directory / "data",
            more_listeners=more_listeners,
            more_advertised=more_listeners if more_advertised is None else more_advertised,
        )
        properties.write_text(plain + more_properties, encoding="utf-8")
        java = ["java", "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp", f"{JARS}/*"]
        self._command = [*java, "kafka.Kafka", str(properties)]
        subprocess.run(
            [
                *(*java, "kafka.tools.StorageTool", "format", "-t", CLUSTER_ID, "-c", str(properties)),
                *format_arguments,
            ],
            check=True,
            capture_output=True,
        )
        self._running = contextlib.ExitStack()
        self._pid = 0

    @property
    def settings(self) -> KafkaSettings:
        return settings(f"127.0.0.1:{self.port}")

    def start(self) -> None:
        self._pid = self._running.enter_context(running(self._command, self.port, self._log))

    def kill(self) -> None:
        """kill -9: what was acknowledged is in the files, no client is told."""
        os.kill(self._pid, signal.SIGKILL)
        self._running.close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._running.close()


def own_kafka(directory: Path) -> NativeKafka:
    """Return a Kafka of a test's own, not started yet; skip (in CI: fail) where there are no jars."""
    if not (java_is_new_enough() and have_jars()):
        missing(f"a Kafka that can be killed (Maven and Java {JAVA_MIN})")
    return NativeKafka(directory)


def docker_runs() -> bool:
    if not shutil.which("docker"):
        return False
    return subprocess.run(["docker", "info"], capture_output=True, check=False).returncode == 0


@contextlib.contextmanager
def container() -> Iterator[int]:
    port = free_port()
    values = dict(
        line.split("=", 1)
        for line in PROPERTIES.format(
            port=port, controller=9093, directory="/tmp/k", more_listeners="", more_advertised=""
        ).split()
    )
    values["listeners"] = f"PLAINTEXT://0.0.0.0:{port},CONTROLLER://127.0.0.1:9093"
    environment = [f"--env=KAFKA_{name.replace('.', '_').upper()}={value}" for name, value in values.items()]
    image = f"apache/kafka:{VERSION}"
    started = subprocess.run(
        ["docker", "run", "--rm", "--detach", f"--publish=127.0.0.1:{port}:{port}", *environment, image],
        capture_output=True,
        text=True,
        check=False,
    )
    if started.returncode != 0:
        pytest.fail(f"docker cannot run {image}: {started.stderr[-500:]}", pytrace=False)
    identity = started.stdout.strip()
    try:
        yield port
    finally:
        subprocess.run(["docker", "rm", "--force", identity], capture_output=True, check=False)
