"""No event and no label raises out of the scorer, the learner or what is written, whatever it holds."""

from __future__ import annotations

import json
import math
import random
from collections import Counter
from typing import Any

import msgspec
import pytest
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from river import compose, linear_model, preprocessing, tree

from engine import Labels, Pipeline, Topic
from engine.definition.pipeline import Pipeline as AnyPipeline
from engine.offline.backtest import LocalRun
from operators import (
    apply,
    by,
    coalesce,
    cross,
    decay,
    field,
    indicator,
    label,
    last_n,
    session,
    tiled,
    tumbling,
)
from topics.messages import Outgoing, Record

START = 1_700_000_000_000


class Inner(msgspec.Struct):
    deep: Any = None


class Event(msgspec.Struct):
    event_id: str | int
    event_time: int | str
    key: str
    number: float | None = None
    whole: int | None = None
    flag: bool | None = None
    text: str | None = None
    time: int | None = None
    anything: Any = None
    inner: Inner | None = None


def odd(x: float) -> float:
    return 1 / (x - 1)


def huge(x: int) -> int:
    return x * x * x


key = by("key")
FEATURES = {
    "number": field("number"),
    "whole": field("whole"),
    "flag": field("flag"),
    "text": field("text"),
    "crossed": cross(field("text"), field("flag")),
    "hashed": field("text").hashed(100),
    "hour": field("time").hour(),
    "month": field("time").month(),
    "sine": field("number").cyclic_sin(24),
    "root": field("number").sqrt(),
    "log": field("number").log1p(),
    "ratio": field("number") / field("whole"),
    "product": field("number") * field("number") * field("whole") * field("whole"),
    "square": field("whole") * field("whole"),
    "fourth": -field("whole") * field("whole") * field("whole") * field("whole"),
    "bucket": field("whole").bucket([0, 10]),
    "returned": apply(huge, field("whole"), returns=int, version=1),
    "called": apply(odd, field("number"), returns=float, version=1),
    "either": coalesce(field("number"), field("whole")),
    "more": indicator(field("number") > field("whole")),
    "count": key.count("1h"),
    "sum": key.sum("number", "1h"),
    "std": key.std("number", "1d"),
    "squares": key.mean(field("number") * field("number"), "1h"),
    "mode": key.mode("text", "1h"),
    "median": key.median("number", tiled("1h", step="10m")),
    "distinct": key.distinct("text", tumbling("1h")),
    "fading": key.sum("number", decay("1h")),
    "session": key.max("whole", session("30m")),
    "previous": key.last("text", last_n(3)),
    "since": key.since_last("1h"),
}

words, numbers = compose.SelectType(str), compose.SelectType(int, float)


def pipeline(task: str, **changed: Any) -> AnyPipeline:
    encode = (words | preprocessing.OneHotEncoder()) + (numbers | preprocessing.StandardScaler())
    features = FEATURES if task == "multiclass" else FEATURES | {"rate": key.mean(label, "1h")}
    models: dict[str, Any] = {
        "binary": {
            "linear": encode | linear_model.LogisticRegression(),
            "tree": tree.HoeffdingTreeClassifier(),
        },
        "multiclass": {"tree": tree.HoeffdingTreeClassifier()},
        "regression": {
            "linear": encode | linear_model.LinearRegression(),
            "tree": compose.SelectType(int, float) | tree.HoeffdingTreeRegressor(),
        },
    }[task]
    given: dict[str, Any] = {
        "name": "hostile",
        "events": Topic("h.events", Event, key="key"),
        "labels": Labels("h.labels", wait="1h"),
        "features": features,
        "models": models,
        "task": task,
    }
    return Pipeline(**given | changed)


TEXTS = [
    "", "a", "\x00", "\u2028", "ü" * 300, "😀", "\ud800", "\udfff\ud800", "nan", "1e400", "x" * 60_000,
    "×\\", "𝟘",
]  # fmt: skip
WHOLES = [0, -1, 1, 2**31, 2**53 + 1, -(2**63), 2**63 - 1, 2**63, 2**64, 10**15, -(10**15), 10**30, 10**400]
FLOATS = [0.0, -0.0, 1.0, 5e-324, 1e15, -1e15, 1e300, math.inf, math.nan, 1e-300]
TIMES = [
    START, START - 1, START + 60_000, 0, -1, 1, START // 1_000, 2**63 - 1, "1969-12-31T23:59:59Z",
    "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59.999999Z", "9999-12-31T23:59:59-14:00",
    "2023-11-14T22:13:20Z", "2023-11-14", "2023-W46-2T00:00Z", "",
]  # fmt: skip
IDS = ["e1", "e2", "e3", "", "x" * 256, "\ud800", "\x00", 7, 2**64, -1]
NAMES = ["traceparent", "headrace-kind", "__streams.errors.exception", "", "ü"]
ARRIVALS = 1_500


