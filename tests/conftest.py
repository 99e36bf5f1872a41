"""What tests may ask for: brokers, servers and the reference data.

Each server starts when the first test asks and ends with the session.  What is not
installed skips its tests with one line, and fails them in CI.
"""

from __future__ import annotations

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

SERVERS = {"broker", "kafka", "prometheus", "redis_url", "tansu"}
FOLDERS = {"faults": "workers", "run": "workers", "loadtest": "servers"}
"""Folders whose tests start processes, and what these tests are together."""

# A test is no measurement: neighbours on the same cores must not make one fail.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With `-n`, keep tests of one file in one process, and those that share servers as well.

    Fixtures are made once, and at most two processes start a Kafka, however many there are.
    """
    groups: dict[Path, str] = {}
    for item in items:
        place = item.path.relative_to(CHECKOUT / "tests")
        known = FOLDERS.get(place.parts[0], groups.get(item.path, str(place)))
        serves = SERVERS.intersection(getattr(item, "fixturenames", ()))
        groups[item.path] = "servers" if serves and known != "workers" else known
    for item in items:
        item.add_marker(pytest.mark.xdist_group(groups[item.path]))


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
