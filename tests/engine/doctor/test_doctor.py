"""`headrace doctor`: each fault is planted, on real servers where one is named, and found."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from brokers.redis import redis_server
from hypothesis import given
from hypothesis import strategies as st
from paths import CHECKOUT
from typer.testing import CliRunner

from engine.cli.main import app
from engine.definition.file import load_pipeline
from engine.definition.pipeline import Pipeline
from engine.doctor.broker import broker_findings, clock_finding
from engine.doctor.findings import DoctorFinding
from engine.doctor.machine import FREE_FAIL, FREE_WARN, directory_finding, library_findings, python_finding
from engine.doctor.stores import info_findings, redis_findings
from engine.kafka.cluster import WritingFacts
from engine.kafka.topic_admin import ensure_topics
from engine.settings import KafkaSettings

FLIGHTS = CHECKOUT / "examples" / "flights"


def levels(found: list[DoctorFinding]) -> dict[str, str]:
    """The worst level of each check."""
    rank = ["ok", "warn", "fail"]
    worst: dict[str, str] = {}
    for one in found:
        assert bool(one.fix) == (one.level != "ok"), one
        worst[one.check] = max(worst.get(one.check, "ok"), one.level, key=rank.index)
    return worst


# -- the machine --------------------------------------------------------------------------------------


@given(
    st.lists(st.integers(0, 40), min_size=1, max_size=3), st.lists(st.integers(0, 40), min_size=3, max_size=3)
)
def test_a_version_is_within_its_bounds_as_tuples_are(found: list[int], bound: list[int]) -> None:
    has = tuple(found + [0] * (3 - len(found)))
    told = {"x": ".".join(map(str, found))}
    for sign, fits in ((">=", has >= tuple(bound)), ("<", has < tuple(bound)), ("==", has == tuple(bound))):
        rows = list(library_findings([f"x{sign}{'.'.join(map(str, bound))}"], told.__getitem__))
        assert (rows[0].level == "ok") == fits


def test_what_is_missing_or_too_new_is_said_and_extras_may_be_missing() -> None:
    def installed(name: str) -> str:
        if name in {"gone", "extra"}:
            raise PackageNotFoundError(name)
        return "2.0"

    requirements = ["gone>=1", "extra==1; extra == 'demo'", "new<2", "fine[speed]>=1.5,<3"]
    found = list(library_findings(requirements, installed))
    assert [(one.check, one.level) for one in found] == [("gone", "fail"), ("new", "warn")]
    assert found[0].fix == "pip install 'gone>=1'"


def test_python_and_the_directory(tmp_path: Path) -> None:
    assert [python_finding(version).level for version in ((3, 10, 9), (3, 11, 0), (3, 13, 1))] == [
        "fail", "ok", "ok",
    ]  # fmt: skip
    assert directory_finding(tmp_path / "not" / "yet").level == "ok"
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    assert directory_finding(tmp_path / "file" / "below").said.endswith("is no directory")
    assert directory_finding(Path("/proc/headrace")).level == "fail"  # nobody may write there
    for free, level in (
        (FREE_FAIL - 1, "fail"),
        (FREE_FAIL, "warn"),
        (FREE_WARN - 1, "warn"),
        (FREE_WARN, "ok"),
    ):
        assert directory_finding(tmp_path, lambda _, free=free: free).level == level  # type: ignore[misc]


@pytest.mark.parametrize(
    ("ahead_ms", "level"),
    [
        (0.0, "ok"),
        (999.0, "ok"),
        (-1_000.0, "warn"),
        (59_999.0, "warn"),
        (60_000.0, "fail"),
        (-60_000.0, "fail"),
    ],
)
def test_clocks_that_differ(ahead_ms: float, level: str) -> None:
    assert clock_finding(WritingFacts(1.0, ahead_ms)).level == level


# -- Kafka --------------------------------------------------------------------------------------------


def looked(kafka: KafkaSettings, pipeline: Pipeline | None, *, write: bool = False) -> list[DoctorFinding]:
    async def look() -> list[DoctorFinding]:
        return [one async for one in broker_findings(kafka, pipeline, write=write)]

    return asyncio.run(look())


def flights(tmp_path: Path, name: str) -> Pipeline:
    text = (FLIGHTS / "pipeline.py").read_text()
    file = tmp_path / f"{name}.py"
    file.write_text(text.replace('name="flights"', f'name="{name}"').replace('"flights.', f'"{name}.'))
    return load_pipeline(file)


@pytest.mark.kafka
def test_a_cluster_before_and_after_its_topics_are_made(kafka: KafkaSettings, tmp_path: Path) -> None:
    pipeline = flights(tmp_path, "doctor-a")
    found = looked(kafka, pipeline)
    missing = [one for one in found if one.level == "fail"]
    assert {one.said.split()[-4] for one in missing} == {"doctor-a.departures", "doctor-a.arrivals"}
    assert all("headrace topics create" in one.fix for one in missing)

    plan = [one._replace(create=True) for one in pipeline.catalog.plan(events=1)]
    asyncio.run(ensure_topics(kafka, plan))
    found = looked(kafka, pipeline, write=True)
    assert set(levels(found).values()) == {"ok"}, found
    assert next(one for one in found if one.check == "clock").said.startswith("the broker's clock agrees")
    (broker,) = [one for one in found if one.check == "broker"]
    assert "speaks as Kafka 4." in broker.said or "speaks as Kafka 3." in broker.said

    async def names() -> list[str]:
        client = AIOKafkaAdminClient(**kafka.aiokafka_options())
        await client.start()
        try:
            return list(await client.list_topics())
        finally:
            await client.close()

    assert not [name for name in asyncio.run(names()) if ".doctor-" in name]


@pytest.mark.kafka
def test_topics_that_do_not_fit_are_found(kafka: KafkaSettings, tmp_path: Path) -> None:
    pipeline = flights(tmp_path, "doctor-b")

    async def make() -> None:
        client = AIOKafkaAdminClient(**kafka.aiokafka_options())
        await client.start()
        try:
            topics = {
                "departures": (1, {"retention.ms": "3600000"}),  # an hour; windows and labels need 36
                "arrivals": (3, {}),  # not co-partitioned
                "predictions": (1, {"max.message.bytes": "1000"}),  # no answer fits
                "examples": (1, {"cleanup.policy": "compact"}),  # loses the training log
                "decisions": (1, {"message.timestamp.type": "LogAppendTime"}),
            }
            await client.create_topics(
                [
                    NewTopic(f"doctor-b.{name}", count, 1, None, configs)
                    for name, (count, configs) in topics.items()
                ]
            )
        finally:
            await client.close()

    asyncio.run(make())
    found = looked(kafka, pipeline)
    said = {one.said.split()[0]: one.level for one in found if one.check == "retention"}
    assert said == {"doctor-b.departures": "warn"}
    failed = " ".join(one.said for one in found if one.level == "fail")
    assert "doctor-b.arrivals has 3 partitions, must have 1" in failed
    assert "doctor-b.examples is compacted" in failed
    assert "doctor-b.predictions takes records of 1000 bytes" in failed
    warned = " ".join(one.said for one in found if one.check == "setting")
    assert "doctor-b.decisions stamps records with their arrival" in warned or "takes records of" in failed


def test_no_broker_is_one_fault() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        kafka = KafkaSettings(
            bootstrap_servers=f"127.0.0.1:{taken.getsockname()[1]}", connect_deadline_ms=500
        )
        found = looked(kafka, None)
    assert [(one.check, one.level) for one in found] == [("broker", "fail")]


# -- Redis --------------------------------------------------------------------------------------------


@pytest.fixture
def careless(tmp_path: Path) -> Iterator[str]:
    """A Redis that keeps nothing and drops keys."""
    options = ("--maxmemory", "50mb", "--maxmemory-policy", "allkeys-lru")
    with redis_server(tmp_path, *options) as url:
        yield url


def test_a_careless_redis_and_what_it_may_do_to_checkpoints(careless: str) -> None:
    assert levels(list(redis_findings("store_url", careless, write=True))) == {
        "store_url": "ok", "persistence": "warn", "eviction": "fail",
    }  # fmt: skip
    assert levels(list(redis_findings("redis_url", careless, write=True))) == {
        "redis_url": "ok", "eviction": "warn",
    }  # fmt: skip


def test_a_careful_redis(tmp_path: Path) -> None:
    with redis_server(tmp_path, "--appendonly", "yes", "--maxmemory", "50mb") as url:
        assert levels(list(redis_findings("store_url", url, write=True))) == {"store_url": "ok"}
    assert levels(list(redis_findings("store_url", url, write=True))) == {"store_url": "fail"}  # it has ended


def test_no_secret_is_in_a_finding() -> None:
    (one,) = redis_findings("store_url", "redis://me:s3cret@127.0.0.1:1/0", write=False)
    assert one.level == "fail"
    assert "s3cret" not in str(one)


@pytest.mark.parametrize(
    ("info", "check", "level"),
    [
        ({"redis_version": "4.0.1"}, "store_url", "fail"),
        ({"role": "slave"}, "store_url", "fail"),
        ({"aof_last_write_status": "err"}, "persistence", "fail"),
        ({"rdb_last_bgsave_status": "err"}, "persistence", "fail"),
        ({"maxmemory_policy": "allkeys-lru"}, "eviction", None),  # without a limit nothing is dropped
        ({"maxmemory": 100, "used_memory": 91}, "memory", "warn"),
    ],
)
def test_what_a_redis_says_of_itself(info: dict[str, Any], check: str, level: str | None) -> None:
    sound = {"redis_version": "7.2.4", "role": "master", "aof_enabled": 1}
    assert levels(list(info_findings("store_url", "r", sound))) == {"store_url": "ok"}
    assert levels(list(info_findings("store_url", "r", sound | info))).get(check) == level


# -- the command --------------------------------------------------------------------------------------


def test_the_command_says_all_and_ends_by_it(tansu: KafkaSettings, tmp_path: Path) -> None:
    flights(tmp_path, "doctor-c")
    env = {"HEADRACE_STATE_DIR": str(tmp_path / "state"), "HEADRACE_WEB__PORT": "0"}
    servers = ("--bootstrap-servers", tansu.bootstrap_servers)
    sound = CliRunner().invoke(app, ["doctor", *servers], env=env)
    assert sound.exit_code == 0, sound.output
    assert "0 faults" in sound.output
    assert "next: headrace run PIPELINE.py" in sound.output

    file = str(tmp_path / "doctor-c.py")
    ill = CliRunner().invoke(app, ["doctor", file, *servers, "--json"], env=env)
    assert ill.exit_code == 3, ill.output
    told = json.loads(ill.stdout)
    assert told["fit"] is False
    assert all(one["fix"] for one in told["findings"] if one["level"] == "fail")
