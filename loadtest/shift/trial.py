"""One run: days as blocks and examples through the watcher, and what it said.

Lives here: how a day becomes what a scorer sends.  Never here: streams, plants, tables.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np

from loadtest.shift.plants import Plant
from loadtest.shift.streams import DAY_MS, Day, Model, Stationary
from operators.drift.triage import Shift
from operators.drift.watch import Watch
from operators.drift.watcher import Watcher
from topics.messages import Block, Example, FeatureValues

__all__ = ["Played", "play_days"]

FIRST_DAY: Final = 20_000
"""A Monday is where 7 divides it; only differences matter."""


class Played(NamedTuple):
    """What one run said."""

    shifts: list[Shift]
    found: list[int]
    """Days at which a verdict was found."""
    days: int
    """Days that were compared with a reference."""
    length: int
    first_day: int = FIRST_DAY


def play_days(
    days: Stationary,
    model: Model,
    watch: Watch,
    *,
    seed: int,
    length: int,
    delay_ms: int,
    plant: Plant | None = None,
    at: int = 0,
) -> Played:
    """Play so many days; from day `at` on, the plant is in them."""
    rng = np.random.default_rng(seed)
    watcher = Watcher(watch, f"run-{seed}", model.task)
    waiting: dict[int, list[tuple[Example, float]]] = {}
    shifts: list[Shift] = []
    for number in range(length):
        day = days(rng, number)
        planted = plant is not None and number >= at
        if planted and plant is not None:
            day = plant.change(rng, day)
        scores = model.scores(day.columns)
        for example, loss in _examples(day, model, scores, number, delay_ms):
            waiting.setdefault(example.label_time // DAY_MS, []).append((example, loss))
        ready = waiting.pop(FIRST_DAY + number, [])
        watcher.observe([example for example, _ in ready], [loss for _, loss in ready])
        refused = plant.refused if planted and plant is not None else 0.0
        shifts += watcher.fold_block(_block(rng, day, scores, number, watch.rows_max, refused))
    found = [one.decided_ms // DAY_MS - FIRST_DAY - 1 for one in shifts if one.change == "found"]
    return Played(shifts, found, length - watch.reference_blocks, length)


def _examples(
    day: Day, model: Model, scores: Any, number: int, delay_ms: int
) -> Sequence[tuple[Example, float]]:
    start = (FIRST_DAY + number) * DAY_MS
    losses = model.losses(day.labels, scores).tolist()
    labels: list[Any] = day.labels.tolist() if model.task == "regression" else (day.labels > 0.5).tolist()
    rows = zip(day.offsets_ms.tolist(), labels, scores.tolist(), losses, _features(day), strict=True)
    return [
        (
            Example(
                f"{number}-{offset}", "", start + offset, start + offset + delay_ms, label, features, {},
                score, "champion", "m", 0, 0, 0, 1, 0,
            ),
            loss,
        )
        for offset, label, score, loss, features in rows
    ]  # fmt: skip


def _features(day: Day) -> list[FeatureValues]:
    columns = [
        [None if value != value else value for value in column.tolist()]  # noqa: PLR0124 NaN
        for column in day.columns.values()
    ]
    return [dict(zip(day.columns, row, strict=True)) for row in zip(*columns, strict=True)]


def _block(
    rng: np.random.Generator, day: Day, scores: Any, number: int, rows_max: int, refused: float
) -> Block:
    rows = len(scores)
    chosen = np.sort(rng.permutation(rows)[:rows_max])
    start = (FIRST_DAY + number) * DAY_MS
    columns = {
        name: [None if value != value else value for value in column[chosen].tolist()]  # noqa: PLR0124 NaN
        for name, column in day.columns.items()
    }
    counts = {"value": int(rows * refused)} if refused else {}
    return Block(
        FIRST_DAY + number, start, start + DAY_MS, rows, 0, counts, {"champion": rows},
        list(range(len(chosen))), columns, scores[chosen].tolist(), source_partition=0,
    )  # fmt: skip
