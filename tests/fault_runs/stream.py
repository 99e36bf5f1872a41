"""Events and labels without end, as a seed makes them: repeats, disorder, late ones, labels of all kinds."""

from __future__ import annotations

import heapq
import json
import random
from collections.abc import Callable, Iterator

from running import Message

SOURCE = """
    from msgspec import Struct
    from river import ensemble, linear_model, preprocessing, tree

    from engine import Labels, Pipeline, Topic
    from operators import by, field, label


    class Reading(Struct):
        event_id: str
        event_time: int
        sensor: str
        room: str
        value: float


    pipeline = Pipeline(
        name="NAME",
        events=Topic("NAME.readings", Reading, key="sensor", partitions=4, grace="1m"),
        labels=Labels("NAME.verdicts", wait="36h"),
        features={
            "value": field("value"),
            "n_5m": by("sensor").count("5m"),
            "mean_1h": by("sensor").mean("value", "1h"),
            "room_max_20m": by("sensor", "room").max("value", "20m"),
            "hot_1h": by("sensor").mean(label, "1h").default(0.0),
        },
        models={
            "tree": tree.HoeffdingTreeClassifier(grace_period=50),
            "linear": preprocessing.StandardScaler() | linear_model.LogisticRegression(),
            "bag": ensemble.BaggingClassifier(tree.HoeffdingTreeClassifier(grace_period=50), 3, seed=1),
        },
        champion="tree",
        MORE
    )
"""
"""`MORE` stands for further arguments of the pipeline."""
GRACE_MS = 60_000
START_MS = 1_700_000_000_000
SENSORS = 24
"""Enough for each of four partitions to have some."""
DISORDER_MS = 50_000
LATE_MS = 600_000
DELAY_MS = (30_000, 1_200_000)
EVENTS_MIN = 300


def messages(seed: int, events: str, labels: str, enough: Callable[[int], bool]) -> Iterator[Message]:
    """Yield messages in the order of publishing until `enough(events yielded)`, then the labels still due.

    `enough` is asked before each event.
    """
    draw = random.Random(seed)
    due: list[tuple[int, int, Message]] = []
    """Labels that are not out yet, the next one first."""
    sent: list[Message] = []
    now = START_MS
    number = 0
    while not enough(number) or number < EVENTS_MIN:
        now += draw.randint(0, 6_000)
        while due and due[0][0] <= now:
            yield heapq.heappop(due)[2]
        event, sensor, hot = _event(draw, events, number, now)
        for delay_ms, verdict in _verdicts(draw, hot):
            time = now + delay_ms
            value = {"event_id": f"r{number}", "label_time": max(time, event.time), "label": verdict}
            message = Message(labels, value["label_time"], sensor, json.dumps(value).encode())
            heapq.heappush(due, (time, len(sent) * 4 + len(due), message))
        if draw.random() < 0.02:  # its label is there before it
            early = {"event_id": f"r{number}", "label_time": event.time + 1, "label": hot}
            yield Message(labels, event.time + 1, sensor, json.dumps(early).encode())
        yield event
        sent.append(event)
        number += 1
        if draw.random() < 0.03:
            yield draw.choice(sent[-200:])
    while due:
        yield heapq.heappop(due)[2]


def _event(draw: random.Random, topic: str, number: int, now: int) -> tuple[Message, bytes, bool]:
    kind = draw.random()
    time = now - (draw.randint(1, DISORDER_MS) if kind < 0.1 else LATE_MS if kind < 0.12 else 0)
    value = round(draw.gauss(20.0, 5.0), 3)
    sensor = f"s{draw.randrange(SENSORS)}"
    reading = {
        "event_id": f"r{number}",
        "event_time": time,
        "sensor": sensor,
        "room": f"k{draw.randrange(3)}",
        "value": value,
    }
    hot = value + draw.gauss(0.0, 2.0) > 22.0
    return Message(topic, time, sensor.encode(), json.dumps(reading).encode()), sensor.encode(), hot


def _verdicts(draw: random.Random, hot: bool) -> Iterator[tuple[int, bool]]:
    """Yield how much later each label of one event comes, and what it says; the first one holds."""
    delay_ms = draw.randint(*DELAY_MS)
    yield delay_ms, hot
    if draw.random() < 0.03:
        yield delay_ms + draw.randint(1, 60_000), hot
    if draw.random() < 0.02:
        yield delay_ms + draw.randint(1, 60_000), not hot
