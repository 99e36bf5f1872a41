"""Files in, the same two state machines, no broker.

Lives here: reading events and labels from JSON lines, driving scorer and learner over an
examples log in memory, the report.  Never here: anything a Kafka run does differently.

The examples log is real records with offsets, encoded and decoded like those of a topic, so
that folding them anywhere else gives the same models.  Files have no arrival times: nothing
is refused as too far ahead, and `prediction_time` is the event time that a run ends with.
"""

from __future__ import annotations

import base64
import itertools
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import IO, Any, Generic, Protocol, TypeVar

import msgspec
from msgspec.structs import replace

from engine.definition.pipeline import Pipeline
from engine.machines.admission import Run
from engine.machines.field_records import entrant_of
from engine.machines.learner import Learner
from engine.machines.outbox import Scored
from engine.machines.scorer import Scorer
from engine.machines.watching import verdicts_of
from engine.offline.diagnosis import Facts, InputFiles, diagnose, failures
from engine.offline.json_lines import HEAD_LINES_MAX, Names, head_of, lines_of, read_lines
from engine.offline.recording import Recording
from engine.offline.score_table import ScoreTable
from engine.stores.files.entry_tables import Spill
from engine.stores.lookups import StaticHistory
from engine.watches import DeadLetters
from engine.worker.assembly import build_learner
from engine.worker.model_factory import ModelFactory
from operators.claims.rule import Suppression, Writer
from operators.join.weak import WEAK_VOTES
from operators.stopwatch import Stopwatch
from operators.windows.asof import AsOf
from operators.windows.evaluate import FUNCTION_FAILURES
from topics import headers
from topics.codec import Rejected, decode_alert, decode_example, encode, encode_json
from topics.errors import SettingsError
from topics.headers import Refusal
from topics.messages import AlertRecord, Claim, Decision, FieldChange, Outgoing, Record

__all__ = [
    "BACKTEST_CLAIM",
    "Backtest",
    "LocalRun",
    "Playing",
    "backtest",
    "correlated",
    "last_time",
    "plain_letter",
    "race_report",
    "writers",
]

BACKTEST_CLAIM = 1
"""A backtest owns its partition from the start."""
ALERTS_SHOWN_MAX = 1_000
"""Alert records in a report; what is new may be new in every event."""
OUTCOMES = ("events", "labels", "predictions_dropped", "window_evictions")
"""Counts that are reported as they are, under the names of a worker's metrics."""


