"""What watching costs: microseconds of an event in the scorer, of an example in the learner, of a block.

Lives here: rows like a pipeline's, timed.  Never here: Kafka, models.
"""

from __future__ import annotations

from statistics import median
from time import process_time
from typing import Final, NamedTuple

import numpy as np

from operators.drift.ledger import UNCOUNTED_MAX
from operators.drift.sampler import BlockSampler
from operators.drift.watch import Watch
from operators.drift.watcher import Watcher
from topics.messages import Block, Example, FeatureValues

__all__ = ["SIZES", "Cost", "measured"]

FEATURES: Final = 20
TEXTS: Final = 4
BATCH: Final = 500
SIZES: Final = (20_000, 1_000)
"""Events of a block."""
BLOCKS: Final = 40
HOUR_MS: Final = 3_600_000


class Cost(NamedTuple):
    """Medians over blocks; of CPU time, all threads."""

    rows: int
    """Events of a block."""
    event_us: float
    """One event in the scorer: sampled or not, its share of closing the block included."""
    example_us: float
    """One labelled example in the learner."""
    block_ms: float
    """One block in the learner, which is compared with a reference of 28."""
    block_longest_ms: float
    fold_us: float
    """The same by event."""


def measured(events: int) -> Cost:
    """Time the default sampling of `FEATURES` features, with so many events in a block."""
    rng = np.random.default_rng(0)
    watch = Watch(block="1h", reference_span="28h")
    sampler, watcher = BlockSampler(watch, FEATURES), Watcher(watch, "cost", "binary")
    times: dict[str, list[float]] = {"event": [], "example": [], "block": []}
    for number in range(BLOCKS):
        rows, ids = _rows(rng, events), [f"event-{number}-{row}" for row in range(events)]
        stamps = (number * HOUR_MS + np.sort(rng.integers(0, HOUR_MS, events))).tolist()
        scores = rng.random(events).tolist()
        started = process_time()
        for first in range(0, events, BATCH):
            part = slice(first, first + BATCH)
            sampler.take(ids[part], ids[part], stamps[part], rows[part], scores[part], ["champion"] * BATCH)
            sampler.close(stamps[part][0])
        (block,) = sampler.close((number + 1) * HOUR_MS)
        times["event"].append((process_time() - started) / events)
        examples = [
            Example(event_id, "", time, time, score > 0.5, row, {}, score, "champion", "m", 0, 0, 0, 1, 0)
            for event_id, time, score, row in zip(ids[:UNCOUNTED_MAX], stamps, scores, rows, strict=False)
        ]
        started = process_time()
        watcher.observe(examples, [0.25] * UNCOUNTED_MAX)  # so many are counted at once
        times["example"].append((process_time() - started) / UNCOUNTED_MAX)
        times["block"].append(_folded(watcher, block))
    compared = times["block"][watch.reference_blocks :]
    return Cost(
        events,
        1e6 * median(times["event"]),
        1e6 * median(times["example"][watch.reference_blocks :]),
        1e3 * median(compared),
        1e3 * max(times["block"]),
        1e6 * median(compared) / events,
    )


def _folded(watcher: Watcher, block: Block) -> float:
    started = process_time()
    watcher.fold_block(block)
    return process_time() - started


def _rows(rng: np.random.Generator, events: int) -> list[FeatureValues]:
    numbers = rng.standard_normal((events, FEATURES - TEXTS)).tolist()
    texts = rng.integers(0, 12, (events, TEXTS)).tolist()
    return [
        {
            **{f"n{one}": value for one, value in enumerate(row)},
            **{f"t{one}": f"category-{value}" for one, value in enumerate(text)},
        }
        for row, text in zip(numbers, texts, strict=True)
    ]
