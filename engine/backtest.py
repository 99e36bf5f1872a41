"""Files in, the same two state machines, no broker.

Lives here: reading events and labels from JSON lines, driving scorer and learner over an
examples log in memory, the report.  Never here: anything a Kafka run does differently.

The examples log is real records with offsets, encoded and decoded like those of a topic, so
that folding them anywhere else gives the same models.  Files have no arrival times: nothing
is refused as too far ahead, and `prediction_time` is the event time that a run ends with.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import IO, Any

from msgspec.structs import replace

from engine.ahead import Ahead
from engine.assembly import build_learner
from engine.intake import Run
from engine.lines import read_lines
from engine.outbox import Settled
from engine.pipeline import Pipeline
from engine.scorer import Scorer
from engine.static import StaticHistory
from operators.asof import AsOf
from operators.calculation import FUNCTION_FAILURES
from operators.claims import Suppression, Writer
from topics import headers
from topics.codec import encode, encode_json
from topics.errors import SettingsError
from topics.messages import Claim, Decision, Outgoing, Record

__all__ = ["Backtest", "LocalRun", "backtest", "read_lines"]

CLAIM = 1
"""A backtest owns its partition from the start."""


class LocalRun:
    """Scorer and learner of one partition, joined by an examples log in memory.

    Feed records, then call `advance` until it returns None.  `examples` keeps the log if asked to.
    `static` is what look-ups find; without it they are missing.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        *,
        warmup: int = 0,
        keep_examples: bool = False,
        static: AsOf | None = None,
    ) -> None:
        self.pipeline = pipeline
        self.learner = build_learner(pipeline, warmup_offset=warmup)
        self.decisions: list[Decision] = []
        self.examples: list[Record] | None = [] if keep_examples else None
        self._examples_topic = pipeline.catalog["examples"]
        self._offsets = itertools.count()
        inside = pipeline.labels.field is not None
        self.scorer = Scorer(
            pipeline,
            partition=0,
            roster=self.learner.roster,
            writer=Writer(0, CLAIM),
            suppression=Suppression(),
        )
        self._inside = inside
        self._static = StaticHistory(pipeline.plan.lookups, static) if static is not None else None
        if inside:
            self.scorer.learn_ahead(Ahead(self.learner, self.decisions.extend))
        self._fold([Outgoing("examples", 0, None, encode(Claim(0, CLAIM)), headers.CLAIM, 0)])

    def advance(self, *, events_unread: bool = False, labels_unread: bool = False) -> list[Outgoing] | None:
        """Take the next run; return what leaves it, or None if there is nothing to take."""
        run = self.scorer.intake.next_run(events_unread=events_unread, labels_unread=labels_unread)
        if run is None:
            return None
        looked_up = self._static.of(run) if self._static is not None else None
        out = self.scorer.step(run, _last_time(run), looked_up)
        out += self.scorer.complete()
        if self._inside and self.examples is None:
            return out  # learned when they were made
        lessons = [record for record in out if record.target == "examples"]
        if self._inside:
            self._written(lessons)
        else:
            self._fold(lessons)
        return out

    def _fold(self, lessons: Sequence[Outgoing]) -> None:
        """Write records to the examples log and let the learner read them."""
        self.decisions += self.learner.fold(self._written(lessons))

    def _written(self, lessons: Sequence[Outgoing]) -> list[Record]:
        """Return records as they lie in the examples log."""
        topic = self._examples_topic
        records = [found.written(topic, 0, next(self._offsets)) for found in lessons]
        if self.examples is not None:
            self.examples += records
        return records


def _last_time(run: Run) -> int:
    last = run.events[-1] if run.events else run.labels[-1]
    return max(0, last.time)


