"""The table of counters of a worker: name, help text and initial labels of each.

Lives here: the table of counters.  Never here: who counts, gauges and histograms (`metrics.py`).

Every label value that a pipeline can count stands at 0 from the first scrape: `increase()` sees the first
dead letter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, get_args

from engine.definition.pipeline import Pipeline
from operators.language.fields import nodes
from operators.language.plan import FeaturePlan
from operators.language.transforms import Apply
from topics.messages import AlertKind

__all__ = ["COUNTERS", "CounterFamily"]

MODEL_STEPS = ("score", "learn", "score_and_learn")
"""What a model does; both, row by row, where labels come inside events."""


class CounterFamily(NamedTuple):
    """One counter: the name it is counted under, what Prometheus sees, the label values that exist from the
    start."""

    counted_as: str
    """The name under which scorers, learner and loops count."""
    name: str
    documentation: str
    labels: tuple[str, ...]
    values: Callable[[Pipeline], Iterable[str]]
    """Every value that the pipeline can count; those of several labels are parted by a space."""


def _always(*values: str) -> Callable[[Pipeline], Iterable[str]]:
    return lambda _: values


def _functions(plan: FeaturePlan) -> Iterator[str]:
    """Return the names of the user's functions that features call."""
    for _, expression in plan.features:
        yield from (part.name for part in nodes(expression) if isinstance(part, Apply))


COUNTERS = (
    CounterFamily(
        "events",
        "headrace_events",
        "Valid events read, by what became of them.",
        ("outcome",),
        _always("accepted", "late", "duplicate", "conflicting", "beyond_horizon"),
    ),
    CounterFamily(
        "key_mismatches",
        "headrace_key_mismatches",
        "Records under another key than their own.",
        ("kind",),
        _always("event", "label"),
    ),
    CounterFamily(
        "rekeyed",
        "headrace_rekeyed_events",
        "Events taken by windows of other keys, in time or late.",
        ("turn",),
        _always("in_time", "late"),
    ),
    CounterFamily(
        "predictions",
        "headrace_predictions",
        "Predictions sent, by who answered.",
        ("served_by",),
        _always("champion", "previous", "prior", "again"),
    ),
    CounterFamily(
        "labels",
        "headrace_labels",
        "Labels, by what became of them.",
        ("outcome",),
        _always(
            "joined",
            "implicit",
            "early",
            "late",
            "duplicate",
            "conflicting",
            "unmatched",
            "given_up",
            "ahead",
        ),
    ),
    CounterFamily(
        "predictions_dropped",
        "headrace_predictions_dropped",
        "Predictions forgotten, by reason.",
        ("reason",),
        _always("expired", "given_up", "forgotten"),
    ),
    CounterFamily(
        "window_evictions",
        "headrace_window_evictions",
        "Entries and keys that left windows early.",
        ("reason",),
        _always("max_events_per_key", "idle"),
    ),
    CounterFamily(
        "dead_letters",
        "headrace_dead_letters",
        "Records refused, by the step that refused.",
        ("stage",),
        _always("decode", "label", "time", "duplicate", "join", "rule", "skip"),
    ),
    CounterFamily(
        "letters_cut",
        "headrace_dead_letters_cut",
        "Dead letters that were cut, by why.",
        ("reason",),
        _always("size"),
    ),
    CounterFamily(
        "rule_hits",
        "headrace_rule_hits",
        "Broken rules, by what was done and rule.",
        ("action", "rule"),
        lambda pipeline: (f"{rule.action} {rule.name}" for rule in pipeline.rules),
    ),
    CounterFamily(
        "function_failures",
        "headrace_function_failures",
        "Calls of apply that failed, by function.",
        ("function",),
        lambda pipeline: _functions(pipeline.plan),
    ),
    CounterFamily(
        "alerts",
        "headrace_alerts",
        "New categories and changed keys of events.",
        ("kind",),
        _always(*get_args(AlertKind)),
    ),
    CounterFamily(
        "model_failures",
        "headrace_model_failures",
        "Candidates that raised or gave no number.",
        ("step", "model"),
        lambda pipeline: (f"{step} {name}" for name in pipeline.models for step in ("score", "learn")),
    ),
    CounterFamily(
        "drifts",
        "headrace_drift_detections",
        "Drift alarms, by detector.",
        ("detector", "direction", "subject"),
        lambda pipeline: (
            f"{type(drift.detector).__name__} {direction} {drift.on}"
            for drift in pipeline.drift
            for direction in (("worse", "better") if drift.on == "loss" else ("worse",))
        ),
    ),
    CounterFamily(
        "promotions",
        "headrace_promotions",
        "Champion swaps, by reason.",
        ("reason",),
        _always("evidence", "quarantine", "command"),
    ),
    CounterFamily(
        "commands",
        "headrace_commands",
        "Commands, by what became of them.",
        ("outcome",),
        _always("done", "refused"),
    ),
    CounterFamily(
        "lookups",
        "headrace_lookups",
        "Static feature look-ups, by what was found.",
        ("outcome",),
        _always("cached", "found", "missing", "unavailable"),
    ),
    CounterFamily(
        "feature_writes",
        "headrace_feature_writes",
        "Keys' features served to others, by outcome.",
        ("outcome",),
        _always("written", "older", "failed", "dropped"),
    ),
    CounterFamily(
        "model_seconds",
        "headrace_model_seconds",
        "Time of models, by what they did.",
        ("step", "model"),
        lambda pipeline: (f"{step} {name}" for name in pipeline.models for step in MODEL_STEPS),
    ),
    CounterFamily(
        "step_seconds",
        "headrace_step_seconds",
        "Time of steps; `send` is waited for.",
        ("step",),
        _always("decode", "features", "score", "answer", "shadows", "join", "learn", "send"),
    ),
)
"""All of them; seconds are counted by `operators/stopwatch.py`."""
