"""Shops, each with a race of its own: streams of sales, the runs and logs that come of them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import msgspec
from msgspec.structs import replace
from river import dummy, linear_model, metrics, preprocessing, tree

from engine import Challenge, Every, Labels, Pipeline, Promotion, Topic
from engine.machines.keyed.keyed_learner import KeyedLearner
from engine.machines.learner import Learner
from engine.offline.keyed.keyed_backtest import KeyedRun
from engine.worker.model_factory import ModelFactory
from operators import by, field
from operators.models.signing import SigningKeys
from topics import headers
from topics.codec import encode
from topics.messages import Command, Decision, Outgoing, Record

__all__ = [
    "COMMANDS",
    "KEYED",
    "KEYS",
    "PLAIN",
    "Row",
    "Sale",
    "definition",
    "factory_of",
    "folded",
    "inputs",
    "log_of",
    "of_race",
    "played",
]

KEYS = ("a", "b", "c/d é")


class Sale(msgspec.Struct):
    event_id: str
    event_time: int
    store: str
    amount: float
    big: bool = False


def definition(**changed: Any) -> Pipeline:
    return Pipeline(
        name="shops",
        **{
            "events": Topic("shops.sales", Sale, key="store", grace="0s", max_ahead="1h"),
            "labels": Labels("shops.labels", wait="10d"),
            "features": {"amount": field("amount"), "n": by("store").count("5s")},
            "models": {
                "no": dummy.NoChangeClassifier(),
                "lr": preprocessing.StandardScaler() | linear_model.LogisticRegression(),
                "tree": tree.HoeffdingTreeClassifier(grace_period=5),
            },
            "champion": "no",
            "promotion": Promotion(
                false_swap_every=40, evidence_block=2, min_examples=4, cooldown=3, min_effect=0.0
            ),
            "challenges": [Challenge(Every(9), start="champion", max=1)],
            "metrics": [metrics.Accuracy(), metrics.LogLoss()],
            **changed,
        },
    )


PLAIN = definition()
KEYED = definition(per="store", per_max=2)


@cache
def factory_of(pipeline: Pipeline) -> ModelFactory:
    """To try a model takes half a second, once."""
    return ModelFactory(pipeline, keys=SigningKeys({"": b"k" * 32}))


Row = tuple[str, float, int]
"""Key, amount, and after how many events the label comes."""


def inputs(rows: Sequence[Row]) -> tuple[list[Record], list[Record]]:
    """Return events, a second apart, and labels, in order of time; what is true depends on the key."""
    events, labels = [], []
    for number, (key, amount, delay) in enumerate(rows):
        about = {"event_id": f"e{number}", "event_time": 1000 * number, "store": key, "amount": amount}
        events.append(about)
        if delay >= 0:
            true = amount > 0 if key == "a" else amount < 0
            labels.append((1000 * (number + delay) + 500, number, about, true))

    def record(topic: str, offset: int, key: str, value: Mapping[str, Any]) -> Record:
        return Record(topic, 0, offset, None, key.encode(), json.dumps(value).encode())

    return (
        [record("shops.sales", n, one["store"], one) for n, one in enumerate(events)],
        [
            record(
                "shops.labels",
                n,
                about["store"],
                {"event_id": about["event_id"], "label": true, "label_time": time},
            )
            for n, (time, _, about, true) in enumerate(sorted(labels, key=lambda one: one[:2]))
        ],
    )


def played(run: Any, rows: Sequence[Row], cut: int = 1_000) -> list[Outgoing]:
    events, labels = inputs(rows)
    out: list[Outgoing] = []
    run.scorer.intake.offer_labels(labels)
    for first in range(0, max(len(events), 1), cut):
        run.scorer.intake.offer_events(events[first : first + cut])
        last = first + cut >= len(events)
        while (left := run.advance(events_unread=not last)) is not None:
            out += left
    return out


def log_of(rows: Sequence[Row], commands: Mapping[int, Command] = {}) -> tuple[KeyedRun, list[Record]]:
    """Return a run, and its examples log with commands after so many records."""
    run = KeyedRun(KEYED, source=factory_of(PLAIN), keep_examples=True)
    played(run, rows)
    assert run.examples is not None
    values: list[Record] = []
    for number, record in enumerate(run.examples):
        values.append(record)
        if number in commands:
            value = encode(commands[number])
            values.append(Record(record.topic, 0, 0, 0, b"", value, headers.COMMAND))
    return run, [replace(record, offset=offset) for offset, record in enumerate(values)]


def folded(learner: KeyedLearner | Learner, log: Sequence[Record]) -> list[Decision]:
    """Fold a log as a worker does, again from where a pause began; return what was decided."""
    decisions: list[Decision] = []
    while learner.reading <= log[-1].offset:
        decisions += learner.fold([one for one in log if one.offset >= learner.reading])
    return decisions


def of_race(decisions: Sequence[Decision]) -> dict[str, list[Decision]]:
    found: dict[str, list[Decision]] = {}
    for one in decisions:
        found.setdefault(one.key, []).append(one)
    return found


COMMANDS = {
    5: Command("c1", "promote", 0, model_name="tree", key="a", actor="kim"),
    8: Command("c2", "pin", 0, key="b", actor="kim"),
    9: Command("c3", "pause", 0, actor="kim"),
    12: Command("c4", "retire", 0, model_name="lr", key=KEYS[2]),
    13: Command("c5", "promote", 0, model_name="tree", key="nobody"),
    14: Command("c6", "rollback", 0, key="a"),
    18: Command("c7", "resume", 0),
}
