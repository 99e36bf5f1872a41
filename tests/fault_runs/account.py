"""What must hold of the logs after any failures, judged by eyes that know nothing of the product's own."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
from reading import counting
from window_oracle import expected

from engine.definition.pipeline import Pipeline
from operators.language.fields import Aggregate, LabelSource
from topics.messages import Event

CLOSE = 1e-9
"""Sums and means of windows, relative to the largest value."""


class Counted(NamedTuple):
    """What counts in the logs of a pipeline, by event id."""

    answers: dict[str, dict[str, Any]]
    lessons: dict[str, dict[str, Any]]


def account(published: Sequence[Any], answers_log: Sequence[Any], examples_log: Sequence[Any]) -> Counted:
    """Check that every event is answered, and every one that has a label learned, exactly once.

    `published` is the events topic.  A record that lies there twice is answered again: its answer may count
    as often.
    """
    times = Counter(json.loads(event.value)["event_id"] for event in published)
    answers = counting(answers_log, published=times)
    lessons = counting(examples_log, "example")
    assert answers.keys() == times.keys(), differing(answers, times)
    for event_id, lesson in lessons.items():
        answer = answers[event_id]
        assert lesson["features"] == answer["features"], event_id
        assert lesson["served_score"] == answer["prediction_score"], event_id
        assert lesson["event_offset"] == answer["event_offset"], event_id
        assert lesson["scores"][answer["model_name"]] == answer["prediction_score"], event_id
    return Counted(answers, lessons)


def differing(found: Iterable[str], wanted: Iterable[str]) -> str:
    missing, foreign = set(wanted) - set(found), set(found) - set(wanted)
    return f"missing {len(missing)}: {sorted(missing)[:5]}, foreign {len(foreign)}: {sorted(foreign)[:5]}"


def account_labels(labels: Sequence[Any], lessons: Mapping[str, Mapping[str, Any]]) -> None:
    """Check that the first label of each event in the labels log, and no other, was learned."""
    first: dict[str, Any] = {}
    for record in labels:
        first.setdefault(json.loads(record.value)["event_id"], record)
    assert lessons.keys() == first.keys(), differing(lessons, first)
    for event_id, record in first.items():
        learned = lessons[event_id]["label"], lessons[event_id]["label_offset"]
        first_one = json.loads(record.value)["label"], record.offset
        assert learned == first_one, f"{event_id}: learned {learned}, the first label is {first_one}"


def account_windows(
    pipeline: Pipeline, events: Sequence[Any], answers: Mapping[str, Mapping[str, Any]], *, grace_ms: int
) -> int:
    """Check every window over fields of events against the raw events; return how many values were compared.

    A late answer's windows are those of what is kept, so only its flag is checked.
    """
    compared = 0
    for partition in {record.partition for record in events}:
        history = list(_history(pipeline, [r for r in events if r.partition == partition], grace_ms))
        for event in history:
            assert answers[event.event_id].get("late", False) == event.late, f"late: {event}"
        for name, aggregate in pipeline.features.items():
            if not isinstance(aggregate, Aggregate) or isinstance(aggregate.of, LabelSource):
                continue
            for event, value in zip(history, expected(aggregate, history), strict=True):
                if value is ...:
                    continue
                served = answers[event.event_id]["features"].get(name)
                assert _equal(served, value), f"{name} of {event.event_id}: {served}, it is {value}"
                compared += 1
    return compared


def _history(pipeline: Pipeline, records: Iterable[Any], grace_ms: int) -> Iterator[Event]:
    """Yield the events of one partition in the order of their log, without repeats."""
    newest, seen = -math.inf, set()
    for record in records:
        value = msgspec.json.decode(record.value, type=pipeline.events.type)
        if value.event_id in seen:
            continue
        seen.add(value.event_id)
        late = value.event_time < newest - grace_ms
        newest = max(newest, value.event_time)
        mark = int(newest) - grace_ms
        yield Event(value.event_id, value.event_time, value.sensor, value, record.offset, mark, late)


def _equal(served: object, value: object) -> bool:
    if isinstance(served, float) and isinstance(value, float):
        return math.isclose(served, value, rel_tol=CLOSE)
    return served == value
