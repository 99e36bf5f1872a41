"""The sample of labelled examples: who is kept, whatever the order, and who is like a row."""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from river import linear_model

from engine import Labels, Pipeline, Reservoir, Topic
from engine.lineage.explanation import liked
from engine.offline.replay import Replay
from operators import field
from operators.models.table import number_of
from operators.monitor.reservoir import SALT, STRATA_MAX, ReservoirMonitor
from operators.monitor.rows import Rows
from topics import headers
from topics.codec import encode
from topics.errors import DefinitionError, ModelError
from topics.messages import Claim, Example, Prediction, Record


def example(number: int, label: bool, features: dict[str, Any]) -> Example:
    return Example(
        f"e{number}", "k", number, number + 1, label, features, {"lr": 0.5}, 0.5, "champion", "lr", 0,
        number, number, 1, number,
    )  # fmt: skip


def seen(monitor: ReservoirMonitor, examples: list[Example], cut: int) -> None:
    for first in range(0, len(examples), cut):
        batch = examples[first : first + cut]
        monitor.observe(Rows(batch, [(None, {})] * len(batch), "binary"))


@settings(max_examples=40)
@given(
    st.lists(st.tuples(st.booleans(), st.sampled_from("ab")), max_size=60), st.integers(1, 9), st.randoms()
)
def test_the_smallest_hashes_of_each_stratum_are_kept(
    rows: list[tuple[bool, str]], cut: int, shuffle: random.Random
) -> None:
    examples = [example(n, label, {"shop": shop}) for n, (label, shop) in enumerate(rows)]
    strata: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for one in examples:
        strata[f"{one.label} {one.features['shop']}"].append((number_of(SALT, one.event_id), one.event_id))
    shuffle.shuffle(examples)
    made = ReservoirMonitor(Reservoir(per_class_max=3, by=["shop"]), by_class=True)
    seen(made, examples, cut)
    kept = {name: [(row.number, row.event_id) for row in held] for name, held in made._kept.items()}
    assert kept == {name: sorted(held)[:3] for name, held in strata.items()}
    again = ReservoirMonitor(Reservoir(per_class_max=3, by=["shop"]), by_class=True)
    again.restore(made.snapshot())
    assert again.snapshot() == made.snapshot()
    assert again.near({"shop": "a"}) == made.near({"shop": "a"})


def test_classes_without_end_have_an_end() -> None:
    made = ReservoirMonitor(Reservoir(per_class_max=1, by=["shop"]), by_class=True)
    examples = [replace(example(n, True, {"shop": "a"}), label=f"class {n}") for n in range(1_000)]
    seen(made, examples, 100)
    assert len(made.report()["strata"]) == 2 * STRATA_MAX + 1
    assert sum(told["seen"] for told in made.report()["strata"].values()) == 1_000


def test_the_nearest_are_those_of_the_smallest_standardised_distance() -> None:
    rng = random.Random(7)
    rows = [{"x": rng.gauss(0, 100), "y": rng.random(), "c": rng.choice("pq")} for _ in range(50)]
    made = ReservoirMonitor(Reservoir(), by_class=True)
    seen(made, [example(n, n % 2 == 0, row) for n, row in enumerate(rows)], 50)
    asked = {"x": 10.0, "y": 0.5, "c": "p"}

    def spread(name: str) -> float:
        values = [float(row[name]) for row in rows]  # type: ignore[arg-type]
        mean = sum(values) / 50
        return float((sum((value - mean) ** 2 for value in values) / 50) ** 0.5)

    def distance(row: dict[str, Any]) -> float:
        parts = [((row[name] - asked[name]) / spread(name)) ** 2 for name in ("x", "y")]  # type: ignore[operator]
        return float(((sum(parts) + (row["c"] != asked["c"])) / 3) ** 0.5)

    order = sorted(range(50), key=lambda n: distance(rows[n]))
    assert [one["event_id"] for one in made.near(asked, 50)] == [f"e{n}" for n in order]
    assert made.near(asked, 1)[0]["distance"] == pytest.approx(distance(rows[order[0]]), abs=1e-6)


class Payment(msgspec.Struct):
    event_id: str
    event_time: int
    card: str
    amount: float


def pipeline(reservoir: Reservoir | None) -> Pipeline:
    return Pipeline(
        name="kept",
        events=Topic("kept.events", Payment, key="card"),
        labels=Labels("kept.labels", wait="1h"),
        features={"amount": field("amount")},
        models={"lr": linear_model.LogisticRegression()},
        reservoir=reservoir,
    )


class Log:
    async def read(self, start: int | None = None) -> Any:
        claim = Record("kept.examples", 0, 0, 0, None, encode(Claim(0, 1)), headers.CLAIM)
        made = [
            msgspec.structs.replace(example(n, n > 5, {"amount": float(n)}), sequence=n) for n in range(10)
        ]
        records = [
            claim,
            *(
                Record("kept.examples", 0, n + 1, 0, b"k", encode(one), headers.EXAMPLE)
                for n, one in enumerate(made)
            ),
        ]
        yield records[start or 0 :]


def test_what_is_like_a_prediction_is_found_in_the_folded_log() -> None:
    answer = Prediction(
        "kept:e4", "e4", 4, 4, "lr", 1, 0, "champion", 0.5, True, "champion",
        {"amount": 4.0}, 4, 1, 4,
    )  # fmt: skip
    near = asyncio.run(liked(Replay(pipeline(Reservoir()), Log()), answer, 2))
    assert sorted(one["event_id"] for one in near) == ["e3", "e5"]
    assert [one["label"] for one in near] == [False, False]
    with pytest.raises(ModelError, match="keeps no labelled examples"):
        asyncio.run(liked(Replay(pipeline(None), Log()), answer, 2))


def test_what_keeps_nothing_is_refused() -> None:
    with pytest.raises(DefinitionError, match="keeps 0 examples"):
        Reservoir(per_class_max=0)
    with pytest.raises(DefinitionError, match="no feature"):
        pipeline(Reservoir(by=["shop"]))
