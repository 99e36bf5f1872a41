"""`headrace bench` measures a copy: what it loads, what it leaves behind, and how its exit code judges."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from aiokafka.admin import AIOKafkaAdminClient
from running import EXIT_DEADLINE_S, Worker, fresh_name, make_topics, until, write_pipeline
from typer.testing import CliRunner

from engine.cli.main import app
from engine.definition.file import load_pipeline
from engine.definition.streams import Labels
from engine.kafka.log_reader import log_bounds
from engine.local.worker import environment
from engine.settings import KafkaSettings
from loadtest.bench.command import NOT_SUSTAINED
from loadtest.bench.feed import LabelFeed
from loadtest.bench.sandbox import copied
from topics.codec import LabelDecoder, LabelNames
from topics.errors import SettingsError
from topics.messages import Record, Task

PIPELINE = """
    import time

    from msgspec import Struct
    from river import linear_model, preprocessing

    from headrace import Labels, Pipeline, Topic, apply, by, field


    class Payment(Struct):
        event_id: str
        event_time: int
        card: str
        amount: float


    def slowly(amount):
        time.sleep(PAUSE_S)
        return amount


    pipeline = Pipeline(
        name="NAME",
        events=Topic("NAME.payments", Payment, key="card", partitions=2),
        labels=Labels("NAME.verdicts", wait="1h"),
        features={"amount": apply(slowly, field("amount"), returns=float), "count": by("card").count("1h")},
        models={"linear": preprocessing.StandardScaler() | linear_model.LogisticRegression()},
        topics={"dead-letters": "NAME.refused"},
    )
