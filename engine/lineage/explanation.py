"""The explanation of one prediction: what was known, who answered and why, what became of it.

Lives here: the facts of `headrace explain` as one plain object.  Never here: reading logs (`sources.py`), how
a score is taken apart (`operators/models/contributions.py`), how it is printed.

With a replay, the examples log is folded twice on, in order: to the state that answered (contributions), and
over the example (the scores before and after the lesson).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from engine.definition.pipeline import Pipeline
from engine.lineage.history import History, Reign
from engine.lineage.sources import Found
from engine.offline.replay import Replay
from operators.models.contributions import LinearScore, linear_scores, tree_path
from operators.models.scoring import Reply, Scoring
from operators.monitor.reservoir import ReservoirMonitor
from topics.durations import duration_text
from topics.errors import ModelError
from topics.messages import Decision, Example, Prediction, Score

__all__ = ["explained", "liked", "replayed"]

SERVED_BY = {
    "champion": "it was the champion",
    "arm": "the serving policy picked it for this key or event",
    "previous": "the champion could not answer, and it was champion before",
    "prior": "no model could answer: this is the frequency of labels, or their mean",
    "backup": "the event came too late for the champion: the deadline's backup answered",
}
"""Who answered, as predictions say it, in words."""


def explained(
    pipeline: Pipeline, history: History, answer: Found[Prediction], example: Found[Example] | None
) -> dict[str, Any]:
    """Return what the records say of a prediction, without any fold."""
    prediction, record = answer
    return {
        "prediction_id": prediction.prediction_id,
        "event": {
            "event_id": prediction.event_id,
            "time": prediction.event_time,
            "partition": record.partition,
            "offset": prediction.event_offset,
            "late": prediction.late,
            "traceparent": dict(record.headers).get("traceparent", b"").decode(),
        },
        "answer": {
            "score": prediction.prediction_score,
            "label": prediction.prediction_label,
            "threshold": prediction.threshold,
            "partition": record.partition,
            "offset": record.offset,
            "claim": prediction.claim,
            "sequence": prediction.sequence,
            "cold_start": prediction.cold_start,
            "flags": prediction.flags,
        },
        "served": _served(history, prediction, example),
        "features": _features(pipeline, prediction),
        "features_version": dict(record.headers).get("headrace-features", b"").decode(),
        "scores": _scores(prediction, example),
        "label": None if example is None else _label(example),
        "left_out": example is None and not pipeline.learns(prediction.event_id),
        "next_decision": _next_decision(history, example),
    }


def _served(history: History, prediction: Prediction, example: Found[Example] | None) -> dict[str, Any]:
    """Return who answered, in which state, and why."""
    version = history.versions.get(prediction.model_version)
    reign = _reign(history, prediction, example)
    return {
        "model": prediction.model_name,
        "version": prediction.model_version,
        "updates": prediction.model_updates,
        "definition": "" if version is None else version.definition,
        "served_by": prediction.served_by,
        "why": SERVED_BY.get(prediction.served_by, prediction.served_by),
        "champion_since": None if reign is None else reign.plain(),
        "policy": prediction.policy or "shadow",
        "policy_revision": prediction.policy_revision,
        "weights": prediction.weights,
        "propensity": prediction.propensity if prediction.policy else 1.0,
    }


def _reign(history: History, prediction: Prediction, example: Found[Example] | None) -> Reign | None:
    """Return the reign of the version that answered, the newest that had begun by the event's time."""
    begun = [
        reign
        for reign in history.reigns
        if reign.version == prediction.model_version
        and (reign.began is None or reign.began.time <= prediction.event_time or example is None)
    ]
    return begun[-1] if begun else None


def _features(pipeline: Pipeline, prediction: Prediction) -> list[dict[str, Any]]:
    """Return every feature of the catalogue with its value as served; None where it was missing.

    `scored_as` is what the score took for it: of a position the constant, of any other the value.
    """
    known, constants = {entry.name: entry for entry in pipeline.book}, pipeline.plan.constants
    names = [*known, *(name for name in prediction.features if name not in known)]
    return [
        {
            "name": name,
            "value": prediction.features.get(name),
            "scored_as": constants.get(name, prediction.features.get(name)),
            "definition": entry.expression if (entry := known.get(name)) is not None else "",
            "key": "" if entry is None else entry.key,
            "window": "" if entry is None else entry.window,
            "version": "" if entry is None else entry.version,
        }
        for name in names
    ]