class LocalRun:
    """Scorer and learner of one partition, joined by an examples log in memory.

    Feed records, then call `advance` until it returns None.  `examples` keeps the log if asked to.
    `static` is what look-ups find; without it they are missing.  `recording` gets what a worker would write.
    `source` has the key of candidates that start with what they learned elsewhere.  Raises ModelError for one
    that cannot.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        *,
        warmup: int = 0,
        keep_examples: bool = False,
        static: AsOf | None = None,
        recording: Recording | None = None,
        source: ModelFactory | None = None,
    ) -> None:
        self.pipeline = pipeline
        self.stopwatch = Stopwatch(time.perf_counter)
        source = source or ModelFactory(pipeline)
        brought = source.brought(pipeline.field, pipeline.candidates)
        self.learner = build_learner(pipeline, warmup_offset=warmup, stopwatch=self.stopwatch, source=source)
        self.learner.keep_no_versions()
        self.decisions: list[Decision] = []
        self.examples: list[Record] | None = [] if keep_examples else None
        self._recording = recording
        self._recorded = 0
        """Decisions that are in the recording."""
        self._examples_topic = pipeline.catalog["examples"]
        self._offsets = itertools.count()
        inside = pipeline.labels.field is not None
        self._spill = Spill()
        self.scorer = Scorer(
            pipeline,
            partition=0,
            roster=self.learner.roster,
            writer=Writer(0, BACKTEST_CLAIM),
            suppression=Suppression(),
            stopwatch=self.stopwatch,
            stored=self._spill.stored,
        )
        self._inside = inside
        self._static = StaticHistory(pipeline.plan.lookups, static) if static is not None else None
        if inside:
            self.scorer.learn_with(self.learner, lambda decisions, _: self.decisions.extend(decisions))
        self._fold([Outgoing("examples", 0, None, encode(Claim(0, BACKTEST_CLAIM)), headers.CLAIM, 0)])
        if brought:
            begins = FieldChange(
                pipeline.field.field_id,
                0,
                entering=tuple(entrant_of(pipeline.field, name, one) for name, one in brought),
            )
            self._fold([Outgoing("examples", 0, None, encode(begins), headers.FIELD, 0)])
        if recording is not None:
            recording.point(self.learner)

    def take_alerts(self) -> list[AlertRecord]:
        """Return what the learner tells people of since the last call."""
        return [] if self.learner.alerts is None else self.learner.alerts.take()

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
        if self._inside and self.examples is None and self._recording is None:
            return out  # learned when they were made
        lessons = [record for record in out if record.target == "examples"]
        if self._inside:
            self._written(lessons)
        else:
            self._fold(lessons)
        if self._recording is not None:
            for role in ("predictions", "decisions"):
                self._recording.add(role, (one for one in out if one.target == role))
            self._recording.decided(self.decisions[self._recorded :], self.learner)
            self._recorded = len(self.decisions)
        return out

    def _fold(self, lessons: Sequence[Outgoing]) -> None:
        """Write records to the examples log and let the learner read them."""
        self.decisions += self.learner.fold(self._written(lessons))

    def _written(self, lessons: Sequence[Outgoing]) -> list[Record]:
        """Return records as they lie in the examples log."""
        if self._recording is not None:
            self._recording.add("examples", lessons)
        topic = self._examples_topic
        records = [outgoing.written(topic, 0, next(self._offsets)) for outgoing in lessons]
        if self.examples is not None:
            self.examples += records
        return records


def last_time(run: Run) -> int:
    """Return the time with which a run ends."""
    last = run.events[-1] if run.events else run.labels[-1]
    return max(0, last.time)


class LocalMachines(Protocol):
    """Machines of one partition over a log in memory, as `Playing` drives them."""

    pipeline: Pipeline
    scorer: Scorer

    @property
    def examples_learned(self) -> int:
        """Return how many examples were learned."""
        ...

    def advance(self) -> list[Outgoing] | None:
        """Take the next run; return what leaves it, or None if there is nothing to take."""
        ...

    def take_alerts(self) -> list[AlertRecord]:
        """Return what the learner tells people of since the last call."""
        ...


AnyRun = TypeVar("AnyRun", bound=LocalMachines)


class Playing(Generic[AnyRun]):
    """The inputs of a run over files, driven to their ends, and what was read and refused."""

    def __init__(self, run: AnyRun, warmup: int = 0) -> None:
        self.run = run
        self.score_table = ScoreTable(run.pipeline, warmup)
        self.dead_letters = DeadLetters()
        self.alerts: list[AlertRecord] = []
        """What people would have been told of, the first `ALERTS_SHOWN_MAX`."""
        self.events = self.labels = 0
        self.seconds = 0.0

    def play(
        self,
        events: Iterable[Sequence[Record]],
        labels: Iterable[Sequence[Record]],
        *,
        on_scored: Callable[[Sequence[Scored]], None] | None = None,
        on_refused: Callable[[Refusal, bytes | None], None] | None = None,
        on_progress: Callable[[int], None] | None = None,
    ) -> None:
        """Drive both inputs to their ends.

        `on_scored` gets the answers of each run with every candidate's score, `on_refused` each dead
        letter, `on_progress` the number of records of each run.
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
            out = self.run.advance()
            if out is None:
                break
            for record in out:
                if record.target == "examples" and headers.record_type_of(record.headers) == "example":
                    self.score_table.add(decode_example(record.value or b""))
                elif record.target == "dead-letters":
                    refusal = self.dead_letters.add(record.headers)
                    if on_refused is not None:
                        on_refused(refusal, record.value)
                elif record.target == "alerts":
                    self._told([decode_alert(record.value or b"")])
            self._told(self.run.take_alerts())
            if on_scored is not None:
                on_scored(scorer.scored)
            if on_progress is not None:
                on_progress(before - len(intake))
        self.seconds = time.perf_counter() - started

    def _told(self, alerts: Sequence[AlertRecord]) -> None:
        self.alerts += alerts[: ALERTS_SHOWN_MAX - len(self.alerts)]

    def play_files(
        self,
        events: Path,
        labels: Path | None,
        *,
        on_scored: Callable[[Sequence[Scored]], None] | None = None,
        on_refused: Callable[[Refusal, bytes | None], None] | None = None,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> None:
        """Drive both files to their ends; `on_progress` gets records of a run, and bytes read of both files.

        Raises SettingsError where the pipeline needs a labels file and none is given, or the other way round.
        """
        pipeline = self.run.pipeline
        inside = pipeline.labels.field is not None
        if inside != (labels is None):
            raise SettingsError(
                "labels come inside the events" if inside else "no labels file",
                hint="leave --labels out" if inside else "give --labels FILE with one label message per line",
            )
        read = {"events": 0, "labels": 0}
        self.play(
            read_lines(events, pipeline.events.name, lambda bytes_read: read.update(events=bytes_read)),
            ()
            if labels is None
            else read_lines(
                labels, pipeline.labels.topic or "", lambda bytes_read: read.update(labels=bytes_read)
            ),
            on_scored=on_scored,
            on_refused=on_refused,
            on_progress=(lambda count: on_progress(count, sum(read.values()))) if on_progress else None,
        )

    def facts(self) -> Facts:
        """Return what a diagnosis goes by."""
        pipeline, scorer = self.run.pipeline, self.run.scorer
        return Facts(
            task=pipeline.task,
            wait_ms=pipeline.labels.wait_ms,
            inside=pipeline.labels.field is not None,
            events=self.events,
            labels=self.labels,
            examples=self.run.examples_learned,
            outcomes=scorer.counts,
            first={stage: refusal.message for stage, refusal in self.dead_letters.first.items()},
            labels_waiting=scorer.join.early,
        )

    def label_outcomes(self) -> dict[str, int]:
        """Return how many labels were read, and what became of them and of those that did not come."""
        return self.run.scorer.labels.report()

    def counted(self) -> dict[str, Any]:
        """Return the part of a report that says what became of the input."""
        counts = self.run.scorer.counts
        return {
            "rules": {
                name.partition(" ")[2]: count
                for (counted_as, name), count in counts.items()
                if counted_as == "rule_hits"
            },
            "alerts": [msgspec.to_builtins(alert) for alert in self.alerts],
            "function_failures": {
                name: count for (counted_as, name), count in counts.items() if counted_as == FUNCTION_FAILURES
            },
            "outcomes": {
                metric: {
                    name: count
                    for (counted_as, name), count in counts.items()
                    if counted_as == metric and count
                }
                for metric in OUTCOMES
            },
            "labels_waiting": self.run.scorer.join.early,
            "completeness": self.run.scorer.completeness.report(),
            "weak": _weak(self.run.scorer.counts),
            "dead_letters": sum(self.dead_letters.counts.values()),
        }

    def outcome(self, events: Path, labels: Path | None) -> dict[str, Any]:
        """Return the part of a report that says what was wrong with the files, if anything was."""
        pipeline, facts = self.run.pipeline, self.facts()
        files = {pipeline.events.name: str(events)} | (
            {} if labels is None else {pipeline.labels.topic or "": str(labels)}
        )
        diagnosis = diagnose(facts, _inputs(pipeline, events, labels)) if failures(facts) else None
        return {
            "dead_letters_by_stage": self.dead_letters.report(files),
            "diagnosis": None if diagnosis is None else diagnosis.plain(),
        }


class Backtest(Playing[LocalRun]):
    """One backtest: what it read, what it found, and the report of both."""

    def __init__(
        self,
        pipeline: Pipeline,
        *,
        warmup: int = 0,
        static: AsOf | None = None,
        keep_examples: bool = False,
        recording: Recording | None = None,
        source: ModelFactory | None = None,
    ) -> None:
        run = LocalRun(
            pipeline,
            warmup=warmup,
            static=static,
            keep_examples=keep_examples,
            recording=recording,
            source=source,
        )
        super().__init__(run, warmup)

    def report(self) -> dict[str, Any]:
        """Return the result as one plain object, metrics by River's class names."""
        learner = self.run.learner
        roster = learner.roster
        return {
            "events": self.events,
            "labels": self.label_outcomes(),
            "examples": learner.examples,
            "seconds": round(self.seconds, 3),
            **race_report(learner.roster.champion, self.run.decisions),
            **self.score_table.report(learner.evaluation, list(roster.racers), roster.quarantined),
            "model_seconds": self._model_seconds(),
            "correlated": correlated(learner, self.run.decisions),
            **({"slices": {}, "calibration": {}} | learner.monitors.report()),
            **self.counted(),
        }

    def _model_seconds(self) -> dict[str, float]:
        """Return how long each candidate scored and learned."""
        spent: defaultdict[str, float] = defaultdict(float)
        for (_, name), seconds in self.run.stopwatch.models.items():
            spent[name] += seconds
        return {name: round(seconds, 3) for name, seconds in spent.items()}


def _weak(counts: Counter[tuple[str, str]]) -> dict[str, dict[str, int]]:
    """Return what each labelling function said, and how often it was right where the truth came."""
    said: dict[str, dict[str, int]] = {}
    for (counted_as, name), count in counts.items():
        if counted_as == WEAK_VOTES:
            outcome, _, function = name.partition(" ")
            said.setdefault(function, {})[outcome] = count
    return said


def correlated(learner: Learner, decisions: Iterable[Decision]) -> list[dict[str, Any]]:
    """Return the comparisons, at swaps and at the end, whose blocks of evidence are too short."""
    swaps = [(decision.model_name, decision.from_model, decision.evidence) for decision in decisions]
    now = [(one.name, learner.roster.champion, one._asdict()) for one in learner.evidence.compared()]
    return [
        {
            "model": model,
            "champion": champion,
            "correlation": comparison["correlation"],
            "blocks": comparison["blocks"],
            "evidence_block": comparison["block_wanted"],
        }
        for model, champion, comparison in (*swaps, *now)
        if comparison.get("block_wanted")
    ]


def race_report(champion: str, decisions: Iterable[Decision]) -> dict[str, Any]:
    """Return how a race went as one plain object: who leads at its end, swaps, drifts, who left."""
    decisions = list(decisions)
    return {
        "champion": champion,
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
            for decision in decisions
            if decision.type in {"model.promoted", "model.rolled_back"}
        ],
        "openings": [
            {
                "time": decision.time,
                "examples": decision.examples,
                "model": decision.model_name,
                "reason": decision.reason,
            }
            for decision in decisions
            if decision.type == "opening.started"
        ],
        "starts": _starts(decisions),
        "drifts": [
            {
                "time": decision.time,
                "examples": decision.examples,
                "type": decision.type,
                "model": decision.model_name,
                "reason": decision.reason,
            }
            for decision in decisions
            if decision.type.startswith("drift.")
        ],
        "verdicts": verdicts_of(decisions),
        "quarantined": {
            decision.model_name: {
                "time": decision.time,
                "examples": decision.examples,
                "alias": decision.evidence["alias"],
                "reason": decision.reason,
            }
            for decision in decisions
            if decision.type == "model.quarantined"
        },
    }


