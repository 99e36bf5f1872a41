"""What monitors cost: microseconds of an example, and the longest that answers have to wait for one.

Lives here: rows like a pipeline's, shown to each monitor by itself, timed.  Never here: Kafka, tables.

20 features, five of them categories; three candidates that each have a score, so four series with what was
served.  Rows are looked at as in a race, 256 at a time or at a stop.  Times are of CPU, so that a neighbour
on the machine changes little; models are asked for real.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from time import process_time
from typing import Any, NamedTuple

from river import compose, linear_model, preprocessing, tree

from operators.models.scoring import Racer, Roster
from operators.monitor.before_labels.estimate import Estimated
from operators.monitor.behaviour.importance import Importance
from operators.monitor.behaviour.model_tests import Directional, Invariant, ModelTests, Perturbed
from operators.monitor.calibration import Calibration
from operators.monitor.fairness import Fair, Fairness
from operators.monitor.feedback import Feedback
from operators.monitor.monitors import MonitorContext, Monitors, MonitorSettings
from operators.monitor.random_rows import RandomRows
from operators.monitor.slices import Slices
from operators.monitor.worst import Worst
from operators.race.arena import Moment
from operators.race.losses import Losses, brier
from topics.messages import Example, FeatureValues

__all__ = ["MONITORS", "MonitorCost", "monitor_costs"]

ROWS = 8_192
LOOK_EVERY = 256
CATEGORIES, NUMBERS, VALUES = 5, 15, "abcdefgh"
CANDIDATES = ("a", "b", "c")
ROW_MS = 5_000
TESTS = (Invariant("c0"), Directional("n0", up=True), Perturbed(noise=0.05))

MONITORS: Mapping[str, tuple[str, MonitorSettings]] = {
    "calibration, as by default": ("calibration", Calibration()),
    "estimate, as by default": ("estimate", Estimated()),
    "two slices and their cross": ("slices", Slices((("c0",), ("n0",), ("c0", "n0")))),
    "the search for worse slices": ("worst", Worst()),
    "drawn rows": ("random", RandomRows()),
    "one bound of fairness": ("fairness", Fairness((Fair("c0"),))),
    "feedback": ("feedback", Feedback("c0")),
    "three tests of the champion": ("tests", ModelTests(TESTS)),
    "importance, as by default": ("importance", Importance()),
}
"""By what they are called: name and settings."""
ASKING = ("tests", "importance")
"""Monitors that ask the champion: measured with a linear pipeline and with a tree."""


class MonitorCost(NamedTuple):
    """Of one monitor."""

    example_us: float
    longest_ms: float
    """The longest time that it held the learner at once."""


def monitor_costs() -> dict[str, MonitorCost]:
    """Return what each monitor costs, by what it is called, and by model where models are asked."""
    rows = _rows()
    found: dict[str, MonitorCost] = {}
    for title, (name, settings) in MONITORS.items():
        for model, racer in _models(rows).items() if name in ASKING else (("", None),):
            context = MonitorContext("cost", "binary", 0.5, "brier", Roster("binary", racer or (), "a"))
            found[f"{title}, {model}" if model else title] = _cost(
                Monitors([(name, settings)], context), rows
            )
    return found


def _models(rows: list[tuple[Example, Losses]]) -> dict[str, list[Racer]]:
    words, numbers = compose.SelectType(str), compose.SelectType(int, float)
    encode = (words | preprocessing.OneHotEncoder()) + (numbers | preprocessing.StandardScaler())
    models: dict[str, Any] = {
        "a linear pipeline": encode | linear_model.LogisticRegression(),
        "an adaptive tree": tree.HoeffdingAdaptiveTreeClassifier(seed=42),
    }
    for model in models.values():
        for example, _ in rows[: ROWS // 2]:
            model.learn_one(example.features, example.label)
    return {name: [Racer("a", model, version=1)] for name, model in models.items()}


def _rows() -> list[tuple[Example, Losses]]:
    draw, rows = random.Random(1), list[tuple[Example, Losses]]()  # noqa: S311 no secret
    for number in range(ROWS):
        x: FeatureValues = {f"c{place}": draw.choice(VALUES) for place in range(CATEGORIES)}
        x |= {f"n{place}": draw.random() for place in range(NUMBERS)}
        label = draw.random() < float(x["n0"])
        scores: dict[str, Any] = {name: draw.random() for name in CANDIDATES}
        example = Example(
            f"e{number}", "k", number * ROW_MS, number * ROW_MS + 60_000, label, x, scores, scores["a"],
            "arm", "a", 0, number, number, 1, number, propensity=0.9,
        )  # fmt: skip
        lost = {name: brier(label, score) for name, score in scores.items()}
        rows.append((example, (lost["a"], lost)))
    return rows


def _cost(monitors: Monitors, rows: list[tuple[Example, Losses]]) -> MonitorCost:
    """Return the CPU time of a monitor; what it holds has been filled by the first half of the rows."""
    total = longest = 0.0
    every = min([LOOK_EVERY, *monitors.stops])
    for end in range(every, ROWS + 1, every):
        monitors.gathered += rows[end - every : end]
        started = process_time()
        monitors.stop(Moment(end, end, end))
        spent_s = process_time() - started
        if end > ROWS // 2:
            total, longest = total + spent_s, max(longest, spent_s)
    return MonitorCost(total / (ROWS // 2) * 1e6, longest * 1e3)
