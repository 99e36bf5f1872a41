"""What an estimate of performance before labels is worth: where it must be right, and where it must fail.

Lives here: simulated streams whose law is known and changes once, the estimate's error before the change, in
the blocks that no label of the new law had reached, and afterwards.  Never here: the estimate
(`operators/monitor/before_labels/estimate.py`), tables.

    nothing changes
    harder inputs    the spread of all inputs shrinks, so more rows lie near the border: accuracy falls, and
                     P(label | inputs) is what it was; calibrated scores must say so
    one-sided        the mean of one input moves: other rows, the same law
    concept drift    a weight changes its sign: same inputs, another law; no score can know

Blocks have 500 rows, an hour; labels come six hours late.  One model alone, the logistic regression that the
law is of, or a tree.  Nothing is drawn but from `random.Random(seed)`: same figures each time.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any, NamedTuple

from river import linear_model, optim, tree

from engine import Estimated, Promotion
from engine.offline.backtest import LocalRun
from loadtest.learning.stream_run import records_of_lines
from loadtest.learning.streams import lines_of_rows, race_of

__all__ = ["LAWS", "Errors", "Stretch", "estimated"]

HOUR_MS = 3_600_000
BLOCK_ROWS = 500
BLOCKS, CHANGE = 48, 30
"""Blocks of a stream, and the one with which the law changes."""
DELAY_BLOCKS = 6
SETTLED = 12
"""Blocks before which nothing is measured."""
FIELDS = ("a", "b", "c")
WEIGHTS = (2.0, -1.5, 1.0)
ROWS_MIN = 30
"""Rows of a block that is looked at."""
CHANCE = math.sqrt(2.0 / math.pi)
"""Mean distance from its middle of what is normal, in deviations."""


class Law(NamedTuple):
    """How rows are drawn."""

    means: Sequence[float] = (0.0, 0.0, 0.0)
    spread: float = 1.0
    weights: Sequence[float] = WEIGHTS


LAWS: Mapping[str, Law] = {
    "nothing changes": Law(),
    "harder inputs": Law(spread=0.3),
    "one-sided inputs": Law(means=(1.5, 0.0, 0.0)),
    "concept drift": Law(weights=(2.0, 1.5, 1.0)),
}
"""By what they are called: the law after the change."""


class Stretch(NamedTuple):
    """Mean accuracy of blocks as estimated and as it was, how far they are off, and how far by chance."""

    estimated: float
    true: float
    error: float
    chance: float


class Errors(NamedTuple):
    """The estimate before the change, while no label of the new law had come, and when they had."""

    before: Stretch
    unlabelled: Stretch
    after: Stretch


def _rows(draw: random.Random, after: Law) -> Iterable[tuple[int, dict[str, Any], bool, int]]:
    for number in range(BLOCKS * BLOCK_ROWS):
        law = after if number >= CHANGE * BLOCK_ROWS else Law()
        values = [mean + draw.gauss(0.0, law.spread) for mean in law.means]
        margin = sum(map(float.__mul__, law.weights, values))
        label = draw.random() < 1.0 / (1.0 + math.exp(-margin))
        time = number * HOUR_MS // BLOCK_ROWS
        yield time, dict(zip(FIELDS, values, strict=True)), label, time + DELAY_BLOCKS * HOUR_MS


def estimated(seed: int = 1) -> dict[str, dict[str, Errors]]:
    """Return how good the estimate is, by model and by what changes."""
    models: dict[str, Any] = {
        "logistic regression": linear_model.LogisticRegression(optim.SGD(0.02)),
        "tree": tree.HoeffdingTreeClassifier(),
    }
    found: dict[str, dict[str, Errors]] = {}
    for name, model in models.items():
        race = race_of(
            "estimates",
            FIELDS,
            {name: model},
            champion=name,
            promotion=Promotion(fresh_challengers_max=0),
            drift=(),
            estimate=Estimated("1h"),
        )
        for law, after in LAWS.items():
            lines = lines_of_rows(_rows(random.Random(seed), after))  # noqa: S311 a stream, no secret
            blocks = _blocks(race(), lines)
            spans = ((SETTLED, CHANGE), (CHANGE, CHANGE + DELAY_BLOCKS), (CHANGE + 2 * DELAY_BLOCKS, BLOCKS))
            found.setdefault(name, {})[law] = Errors(
                *(
                    _span([one for number, one in blocks.items() if low <= number < high])
                    for low, high in spans
                )
            )
    return found


Block = tuple[float, float, int]
"""Accuracy as estimated, as it was, rows."""


def _blocks(pipeline: Any, lines: tuple[Iterable[bytes], Iterable[bytes]]) -> dict[int, Block]:
    """Return the blocks of what was served by their numbers, each when all its labels had come."""
    run = LocalRun(pipeline)
    events, labels = lines
    run.scorer.intake.offer_events(records_of_lines(pipeline.events.name, events))
    run.scorer.intake.offer_labels(records_of_lines(pipeline.labels.topic or "", labels))
    told: dict[int, Block] = {}
    looked = 0
    while run.advance() is not None:
        if run.learner.examples - looked >= BLOCK_ROWS:  # ten blocks are told: none is missed
            looked = run.learner.examples
            told |= _told(run)
    told |= _told(run)
    return {number: block for number, block in told.items() if block[2] >= ROWS_MIN}


def _told(run: LocalRun) -> dict[int, Block]:
    report = run.learner.monitors.report_of("estimate").get("served", {"last": ()})
    return {
        one["start"] // HOUR_MS: (one["estimated"]["Accuracy"], one["true"]["Accuracy"], one["rows"])
        for one in report["last"]
    }


def _span(blocks: Sequence[Block]) -> Stretch:
    true = fmean(one for _, one, _ in blocks)
    return Stretch(
        fmean(one for one, _, _ in blocks),
        true,
        fmean(abs(one - other) for one, other, _ in blocks),
        fmean(CHANCE * math.sqrt(true * (1.0 - true) / rows) for _, _, rows in blocks),
    )
