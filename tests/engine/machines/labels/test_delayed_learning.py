"""`learn="corrected"`: a negative at once, the positive when it comes, the truth at the horizon."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from river import linear_model, metrics

from engine import Labels, Pipeline, Topic
from engine.offline.backtest import Backtest
from operators import field
from operators.models.digest import digest
from operators.models.weighted import fake_negative_weight
from topics.codec import decode_example
from topics.errors import DefinitionError
from topics.messages import Example, Record

WAIT_MS = 5_000


class Shown(msgspec.Struct):
    event_id: str
    event_time: int
    place: str
    x: float


def definition(**labels: Any) -> Pipeline:
    return Pipeline(
        name="ads",
        events=Topic("ads.shown", Shown, key="place", grace="1s"),
        labels=Labels("ads.clicks", wait=WAIT_MS, **{"on_timeout": False, "learn": "corrected", **labels}),
        features={"x": field("x")},
        models={"lr": linear_model.LogisticRegression()},
        drift=(),
    )


def played(rows: list[tuple[int, bool | None, int]], **labels: Any) -> Backtest:
    """Each row: time since the one before, its label or None, how long that takes."""
    events, given, now = [], [], 1_000_000
    for number, (step, value, delay) in enumerate(rows):
        now += step
        body: dict[str, Any] = {
            "event_id": f"e{number}",
            "event_time": now,
            "place": "a",
            "x": number % 5 - 2.0,
        }
        events.append(Record("ads.shown", 0, number, None, b"a", json.dumps(body).encode()))
        if value is not None:
            given.append((now + delay, {"event_id": f"e{number}", "label": value, "label_time": now + delay}))
    given.sort(key=lambda one: one[0])
    labels_ = [
        Record("ads.clicks", 0, offset, None, b"a", json.dumps(body).encode())
        for offset, (_, body) in enumerate(given)
    ]
    test = Backtest(definition(**labels), keep_examples=True)
    test.play([events], [labels_])
    return test


def examples_of(test: Backtest) -> list[Example]:
    return [
        decode_example(one.value or b"") for one in test.run.examples or [] if one.headers[0][1] == b"example"
    ]


rows = st.lists(
    st.tuples(st.integers(0, 2_000), st.sampled_from([None, None, True, False]), st.integers(0, 6_000)),
    max_size=40,
)


@settings(max_examples=60, deadline=None)
@given(rows)
def test_what_is_learned_is_not_measured_and_what_is_measured_is_not_learned(taken: list[Any]) -> None:
    test = played(taken)
    made = examples_of(test)
    by_origin: dict[str, list[Example]] = {}
    for example in made:
        by_origin.setdefault(example.origin, []).append(example)
    assumed, revised = by_origin.get("assumed", []), by_origin.get("revised", [])
    truths = by_origin.get("", []) + by_origin.get("implicit", [])
    assert [one.event_id for one in assumed] == [f"e{number}" for number in range(len(taken))]
    assert not any(one.label for one in assumed)
    assert all(one.label and one.learn for one in revised)
    assert not any(one.learn for one in truths)
    positive = {f"e{n}" for n, (_, value, delay) in enumerate(taken) if value and delay <= WAIT_MS}
    assert {one.event_id for one in revised} <= positive
    assert {one.event_id for one in truths if one.label} <= {one.event_id for one in revised}
    assert len({one.event_id for one in truths}) == len(truths)

    model, metric = linear_model.LogisticRegression(), metrics.LogLoss()
    for example in made:
        if example.origin in {"assumed", "revised"}:
            weight = fake_negative_weight(example.label, example.scores["lr"])
            model.learn_one(example.features, example.label, w=weight)
        else:
            metric.update(example.label, example.scores["lr"])
    guarded = test.run.learner.roster.racers["lr"].model
    assert digest(getattr(guarded, "model", guarded)) == digest(model)
    assert test.run.learner.evaluation.counts().get("lr", (0, 0))[0] == len(truths)
    if truths:
        found = test.run.learner.evaluation.model_scores()["lr"]["LogLoss"]
        assert found == pytest.approx(metric.get(), abs=1e-12)


def test_outcomes_are_counted() -> None:
    test = played([(100, True, 1_000), (100, False, 1_000), (100, None, 0), (9_000, None, 0)])
    assert test.report()["labels"] == {
        "read": 2,
        "assumed": 4,
        "revised": 1,
        "collected": 1,
        "combined": 2,
        "implicit": 1,
    }


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"on_timeout": "drop"}, "takes an event for negative"),
        ({"combine": "last"}, "cannot take back a positive"),
        ({"correct": "record"}, "takes all labels"),
    ],
)
def test_what_it_does_not_go_with_is_refused(arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(DefinitionError, match=says):
        definition(**arguments)
