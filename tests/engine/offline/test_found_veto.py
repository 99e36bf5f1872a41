"""A race in which the slice that forbids a swap was named by nobody: the search finds it, the veto holds."""

from __future__ import annotations

import json
import random
from functools import cache
from typing import Any

import msgspec
from river import compose, linear_model, optim

from engine import Guard, Labels, Pipeline, Promotion, Topic, Worst
from engine.offline.backtest import Backtest
from engine.worker.assembly import build_learner
from engine.worker.model_factory import ModelFactory
from operators import field
from topics.messages import Decision, Record

ROWS, MINUTE_MS = 4_000, 60_000


class Flight(msgspec.Struct):
    event_id: str
    event_time: int
    origin: str
    weak: float
    strong: float


def logistic(*names: str) -> Any:
    return compose.Select(*names) | linear_model.LogisticRegression(optimizer=optim.SGD(0.1))


def pipeline(*guards: Guard) -> Pipeline:
    return Pipeline(
        name="flights",
        events=Topic("flights.departures", Flight, key="origin"),
        labels=Labels("flights.arrivals", wait="1h"),
        features={name: field(name) for name in ("origin", "weak", "strong")},
        models={"steady": logistic("weak"), "bold": logistic("strong")},
        champion="steady",
        drift=(),
        worst=Worst(false_slice_every=20_000),
        promotion=Promotion(
            false_swap_every=20_000,
            evidence_block=64,
            min_examples=2_500,
            opening_min_examples=2_500,
            veto=guards,
        ),
    )


def flights() -> tuple[list[Record], list[Record]]:
    """Both readings say what is true, the strong one more often; from HNL both say the contrary.

    So the strong one is better on average, and worse by more where both are bad.
    """
    rng = random.Random(11)
    events, labels = list[Record](), list[Record]()
    for number in range(ROWS):
        time, label = number * MINUTE_MS, rng.random() < 0.5
        origin = rng.choices(("ATL", "ORD", "DFW", "HNL"), (4, 3, 2, 1))[0]
        turned = origin == "HNL"
        weak, strong = (1.0 if (rng.random() < right) != (label == turned) else -1.0 for right in (0.7, 0.95))
        event = {"event_id": f"{number}", "event_time": time, "origin": origin, "weak": weak}
        said = {"event_id": f"{number}", "label": label, "label_time": time + MINUTE_MS, "origin": origin}
        for topic, into, value in (("events", events, event | {"strong": strong}), ("labels", labels, said)):
            into.append(Record(topic, 0, number, None, None, json.dumps(value).encode()))
    return events, labels


@cache
def raced(*guards: Guard) -> tuple[Backtest, dict[str, Any]]:
    events, labels = flights()
    run = Backtest(pipeline(*guards), keep_examples=True)
    run.play([events], [labels])
    return run, run.report()


VETO = Guard(0.02, slice="found")


def test_the_challenger_is_better_on_average_and_worse_in_one_slice() -> None:
    """Or the rest of this file would prove nothing."""
    _, report = raced(VETO)
    assert report["models"]["bold"]["Brier"] < 0.8 * report["models"]["steady"]["Brier"]
    assert {"origin": "HNL"} in [one["slice"] for one in report["worst"]["slices"]]
    _, free = raced()
    assert [(swap["from"], swap["to"]) for swap in free["swaps"]] == [("steady", "bold")]
    assert free["champion"] == "bold"


def test_a_slice_that_nobody_named_forbids_the_swap() -> None:
    run, report = raced(VETO)
    assert report["swaps"] == []
    assert report["champion"] == "steady"
    vetoed = [one for one in run.run.decisions if one.type == "promotion.vetoed"]
    assert {one.model_name for one in vetoed} == {"bold"}
    assert all("origin is HNL" in one.reason for one in vetoed)
    assert len({one.reason for one in vetoed}) == len(vetoed) < 5, (
        "told when it is another, not at every block"
    )
    _, free = raced()
    assert vetoed[0].examples == free["swaps"][0]["examples"], (
        "at the row at which it would have been promoted"
    )


def test_a_guard_that_allows_so_much_forbids_nothing() -> None:
    _, free = raced()
    _, report = raced(Guard(0.9, slice="found"))
    assert [swap["examples"] for swap in report["swaps"]] == [swap["examples"] for swap in free["swaps"]]


def folded(log: list[Record], cuts: int) -> list[Decision]:
    """Return what learners decide that take the log in pieces, each from the checkpoint of the one before."""
    declared = pipeline(VETO)
    source = ModelFactory(declared)
    learner, decisions = build_learner(declared, source=source), list[Decision]()
    size = len(log) // cuts + 1
    for start in range(0, len(log), size):
        decisions += learner.fold(log[start : start + size])
        stored = learner.snapshot()
        learner = build_learner(declared, source=source)
        learner.restore(stored)
    assert learner.roster.champion == "steady"
    return decisions


def test_a_worker_that_restarts_is_forbidden_the_same_swap_at_the_same_row() -> None:
    """The veto rests on what the search has found and paired, which checkpoints must hold."""
    run, _ = raced(VETO)
    log = run.run.examples
    assert log is not None
    assert folded(log, 5) == run.run.decisions
