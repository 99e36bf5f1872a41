"""Which topics a worker reads, what it holds back, and which records can be left out."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from rekeying_world import make_pipeline
from river import linear_model

from engine import Labels, Pipeline, Topic
from engine.worker import partition as partition_file
from engine.worker.partition import PLACES_MAX, Inputs, Partition, merge_values, places
from operators import field
from topics.errors import BrokerError, SettingsError
from topics.messages import Record


def make_inputs(partitions: int) -> Inputs:
    return Inputs(make_pipeline(partitions=partitions), idle_after_ms=1)


def test_internal_topics_are_read_only_where_events_travel() -> None:
    assert make_inputs(1).topics == ["rides.events", "rides.labels"]
    assert make_inputs(2).topics == ["rides.events", "rides.labels", "rides.rekey", "rides.rekeyed"]


def test_every_topic_is_assigned_together_or_not_at_all() -> None:
    reads = make_inputs(2)
    everything = frozenset((topic, number) for topic in reads.topics for number in (0, 1))
    assert reads.numbers(everything) == [0, 1]
    assert reads.numbers(frozenset()) == []
    with pytest.raises(BrokerError, match=r"rides\.events and rides\.rekeyed were not assigned together"):
        reads.numbers(everything - {("rides.rekeyed", 1)})


NOW_MS = 7


class Queue:
    """An intake that only counts."""

    def __init__(self) -> None:
        self.events: list[Record] = []
        self.labels: list[Record] = []

    def offer_events(self, records: list[Record], now_ms: int) -> None:
        assert now_ms == NOW_MS
        self.events += records

    def offer_labels(self, records: list[Record], now_ms: int) -> None:
        assert now_ms == NOW_MS
        self.labels += records

    events_buffered = property(lambda self: len(self.events))
    labels_buffered = property(lambda self: len(self.labels))


def test_records_go_to_their_part_and_a_full_queue_holds_its_topic_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(partition_file, "BUFFERED_MAX", 1)
    reads, queue = make_inputs(2), Queue()
    messages: list[Record] = []
    values: list[Record] = []
    rekeying: Any = SimpleNamespace(intake=queue, offer_messages=messages.extend, offer_values=values.extend)
    nobody: Any = None
    scorer: Any = SimpleNamespace(partition=0, intake=None)
    partition = Partition(
        reads,
        scorer,
        rekeying,
        nobody,
        nobody,
        nobody,
        definition={},
        header=nobody,
        read=None,
        written_before=0,
        unsaved={},
    )
    paused: list[Any] = []
    source: Any = SimpleNamespace(
        pause=paused.extend,
        resume=lambda gone: [paused.remove(one) for one in gone],
        unread=lambda _: False,
    )
    record = Record("", 0, 0, None, None, b"")
    for count, topic in enumerate(reads.topics, 1):
        partition.offer(topic, count * [record], NOW_MS)
    assert [len(part) for part in (queue.events, queue.labels, messages, values)] == [1, 2, 3, 4]
    for _ in range(2):
        partition.check_inputs(source)
        assert paused == [("rides.labels", 0)]
    queue.labels.clear()
    partition.check_inputs(source)
    assert paused == []


def test_what_is_stored_and_what_came_from_elsewhere_are_put_together() -> None:
    assert merge_values([{"a": 1}], None) == [{"a": 1}]
    assert merge_values([{"a": 1}, {}], [{"b": 2}, {"b": 3}]) == [{"a": 1, "b": 2}, {"b": 3}]


# -- records left out ------------------------------------------------------------------------------


class Reading(msgspec.Struct):
    event_id: str
    event_time: int
    sensor: str
    value: float


PIPELINE = Pipeline(
    name="skips",
    events=Topic("my.readings", Reading, key="sensor", partitions=2),
    labels=Labels("my.truths", wait="1h"),
    features={"value": field("value")},
    models={"linear": linear_model.LogisticRegression()},
)


def test_records_of_events_and_labels_can_be_named() -> None:
    assert places(["my.readings:1:0", "my.truths:0:1234", "my.readings:1:0"], PIPELINE) == {
        ("my.readings", 1, 0),
        ("my.truths", 0, 1234),
    }
    assert places([], PIPELINE) == frozenset()


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("my.readings", "TOPIC:PARTITION:OFFSET"),
        ("my.readings:0", "TOPIC:PARTITION:OFFSET"),
        ("my.readings:0:-1", "TOPIC:PARTITION:OFFSET"),
        ("my.readings:0:1:2", "TOPIC:PARTITION:OFFSET"),
        ("my.readings::1", "my.readings:0:1234"),
        ("skips.predictions:0:1", "no record of my.readings or my.truths"),
        ("my.truths:2:1", "partitions 0 to 1"),
    ],
)
def test_whatever_else_is_named_is_refused_with_the_form(given: str, says: str) -> None:
    with pytest.raises(SettingsError) as refused:
        places([given], PIPELINE)
    assert says in str(refused.value)


def test_skips_are_for_single_records() -> None:
    with pytest.raises(SettingsError, match=str(PLACES_MAX + 1)):
        places([f"my.readings:0:{n}" for n in range(PLACES_MAX + 1)], PIPELINE)