"""
SHORT = ("--duration", "3s", "--warmup", "1s", "--patience", "20s", "--json")


def written(folder: Path, *, pause_s: float = 0.0) -> Path:
    return write_pipeline(folder, PIPELINE.replace("PAUSE_S", str(pause_s)), name=fresh_name("bench"))


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """`bench(kafka, file, *arguments)` runs the command; returns exit code, report and what it warned of."""

    def run(kafka: KafkaSettings, file: Path, *arguments: str) -> tuple[int, dict[str, Any], str]:
        for name, value in environment(kafka, state_dir=tmp_path / "unused", web_port=1).items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
        done = CliRunner().invoke(app, ["bench", "--pipeline", str(file), *SHORT, *arguments])
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        assert not list(tmp_path.glob("headrace-bench-*")), "it leaves no folder behind"
        return done.exit_code, json.loads(done.stdout), done.stderr

    return run


async def topics_of(kafka: KafkaSettings) -> set[str]:
    client = AIOKafkaAdminClient(**kafka.aiokafka_options())
    await client.start()
    try:
        return {name for name in await client.list_topics() if not name.startswith("__")}
    finally:
        await client.close()


async def records_in(kafka: KafkaSettings, topic: str) -> int:
    return sum(end - start for start, end in (await log_bounds(kafka, topic)).values())


def test_a_copy_shares_no_name_with_its_pipeline(tmp_path: Path) -> None:
    original = load_pipeline(written(tmp_path))
    copy = copied(original, "-bench-1")
    names = {name for _, name, *_ in original.catalog.describe()}
    assert {name.replace("-bench-1", "") for _, name, *_ in copy.catalog.describe()} == names
    assert names.isdisjoint(name for _, name, *_ in copy.catalog.describe())
    assert copy.name != original.name, "its consumer group and its checkpoints go by its name"
    assert copy.scorer_definition()["features.count"] == original.scorer_definition()["features.count"]


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_made_up_labels_fit_the_task_and_repeat_with_their_events(task: Task) -> None:
    feed = LabelFeed(Labels("x", wait="1h", id="i", label="l", time="t"), task, rows=50, seed=3)
    decode = LabelDecoder(task, LabelNames("i", "l", "t")).decode
    decoded = [
        decode(
            Record("x", 0, number, None, b"k", feed.label(number, f"e{number}", 1_700_000_000_000 + number))
        )
        for number in range(100)
    ]
    assert [label.event_id for label in decoded] == [f"e{number}" for number in range(100)]
    assert [label.label_time for label in decoded] == [1_700_000_000_000 + number for number in range(100)]
    values = [label.label for label in decoded]
    assert values[:50] == values[50:]
    assert len(set(values)) > 1


@pytest.mark.kafka
def test_a_load_test_learns_too_and_leaves_nothing_behind(
    kafka: KafkaSettings, bench: Any, tmp_path: Path
) -> None:
    file = written(tmp_path)
    pipeline = load_pipeline(file)
    asyncio.run(make_topics(kafka, pipeline))
    before = asyncio.run(topics_of(kafka))
    code, found, warned = bench(kafka, file, "--rate", "100")
    # Three events of 200 that leave late make a late sender, on a machine whose cores others hold.
    assert code == (NOT_SUSTAINED if found["verdict"]["limit"] == "sender" else 0), found
    assert (found["events"], found["answered"], found["labels"], found["learned"]) == (300, 300, 300, 300)
    assert 0 < found["workers"]["cpu_s"] < 120
    assert found["workers"]["rss_mb_max"] > 50, "Python and River are larger"
    assert sum(one["answered"] for one in found["slices"]) == 300
    assert "a copy with topics and a worker of its own" in warned
    assert asyncio.run(topics_of(kafka)) == before
    for _, topic, *_ in pipeline.catalog.describe():
        assert asyncio.run(records_in(kafka, topic)) == 0, "the pipeline's own topics are untouched"


def test_a_worker_that_cannot_keep_up_is_told_by_word_and_exit_code(
    tansu: KafkaSettings, bench: Any, tmp_path: Path
) -> None:
    code, found, _ = bench(tansu, written(tmp_path, pause_s=0.01), "--rate", "300")  # it takes 100 at best
    assert code == NOT_SUSTAINED == 5
    assert (found["verdict"]["sustained"], found["verdict"]["limit"]) == (False, "worker")
    assert "the worker cannot keep up" in found["verdict"]["text"]
    assert found["throughput_per_s"] < 110
    assert found["behind"] > 300
    assert (found["lost"], found["answered"]) == (0, 900)


def test_a_search_says_what_it_tried_and_each_step_is_judged_by_itself(
    tansu: KafkaSettings, bench: Any, tmp_path: Path
) -> None:
    file = written(tmp_path, pause_s=0.01)  # it takes 100 at best
    search = ("--slo", "p99<1h,duplicated=0", "--slo-steps", "2", "--duration", "2s")
    code, found, warned = bench(tansu, file, "--rate", "400", *search)
    assert [step["rate"] for step in found["steps"]] == [400, 200]
    assert found["highest_rate"] is None
    assert code == NOT_SUSTAINED
    reports = [step["report"] for step in found["steps"]]
    assert [(one["events"], one["answered"], one["learned"]) for one in reports] == [(800,) * 3, (400,) * 3]
    assert [(one["duplicated"], one["foreign"]) for one in reports] == [(0, 0)] * 2
    assert warned.count("the worker cannot keep up") == 2


def test_only_live_loads_topics_of_the_pipeline_and_says_what_that_does(
    tansu: KafkaSettings, bench: Any, tmp_path: Path
) -> None:
    file = written(tmp_path)
    pipeline = load_pipeline(file)
    asyncio.run(make_topics(tansu, pipeline))
    with Worker(file, tansu, tmp_path) as worker:
        asyncio.run(worker.ready())
        code, found, warned = bench(tansu, file, "--rate", "50", "--live")
        assert asyncio.run(worker.stop()) == 0
    # Of 150 events two that leave late make a late sender, on a machine whose cores others hold.
    assert code == (NOT_SUSTAINED if found["verdict"]["limit"] == "sender" else 0), found
    assert (found["events"], found["answered"], found["labels"], found["learned"]) == (150, 150, 0, None)
    assert f"go to {pipeline.events.name}, for good" in warned
    assert asyncio.run(records_in(tansu, pipeline.events.name)) == 150


def test_a_load_test_that_is_stopped_takes_its_topics_along(tansu: KafkaSettings, tmp_path: Path) -> None:
    before = asyncio.run(topics_of(tansu))
    told = environment(tansu, state_dir=tmp_path / "unused", web_port=1) | {"TMPDIR": str(tmp_path)}
    command = [sys.executable, "-m", "headrace", "bench", "--pipeline", str(written(tmp_path))]
    with subprocess.Popen(command, cwd=tmp_path, env=told, stdout=subprocess.DEVNULL) as running:
        try:
            asyncio.run(until(lambda: asyncio.run(topics_of(tansu)) > before, "it has topics"))
            running.terminate()
            running.wait(EXIT_DEADLINE_S)
        finally:
            running.kill()
    assert running.returncode != 0
    assert asyncio.run(topics_of(tansu)) == before
    assert not list(tmp_path.glob("headrace-bench-*"))


def test_a_missing_extra_is_told_before_anything_starts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def missing(*_: object) -> None:
        raise AssertionError("a load test that cannot measure must start nothing")

    monkeypatch.setitem(sys.modules, "hdrh.histogram", None)
    monkeypatch.setattr("loadtest.bench.command.sandbox", missing)
    done = CliRunner().invoke(app, ["bench", "--pipeline", str(written(tmp_path))])
    assert isinstance(done.exception, SettingsError)
    assert "pip install 'headrace[bench]'" in str(done.exception)


def test_labels_that_would_come_too_late_are_refused(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["bench", "--pipeline", str(written(tmp_path)), "--label-delay", "1h"])
    assert done.exit_code != 0
    assert "labels 3600000 ms after their events come too late" in str(done.exception)
