"""The pipeline of the soak: everything that a worker holds is full within two minutes.

A memory that fills for hours cannot be told from one that leaks, so windows and waits are short here.
"""

from __future__ import annotations

from msgspec import Struct
from river import linear_model, preprocessing, tree

from engine import Labels, Pipeline, Topic
from operators import by, field, label


class Reading(Struct):
    """One reading of one sensor."""

    event_id: str
    event_time: int
    sensor: str
    value: float


pipeline = Pipeline(
    name="soak",
    events=Topic("soak.readings", Reading, key="sensor", grace="5s"),
    labels=Labels("soak.labels", wait="2m", early_max=20_000),
    features={
        "value": field("value"),
        "seen_1m": by("sensor").count("1m"),
        "mean_2m": by("sensor").mean("value", "2m"),
        "true_1m": by("sensor").mean(label, "1m").default(0.0),
        "all_1m": by().count("1m"),
    },
    models={
        "linear": preprocessing.StandardScaler() | linear_model.LogisticRegression(),
        "tree": tree.HoeffdingTreeClassifier(max_depth=6),
    },
    champion="linear",
    max_events_per_key=2_000,
)