def _starts(decisions: Iterable[Decision]) -> list[dict[str, Any]]:
    """Return how many challengers have started by themselves, by reason, and the last of each."""
    starts: dict[str, dict[str, Any]] = {}
    for decision in decisions:
        if decision.type == "challenger.started":
            before = starts.get(decision.reason, {"count": 0})
            starts[decision.reason] = {
                "reason": decision.reason,
                "count": before["count"] + 1,
                "time": decision.time,
                "examples": decision.examples,
                "model": decision.model_name,
            }
    return list(starts.values())


def backtest(
    pipeline: Pipeline,
    events: Path,
    labels: Path | None,
    *,
    warmup: int = 0,
    static: AsOf | None = None,
    features_out: IO[bytes] | None = None,
    predictions_out: IO[bytes] | None = None,
    dead_letters_out: IO[bytes] | None = None,
    recording: Recording | None = None,
    source: ModelFactory | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    on_end: Callable[[Learner], object] | None = None,
) -> dict[str, Any]:
    """Run `pipeline` over files and return the report.

    `static` answers look-ups as of each event's time; without it they are missing.
    `features_out` gets one line `{"event_id", "features"}` per answered event, `predictions_out` the
    prediction message plus every candidate's score, `dead_letters_out` each refused record with the reason,
    `recording` what a worker would have written to its topics.  `source` has the key of candidates that start
    with what they learned elsewhere.
    `on_progress` is told the number of records of each run and the bytes of both files read so far,
    `on_end` is handed the learner as the run has left it.
    The report's `diagnosis` says why a run failed, and is None where it did not.  Raises SettingsError
    where the pipeline needs a labels file and none is given, or the other way round.
    """
    result = Backtest(pipeline, warmup=warmup, static=static, recording=recording, source=source)
    on_scored, on_refused = writers(features_out, predictions_out, dead_letters_out)
    result.play_files(events, labels, on_scored=on_scored, on_refused=on_refused, on_progress=on_progress)
    if on_end is not None:
        on_end(result.run.learner)
    if recording is not None:
        recording.point(result.run.learner)
    return result.report() | result.outcome(events, labels)


