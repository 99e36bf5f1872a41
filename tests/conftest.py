"""What tests may ask for: brokers, servers and the reference data.

Each server starts when the first test asks and ends with the session.  What is not
installed skips its tests with one line, and fails them in CI.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

import hypothesis
import pytest
from brokers.kafka import kafka_server
from brokers.process import missing
from brokers.prometheus import prometheus_server
from brokers.redis import redis_server
from paths import CHECKOUT

from engine.kafka.embedded import EmbeddedBroker
from engine.settings import KafkaSettings

SLOW_FOLDERS = ("faults", "run")
"""Their files take up to minutes each."""
PROCESSES_PER_CORE = 1.5
"""With `-n auto`.  Those minutes are waits, for sessions, outages and starts, more than work."""

# A test is no measurement: neighbours on the same cores must not make one fail.
hypothesis.settings.register_profile(
    "untimed", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("untimed")


def pytest_xdist_auto_num_workers() -> int:
    """Return how many processes `-n auto` starts: more than cores, as one that waits needs none."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return math.ceil(PROCESSES_PER_CORE * cores)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With `-n`, begin with what takes minutes, so that all processes end together."""
    if hasattr(config, "workerinput"):  # one of several processes
        tests = CHECKOUT / "tests"
        items.sort(key=lambda item: item.path.relative_to(tests).parts[0] not in SLOW_FOLDERS)


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaSettings]:
    """Settings for a real Apache Kafka."""
    with kafka_server(tmp_path_factory.mktemp("kafka")) as settings:
        yield settings


@pytest.fixture(scope="session")
def tansu() -> Iterator[KafkaSettings]:
    """Settings for the embedded broker."""
    with EmbeddedBroker() as broker:
        yield broker.kafka_settings()


@pytest.fixture(params=["tansu", pytest.param("kafka", marks=pytest.mark.kafka)])
def broker(request: pytest.FixtureRequest) -> KafkaSettings:
    """Both brokers, one after the other."""
    settings: KafkaSettings = request.getfixturevalue(request.param)
    return settings


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a Redis of these tests' own.  Tests share it: use keys of your own."""
    with redis_server(tmp_path_factory.mktemp("redis")) as url:
        yield url


@pytest.fixture
def prometheus(tmp_path: Path) -> Iterator[Callable[..., str]]:
    """`prometheus(*targets, rules=())` starts a Prometheus that scrapes them and returns its address."""
    with ExitStack() as servers:

        def start(*targets: str, rules: tuple[Path, ...] = ()) -> str:
            server: AbstractContextManager[str] = prometheus_server(tmp_path, targets, rules)
            return servers.enter_context(server)

        yield start


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The reference data sets: HEADRACE_DATA, or `shared/data` beside the checkout."""
    directory = Path(os.environ.get("HEADRACE_DATA") or CHECKOUT.parent / "shared" / "data")
    if not directory.is_dir():
        missing(f"the reference data ({directory}; set HEADRACE_DATA)")
    return directory
