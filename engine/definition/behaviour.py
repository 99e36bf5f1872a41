"""What a definition says of how its models behave, and every refusal of it.

Lives here: tests of models, importance, feedback loops and fairness, against the features that there are.
Never here: what a monitor sees (`operators/monitor`), bounds that need no feature (each refuses its own).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from operators.monitor.behaviour.importance import Importance
from operators.monitor.behaviour.model_tests import Directional, Invariant, ModelTests, Perturbed
from operators.monitor.fairness import Fair, Fairness
from operators.monitor.feedback import Feedback
from topics.errors import DefinitionError

if TYPE_CHECKING:
    from engine.definition.pipeline import Pipeline

__all__ = ["behaviour_settings", "check_behaviour"]

TESTS_MAX = 20
"""Tests of models: each asks the champion up to three times about each row of a sample."""
FAIR_MAX = 20
FEATURES_NAMED = 10


def behaviour_settings(pipeline: Pipeline) -> list[tuple[str, Any]]:
    """Return the settings of the monitors that are declared, by name.

    Raises DefinitionError for what should be a list and is none.
    """
    kinds = Invariant | Directional | Perturbed
    _check_list("tests", pipeline.tests, kinds, 'Invariant("origin")', TESTS_MAX)
    _check_list("fair", pipeline.fair, Fair, 'Fair("sex")', FAIR_MAX)
    settings: list[tuple[str, Any]] = []
    if pipeline.tests:
        settings.append(("tests", ModelTests(tuple(pipeline.tests))))
    if (importance := _importance(pipeline.importance)) is not None:
        settings.append(("importance", importance))
    if pipeline.feedback is not None:
        settings.append(("feedback", pipeline.feedback))
    if pipeline.fair:
        settings.append(("fairness", Fairness(tuple(pipeline.fair))))
    return settings


def check_behaviour(pipeline: Pipeline, types: Mapping[str, type]) -> None:
    """Raise DefinitionError for what is about no feature, or about one of another kind."""
    for test in pipeline.tests:
        _check_test(test, types, pipeline.task)
    for bound in pipeline.fair:
        _check_feature(f"fair: {bound.name}", bound.feature, types)
        if bound.metric != "loss" and pipeline.task != "binary":
            raise DefinitionError(
                f"fair: {bound.name}: the task is {pipeline.task}", hint='compare metric="loss"'
            )
    importance: object = pipeline.importance
    if importance is not None and not isinstance(importance, Importance | bool):
        raise DefinitionError(
            f"importance is {importance!r}", hint="give Importance(), or None to measure none"
        )
    _check_feedback(pipeline.feedback, types, pipeline.task)


def _importance(given: Importance | bool | None) -> Importance | None:
    """Return the settings that are asked for: True is all defaults."""
    if isinstance(given, bool):
        return Importance() if given else None
    return given


def _check_list(name: str, given: Any, kinds: Any, example: str, most: int) -> None:
    if not isinstance(given, Sequence) or any(not isinstance(one, kinds) for one in given):
        raise DefinitionError(f"{name} is {given!r}", hint=f"give a list: {name}=[{example}]")
    if len(given) > most:
        raise DefinitionError(f"{name} has {len(given)} parts", hint=f"give {most} at most")
    names = [one.name for one in given]
    if twice := [one for one in names if names.count(one) > 1]:
        raise DefinitionError(f"{name} has `{twice[0]}` twice", hint="leave one out")


def _check_test(test: Invariant | Directional | Perturbed, types: Mapping[str, type], task: str) -> None:
    place = f"tests: {test.name}"
    if isinstance(test, Perturbed):
        if not any(kind in (int, float) for kind in types.values()):
            raise DefinitionError(f"{place}: no feature is a number", hint="leave it out")
        return
    kind = _check_feature(place, test.feature, types)
    if isinstance(test, Directional):
        if kind not in (int, float):
            raise DefinitionError(
                f"{place}: `{test.feature}` is of type {kind.__name__}",
                hint="name a feature that is a number",
            )
        if task == "multiclass":
            raise DefinitionError(
                f"{place}: of several classes there is no up and down", hint="leave it out, or use Invariant"
            )


def _check_feature(place: str, feature: str, types: Mapping[str, type]) -> type:
    if feature not in types:
        raise DefinitionError(
            f"{place}: `{feature}` is no feature",
            hint=f"name one of: {', '.join(list(types)[:FEATURES_NAMED])}",
        )
    return types[feature]


def _check_feedback(feedback: object, types: Mapping[str, type], task: str) -> None:
    if feedback is None:
        return
    if not isinstance(feedback, Feedback):
        raise DefinitionError(f"feedback is {feedback!r}", hint='give Feedback(item="movie_id")')
    if task == "regression":
        raise DefinitionError("feedback: a regression shows no items", hint="leave feedback out")
    if task == "multiclass":
        if feedback.item:
            raise DefinitionError(
                f"feedback: item={feedback.item!r}, and an answer is one of several classes",
                hint="leave item out: what is shown is the class",
            )
        return
    _check_feature("feedback", feedback.item, types)
