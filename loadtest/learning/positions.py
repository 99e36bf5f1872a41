"""Clicks that come for the place and not for the item: what models make of a position.

Lives here: simulated clicks whose law is known, and scores by three ways to tell a model of positions.  Never
here: the word `position` (`operators/language/position.py`), tables.

    click        the log odds are the item's merit less half of its rank, 0 to 9
    rank         of an older ranker, which goes by a field of its own that is worth nothing

So who does not know the rank takes the older ranker's field for merit, and who is asked with the true rank
says what would be clicked there.  The truth is the chance at rank 0.  Nothing is drawn but from
`random.Random(seed)`: same figures each time.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from dataclasses import replace
from statistics import fmean
from typing import Any, NamedTuple

from river import linear_model, optim

from engine import Pipeline
from engine.offline.backtest import LocalRun
from loadtest.learning.stream_run import records_of_lines
from loadtest.learning.streams import lines_of_rows, race_of
from operators import field, position
from operators.language.expressions import Expression

__all__ = ["WAYS", "Placed", "clicks_pipeline", "positions"]

ROWS = 16_000
ROW_MS = 1_000
RANKS = 10
BIAS = -0.5
"""Of the log odds, for each rank."""
FIELDS = ("merit", "older", "rank")
WAYS: Mapping[str, Mapping[str, Expression]] = {
    "unknown": {},
    "a feature as any other": {"rank": field("rank")},
    "learned, 0 served": {"rank": position("rank", serve=0.0)},
}
"""By what they are called: the features beside `merit` and `older`."""


class Placed(NamedTuple):
    """Scores of the second half of the rows."""

    distance: float
    """Mean distance from the true chance of a click at rank 0."""
    right: float
    """Share of neighbouring rows, unlike in merit, that scores put in the right order."""


def _lines(rows: int, seed: int) -> tuple[list[float], tuple[list[bytes], list[bytes]]]:
    """Return the true chances at rank 0, and the lines of events and labels."""
    draw, chances, made = random.Random(seed), [], []  # noqa: S311 a stream, no secret
    for number in range(rows):
        merit, older = draw.gauss(0.0, 1.0), draw.random()
        rank = float(RANKS - 1 - min(int(older * RANKS), RANKS - 1))
        chances.append(1.0 / (1.0 + math.exp(-merit)))
        clicked = draw.random() < 1.0 / (1.0 + math.exp(-merit - BIAS * rank))
        time = number * ROW_MS
        made.append((time, {"merit": merit, "older": older, "rank": rank}, clicked, time + 1))
    return chances, lines_of_rows(made)


def clicks_pipeline(told: Mapping[str, Expression]) -> Pipeline:
    """Return the pipeline of a logistic regression that is told so of ranks."""
    model = linear_model.LogisticRegression(optim.SGD(0.02), intercept_lr=0.02)
    plain = race_of("clicks", FIELDS, {"model": model}, champion="model", drift=())()
    features: dict[str, Any] = {"merit": field("merit"), "older": field("older"), **told}
    return replace(plain, features=features)


def positions(rows: int = ROWS, seed: int = 1) -> dict[str, Placed]:
    """Return what scores are worth, by what the model is told of ranks."""
    chances, lines = _lines(rows, seed)
    return {name: _ordered(clicks_pipeline(told), lines, chances) for name, told in WAYS.items()}


def _ordered(pipeline: Pipeline, lines: tuple[list[bytes], list[bytes]], chances: list[float]) -> Placed:
    run = LocalRun(pipeline)
    run.scorer.intake.offer_events(records_of_lines(pipeline.events.name, lines[0]))
    run.scorer.intake.offer_labels(records_of_lines(pipeline.labels.topic or "", lines[1]))
    scores: list[float] = []
    while run.advance() is not None:
        scores += [answer.prediction_score for answer, _, _ in run.scorer.scored]  # type: ignore[misc]
    late = list(zip(scores, chances, strict=True))[len(scores) // 2 :]
    pairs = list(zip(late[::2], late[1::2], strict=True))
    return Placed(
        fmean(abs(score - chance) for score, chance in late),
        fmean((one[0] < other[0]) == (one[1] < other[1]) for one, other in pairs),
    )
