"""How much memory one race takes, measured on made-up rows: for `headrace check`.

Lives here: the rows that are learned, and what is weighed.  Never here: how many races there are.

A race grows with what its models learn: trees by leaves, one-hot encoders by texts.  So this is the size
after `ROWS` rows of few different texts, where the recent window of 1,000 rows is full; later it is more.
"""

from __future__ import annotations

import random
import tracemalloc
from typing import NamedTuple

from engine.definition.pipeline import Pipeline
from engine.machines.keyed.races import KeyedRace
from engine.worker.assembly import build_keyed_learner
from operators.models.probe import label_for, samples_for
from operators.models.scoring import Reply
from topics.messages import Example, FeatureValues, LabelValue

__all__ = ["RaceSize", "race_size"]

ROWS = 1_000
SEED = 7


class RaceSize(NamedTuple):
    """The bytes of one race that has learned `rows` rows."""

    rows: int
    memory_bytes: int
    stored_bytes: int
    """Its entries in a checkpoint."""


def race_size(pipeline: Pipeline) -> RaceSize:
    """Return the size of one race of a pipeline with `per=`, measured: it learns for a second or so."""
    learner, draw = build_keyed_learner(pipeline), random.Random(SEED)  # noqa: S311 no secret
    samples = samples_for(pipeline.feature_types())
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    race = learner.races.begin("key")
    for number in range(ROWS):
        index = draw.randrange(len(samples))
        race.learning.step([_example(race, number, samples[index], label_for(index, pipeline.task))], number)
    memory = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    return RaceSize(ROWS, memory, sum(map(len, race.snapshot().values())))


def _example(race: KeyedRace, number: int, row: FeatureValues, label: LabelValue) -> Example:
    """Return a row as it is served and labelled."""
    served = race.scoring.serve(row)
    scores = race.scoring.shadow_all([Reply(row, served.model_name, served.score, served.scores)])[0].scores
    return Example(
        event_id=f"event {number}",
        key=race.key,
        event_time=number,
        label_time=number,
        label=label,
        features=row,
        scores=scores,
        served_score=served.score,
        served_by=served.served_by,
        model_name=served.model_name,
        source_partition=0,
        event_offset=number,
        label_offset=number,
        claim=1,
        sequence=number,
    )