class Hostile:
    """Makes records of which most are nearly valid."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)

    def anything(self, depth: int = 0) -> Any:
        rng = self.rng
        kind = rng.randrange(5 if depth > 2 else 7)
        if kind == 5:
            return [self.anything(depth + 1) for _ in range(rng.randrange(3))]
        if kind == 6:
            return {rng.choice(TEXTS): self.anything(depth + 1) for _ in range(rng.randrange(3))}
        return rng.choice([[None], [True, False], TEXTS, WHOLES, FLOATS][kind])

    def time(self) -> Any:
        return self.rng.choice(TIMES) if self.rng.random() < 0.3 else START + self.rng.randrange(60_000)

    def event(self) -> dict[str, Any]:
        rng = self.rng
        event = {
            "event_id": rng.choice(IDS) if rng.random() < 0.3 else f"e{rng.randrange(10_000)}",
            "event_time": self.time(),
            "key": rng.choice(IDS) if rng.random() < 0.2 else "k",
        }
        fitting = {"number": FLOATS, "whole": WHOLES, "flag": [True, None], "text": TEXTS, "time": TIMES}
        for name, values in fitting.items():
            event[name] = rng.choice(values) if rng.random() < 0.95 else self.anything()
        event["anything"] = self.anything()
        event["inner"] = {"deep": self.anything()}
        # Each by itself is refused often: most events have only one that is.
        odd_ones = {name for name in event if rng.random() < 0.15}
        harmless = {"number": 1.5, "whole": 3, "flag": True, "text": "t", "time": START}
        for name in event.keys() - odd_ones - {"event_id", "event_time", "key"}:
            event[name] = harmless.get(name)
        return event

    def label(self) -> dict[str, Any]:
        rng = self.rng
        said = self.anything() if rng.random() < 0.3 else rng.choice([True, 1, "a", 0.5])
        return {"event_id": f"e{rng.randrange(10_000)}", "label": said, "label_time": self.time()}

    def record(self, topic: str, offset: int) -> Record:
        rng = self.rng
        value = json.dumps(self.event() if topic == "h.events" else self.label())
        data: bytes | None = value.encode("utf-8", "surrogatepass")
        if rng.random() < 0.05:
            data = rng.choice([None, b"", b"\xff", (data or b"") + b"]", b"{" * 9, b"\x00" * 9])
        # In files, which have no arrival, a time of the year 9999 would end all waiting.
        stamp = rng.choice([START, START + 60_000, 2**62]) if rng.random() < 0.9 else 0
        key = rng.choice([None, b"", b"k", b"\xff", b"k" * 2_000])
        found = [(rng.choice(NAMES), rng.choice([b"", b"\xff", b"x" * 600])) for _ in range(rng.randrange(3))]
        return Record(topic, 0, offset, stamp, key, data, tuple(found))


def check_written(out: list[Outgoing]) -> None:
    """Whatever leaves can be packed into a batch."""
    for record in out:
        batch = DefaultRecordBatchBuilder(
            2, 0, is_transactional=0, producer_id=1, producer_epoch=1, base_sequence=0, batch_size=1 << 30
        )
        stamp = record.timestamp_ms
        assert stamp is None or stamp >= 0
        batch.append(0, stamp, key=record.key, value=record.value, headers=[*record.headers])
        assert batch.build()


@pytest.mark.parametrize(
    ("task", "inside"),
    [
        ("binary", None),
        ("multiclass", None),
        ("regression", None),
        ("binary", "flag"),
        ("multiclass", "text"),
        ("regression", "number"),
    ],
)
def test_nothing_that_comes_raises(task: str, inside: str | None) -> None:
    """Labels come from their topic, or inside events."""
    changed = {"labels": Labels(field=inside)} if inside else {}
    run, hostile = LocalRun(pipeline(task, **changed)), Hostile(7)
    offsets = {"h.events": 0, "h.labels": 0}
    sent: Counter[str] = Counter()
    for number in range(ARRIVALS):
        topic = hostile.rng.choice(["h.events"] if inside else ["h.events", "h.events", "h.labels"])
        record = hostile.record(topic, offsets[topic])
        offsets[topic] += 1
        intake = run.scorer.intake
        (intake.offer_events if topic == "h.events" else intake.offer_labels)([record], START)
        while (out := run.advance()) is not None:
            check_written(out)
            sent.update(one.target for one in out)
        if number % 20 == 0:
            run.scorer.delta()
    counts = run.scorer.counts
    assert sent["predictions"] > ARRIVALS // 20
    assert sent["dead-letters"] > ARRIVALS // 20
    assert counts["models", "failed"] == 0
    taken = sum(count for (what, how), count in counts.items() if what == "events" and how != "conflicting")
    refused = sum(count for (what, _), count in counts.items() if what == "dead_letters")
    assert taken + refused >= offsets["h.events"]
    state = run.scorer.snapshot()
    run.scorer.restore(state)
    assert run.scorer.snapshot() == state
    assert run.learner.digests()
