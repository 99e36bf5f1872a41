"""A worker among the others, on a broker: what it says is heard; a topic that is wrong costs it nothing."""

from __future__ import annotations

import asyncio
import time
from collections import Counter

from brokers.ports import fresh, made
from running import until
from structlog.testing import capture_logs
from test_group import moment

from engine.group.exchange import Exchange
from engine.group.log import read_members
from engine.group.record import StatusMaker
from engine.settings import KafkaSettings
from topics.catalog import Catalog

EVERY_MS = 500


def exchange(kafka: KafkaSettings, name: str, worker: str) -> Exchange:
    (plan,) = (one for one in Catalog(name, events=f"{name}.e").plan(events=1) if one.role == "status")
    maker = StatusMaker(worker, started_ms=0, every_ms=EVERY_MS, version="1", features_version="")
    return Exchange(kafka, plan, maker, EVERY_MS, Counter(), lambda: moment(time.monotonic()))


def heard(one: Exchange) -> list[str]:
    return [member.status.worker for member in one.members.told(time.time_ns() // 1_000_000)]


def test_each_hears_the_other_and_that_it_leaves(broker: KafkaSettings) -> None:
    asyncio.run(_each_hears_the_other(broker, fresh("group")))


async def _each_hears_the_other(kafka: KafkaSettings, name: str) -> None:
    first, second = exchange(kafka, name, "a:1"), exchange(kafka, name, "b:1")
    running = [asyncio.create_task(one.run()) for one in (first, second)]
    await until(lambda: heard(first) == heard(second) == ["a:1", "b:1"], "each hears the other")
    assert (first.trouble, second.trouble) == ("", "")
    running[1].cancel()
    await asyncio.wait({running[1]})
    await until(lambda: heard(first) == ["a:1"], "the second has left")
    asked = (await read_members(kafka, f"{name}.status")).told(time.time_ns() // 1_000_000)
    assert [one.status.worker for one in asked] == ["a:1"], "who left is not there, who is there is"
    running[0].cancel()
    await asyncio.wait({running[0]})
    assert first.members.counts["status_records", "failed"] == 0


def test_a_topic_that_is_wrong_is_said_once_and_counted(tansu: KafkaSettings) -> None:
    asyncio.run(_wrong_topic(tansu, fresh("group")))


async def _wrong_topic(kafka: KafkaSettings, name: str) -> None:
    await made(kafka, f"{name}.status", partitions=2)
    one = exchange(kafka, name, "a:1")
    with capture_logs() as lines:
        await one.turn()
        await one.turn()  # before it is tried again
    assert heard(one) == ["a:1"], "it knows of itself"
    assert "has 2 partitions, must have 1" in one.trouble
    assert one.members.counts == {("status_records", "failed"): 1}
    warned = [line for line in lines if line["log_level"] == "warning"]
    assert [(line["topic"], bool(line["fix"])) for line in warned] == [(f"{name}.status", True)]
