"""Hostile sources of labels: what a cap and a quarantine save of the answers to honest events.

Lives here: the stream, the attack, the accuracy of each model before, during and after.  Never here: how
sources are trusted (`operators/trust`), tables.

16,000 events; while the attack lasts, 3,000 events, half of the traffic is of five sources that turn every
label.  Honest labels are of 400 sources.  Each model races alone, so no swap hides what an attack does to it.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import NamedTuple

from river import forest, linear_model, preprocessing, tree

from engine import Labels, Pipeline, Promotion, Trust
from engine.offline.backtest import LocalRun
from loadtest.learning.stream_run import records_of_lines
from loadtest.learning.streams import race_of
from operators.models.scoring import label_of
from topics.codec import decode_example, encode_json

__all__ = ["DEFENCES", "ROWS", "Hit", "hostile"]

ROWS = 16_000
ATTACK = range(8_000, 11_000)
"""Events in which half of the traffic is hostile."""
SETTLED = 2_000
"""Events before which nothing is measured: models begin to learn."""
ATTACKERS, HONEST = 5, 400
SEED = 7
FIELDS = ("a", "b", "c", "d", "e")
WEIGHTS = (1.5, -1.2, 0.9, 0.6, -0.4)
NOISE = 0.45
"""Of the margin: the best answer is right in some 93 of 100 cases."""
TOPIC = "hostile.labels"
WAIT = "1d"

DEFENCES: Mapping[str, Labels] = {
    "none": Labels(TOPIC, wait=WAIT, source="by"),
    "cap, 5 in 500": Labels(TOPIC, wait=WAIT, source="by", per_source_max=5),
    "quarantine": Labels(TOPIC, wait=WAIT, source="by", trust=Trust()),
    "cap and quarantine": Labels(TOPIC, wait=WAIT, source="by", per_source_max=5, trust=Trust()),
}


class Hit(NamedTuple):
    """Accuracy of a model on honest events, and what the defence did."""

    before: float
    during: float
    after: float
    left_out: int
    """Labels that were not learned."""
    hostile: int
    """Hostile ones among all labels."""
    quarantined: int
    """Hostile sources in quarantine at the end."""
    wronged: int
    """Honest sources in quarantine at the end."""


def _models() -> dict[str, object]:
    return {
        "linear": preprocessing.StandardScaler() | linear_model.LogisticRegression(),
        "tree": tree.HoeffdingTreeClassifier(),
        "adaptive": tree.HoeffdingAdaptiveTreeClassifier(seed=42),
        "forest": forest.ARFClassifier(n_models=5, seed=42),
    }


def _lines() -> tuple[list[bytes], list[bytes]]:
    """Return the lines of events and of labels; a label comes with the next event."""
    chance = random.Random(SEED)  # noqa: S311 - test data
    events, labels = [], []
    for number in range(ROWS):
        values = [chance.gauss(0.0, 1.0) for _ in FIELDS]
        truth = sum(map(float.__mul__, WEIGHTS, values)) + chance.gauss(0.0, NOISE) > 0.0
        hostile = number in ATTACK and chance.random() < 0.5
        by = f"bad{chance.randrange(ATTACKERS)}" if hostile else f"s{chance.randrange(HONEST)}"
        about = {"event_id": str(number), "key": "all"}
        events.append(
            encode_json({**about, "event_time": number * 1_000, **dict(zip(FIELDS, values, strict=True))})
        )
        said = {"label": truth != hostile, "label_time": number * 1_000 + 500, "by": by}
        labels.append(encode_json({**about, **said}))
    return events, labels


def hostile(rows: int = ROWS) -> dict[str, dict[str, Hit]]:
    """Return what the attack does to each model, by defence and model."""
    events, labels = _lines()
    return {
        defence: {
            name: _hit(_pipeline(name, model, said), events[:rows], labels[:rows])
            for name, model in _models().items()
        }
        for defence, said in DEFENCES.items()
    }


def _pipeline(name: str, model: object, labels: Labels) -> Pipeline:
    pipeline = race_of("hostile", FIELDS, {name: model}, promotion=Promotion(fresh_challengers_max=0))()
    return replace(pipeline, labels=labels)


def _hit(pipeline: Pipeline, events: Iterable[bytes], labels: Iterable[bytes]) -> Hit:
    run = LocalRun(pipeline)
    run.scorer.intake.offer_events(records_of_lines(pipeline.events.name, events))
    run.scorer.intake.offer_labels(records_of_lines(TOPIC, labels))
    right: dict[str, list[bool]] = {"before": [], "during": [], "after": []}
    attacks, labelled = 0, 0
    while (out := run.advance()) is not None:
        for record in out:
            if record.target != "examples":
                continue
            example = decode_example(record.value or b"")
            labelled += 1
            row = int(example.event_id)
            if example.source.startswith("bad"):
                attacks += 1
            elif row >= SETTLED:
                span = "during" if row in ATTACK else "before" if row < ATTACK.start else "after"
                right[span].append(label_of("binary", example.served_score) == example.label)
    held = run.learner.sources.quarantined
    learned = run.learner.examples
    wronged = sum(not source.startswith("bad") for source in held)
    return Hit(
        **{span: sum(answers) / max(len(answers), 1) for span, answers in right.items()},
        left_out=labelled - learned,
        hostile=attacks,
        quarantined=len(held) - wronged,
        wronged=wronged,
    )
