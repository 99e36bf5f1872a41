"""Files in, one race per key, no broker: the same machines as a worker's.

Lives here: driving them over an examples log in memory, the report by key.  Never here: reading files and
driving both inputs (`engine/offline/backtest.py`).

Idle races, beyond `per_max`, lie in a temporary file, as answers that wait do.
"""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any

from engine.definition.pipeline import Pipeline
from engine.machines.keyed.keyed_scorer import KeyedScorer
from engine.machines.keyed.races import KeyedRace
from engine.machines.scorer import Scorer
from engine.offline.backtest import BACKTEST_CLAIM, Playing, last_time, writers
from engine.stores.files.entry_tables import Spill
from engine.stores.lookups import StaticHistory
from engine.worker.assembly import build_keyed_learner
from engine.worker.model_factory import ModelFactory
from operators.claims.rule import Suppression, Writer
from operators.race.learning import CROWNING
from operators.stopwatch import Stopwatch
from operators.windows.asof import AsOf
from topics import headers
from topics.codec import encode
from topics.messages import AlertRecord, Claim, Decision, Outgoing, Record

__all__ = ["KeyedRun", "keyed_backtest"]

KEYS_TOLD = 20
"""Races that a report tells of, those of the most examples."""


class KeyedRun:
    """Scorer and learner of one partition with a race per key, joined by an examples log in memory.

    Feed records, then call `advance` until it returns None.  `examples` keeps the log if asked to.
    `static` is what look-ups find; without it they are missing.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        *,
        keep_examples: bool = False,
        static: AsOf | None = None,
        source: ModelFactory | None = None,
    ) -> None:
        self.pipeline = pipeline
        self.stopwatch = Stopwatch(time.perf_counter)
        self._spill, self._idle = Spill(), Spill(prefixes=("",))
        self.learner = build_keyed_learner(
            pipeline,
            stopwatch=self.stopwatch,
            source=source or ModelFactory(pipeline),
            stored=self._idle.stored,
        )
        self.learner.keep_no_versions()
        self.decisions: list[Decision] = []
        self.examples: list[Record] | None = [] if keep_examples else None
        self.by_key: Counter[str] = Counter()
        """Examples of each key."""
        self._examples_topic = pipeline.catalog["examples"]
        self._offsets = itertools.count()
        self.scorer: Scorer = KeyedScorer(
            self.learner,
            pipeline,
            partition=0,
            writer=Writer(0, BACKTEST_CLAIM),
            suppression=Suppression(),
            stopwatch=self.stopwatch,
            stored=self._spill.stored,
        )
        self._static = StaticHistory(pipeline.plan.lookups, static) if static is not None else None
        self.fold([Outgoing("examples", 0, None, encode(Claim(0, BACKTEST_CLAIM)), headers.CLAIM, 0)])

    @property
    def examples_learned(self) -> int:
        """Return how many examples were learned."""
        return self.learner.examples

    def advance(self, *, events_unread: bool = False, labels_unread: bool = False) -> list[Outgoing] | None:
        """Take the next run; return what leaves it, or None if there is nothing to take."""
        run = self.scorer.intake.next_run(events_unread=events_unread, labels_unread=labels_unread)
        if run is None:
            return None
        looked_up = self._static.of(run) if self._static is not None else None
        out = list(itertools.chain.from_iterable(self.scorer.step(run, last_time(run), looked_up)))
        if self.scorer.join.overfull:
            self._spill.relieve(self.scorer.join)
        self.fold([record for record in out if record.target == "examples"])
        if self.learner.races.overfull:
            self._idle.relieve(self.learner.races)
        return out

    def take_alerts(self) -> list[AlertRecord]:
        """Return nothing: the races of keys tell nobody."""
        return []

    def fold(self, lessons: Sequence[Outgoing]) -> None:
        """Write records to the examples log and let the learner read them."""
        records = [one.written(self._examples_topic, 0, next(self._offsets)) for one in lessons]
        if self.examples is not None:
            self.examples += records
        kind = headers.record_type_of
        self.by_key.update((one.key or b"").decode() for one in records if kind(one.headers) == "example")
        self.decisions += self.learner.fold(records)


def keyed_backtest(
    pipeline: Pipeline,
    events: Path,
    labels: Path | None,
    *,
    static: AsOf | None = None,
    features_out: IO[bytes] | None = None,
    predictions_out: IO[bytes] | None = None,
    dead_letters_out: IO[bytes] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Run a pipeline with `per=` over files and return the report.

    Its arguments, and what it raises, are those of `engine.offline.backtest.backtest`.
    """
    played = Playing(KeyedRun(pipeline, static=static))
    on_scored, on_refused = writers(features_out, predictions_out, dead_letters_out)
    played.play_files(events, labels, on_scored=on_scored, on_refused=on_refused, on_progress=on_progress)
    return keyed_report(played) | played.outcome(events, labels)


def keyed_report(played: Playing[KeyedRun]) -> dict[str, Any]:
    """Return the result as one plain object: totals over all races, and the races of the most examples."""
    run = played.run
    learner, races = run.learner, run.learner.races
    evaluation, names = learner.totals.evaluation, list(learner.field.candidates)
    decisions: dict[str, list[Decision]] = {}
    for decision in run.decisions:
        decisions.setdefault(decision.key, []).append(decision)
    seconds: dict[str, float] = {}
    for (_, name), spent_s in run.stopwatch.models.items():
        seconds[name] = seconds.get(name, 0.0) + spent_s
    return {
        "events": played.events,
        "labels": played.label_outcomes(),
        "examples": learner.examples,
        "seconds": round(played.seconds, 3),
        "per": run.pipeline.per,
        "races": {
            "begun": learner.begun,
            "in_memory": len(races.resident),
            "evicted": races.counts["races", "evicted"],
            "restored": races.counts["races", "restored"],
        },
        "by_key": [
            _of_race(key, count, races.peek(key), decisions.get(key, ()))
            for key, count in run.by_key.most_common(KEYS_TOLD)
        ],
        "decisions": dict(Counter(decision.type for decision in run.decisions)),
        **played.score_table.report(evaluation, names, ()),
        **learner.totals.monitors.report(),
        "model_seconds": {name: round(spent_s, 3) for name, spent_s in seconds.items()},
        **played.counted(),
    }


def _of_race(
    key: str, examples: int, race: KeyedRace | None, decisions: Sequence[Decision]
) -> dict[str, Any]:
    """Return one race as a plain object: who leads, what was served, how often it changed hands."""
    roster = race.roster if race is not None else None
    return {
        "key": key,
        "examples": examples,
        "champion": roster.champion if roster is not None else None,
        "version": roster.racers[roster.champion].version if roster is not None else None,
        "swaps": sum(one.type in CROWNING for one in decisions),
        "served": race.evaluation.served_scores() if race is not None else {},
    }
