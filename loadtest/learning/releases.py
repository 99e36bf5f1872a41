"""The loop of the book on real streams: what it costs to serve released versions, and what the gate is worth.

Lives here: each model learning always, released with the gate, and released without it.  Never here: the loop
itself (`operators/versions/release.py`), tables.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from loadtest.learning.stream_run import StreamRun, stream_run_of
from loadtest.learning.streams import Stream
from operators.race.blend import Blend
from operators.race.candidates import Candidate, Release, twin_name
from operators.race.evidence import Promotion
from operators.race.losses import brier
from operators.versions import release

__all__ = ["Released", "released"]

NEVER = Promotion(approve="manual", fresh_challengers_max=0)
"""The same models race from the first row to the last."""
ALWAYS = "-always"


class Released(NamedTuple):
    """One model on one stream: mean Brier scores over the rows on which all three have an opinion."""

    always: float
    """It learns every label before it answers the next event."""
    gated: float
    """Its released version answers; a twin that is worse is held."""
    ungated: float
    """Its released version answers, whatever the comparison says."""
    versions: int
    held: int
    set_back: int


def released(stream: Stream, data: Path, every: int) -> dict[str, Released]:
    """Return what releases every so many examples are worth, by model."""
    events, labels = (list(lines) for lines in stream.records(data))
    pipeline = stream.pipeline()
    loop = Release(every)
    learners = {name: model for name, model in pipeline.estimators.items() if not isinstance(model, Blend)}
    models = {
        name: racer
        for one, model in learners.items()
        for name, racer in ((one, Candidate(model, release=loop)), (one + ALWAYS, Candidate(model)))
    }
    raced = replace(pipeline, models=models, champion=next(iter(models)), promotion=NEVER, drift=())
    gated = stream_run_of(raced, events, labels)
    with _no_gate():
        ungated = stream_run_of(raced, events, labels)
    told = Counter((decision.type, decision.model_name) for decision in gated.decisions)
    return {
        name: Released(
            *_losses(gated, ungated, name),
            told["version.released", name],
            told["version.held", name],
            told["version.restored", twin_name(name)],
        )
        for name in learners
    }


def _losses(gated: StreamRun, ungated: StreamRun, name: str) -> tuple[float, float, float]:
    columns = (gated.scores[name + ALWAYS], gated.scores[name], ungated.scores[name])
    rows = [
        [brier(label, score) for score in scores]
        for label, *scores in zip(gated.labels, *columns, strict=True)
        if None not in scores
    ]
    always, with_gate, without = (sum(filter(None, column)) / len(rows) for column in zip(*rows, strict=True))
    return always, with_gate, without


@contextmanager
def _no_gate() -> Iterator[None]:
    """Release every twin: a run to compare with, and no setting of the product."""
    gate = release.WORSE_DEVIATIONS
    release.WORSE_DEVIATIONS = float("inf")
    try:
        yield
    finally:
        release.WORSE_DEVIATIONS = gate
