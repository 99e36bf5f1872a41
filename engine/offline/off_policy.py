"""What another serving policy would have given, from a recorded examples log.

Lives here: which examples say something, what their rewards are.  Never here: the estimates
(`operators/serving/off_policy.py`), tables (`engine/cli/evaluate.py`).

An example says something if its policy's pick answered: then its propensity is the probability with which it
was picked.  The reward is what the pipeline's policy means by one: the label where that follows from the
answer (`outcome="served"`), else 1 minus the loss of the answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from engine.definition.pipeline import Pipeline
from engine.machines.counted_examples import CountedExamples
from operators.race.losses import ScaledError, loss_of
from operators.race.routing import SHARES_TOLERANCE, Outcome
from operators.serving.off_policy import Logged, off_policy
from operators.serving.policy_machine import REWARDED, Scale, reward_of_loss
from topics.errors import ModelError, SettingsError
from topics.messages import Record, Score

__all__ = ["evaluation_report", "logged_rewards", "policy_of"]


def policy_of(pipeline: Pipeline, text: str) -> dict[str, float]:
    """Return the shares that `text` gives: `tree=0.3,linear=0.7`, or one name for all.

    Raises SettingsError for what is no share of the pipeline's models.
    """
    shares: dict[str, float] = {}
    for part in text.split(","):
        name, given, share = part.strip().partition("=")
        try:
            shares[name] = float(share) if given else 1.0
        except ValueError:
            shares[name] = -1.0
    unknown = [name for name in shares if name not in pipeline.models]
    wrong = min(shares.values()) < 0.0 or abs(sum(shares.values()) - 1.0) > SHARES_TOLERANCE
    if unknown or wrong:
        raise SettingsError(
            f"{text!r} is no policy: " + (f"`{unknown[0]}` is no model" if unknown else "shares add up to 1"),
            hint=f"give shares of {', '.join(pipeline.models)}, as in {next(iter(pipeline.models))}=1",
        )
    return shares


def logged_rewards(pipeline: Pipeline, records: Sequence[Record]) -> tuple[list[Logged], int]:
    """Return the rewards that an examples log holds, and how many examples count in it.

    Answers that no policy had picked, and those of a fallback, are left out.
    """
    outcome: Outcome = getattr(pipeline.serving, "outcome", "shared")
    scale = Scale(outcome, *getattr(pipeline.serving, "reward", (0.0, 1.0)))
    loss = loss_of(pipeline.task, pipeline.promotion.loss, pipeline.threshold)
    counted, rows, count = CountedExamples(), [], 0
    for record in records:
        example = counted.example(record)
        if example is None:
            continue
        count += 1
        losses = {name: loss(example.label, score) for name, score in example.scores.items()}
        if isinstance(loss, ScaledError):
            loss.update(example.label)
        reward = scale.reward(example, losses)
        if example.propensity is None or example.served_by not in REWARDED or reward is None:
            continue
        said = losses if outcome == "shared" else example.scores
        rows.append(
            Logged(example.key, example.model_name, example.propensity, reward, _numbers(said, outcome))
        )
    return rows, count


def _numbers(said: Mapping[str, Score], outcome: str) -> dict[str, float]:
    """Return what the arms' rewards may follow from: their losses, or their scores that are one number."""
    if outcome == "shared":
        losses = cast("Mapping[str, float | None]", said)
        rewards = {name: reward_of_loss(loss) for name, loss in losses.items()}
        return {name: reward for name, reward in rewards.items() if reward is not None}
    return {name: float(score) for name, score in said.items() if isinstance(score, int | float)}


def evaluation_report(pipeline: Pipeline, records: Sequence[Record], asked: Sequence[str]) -> dict[str, Any]:
    """Return the estimates for each policy as one plain object.

    Raises SettingsError for a policy that is none, ModelError for a log that says nothing about it.
    """
    policies = {text: policy_of(pipeline, text) for text in asked}
    rows, count = logged_rewards(pipeline, records)
    report: dict[str, Any] = {
        "examples": count,
        "rows": len(rows),
        "keys": len({row.key for row in rows}),
        "logged": sum(row.reward for row in rows) / len(rows) if rows else None,
        "policies": {},
    }
    for text, shares in policies.items():
        try:
            found = off_policy(rows, lambda _, shares=shares: shares)  # type: ignore[misc]
        except ValueError as error:
            raise ModelError(
                f"policy {text}: {error}",
                hint="propensities come with serving=Split(...), Switchback(...), Bandit(...) or Canary(...)",
            ) from None
        report["policies"][text] = {
            one.method: {"value": one.value, "low": one.low, "high": one.high, "effective": one.effective}
            for one in found
        }
    return report
