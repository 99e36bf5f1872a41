"""Files sent to a pipeline's two topics: one order, no label after what is younger, every label's key."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest
from aiokafka import TopicPartition
from brokers.ports import fresh, made, polled, record, run, source_of, until_read
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Struct
from reading import read_topic
from river import linear_model
from running import fresh_name
from typer.testing import CliRunner

from engine import Labels, Pipeline, Topic
from engine.cli.main import app
from engine.kafka.sink import open_sink
from engine.kafka.topic_admin import TopicState
from engine.offline.publish import SLICE_RECORDS, FileLine, Published, deleted_soon, merged, send_files, steps
from engine.settings import KafkaSettings
from engine.worker.partition import CATCHING_UP_MS, Inputs
from operators import field
from topics.catalog import TopicPlan
from topics.errors import BrokerError, SettingsError

START = 1_700_000_000_000


class Reading(Struct, rename={"taken_at": "at"}):
    event_id: str
    taken_at: int
    sensor: str
    value: float


def pipeline_of(name: str, labels: Labels | None = None, partitions: int = 1) -> Pipeline:
    return Pipeline(
        name=name,
        events=Topic(f"{name}.readings", Reading, key="sensor", time="taken_at", partitions=partitions),
        labels=labels or Labels(f"{name}.states", wait="1h"),
        features={"value": field("value")},
        models={"linear": linear_model.LogisticRegression()},
    )


def written(path: Path, lines: Iterable[dict[str, Any] | str]) -> Path:
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return path


def event(name: str, at: int, sensor: str = "s") -> dict[str, Any]:
    return {"event_id": name, "at": START + at, "sensor": sensor, "value": 1.0}


def state(name: str, at: int, **more: Any) -> dict[str, Any]:
    return {"event_id": name, "label": True, "label_time": START + at, **more}


# -- the order ----------------------------------------------------------------------------------------

times = st.lists(st.integers(0, 50), max_size=3 * SLICE_RECORDS)


def lines(times: Sequence[int], *, is_label: bool) -> list[FileLine]:
    return [FileLine(is_label, time, f"e{n}", b"k", b"%d" % n) for n, time in enumerate(times)]


@settings(deadline=None)
@given(times, times, st.booleans())
def test_a_label_is_acknowledged_before_anything_younger_leaves(
    event_times: list[int], label_times: list[int], ordered: bool
) -> None:
    if ordered:
        event_times.sort()
        label_times.sort()
    events, labels = lines(event_times, is_label=False), lines(label_times, is_label=True)
    order = list(merged(events, labels))
    sent = list(steps(order))
    assert all(len({line.is_label for line in step}) == 1 for step in sent)
    flat = [line for step in sent for line in step]
    assert [line for line in flat if not line.is_label] == events
    assert [line for line in flat if line.is_label] == labels
    place = {id(line): n for n, step in enumerate(sent) for line in step}
    sent_at = {id(line): n for n, line in enumerate(flat)}
    labels_before = -1
    for n, line in enumerate(order):
        if line.is_label:
            labels_before = max(labels_before, place[id(line)])
        else:
            assert labels_before < place[id(line)]
        assert abs(sent_at[id(line)] - n) < SLICE_RECORDS
    if ordered:
        assert [line.time_ms for line in order] == sorted([*event_times, *label_times])


@settings(deadline=None)
@given(times, times)
def test_the_older_head_goes_first_and_labels_on_ties(event_times: list[int], label_times: list[int]) -> None:
    """The rule of a backtest, written down once more."""
    events, labels = lines(event_times, is_label=False), lines(label_times, is_label=True)
    expected, e, n = [], 0, 0
    while e < len(events) or n < len(labels):
        if n < len(labels) and (e == len(events) or labels[n].time_ms <= events[e].time_ms):
            expected.append(labels[n])
            n += 1
        else:
            expected.append(events[e])
            e += 1
    assert list(merged(events, labels)) == expected


# -- what is sent -------------------------------------------------------------------------------------


def sent_files(
    kafka: KafkaSettings, folder: Path, events: list[Any], labels: list[dict[str, Any]]
) -> tuple[Published, list[Any], list[Any]]:
    """Send both files to topics with four partitions; return what was said and what lies there."""

    async def scenario() -> tuple[Published, list[Any], list[Any]]:
        pipeline = pipeline_of(fresh_name("sent"), partitions=4)
        await made(kafka, pipeline.events.name, pipeline.labels.topic or "", partitions=4)
        published = await send_files(
            kafka,
            pipeline,
            events=written(folder / "events.jsonl", events),
            labels=written(folder / "labels.jsonl", labels),
        )
        found = [
            await read_topic(kafka, name) for name in (pipeline.events.name, pipeline.labels.topic or "")
        ]
        return published, found[0], found[1]

    return asyncio.run(scenario())


def test_a_label_has_the_key_of_its_event_and_both_have_their_times(
    tansu: KafkaSettings, tmp_path: Path
) -> None:
    sensors = [f"sensor-{n % 7}" for n in range(40)]
    events = [event(f"e{n}", 10 * n, sensor) for n, sensor in enumerate(sensors)]
    # One names another sensor, one none; one has the time of its event, and so goes before it.
    labels = [state(f"e{n}", 10 * n + 35 * (n != 20), sensor="wrong") for n in range(40)]
    labels = [
        label if n % 2 else {k: v for k, v in label.items() if k != "sensor"}
        for n, label in enumerate(labels)
    ]
    labels.sort(key=lambda label: label["label_time"])
    published, found_events, found_labels = sent_files(tansu, tmp_path, events, labels)
    assert published == Published(40, 40, ())
    where = {json.loads(one.value)["event_id"]: one for one in found_events}
    assert len(where) == len(found_labels) == 40
    for one in found_labels:
        value = json.loads(one.value)
        its_event = where[value["event_id"]]
        assert (one.key, one.partition) == (its_event.key, its_event.partition)
        assert one.timestamp == value["label_time"]
        assert its_event.timestamp == json.loads(its_event.value)["at"]
    assert {one.key.decode() for one in found_events} == set(sensors)


def test_what_is_odd_about_files_is_said_with_numbers(tansu: KafkaSettings, tmp_path: Path) -> None:
    events = [event("a", 10), event("b", 30), {"event_id": "c", "sensor": "s"}, "{", event("d", 20)]
    labels = [state("a", 40), state("nobody", 50), state("else", 60, sensor="s")]
    published, found_events, found_labels = sent_files(tansu, tmp_path, events, labels)
    assert (published.events, published.labels) == (len(found_events), len(found_labels)) == (5, 2)
    assert {one.key for one in found_events} == {b"s", None}
    keyless, untimed, unordered = published.notes
    assert keyless.startswith("1 labels were not sent")
    assert untimed.startswith("2 events have no usable `at`")
    assert unordered.startswith("1 events are older than the line before them")


@pytest.mark.parametrize(
    ("events", "labels", "said"),
    [
        ([state("a", 1)], [event("a", 1)], "line 1 of .*labels.* has no usable `label_time`"),  # swapped
        ([event("a", 1)], [event("a", 1)], "line 1 of .* has no usable `label_time`"),
        ([event("a", -START + 1_700_000_000)], [], "looks like seconds"),
    ],
)
def test_files_of_something_else_are_refused(
    tansu: KafkaSettings, tmp_path: Path, events: list[Any], labels: list[Any], said: str
) -> None:
    with pytest.raises(SettingsError, match=said):
        sent_files(tansu, tmp_path, events, labels)


def test_a_table_is_refused_with_its_name(tansu: KafkaSettings, tmp_path: Path) -> None:
    table = tmp_path / "events.csv"
    table.write_text("event_id,at\na,1\n")
    pipeline = pipeline_of(fresh_name("table"))
    with pytest.raises(BrokerError, match=f"{pipeline.events.name} does not exist"):
        asyncio.run(send_files(tansu, pipeline, events=table, labels=None))
    asyncio.run(made(tansu, pipeline.events.name, pipeline.labels.topic or ""))
    with pytest.raises(SettingsError, match=r"line 1 of .*events\.csv"):
        asyncio.run(send_files(tansu, pipeline, events=table, labels=None))


def test_topics_that_will_delete_what_was_sent_are_named() -> None:
    plan = TopicPlan("events", "old.events", 1, "delete", None, False)
    day_ms = 86_400_000
    found = {
        kept: [*deleted_soon([TopicState(plan, 1, {"retention.ms": kept})], START - day_ms, START)]
        for kept in ("-1", str(day_ms), str(day_ms - 1))
    }
    assert [len(notes) for notes in found.values()] == [0, 0, 1]
    assert "old.events" in found[str(day_ms - 1)][0]
    assert not [*deleted_soon([TopicState(plan, 1, {"retention.ms": "1"})], None, START)]


def test_labels_of_a_pipeline_that_has_them_inside_are_refused(tansu: KafkaSettings, tmp_path: Path) -> None:
    pipeline = pipeline_of("inside", Labels(field="value"))
    with pytest.raises(SettingsError, match="carry their labels"):
        asyncio.run(send_files(tansu, pipeline, events=None, labels=tmp_path / "l.jsonl"))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["t"], "nothing to send"),
        (["p.py", "--events", "e.jsonl", "--key", "id"], "leave FILE, --key and --time out"),
        (["p.py", "f.jsonl", "--events", "e.jsonl"], "leave FILE, --key and --time out"),
    ],
)
def test_two_ways_of_sending_are_not_mixed(arguments: list[str], said: str) -> None:
    result = CliRunner().invoke(app, ["send", *arguments])
    assert isinstance(result.exception, SettingsError)
    assert said in str(result.exception)


# -- a worker that runs meanwhile ----------------------------------------------------------------------


@pytest.mark.parametrize("age_ms", [CATCHING_UP_MS - 5_000, CATCHING_UP_MS + 5_000])
def test_an_old_event_waits_for_labels_that_were_there_before_it(broker: KafkaSettings, age_ms: int) -> None:
    """The last fetch of labels was before the label; the event came after it."""

    async def play() -> None:
        name = fresh("beside")
        pipeline = pipeline_of(name)
        events, labels = (pipeline.events.name, 0), (pipeline.labels.topic or "", 0)
        await made(broker, events[0], labels[0])
        inputs, now_ms = Inputs(pipeline, idle_after_ms=5_000), START
        async with open_sink(broker) as sink, source_of(broker, events[0], labels[0]) as (source, _):
            await source.seek({events: None, labels: None})
            await until_read(source, labels)
            for topic, _number in (labels, events):
                await sink.send(topic, 0, [record(timestamp_ms=now_ms - age_ms)])
                await sink.flush()
            source.pause([labels])
            batches = await polled(source, 1)
            known = source._open[TopicPartition(*labels)]
            known.end = 0  # as a fetch left it that was answered a moment before
            assert not source.unread(labels)
            await inputs.look_ahead(batches, source, now_ms)
            assert source.unread(labels) == (age_ms > CATCHING_UP_MS)

    run(play())


def test_a_backlog_is_looked_beside_once(tansu: KafkaSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    async def play() -> None:
        one, other = (fresh("backlog"), 0), (fresh("backlog"), 0)
        await made(tansu, one[0], other[0])
        asked = 0

        async def counted(*arguments: Any) -> Any:
            nonlocal asked
            asked += 1
            return await bounds(*arguments)

        import engine.kafka.source

        bounds = engine.kafka.source.bounds
        async with open_sink(tansu) as sink, source_of(tansu, one[0], other[0]) as (source, _):
            await sink.send(one[0], 0, [record() for _ in range(50)])
            await sink.flush()
            await source.seek({one: None, other: None})
            monkeypatch.setattr(engine.kafka.source, "bounds", counted)
            for _ in range(5):
                await polled(source, 10, records_max=10)
                await source.look_beside(one, other)
            assert asked == 1
            await sink.send(one[0], 0, [record()])
            await polled(source, 1)
            await source.look_beside(one, other)
            assert asked == 2

    run(play())
