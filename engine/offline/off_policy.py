"""What another serving policy would have given, from a recorded examples log.

Lives here: which examples say something, what their rewards are, which policies can be asked about.  Never
here: the estimates (`operators/serving/off_policy.py`), the policy's own machine over the log
(`operators/serving/policy_replay.py`), tables (`engine/cli/offline/evaluate.py`).

An example says something if its policy's pick answered: then its propensity is the probability with which it
was picked.  The reward is what the pipeline's policy means by one: the label where that follows from the
answer (`outcome="served"`), else 1 minus the loss of the answer.

    linear=0.7,tree=0.3         fixed shares of the events
    Split({...}), Bandit(...)   a policy by its expression, or FILE.py:NAME: its own machine goes over the log
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, cast

from engine.definition.pipeline import Pipeline
from engine.machines.beside.counted_examples import CountedExamples
from engine.offline.what_if import POLICIES, asked_value
from operators.race.losses import ScaledError, loss_of
from operators.race.routing import (
    SHARES_TOLERANCE,
    Bandit,
    Canary,
    Outcome,
    Policy,
    Shadow,
    Split,
    Switchback,
    check_canary,
    check_serving,
)
from operators.serving.off_policy import Estimate, Logged, off_policy
from operators.serving.policy_machine import REWARDED, Scale, reward_of_loss
from operators.serving.policy_replay import Replayed, played
from topics.errors import DefinitionError, ModelError, SettingsError
from topics.messages import Example, Record, Score

__all__ = ["counted_examples", "evaluation_report", "logged_rewards", "policy_of"]


def policy_of(pipeline: Pipeline, text: str) -> dict[str, float] | Policy:
    """Return what `text` asks about: fixed shares, or a serving policy with the log's meaning of a reward.

    Raises SettingsError for what is no share of the pipeline's models, DefinitionError for what is no policy,
    or none that such a log can tell of.
    """
    if "(" not in text and ":" not in text:
        return _shares_of(pipeline, text)
    policy: Policy = asked_value(text, POLICIES)
    if not isinstance(policy, Policy):
        raise DefinitionError(
            f"`{text}` is a {type(policy).__name__} and no serving policy",
            hint="write Split({...}), Switchback(...), Canary(...), Bandit(...) or Shadow()",
        )
    outcome, reward = _meaning(pipeline)
    if isinstance(policy, Split | Switchback | Bandit):
        policy = dataclasses.replace(policy, outcome=outcome, reward=reward)
    elif outcome == "served" and isinstance(policy, Shadow):
        return {pipeline.field.first_champion: 1.0}  # nothing swaps where nothing is compared
    elif outcome == "served":
        raise DefinitionError(
            'a Canary compares what all candidates lost on an event, and with outcome="served" only the one '
            "that answered has an outcome",
            hint="ask about Split, Switchback, Bandit, Shadow or fixed shares",
        )
    check_serving(policy, pipeline.models, pipeline.task)
    if isinstance(policy, Canary):
        types = pipeline.plan.feature_types(pipeline.events.type)
        inside = pipeline.labels.field is not None
        check_canary(policy, pipeline.promotion.loss, types, pipeline.task, inside=inside)
    return policy


def _shares_of(pipeline: Pipeline, text: str) -> dict[str, float]:
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


def _meaning(pipeline: Pipeline) -> tuple[Outcome, tuple[float, float]]:
    """Return what an outcome of the pipeline is, and its smallest and largest reward."""
    serving = pipeline.serving
    return getattr(serving, "outcome", "shared"), getattr(serving, "reward", (0.0, 1.0))


def counted_examples(records: Sequence[Record]) -> list[Example]:
    """Return the examples of a log that count and hold a truth, in its order."""
    counted = CountedExamples()
    found = (counted.example(record) for record in records)
    return [example for example in found if example is not None and example.measured]


def logged_rewards(pipeline: Pipeline, examples: Sequence[Example]) -> dict[int, Logged]:
    """Return the rewards that the examples of a log hold, by the example's number.

    Answers that no policy had picked, and those of a fallback, are left out.
    """
    outcome, bounds = _meaning(pipeline)
    scale = Scale(outcome, *bounds)
    loss = loss_of(pipeline.task, pipeline.promotion.loss, pipeline.threshold)
    rows = {}
    for number, example in enumerate(examples):
        losses = {name: loss(example.label, score) for name, score in example.scores.items()}
        if isinstance(loss, ScaledError):
            loss.update(example.label)
        reward = scale.reward(example, losses)
        if example.propensity is None or example.served_by not in REWARDED or reward is None:
            continue
        said = losses if outcome == "shared" else example.scores
        rows[number] = Logged(
            example.key, example.model_name, example.propensity, reward, _numbers(said, outcome)
        )
    return rows


def _numbers(said: Mapping[str, Score], outcome: str) -> dict[str, float]:
    """Return what the arms' rewards may follow from: their losses, or their scores that are one number."""
    if outcome == "shared":
        losses = cast("Mapping[str, float | None]", said)
        rewards = {name: reward_of_loss(loss) for name, loss in losses.items()}
        return {name: reward for name, reward in rewards.items() if reward is not None}
    return {name: float(score) for name, score in said.items() if isinstance(score, int | float)}


def evaluation_report(pipeline: Pipeline, records: Sequence[Record], asked: Sequence[str]) -> dict[str, Any]:
    """Return the estimates for each policy as one plain object.

    Raises SettingsError or DefinitionError for a policy that cannot be asked about, ModelError for a log that
    says nothing about it.
    """
    policies = {text: policy_of(pipeline, text) for text in asked}
    examples = counted_examples(records)
    by_number = logged_rewards(pipeline, examples)
    rows = list(by_number.values())
    report: dict[str, Any] = {
        "examples": len(examples),
        "rows": len(rows),
        "keys": len({row.key for row in rows}),
        "logged": sum(row.reward for row in rows) / len(rows) if rows else None,
        "policies": {},
    }
    for text, policy in policies.items():
        told: dict[str, Any] = {}
        if isinstance(policy, dict):
            chances: Sequence[Mapping[str, float]] = [policy] * len(rows)
        else:
            went = _replayed(pipeline, policy, examples)
            chances = [went.chances[number] for number in by_number]
            decided = [f"{one.type} {one.model_name}" for one in went.decisions]
            told = {
                "learned": went.learned,
                "decisions": decided,
                "at_the_end": went.chances[-1] if examples else {},
            }
        try:
            found = off_policy(rows, chances)
        except ValueError as error:
            raise ModelError(
                f"policy {text}: {error}",
                hint="propensities come with serving=Split(...), Switchback(...), Bandit(...) or Canary(...)",
            ) from None
        report["policies"][text] = told | {"estimates": {one.method: _plain(one) for one in found}}
    return report


def _replayed(pipeline: Pipeline, policy: Policy, examples: Sequence[Example]) -> Replayed:
    """Play a policy over a log's examples."""
    return played(
        pipeline.name,
        pipeline.task,
        dataclasses.replace(pipeline.field, serving=policy),
        examples,
        wait_ms=pipeline.labels.wait_ms,
        served=_meaning(pipeline)[0] == "served",
    )


def _plain(one: Estimate) -> dict[str, float]:
    return {"value": one.value, "low": one.low, "high": one.high, "effective": one.effective}
