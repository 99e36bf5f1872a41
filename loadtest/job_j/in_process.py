"""Job J in this process: bare River, the plain job, and Headrace, with the check that they agree.

Lives here: the timed loops and what they must agree on.  Never here: Kafka
(`over_kafka.py`), rounds and ratios (`__main__.py`).

Loops are timed in wall seconds and in processor seconds: on an idle machine they are the same, on a
shared one the second leave out what others take.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import NamedTuple

import orjson

from engine.definition.pipeline import Pipeline
from engine.host.garbage import search_rarely
from engine.machines.admission import RUN_MAX
from engine.offline.backtest import LocalRun
from loadtest.job_j.plain import NaiveWindows, features_of, new_model
from topics.errors import ModelError
from topics.messages import Prediction, Record

__all__ = ["PaymentRow", "Timing", "bare_river", "check_equal", "headrace", "plain_job", "take_turns"]

PaymentRow = tuple[dict[str, float], bool]
"""Features and label of one event."""

TURN = 80 * RUN_MAX
"""Events of one turn."""
SUM_ERROR_MAX = 1e-9
"""Of sum |x| of the window: what the engine promises for sums and means."""
SCORE_ERROR_MAX = 1e-9
"""Probabilities of one model on features that differ in the last bits."""

_ENDED = object()


class Timing(NamedTuple):
    """The time of one loop."""

    wall_s: float
    cpu_s: float


def take_turns(loops: Mapping[str, Iterator[None]]) -> dict[str, Timing]:
    """Run loops to their ends, a turn of each after the other; return what each took.

    Turns are some tenths of a second, so what the neighbours of a shared machine do meets all loops alike.
    """
    spent = {name: [0.0, 0.0] for name in loops}
    waiting = dict(loops)
    search_rarely()  # as a worker does, and so that nobody pays for what the benchmark itself keeps
    try:
        while waiting:
            for name, loop in list(waiting.items()):
                wall_s, cpu_s = time.perf_counter(), time.process_time()
                if next(loop, _ENDED) is _ENDED:
                    del waiting[name]
                spent[name][0] += time.perf_counter() - wall_s
                spent[name][1] += time.process_time() - cpu_s
    finally:
        gc.unfreeze()
    return {name: Timing(*both) for name, both in spent.items()}


def bare_river(rows: Sequence[PaymentRow]) -> Iterator[None]:
    """Predict and learn with River alone, features made beforehand: the ratio's 1.00."""
    model = new_model()
    predict, learn = model.predict_proba_one, model.learn_one
    for start in range(0, len(rows), TURN):
        for features, label in rows[start : start + TURN]:
            predict(features)
            learn(features, label)
        yield


def plain_job(events: Sequence[bytes]) -> Iterator[None]:
    """Bytes to bytes as an engineer writes it in an hour: orjson, deques, River, nothing kept."""
    windows, model = NaiveWindows(), new_model()
    for start in range(0, len(events), TURN):
        for value in events[start : start + TURN]:
            event = orjson.loads(value)
            features = windows.step(event)
            score = model.predict_proba_one(features)[True]
            model.learn_one(features, event["label"])
            orjson.dumps({"id": event["id"], "p": score})
        yield


def headrace(pipeline: Pipeline, events: Sequence[bytes]) -> Iterator[None]:
    """Bytes to bytes through scorer and learner, examples encoded.

    Raises ModelError where an event was not answered.
    """
    run = LocalRun(pipeline)
    for start in range(0, len(events), TURN):
        turn = events[start : start + TURN]
        sent = sum(_answers(run, pipeline.events.name, turn, start))
        if sent != len(turn):
            raise ModelError(f"{sent} answers to {len(turn)} events", hint="see the dead letters")
        yield


def _answers(run: LocalRun, topic: str, events: Sequence[bytes], first: int = 0) -> Iterator[int]:
    """Feed events, from offset `first` on, in runs; yield how many predictions left with each."""
    for start in range(0, len(events), RUN_MAX):
        run.scorer.intake.offer_events(
            [
                Record(topic, 0, offset, None, None, value)
                for offset, value in enumerate(events[start : start + RUN_MAX], first + start)
            ]
        )
        while (out := run.advance()) is not None:
            yield [record.target for record in out].count("predictions")


def check_equal(pipeline: Pipeline, events: Sequence[bytes]) -> dict[str, float]:
    """Return the largest differences between Headrace and the plain job over these events.

    Raises ModelError where features or scores differ by more than they may: then nothing is worth
    timing.
    """
    run = LocalRun(pipeline)
    expected = features_of(list(events))
    model = new_model()
    worst = {"exact": 0.0, "sums": 0.0, "scores": 0.0}
    for _ in _answers(run, pipeline.events.name, events):
        scored = run.scorer.scored
        for (answer, _, _), (features, label) in zip(scored, islice(expected, len(scored)), strict=True):
            _compare(answer, features, model.predict_proba_one(features)[True], worst)
            model.learn_one(features, label)
    return worst


def _compare(answer: Prediction, features: dict[str, float], score: float, worst: dict[str, float]) -> None:
    found = answer.features
    if found.keys() != features.keys():
        raise ModelError(
            f"event {answer.event_id} has the features {sorted(found)}, wanted are {sorted(features)}",
            hint="the two jobs must be one",
        )
    for name, wanted in features.items():
        value = found[name]
        assert isinstance(value, (int, float))
        group = "sums" if name.startswith(("sum", "mean")) else "exact"
        scale = max(1.0, abs(wanted)) if group == "sums" else 1.0
        worst[group] = max(worst[group], abs(value - wanted) / scale)
    served = answer.prediction_score
    assert isinstance(served, float)
    worst["scores"] = max(worst["scores"], abs(served - score))
    if worst["exact"] or worst["sums"] > SUM_ERROR_MAX or worst["scores"] > SCORE_ERROR_MAX:
        raise ModelError(
            f"event {answer.event_id} differs: {found} for {features}, score {served} for {score}",
            hint="the two jobs must be one",
        )