def writers(
    features_out: IO[bytes] | None, predictions_out: IO[bytes] | None, dead_letters_out: IO[bytes] | None
) -> tuple[Callable[[Sequence[Scored]], None] | None, Callable[[Refusal, bytes | None], None] | None]:
    """Return what writes answers, and what writes refused records, as lines; None where nobody wants them."""

    def write(scored: Sequence[Scored]) -> None:
        for answer, _, scores in scored:
            if features_out is not None:
                row = {"event_id": answer.event_id, "features": answer.features}
                features_out.write(encode_json(row) + b"\n")
            if predictions_out is not None:
                predictions_out.write(encode(replace(answer, scores=scores)) + b"\n")

    def write_refused(refusal: Refusal, value: bytes | None) -> None:
        assert dead_letters_out is not None
        dead_letters_out.write(encode_json(plain_letter(refusal, value)) + b"\n")

    wanted = features_out is not None or predictions_out is not None
    return write if wanted else None, write_refused if dead_letters_out is not None else None


def plain_letter(refusal: Refusal, value: bytes | None) -> dict[str, Any]:
    """Return a dead letter as one plain object; bytes that are no text go as base64.

    >>> plain_letter(Refusal("decode", "E", "no", "t", 0, 4), bytes([255]))["value_base64"]
    '/w=='
    """
    told: dict[str, Any] = refusal._asdict()
    try:
        return told | {"value": None if value is None else value.decode()}
    except UnicodeDecodeError:
        return told | {"value_base64": base64.b64encode(value or b"").decode()}