def _scores(prediction: Prediction, example: Found[Example] | None) -> dict[str, Score]:
    """Return the scores of all candidates as served; only that of the answer while there is no example."""
    if example is not None:
        return dict(example.message.scores)
    return dict(prediction.scores or {prediction.model_name: prediction.prediction_score})


def _label(example: Found[Example]) -> dict[str, Any]:
    message, record = example
    delay_ms = message.label_time - message.event_time
    return {
        "label": message.label,
        "time": message.label_time,
        "delay_ms": delay_ms,
        "delay": duration_text(delay_ms) if delay_ms >= 0 else f"-{duration_text(-delay_ms)}",
        "implicit": message.expired_at_offset >= 0 and message.label_offset < 0,
        "example_offset": record.offset,
    }


def _next_decision(history: History, example: Found[Example] | None) -> dict[str, Any] | None:
    """Return the first decision at or behind the example."""
    if example is None:
        return None
    after = [one for one in history.decisions if one.offset >= example.record.offset]
    return _decision(min(after, key=lambda one: one.offset)) if after else None


def _decision(decision: Decision) -> dict[str, Any]:
    return {
        "decision_id": decision.decision_id,
        "type": decision.type,
        "time": decision.time,
        "offset": decision.offset,
        "model": decision.model_name,
        "version": decision.model_version,
        "reason": decision.reason,
        "evidence": decision.evidence,
    }


async def replayed(replay: Replay, prediction: Prediction, example: Found[Example] | None) -> dict[str, Any]:
    """Return what only the models can say: contributions in the state that answered, and what was learned.

    Raises ModelError where the log has no such state.
    """
    told: dict[str, Any] = {"contributions": [], "path": "", "learned": None}
    if prediction.served_by != "prior":
        racer = await replay.to_state(prediction.model_version, prediction.model_updates)
        scored = {**prediction.features, **replay.learner.roster.constants}
        told["contributions"] = _plain(linear_scores(racer.model, scored))
        told["path"] = tree_path(racer.model, scored)
    if example is not None:
        await replay.to(example.record.offset)
        before = _scored(replay, example.message)
        await replay.to(example.record.offset + 1)
        after = _scored(replay, example.message)
        told["learned"] = {
            name: {
                "served": example.message.scores.get(name),
                "before": before.get(name),
                "after": after.get(name),
                "updates": racer.updates,
                "version": racer.version,
            }
            for name, racer in replay.learner.roster.racers.items()
        }
    return told


def _scored(replay: Replay, example: Example) -> Mapping[str, Score]:
    """Return what every racer says of an example now, blends too; one that fails says nothing."""
    scoring = Scoring(replay.task, replay.learner.roster)
    return scoring.shadow_all([Reply(example.features, "", None)])[0].scores


def _plain(scores: Sequence[LinearScore]) -> list[dict[str, Any]]:
    return [
        {
            "label": one.label,
            "intercept": one.intercept,
            "total": one.total,
            "features": [part._asdict() for part in one.contributions],
        }
        for one in scores
    ]


async def liked(replay: Replay, prediction: Prediction, count: int) -> list[dict[str, Any]]:
    """Fold the whole log; return the labelled examples of its reservoir that are most like a prediction's.

    Raises ModelError where the pipeline keeps none, and for a log that holds no example that counts.
    """
    await replay.to(None)
    reservoir = replay.learner.monitors.parts.get("reservoir")
    if not isinstance(reservoir, ReservoirMonitor):
        raise ModelError(
            "this pipeline keeps no labelled examples",
            hint="give it Pipeline(reservoir=Reservoir()): the log is folded anew, so they are there at once",
        )
    replay.learner.monitors.report()  # the last examples may not have been looked at
    near = reservoir.near(prediction.features, count + 1)
    return [one for one in near if one["event_id"] != prediction.event_id][:count]
