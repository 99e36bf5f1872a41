"""What a definition says of monitors, as the settings of each by name.

Lives here: the slices that a user writes as words and crosses, and every refusal of them.  Never here: what a
monitor sees (`operators/monitor`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from engine.definition.behaviour import behaviour_settings, check_behaviour
from operators.language.alerts import Bound
from operators.language.fields import Feature
from operators.language.signals import monitor_of
from operators.language.transforms import Cross
from operators.monitor.before_labels.answered import SCORED_BLOCKS_MAX
from operators.monitor.before_labels.estimate import Estimated
from operators.monitor.calibration import Calibration
from operators.monitor.random_rows import RandomRows
from operators.monitor.slices import CROSSED, Slices
from operators.monitor.worst import Worst
from operators.race.routing import Shadow
from topics.errors import DefinitionError

if TYPE_CHECKING:
    from engine.definition.pipeline import Pipeline

__all__ = ["check_monitors", "monitor_settings"]

SLICES_MAX = 20
"""Declared features and crosses: each costs every example a row of sums."""
REPORT_EVERY_MIN = 100
"""A report of slices may be as large as a hundred examples."""
FEATURES_NAMED = 10
OF_CLASSES = frozenset({"calibration", "estimate"})
"""Monitors that see nothing in a regression."""
DECLARED_BY = {
    "worst": 'slices=["origin"]',
    "calibration": "calibration=Calibration()",
    "estimate": "estimate=Estimated()",
    "tests": 'tests=[Invariant("origin")]',
    "feedback": "feedback=Feedback(...)",
    "fairness": 'fair=[Fair("sex")]',
}
"""How a definition asks for the monitors that an alert may be about."""


def monitor_settings(pipeline: Pipeline) -> tuple[tuple[str, Any], ...]:
    """Return the settings of every monitor, by name.

    Where each key has a race of its own, those that are kept over all races of a partition.
    """
    of_classes = [("calibration", pipeline.calibration), ("estimate", pipeline.estimate)]
    if pipeline.per is not None:
        return tuple(of_classes)
    settings: list[tuple[str, Any]] = []
    if pipeline.slices:
        by = tuple(_features_of(one) for one in pipeline.slices)
        limits = {"values_max": pipeline.slice_values_max, "bins": pipeline.slice_bins}
        settings.append(("slices", Slices(by, **limits)))
    if pipeline.slices or pipeline.worst is not None:
        settings.append(("worst", pipeline.worst or Worst()))
    if pipeline.reservoir is not None:
        settings.append(("reservoir", pipeline.reservoir))
    settings += behaviour_settings(pipeline)
    if not isinstance(pipeline.serving, Shadow):
        settings.append(("random", RandomRows()))
    return (*settings, *of_classes)


def check_monitors(pipeline: Pipeline, types: Mapping[str, type]) -> None:
    """Raise DefinitionError for slices of what is no feature, or of too much."""
    if pipeline.reservoir is not None:
        if pipeline.per is not None:
            raise DefinitionError(
                "a reservoir is of one race, and with `per` every key has its own",
                hint="leave `reservoir` or `per` out",
            )
        _check_features("reservoir", pipeline.reservoir.by, types)
    slices = pipeline.slices
    if isinstance(slices, str) or not isinstance(slices, Sequence):
        raise DefinitionError(
            f"slices is {slices!r}, no list",
            hint='give a list: slices=["origin", cross("origin", "carrier")]',
        )
    if len(slices) > SLICES_MAX:
        raise DefinitionError(f"slices has {len(slices)} parts", hint=f"give {SLICES_MAX} at most")
    told: set[str] = set()
    for one in slices:
        features = _features_of(one)
        _check_features("slices", features, types)
        if CROSSED.join(features) in told:
            raise DefinitionError(f"slices has `{CROSSED.join(features)}` twice", hint="leave one out")
        told.add(CROSSED.join(features))
    Slices((), values_max=pipeline.slice_values_max, bins=pipeline.slice_bins)
    check_behaviour(pipeline, types)
    _check_watched(pipeline)
    for name, kind in (("calibration", Calibration), ("estimate", Estimated), ("worst", Worst)):
        if (one := getattr(pipeline, name)) is not None and not isinstance(one, kind):
            raise DefinitionError(
                f"{name} is {one!r}", hint=f"give {kind.__name__}(), or None to leave it out"
            )
    _check_report_every(pipeline.report_every)
    _check_answered(pipeline)
    below: Any = pipeline.abstain_below
    if below is not None and not (isinstance(below, float | int) and 0.0 < below <= 1.0):
        raise DefinitionError(
            f"abstain_below is {below!r}", hint="give a chance such as 0.6, or leave it out"
        )
    if below is not None and pipeline.task == "regression":
        raise DefinitionError(
            "abstain_below needs probabilities, and a regression has none", hint="leave abstain_below out"
        )
    for name, candidate in pipeline.candidates.items():
        if candidate.recalibrate is not None and pipeline.task != "binary":
            raise DefinitionError(
                f"model `{name}` is recalibrated and the task is {pipeline.task}",
                hint="leave recalibrate out: it is for two classes",
            )


def _check_answered(pipeline: Pipeline) -> None:
    """Raise DefinitionError where answers are to be counted before their labels and cannot be."""
    estimate, watch = pipeline.estimate, pipeline.watch
    if estimate is None or not estimate.answered:
        return
    if pipeline.task == "regression" or pipeline.per is not None:
        of = "a regression" if pipeline.task == "regression" else "races by key"
        raise DefinitionError(
            f"estimate.answered counts scores of answers, and nothing is estimated of {of}",
            hint="leave answered=True out",
        )
    if watch is not None and watch.block_ms != estimate.block_ms:
        raise DefinitionError(
            f"estimate.block is {estimate.block!r} and watch.block {watch.block!r}",
            hint="answers are counted in one kind of block: give both the same length, or leave answered out",
        )
    if pipeline.grace_ms > (SCORED_BLOCKS_MAX - 2) * estimate.block_ms:
        raise DefinitionError(
            f"estimate.block={estimate.block!r} is too short for events that may come"
            f" {pipeline.grace_ms} ms late",
            hint=f"at most {SCORED_BLOCKS_MAX - 2} blocks may be open at once: lengthen estimate.block",
        )


def _check_report_every(every: object) -> None:
    if every is not None and not (type(every) is int and every >= REPORT_EVERY_MIN):
        raise DefinitionError(
            f"report_every is {every!r}",
            hint=f"give a whole number of examples, {REPORT_EVERY_MIN} or more, or None to write no reports",
        )


def _check_watched(pipeline: Pipeline) -> None:
    """Raise DefinitionError for an alert about the signal of a monitor that is not there."""
    kept = {name for name, one in monitor_settings(pipeline) if one is not None}
    if pipeline.task == "regression":
        kept -= OF_CLASSES
    if pipeline.per is not None:
        kept = set()  # what is kept over all races tells nobody
    for alert in pipeline.policies:
        if not isinstance(alert.when, Bound):
            continue
        monitor = monitor_of(alert.when.signal)
        if monitor and monitor not in kept:
            of_classes = pipeline.task == "regression" and monitor in OF_CLASSES
            raise DefinitionError(
                f"alert `{alert.name}`: {alert.when!r} is kept by a monitor that this pipeline has not",
                hint="leave it out: the monitor is for classes, and the task is regression"
                if of_classes
                else f"add {DECLARED_BY[monitor]} to the pipeline, or leave the alert out",
            )


def _check_features(place: str, names: Sequence[str], types: Mapping[str, type]) -> None:
    for name in names:
        if name not in types:
            raise DefinitionError(
                f"{place} has `{name}`, which is no feature",
                hint=f"name one of: {', '.join(list(types)[:FEATURES_NAMED])}",
            )


def _features_of(one: object) -> tuple[str, ...]:
    """Return the names of the features of one part of `slices`."""
    if isinstance(one, str):
        return (one,)
    if isinstance(one, Cross):
        names = tuple(part.name for part in one.inputs if isinstance(part, Feature))
        if len(names) == len(one.inputs) and len(set(names)) == len(names):
            return names
    raise DefinitionError(
        f"slices has {one!r}", hint='name features: "origin", or cross("origin", "carrier") of different ones'
    )