def _inputs(pipeline: Pipeline, events: Path, labels: Path | None) -> InputFiles:
    """Return the first lines of both files, read again."""

    def head(path: Path | None) -> list[bytes]:
        lines = () if path is None else lines_of(path)
        return [line for _, line in itertools.islice(lines, HEAD_LINES_MAX)]

    event_lines, label_lines = head(events), head(labels)
    topic, of = pipeline.events, pipeline.labels
    fields = msgspec.structs.fields(topic.type)
    sent = {one.name: one.encode_name for one in fields}
    required = frozenset(one.encode_name for one in fields if one.required)
    label_names = of.id, of.label, of.time
    event_decoder, label_decoder = pipeline.event_decoder(), pipeline.label_decoder()

    def fitting(lines: Sequence[bytes], decode: Callable[[Record], object]) -> int:
        records = (Record("", 0, number, None, None, line) for number, line in enumerate(lines))
        return sum(not isinstance(decode(record), Rejected) for record in records)

    return InputFiles(
        events=head_of(event_lines, Names(sent[topic.id], sent[topic.time], of.field, required)),
        labels=head_of(label_lines, Names(of.id, of.time, of.label, frozenset(label_names))),
        events_name=events.name,
        labels_name="" if labels is None else labels.name,
        events_as_labels=fitting(event_lines, label_decoder.decode) if label_decoder else 0,
        labels_as_events=fitting(label_lines, event_decoder.decode),
        label_names=label_names,
    )
