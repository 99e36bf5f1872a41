"""What one event and its label cost in processor time, part by part, in this process.

Lives here: the payments, the same state machines as a worker's, without Kafka, on the processor's clock.
Never here: workers (`rounds.py`).
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

from engine.definition.pipeline import Pipeline
from engine.host.garbage import search_rarely
from engine.offline.backtest import LocalRun
from topics.codec import encode_json
from topics.messages import Record

__all__ = ["Message", "costs", "messages"]

START_MS = 1_700_000_000_000
EVENT_MS = 10
"""Event time between two payments."""
DELAY = 500
"""Payments between one and its label."""
CARDS = 2_000
FIRST_SHARE = 0.2
"""Of the events, before anything is measured: models and windows fill."""
BLOCK = 200


class Message(NamedTuple):
    """One record to publish: a payment or a label."""

    is_label: bool
    card: int
    time_ms: int
    key: bytes
    value: bytes


def messages(count: int) -> Iterator[Message]:
    """Yield payments and, each after `DELAY` others, their labels."""
    draw, waiting = random.Random(7), list[tuple[int, int, bool]]()  # noqa: S311 - no secret
    for number in range(count):
        card, amount = draw.randrange(CARDS), round(draw.expovariate(0.02), 2)
        row = {
            "event_id": f"p{number}",
            "event_time": START_MS + number * EVENT_MS,
            "card": f"card-{card}",
            "amount": amount,
        }
        yield _message(False, card, row["event_time"], row)
        waiting.append((number, card, amount * draw.random() > 60.0))
        if number >= DELAY:
            yield _label(*waiting[number - DELAY], number)
    for number, card, fraud in waiting[-DELAY:]:
        yield _label(number, card, fraud, number + DELAY)


def _message(is_label: bool, card: int, time_ms: object, row: dict[str, object]) -> Message:
    assert isinstance(time_ms, int)
    return Message(is_label, card, time_ms, f"card-{card}".encode(), encode_json(row))


def _label(number: int, card: int, fraud: bool, at: int) -> Message:
    time_ms = START_MS + at * EVENT_MS
    return _message(True, card, time_ms, {"event_id": f"p{number}", "label": fraud, "label_time": time_ms})


def costs(pipeline: Pipeline, count: int) -> dict[str, float]:
    """Return microseconds of processor time per payment, by part; the label's are in `join` and `learn`.

    One partition, no broker; the examples are folded as they are made.
    """
    run, offsets = LocalRun(pipeline), Counter[bool]()
    run.stopwatch.clock = time.process_time
    made = list(messages(count))
    search_rarely()
    block: dict[bool, list[Record]] = {False: [], True: []}
    topics = {False: pipeline.events.name, True: pipeline.labels.topic or ""}
    begun_s, measured = 0.0, 0
    for message in made:
        of = message.is_label
        block[of].append(Record(topics[of], 0, offsets[of], message.time_ms, message.key, message.value))
        offsets[of] += 1
        measured += begun_s > 0.0 and not of
        if len(block[False]) == BLOCK:
            run.scorer.intake.offer_events(block[False])
            run.scorer.intake.offer_labels(block[True])
            block = {False: [], True: []}
            while run.advance() is not None:
                pass
            if not begun_s and offsets[False] >= count * FIRST_SHARE:
                run.stopwatch.steps.clear()
                begun_s = time.process_time()
    spent_s = time.process_time() - begun_s
    parts = {name: seconds / measured * 1e6 for name, seconds in run.stopwatch.steps.items()}
    parts["the rest"] = spent_s / measured * 1e6 - sum(parts.values())
    return parts
