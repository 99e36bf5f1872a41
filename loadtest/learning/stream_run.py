"""One run of a stream through the backtest's machines, kept row by row.

Lives here: what every candidate scored, what was served, and the order in which answers were given and labels
became known.  Never here: rules (`rules.py`), figures of them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from engine.definition.pipeline import Pipeline
from engine.offline.backtest import LocalRun
from topics.codec import decode_example
from topics.messages import Decision, Example, LabelValue, Record, Score, Task

__all__ = ["StreamRun", "records_of_lines", "stream_run_of"]


class StreamRun(NamedTuple):
    """A run: rows in the order of their answers, and what happened when."""

    task: Task
    candidates: list[str]
    """In order of start, the first champion first."""
    labels: list[LabelValue]
    scores: dict[str, list[Score]]
    """By candidate, one for each row; None where it had no opinion."""
    served: list[Score]
    steps: list[tuple[int, bool]]
    """(row, whether this is its label becoming known): answers and labels as they came."""
    decisions: list[Decision]


def stream_run_of(pipeline: Pipeline, events: Iterable[bytes], labels: Iterable[bytes]) -> StreamRun:
    """Return the run of a pipeline over lines of events and labels; rows that no label met are left out."""
    run = LocalRun(pipeline)
    first = run.learner.roster.champion
    run.scorer.intake.offer_events(records_of_lines(pipeline.events.name, events))
    run.scorer.intake.offer_labels(records_of_lines(pipeline.labels.topic or "", labels))
    order: list[tuple[str, bool]] = []
    examples: dict[str, Example] = {}
    while (out := run.advance()) is not None:
        order += [(answer.event_id, False) for answer, _, _ in run.scorer.scored]
        for record in out:
            if record.target == "examples":
                example = decode_example(record.value or b"")
                examples[example.event_id] = example
                order.append((example.event_id, True))
    rows = {
        event_id: row
        for row, event_id in enumerate(
            event_id for event_id, known in order if not known and event_id in examples
        )
    }
    learned = [examples[event_id] for event_id in rows]
    names = [name for name in pipeline.models if any(name in example.scores for example in learned)]
    return StreamRun(
        pipeline.task,
        sorted(names, key=lambda name: name != first),
        [example.label for example in learned],
        {name: [example.scores.get(name) for example in learned] for name in names},
        [example.served_score for example in learned],
        [(rows[event_id], known) for event_id, known in order if event_id in rows],
        run.decisions,
    )


def records_of_lines(topic: str, lines: Iterable[bytes]) -> list[Record]:
    """Return lines as the records of a topic."""
    return [Record(topic, 0, number, None, None, line) for number, line in enumerate(lines)]
