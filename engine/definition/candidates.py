"""A definition's models and detectors: which may race, at which task, watched by what.

Lives here: the checks of River's objects that need no event, and the task that follows from them.  Never
here: what else a candidate says (`operators/race/candidates.py`), whether a model can take the pipeline's
features (`operators/models/probe.py` tries it), what it learns.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from typing import Any, get_args, get_type_hints

import msgspec
from river import active, base, multiclass

from operators.drift.detectors import FEATURE, Drift
from operators.models.guards import last_step
from operators.models.parameters import unseeded_parts
from operators.race.blend import OPENING, Blend, OpeningName, check_blends, first_of, with_blend
from operators.race.candidates import Candidate, candidate_of, made_of
from topics.errors import DefinitionError
from topics.messages import Task

__all__ = ["check_detectors", "check_model_classes", "checked_candidates", "scoring_models", "task_of"]

CANDIDATES_MAX = 16
"""Every candidate scores every event; more than this is a search, not a race."""
RESERVED = ("served", "prior")
"""Names that metrics and predictions use for what is no candidate."""
_SEVERAL = (multiclass.OneVsRestClassifier, multiclass.OneVsOneClassifier, multiclass.OutputCodeClassifier)
"""Nobody wraps a classifier in these for two classes."""


def checked_candidates(
    models: Mapping[str, Any], champion: str | None, opening: OpeningName | None = None
) -> dict[str, Candidate]:
    """Return `models` as candidates with clones of their models, by name, and the blend that opens the race.

    Raises DefinitionError for what is no model that can be replayed, and for a champion that is none of them.
    """
    if not models:
        raise DefinitionError("a pipeline without models", hint='give models={"name": a River model}')
    if len(models) > CANDIDATES_MAX:
        raise DefinitionError(
            f"{len(models)} models are more than {CANDIDATES_MAX}", hint="race fewer candidates at once"
        )
    if opening is not None and opening not in get_args(OpeningName):
        raise DefinitionError(f"opening is {opening!r}", hint='use "blend" or "leader", or name a champion')
    if opening is not None and champion is not None:
        raise DefinitionError(
            f"champion is {champion!r} and opening is {opening!r}: who serves first is said twice",
            hint="leave one out: champion names who serves first, opening is for when nobody is named",
        )
    opening = opening or OPENING
    candidates = with_blend({name: candidate_of(model) for name, model in models.items()}, champion, opening)
    first = champion if champion is not None else first_of(candidates, opening)
    if first not in candidates:
        raise DefinitionError(f"champion `{first}` is no model", hint=f"name one of: {', '.join(models)}")
    of_champion = candidates[first].model
    for name, candidate in candidates.items():
        if made_of(name) in candidates:
            raise DefinitionError(
                f"model `{name}` has a name that the race gives to a challenger or twin of `{made_of(name)}`",
                hint=f"rename it, to {_free(name, candidates)!r} for instance",
            )
        model = candidate.model
        if model is None:
            # A blend is no model that a copy could be of: refused like a champion that copies itself.
            model = None if isinstance(of_champion, Blend) else of_champion
        _check_model(name, model)
        candidates[name] = replace(candidate, model=model.clone())
    check_blends(candidates)
    return candidates


def _free(name: str, taken: Container[str]) -> str:
    """Return a name like this one that nobody has and the race never makes."""
    free = "_".join(name.rsplit("-", 1))
    while free in taken:
        free += "_"
    return free


def _check_model(name: str, model: Any) -> None:
    """Raise DefinitionError for what is no model that can be replayed."""
    if name in RESERVED:
        raise DefinitionError(
            f"no model can be called `{name}`: it means what was served by any of them",
            hint="rename the model",
        )
    if model is None:
        raise DefinitionError(
            f"model `{name}` is a copy of the champion, and that is itself or a blend",
            hint="give it a River estimator, or name another champion",
        )
    if isinstance(model, Blend):
        return
    if not isinstance(model, base.Estimator):
        raise DefinitionError(
            f"model `{name}` is a {type(model).__name__}, not a River estimator",
            hint="pass an object such as river.linear_model.LogisticRegression()",
        )
    if places := list(unseeded_parts(model)):
        raise DefinitionError(
            f"model `{name}` is random without a seed ({', '.join(places)})",
            hint="pass seed=42 or any other: the same log must give the same models again",
        )


def scoring_models(models: Mapping[str, Any]) -> dict[str, Any]:
    """Return the models that score features by themselves: all but blends."""
    return {name: model for name, model in models.items() if not isinstance(model, Blend)}


def task_of(models: Mapping[str, Any], event_type: type[msgspec.Struct], label_field: str | None) -> Task:
    """Return the task that River's classes name; `label_field` is that of labels inside events.

    Many River classifiers take two classes or more, so the base class does not always decide.  Then
    wrappers that make several classes of two (one-vs-rest), or a text label inside the event, mean
    multiclass, anything else binary.
    """
    models = scoring_models(models)
    lasts = {name: last_step(model) for name, model in models.items()}
    for name, last in lasts.items():
        if not isinstance(last, base.Regressor | base.Classifier):
            raise DefinitionError(
                f"model `{name}` is neither a classifier nor a regressor",
                hint="end the pipeline with a River classifier or regressor",
            )
    regressors = [name for name, last in lasts.items() if isinstance(last, base.Regressor)]
    if regressors:
        if len(regressors) < len(models):
            raise DefinitionError(
                f"regressors ({', '.join(regressors)}) and classifiers cannot race",
                hint="keep them in two pipelines",
            )
        return "regression"
    several = [name for name, last in lasts.items() if isinstance(last, _SEVERAL)]
    two = [name for name, model in models.items() if not model._multiclass]
    if several and two:
        raise DefinitionError(
            f"{_listed(two)} takes two classes, {_listed(several)} is made for more: which task is it?",
            hint='say task="binary" or task="multiclass" in the pipeline; for several classes wrap '
            f"{_listed(two)} in river.multiclass.OneVsRestClassifier too",
        )
    if two:
        return "binary"
    label_type = get_type_hints(event_type).get(label_field) if label_field is not None else None
    return "multiclass" if label_type is str or (several and label_type is not bool) else "binary"


def check_model_classes(models: Mapping[str, Any], task: Task) -> None:
    """Raise DefinitionError for a model whose class does not fit `task`, and for an unknown task."""
    if task not in get_args(Task):
        raise DefinitionError(
            f"there is no task {task!r}", hint=f"use one of: {', '.join(get_args(Task))}, or leave task out"
        )
    wanted = base.Regressor if task == "regression" else base.Classifier
    for name, model in scoring_models(models).items():
        last = last_step(model)
        if not isinstance(last, wanted):
            raise DefinitionError(
                f"model `{name}` is a {type(last).__name__}, which is no {wanted.__name__.lower()}: "
                f"it cannot race at task {task!r}",
                hint=f"race it in a pipeline of its own task, or change task={task!r}",
            )
        if isinstance(last, active.base.ActiveLearningClassifier):
            raise DefinitionError(
                f"model `{name}` is a {type(last).__name__}, which answers with a pair: a prediction, and "
                "whether it wants the label",
                hint=f"race what it wraps by itself: {type(last.classifier).__name__}(...)",
            )


def check_detectors(
    drifts: Sequence[Drift], feature_types: Mapping[str, type], task: Task, *, inside: bool
) -> None:
    """Raise DefinitionError for detectors that would never fire, or not again on the same log.

    `feature_types` maps features to bool, int, float or str; `inside` says that events carry their labels.
    """
    for drift in drifts:
        name = type(drift.detector).__name__
        if places := list(unseeded_parts(drift.detector)):
            raise DefinitionError(
                f"drift detector {name} is random without a seed ({', '.join(places)})",
                hint=f"pass seed=42 or any other to {name}: the same log must give the same alarms again",
            )
        if drift.then == "pause" and inside:
            raise DefinitionError(
                f'drift detector {name} has then="pause", and events carry their labels: they are learned '
                "while they are answered",
                hint='leave then="pause" out, or let labels come on a topic of their own',
            )
        if drift.on == "label" and task == "multiclass":
            raise DefinitionError(
                f"drift detector {name} watches the label, which is text: it would never fire",
                hint='watch "loss", or a feature that is a number: on="feature:NAME"',
            )
        if drift.on.startswith(FEATURE):
            _check_watched(name, drift.on.removeprefix(FEATURE), feature_types)


def _check_watched(detector: str, feature: str, feature_types: Mapping[str, type]) -> None:
    if feature not in feature_types:
        close = get_close_matches(feature, feature_types, n=1)
        raise DefinitionError(
            f"drift detector {detector} watches feature `{feature}`, which does not exist",
            hint=f"did you mean {close[0]!r}?"
            if close
            else f"watch one of: {', '.join(list(feature_types)[:10])}",
        )
    if feature_types[feature] is str:
        numbers = [name for name, feature_type in feature_types.items() if feature_type is not str]
        raise DefinitionError(
            f"drift detector {detector} watches feature `{feature}`, which is text: it would never fire",
            hint=f"watch a number: {', '.join(numbers[:10])}"
            if numbers
            else 'watch "loss" or "label", or add a feature that is a number',
        )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)
