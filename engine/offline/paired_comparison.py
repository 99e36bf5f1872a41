"""Several runs over the same examples, compared on the rows that all of them answered with something learned.

Lives here: which rows these are, mean losses and metrics of each run on them.  Never here: the runs.

A run that starts later to learn, or answers less, would else look better or worse by the rows it leaves out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from engine.definition.pipeline import Pipeline
from operators.models.scoring import label_of
from operators.race.evaluation import SERVED, default_metrics
from operators.race.losses import ScaledError, loss_of
from topics.messages import Example, LabelValue, Score

__all__ = ["paired_series"]

Scored = tuple[LabelValue, Score, float | None]
"""Label, score and its loss."""


def paired_series(pipeline: Pipeline, runs: Sequence[Sequence[Example]]) -> tuple[int, list[dict[str, Any]]]:
    """Return the number of rows compared, and of each run its series on them, as plain objects.

    `runs` hold the same examples in the same order of the log.  A series (`served`, or a candidate) has its
    `rows`, fewer where it has no score, `loss` and `metrics` by River's class names.
    """
    warm = [
        all(example.model_updates and example.served_score is not None for example in row)
        for row in zip(*runs, strict=True)
    ]
    return sum(warm), [_series(pipeline, examples, warm) for examples in runs]


def _series(pipeline: Pipeline, examples: Sequence[Example], warm: Sequence[bool]) -> dict[str, Any]:
    """Return the series of one run on the rows marked in `warm`."""
    loss = loss_of(pipeline.task, pipeline.promotion.loss, pipeline.threshold)
    columns: dict[str, list[Scored]] = {SERVED: []}
    for example, counted in zip(examples, warm, strict=True):
        label = example.label
        if counted:
            for name, score in ((SERVED, example.served_score), *example.scores.items()):
                if score is not None:
                    columns.setdefault(name, []).append((label, score, loss(label, score)))
        if isinstance(loss, ScaledError):
            loss.update(label)
    return {name: _figures(pipeline, column) for name, column in columns.items()}


def _figures(pipeline: Pipeline, column: Sequence[Scored]) -> dict[str, Any]:
    losses = [loss for _, _, loss in column if loss is not None]
    chosen = [metric.clone() for metric in pipeline.metrics or default_metrics(pipeline.task)]
    for metric in chosen:
        by_label = getattr(metric, "requires_labels", False)
        for label, score, _ in column:
            answer = label_of(pipeline.task, score, pipeline.threshold) if by_label else score
            metric.update(label, answer)
    return {
        "rows": len(column),
        "loss": sum(losses) / len(losses) if losses else None,
        "metrics": {type(metric).__name__: float(metric.get()) for metric in chosen} if column else {},
    }