class Backtest:
    """One backtest: what it read, what it found, and the report of both."""

    def __init__(self, pipeline: Pipeline, *, warmup: int = 0, static: AsOf | None = None) -> None:
        self.run = LocalRun(pipeline, warmup=warmup, static=static)
        self.events = self.labels = self.seconds = 0.0

    def play(
        self,
        events: Iterable[Sequence[Record]],
        labels: Iterable[Sequence[Record]],
        *,
        on_settled: Callable[[Sequence[Settled]], None] | None = None,
        on_progress: Callable[[int], None] | None = None,
    ) -> None:
        """Drive both inputs to their ends.

        `on_settled` gets the answers of each run with every candidate's score, `on_progress` the number
        of records of each run.
        """
        scorer, intake = self.run.scorer, self.run.scorer.intake
        event_chunks, label_chunks = iter(events), iter(labels)
        started = time.perf_counter()
        while True:
            if not intake.events_buffered and (chunk := next(event_chunks, None)):
                self.events += len(chunk)
                intake.offer_events(chunk)
            if not intake.labels_buffered and (chunk := next(label_chunks, None)):
                self.labels += len(chunk)
                intake.offer_labels(chunk)
            before = len(intake)
            if self.run.advance() is None:
                break
            if on_settled is not None:
                on_settled(scorer.settled)
            if on_progress is not None:
                on_progress(before - len(intake))
        self.seconds = time.perf_counter() - started

    def report(self) -> dict[str, Any]:
        """Return the result as one plain object, metrics by River's class names."""
        learner, counts = self.run.learner, self.run.scorer.counts
        return {
            "events": int(self.events),
            "labels": int(self.labels),
            "examples": learner.examples,
            "seconds": round(self.seconds, 3),
            "champion": learner.roster.champion,
            "swaps": [
                {
                    "time": decision.time,
                    "examples": decision.examples,
                    "from": decision.from_model,
                    "to": decision.model_name,
                    "type": decision.type,
                    "reason": decision.reason,
                    "evidence": decision.evidence,
                }
                for decision in self.run.decisions
                if decision.type in {"model.promoted", "model.rolled_back"}
            ],
            "drifts": [
                {
                    "time": decision.time,
                    "examples": decision.examples,
                    "type": decision.type,
                    "model": decision.model_name,
                    "reason": decision.reason,
                }
                for decision in self.run.decisions
                if decision.type.startswith("drift.")
            ],
            "served": learner.evaluation.served_scores(),
            "models": learner.evaluation.model_scores(),
            "rules": {
                name.partition(" ")[2]: count for (kind, name), count in counts.items() if kind == "rule_hits"
            },
            "alerts": {name: count for (kind, name), count in counts.items() if kind == "alerts"},
            "function_failures": {
                name: count for (kind, name), count in counts.items() if kind == FUNCTION_FAILURES
            },
            "dead_letters": sum(count for (kind, _), count in counts.items() if kind == "dead_letters"),
        }


def backtest(
    pipeline: Pipeline,
    events: Path,
    labels: Path | None,
    *,
    warmup: int = 0,
    static: AsOf | None = None,
    features_out: IO[bytes] | None = None,
    predictions_out: IO[bytes] | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """Run `pipeline` over files and return the report.

    `static` answers look-ups as of each event's time; without it they are missing.
    `features_out` gets one line `{"event_id", "features"}` per answered event, `predictions_out` the
    prediction message plus every candidate's score.  Raises SettingsError where the pipeline needs a
    labels file and none is given, or the other way round.
    """
    inside = pipeline.labels.field is not None
    if inside != (labels is None):
        raise SettingsError(
            "labels come inside the events" if inside else "no labels file",
            hint="leave --labels out" if inside else "give --labels FILE with one label message per line",
        )

    def write(settled: Sequence[Settled]) -> None:
        for answer, _, scores in settled:
            if features_out is not None:
                row = {"event_id": answer.event_id, "features": answer.features}
                features_out.write(encode_json(row) + b"\n")
            if predictions_out is not None:
                predictions_out.write(encode(replace(answer, scores=scores)) + b"\n")

    result = Backtest(pipeline, warmup=warmup, static=static)
    result.play(
        read_lines(events, pipeline.events.name),
        read_lines(labels, pipeline.labels.topic or "") if labels is not None else (),
        on_settled=write if features_out or predictions_out else None,
        on_progress=on_progress,
    )
    return result.report()
