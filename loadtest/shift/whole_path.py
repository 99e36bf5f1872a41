"""`python -m loadtest.shift.whole_path`: what watching costs an event of a whole run, beside one without it.

Lives here: a stream of 20 numbers and one small model, played with and without `watch=`, in turns: sample,
record, watcher and labels together.  Never here: the cost of each (`cost.py`), what watching finds.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Sequence
from statistics import median
from typing import Any

import msgspec
from river import linear_model

from engine.definition.pipeline import Pipeline
from engine.definition.streams import Labels, Topic
from engine.offline.backtest import LocalRun
from operators import field
from operators.drift.watch import Watch
from topics.codec import encode_json
from topics.messages import Record

__all__ = ["cost_us"]

FEATURES = 20
BLOCK_MS = 3_600_000
CHUNK = 1_000
NAMES = [f"x{number}" for number in range(FEATURES)]
Reading = msgspec.defstruct(
    "Reading",
    [("event_id", str), ("event_time", int), ("key", str), ("y", bool), *((n, float) for n in NAMES)],
)


def definition(watch: Watch | None) -> Pipeline:
    """Return the pipeline: labels inside events, so that every row is answered, learned and watched."""
    return Pipeline(
        name="cost",
        events=Topic("cost.events", Reading, key="key"),
        labels=Labels(field="y"),
        features={name: field(name) for name in NAMES},
        models={"linear": linear_model.LogisticRegression()},
        champion="linear",
        drift=[],
        watch=watch,
    )


def stream(events: int, per_block: int) -> list[Record]:
    """Return readings, so many in each block of an hour."""
    rng = random.Random(1)  # noqa: S311
    records = []
    for number in range(events):
        reading: dict[str, Any] = {name: rng.gauss(0, 1) for name in NAMES}
        reading |= {"event_id": f"e{number}", "event_time": 10**12 + number * BLOCK_MS // per_block}
        reading |= {"key": f"k{number % 50}", "y": rng.random() < 0.5}
        records.append(Record("cost.events", 0, number, None, b"k", encode_json(reading)))
    return records


def seconds_of(records: Sequence[Record], watch: Watch | None) -> float:
    """Return the processor's time for answering and learning these events."""
    run = LocalRun(definition(watch))
    started = time.process_time()
    for at in range(0, len(records), CHUNK):
        run.scorer.intake.offer_events(records[at : at + CHUNK])
        while run.advance() is not None:
            pass
    return time.process_time() - started


def cost_us(events: int, per_block: int, rounds: int) -> tuple[float, float]:
    """Return the median of microseconds an event without watching, and of what watching adds."""
    records = stream(events, per_block)
    watch = Watch(block="1h", reference_span="14h")
    without, added = [], []
    for _ in range(rounds):
        plain = seconds_of(records, None)
        without.append(plain)
        added.append(seconds_of(records, watch) - plain)
    return median(without) / events * 1e6, median(added) / events * 1e6


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the cost for blocks of several sizes."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.shift.whole_path", description=__doc__)
    parser.add_argument("--blocks", type=int, default=24, help="blocks of each run")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each kind, in turns")
    parser.add_argument("--per-block", type=int, nargs="+", default=[1_000, 10_000], help="events of a block")
    options = parser.parse_args(arguments)
    for per_block in options.per_block:
        without, added = cost_us(options.blocks * per_block, per_block, options.rounds)
        print(f"{per_block:>8,} events a block: {without:6.1f} us an event, watching adds {added:5.1f}")


if __name__ == "__main__":
    main()
