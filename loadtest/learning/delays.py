"""Labels that come late, early ones first, and labels that are wrong at first: what models make of them.

Lives here: simulated streams whose truth is known, raced by each way of `Labels(learn=...)` and
`Labels(correct=...)`, and their tables.  Never here: real streams (`streams.py`).

    delays        a positive comes after 5 minutes in the mean, a negative is what has not come after an hour
      growing     traffic doubles every hour: positives of now meet negatives of an hour ago
      falling     the rate falls from 30 % to 10 % at once: who still hears of the time before?
      steady      nothing changes
    corrections   every fifth label is wrong, and corrected 10 minutes later

Nothing is drawn but from `random.Random(seed)`: same figures each time.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Sequence
from statistics import fmean
from typing import Any, NamedTuple

from msgspec import Struct
from river import linear_model, optim

from engine.definition.pipeline import Pipeline
from engine.definition.streams import Labels, Topic
from engine.offline.backtest import LocalRun
from operators import field
from operators.race.evaluation import Brier
from topics.messages import Record

__all__ = ["CORRECTED_BY", "LEARNED_BY", "Bias", "Corrected", "biases", "corrections"]

HOUR_MS = 3_600_000
WAIT_MS = HOUR_MS
DELAY_MEAN_MS = 300_000
HOURS = 6
BEGIN_MS = 1_700_000_000_000
ROWS = 30_000
LEARNED_BY = ("when_joined", "uniform", "corrected")
CORRECTED_BY = (None, "record", "relearn")
FLIPPED_SHARE = 0.2


class Shown(Struct):
    """An impression: what is known of it when it is shown."""

    event_id: str
    event_time: int
    place: str
    x: float


class Bias(NamedTuple):
    """The mean of what was served less the mean of the true probabilities, over two spans."""

    early: float
    late: float


class Corrected(NamedTuple):
    """Brier scores of a run with corrections: as reported, and against the last labels."""

    reported: float
    true: float


class Row(NamedTuple):
    """One event of a simulated stream."""

    time: int
    x: float
    chance: float
    """The true probability."""
    clicked: bool
    delay_ms: int


def _pipeline(labels: Labels) -> Pipeline:
    model = linear_model.LogisticRegression(optim.SGD(0.02), intercept_lr=0.02)
    return Pipeline(
        name="delays",
        events=Topic("delays.shown", Shown, key="place"),
        labels=labels,
        features={"x": field("x")},
        models={"model": model},
        metrics=[Brier()],  # type: ignore[no-untyped-call]  # River has no types here
        drift=(),
    )


def _chance(base: float, x: float) -> float:
    odds = base / (1.0 - base) * math.exp(x)
    return odds / (1.0 + odds)


def _growing(draw: random.Random, rows: int) -> list[Row]:
    """Return events whose number doubles every hour, of one law."""
    times = sorted(math.log2(1.0 + draw.random() * (2.0**HOURS - 1.0)) for _ in range(rows))
    return [_row(draw, hour, 0.2) for hour in times]


def _steady(draw: random.Random, rows: int) -> list[Row]:
    """Return events in even number, of one law."""
    return [_row(draw, HOURS * number / rows, 0.2) for number in range(rows)]


def _falling(draw: random.Random, rows: int) -> list[Row]:
    """Return events in even number, whose rate falls after half of them."""
    return [_row(draw, HOURS * number / rows, 0.3 if number < rows // 2 else 0.1) for number in range(rows)]


def _row(draw: random.Random, hour: float, base: float) -> Row:
    x = draw.gauss(0.0, 0.5)
    chance = _chance(base, x)
    delay = min(int(draw.expovariate(1.0 / DELAY_MEAN_MS)), WAIT_MS)
    return Row(BEGIN_MS + int(hour * HOUR_MS), x, chance, draw.random() < chance, delay)


STREAMS: dict[str, tuple[Callable[[random.Random, int], list[Row]], tuple[float, float]]] = {
    "nothing changes": (_steady, (HOURS - 2.0, HOURS - 1.0)),
    "traffic doubles every hour": (_growing, (HOURS - 2.0, HOURS - 1.0)),
    "the rate falls at once": (_falling, (HOURS / 2, HOURS / 2 + 1.0)),
}
"""By what they are called: the law, and where the two spans begin, in hours; each takes one hour."""


def biases(rows: int = ROWS, seed: int = 1) -> dict[str, dict[str, Bias]]:
    """Return, by stream and way of learning, how far what was served lies from the truth."""
    found: dict[str, dict[str, Bias]] = {}
    for name, (made, spans) in STREAMS.items():
        stream = made(random.Random(seed), rows)  # noqa: S311 a stream, no secret
        found[name] = {how: _bias(stream, how, spans) for how in LEARNED_BY}
    return found


def _bias(stream: Sequence[Row], how: str, spans: tuple[float, float]) -> Bias:
    labels = Labels("delays.clicks", wait=WAIT_MS, on_timeout=False, learn=how)  # type: ignore[arg-type]
    clicks = sorted((row.time + row.delay_ms, number) for number, row in enumerate(stream) if row.clicked)
    served, _ = _run(labels, stream, [(time, number, True) for time, number in clicks])
    early, late = (
        fmean(
            served[number] - row.chance
            for number, row in enumerate(stream)
            if begin <= _hour(row) < begin + 1.0
        )
        for begin in spans
    )
    return Bias(early, late)


def _hour(row: Row) -> float:
    return (row.time - BEGIN_MS) / HOUR_MS


def corrections(rows: int = ROWS, seed: int = 1) -> dict[str, Corrected]:
    """Return, by what a correction does, the Brier score that is reported, and the true one."""
    draw = random.Random(seed)  # noqa: S311 a stream, no secret
    stream = _steady(draw, rows)
    given: list[tuple[int, int, bool]] = []
    for number, row in enumerate(stream):
        wrong = draw.random() < FLIPPED_SHARE
        given.append((row.time + 60_000, number, row.clicked ^ wrong))
        if wrong:
            given.append((row.time + 660_000, number, row.clicked))
    found = {}
    for how in CORRECTED_BY:
        labels = Labels("delays.clicks", wait=WAIT_MS, correct=how)  # type: ignore[arg-type]
        served, run = _run(labels, stream, sorted(given))
        true = fmean((served[number] - row.clicked) ** 2 for number, row in enumerate(stream))
        found[str(how)] = Corrected(run.learner.evaluation.served_scores()["Brier"], true)
    return found


def _run(
    labels: Labels, stream: Sequence[Row], given: Sequence[tuple[int, int, bool]]
) -> tuple[list[float], LocalRun]:
    """Return the score that was served to each row, and the run."""
    run = LocalRun(_pipeline(labels))
    run.scorer.intake.offer_events(
        _record("delays.shown", number, event_id=str(number), event_time=row.time, place="a", x=row.x)
        for number, row in enumerate(stream)
    )
    run.scorer.intake.offer_labels(
        _record("delays.clicks", offset, event_id=str(number), label=label, label_time=time)
        for offset, (time, number, label) in enumerate(given)
    )
    served = [0.0] * len(stream)
    while run.advance() is not None:
        for answer, _, _ in run.scorer.scored:
            score = answer.prediction_score
            assert isinstance(score, float)
            served[int(answer.event_id)] = score
    return served, run


def _record(topic: str, offset: int, **body: Any) -> Record:
    return Record(topic, 0, offset, None, None, json.dumps(body).encode())
