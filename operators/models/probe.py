"""The probe of a model: what predicting does to it, and through which guard it must be scored.

Lives here: the trial of a model on made-up events, once, when a pipeline is loaded.  Never
here: the guards themselves (`guards.py`), real events.

Strategy: try it.  A fresh clone is asked and taught with made-up features, and its digest is
taken around every group of questions: before the first lesson, after lessons, with features
missing, at a name and at a text it never learned.  A clone that comes out changed is tried
again in each guard, the cheapest first, and the first that holds is the answer.

One thing no short trial shows: ensembles whose members do not learn every lesson (bagging,
one-vs-rest, bandits) or are replaced when they drift.  Such a member knows fewer names than
the model has met, so a guard that remembers what the *model* has met would be wrong.  If what
they wrap needs any guard, the answer is a copy; `scaler | ensemble(model)` in place of
`ensemble(scaler | model)` avoids it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from river import base, compose, conf, ensemble, model_selection, preprocessing

from operators.models.digest import digest
from operators.models.guards import Copied, FirstLesson, KnownNames, KnownValues
from topics.messages import FeatureValue, FeatureValues, LabelValue, Task

__all__ = [
    "LESSONS",
    "SAMPLES",
    "ProbeReport",
    "guarded",
    "label_for",
    "probe",
    "samples_for",
    "with_new_texts",
]

SAMPLES = 24
"""Events made up for a probe: enough that every number and text varies."""
LESSONS = 96
"""Lessons of one trial; by then ensembles have their members, and slow forests end in a second."""
FIRST_LESSONS = 6
"""Lessons after each of which the model is asked: members of an ensemble may skip the first."""
PARTS_MAX = 10_000
"""Parts of a fresh model that are searched for wrapped models; a thousand times what anybody writes."""

Guard = Literal["first lesson", "known names", "known values", "copy"]
Moment = Literal["before the first lesson", "after lessons", "at a new name", "at a new text", "in a member"]

_NEW = "~never learned"
_EVEN = (
    compose.TargetTransformRegressor,
    conf.RegressionJackknife,
    ensemble.EWARegressor,
    ensemble.StackingClassifier,
    ensemble.VotingClassifier,
    model_selection.GreedyRegressor,
    model_selection.SuccessiveHalvingClassifier,
    model_selection.SuccessiveHalvingRegressor,
    preprocessing.PredClipper,
)
"""Models of models that teach every lesson to every member; River 0.26.1."""


class ProbeReport(NamedTuple):
    """What predicting does to a model, and how it is scored therefore."""

    guards: tuple[Guard, ...]
    """Outermost first; empty for a model that predicting leaves as it was."""
    changes: tuple[Moment, ...]
    """When predicting changed the bare model, or raised before it was taught."""
    error: str = ""
    """What the model raised at made-up events, if it did: it may not fit the features."""

    def __str__(self) -> str:
        """Return it as a sentence for `headrace check`."""
        if self.error:
            return f"raised {self.error} at made-up events; scored through a copy, which is slow"
        if not self.guards:
            return "predicting leaves the model as it was"
        guards = " and ".join(self.guards) + (", which is slow" if "copy" in self.guards else "")
        return f"predicting changes the model {', '.join(self.changes)}; guard: {guards}"


_GUARDS: dict[tuple[Guard, ...], Callable[[Any], Any]] = {
    ("first lesson",): FirstLesson,
    ("known names",): KnownNames,
    ("first lesson", "known names"): lambda model: FirstLesson(KnownNames(model)),
    ("known values",): KnownValues,
    ("first lesson", "known values"): lambda model: FirstLesson(KnownValues(model)),
    ("copy",): Copied,
}
"""Every guard and pair of guards, the cheapest first."""


def guarded(model: Any, report: ProbeReport) -> Any:
    """Return what is to be taught, scored, stored and cloned in place of `model`: itself where that is pure.

    `model` has learned nothing yet; one that this function has returned before (restored with
    what its guard knows) comes back as it is.

    >>> from river import linear_model, preprocessing
    >>> model = preprocessing.StandardScaler() | linear_model.LogisticRegression()
    >>> report = probe(model, samples_for({"amount": float}), "binary")
    >>> print(report)
    predicting changes the model before the first lesson, at a new name; guard: known names
    >>> type(guarded(model, report)).__name__
    'KnownNames'
    """
    if not report.guards or isinstance(model, FirstLesson | KnownNames | KnownValues | Copied):
        return model
    return _GUARDS[report.guards](model)


def probe(model: Any, samples: Sequence[FeatureValues], task: Task) -> ProbeReport:
    """Return what predicting does to `model`, by trying it on clones; `model` itself is not touched.

    `samples` are events like the pipeline's own (`samples_for`), labelled here by turns.
    """
    bare = model
    while isinstance(bare, FirstLesson | KnownNames | KnownValues | Copied):
        bare = bare.model
    trial = _trial(bare.clone(), samples, task)
    if trial.error:
        return ProbeReport(("copy",), trial.changes, trial.error)
    if _uneven(bare, samples, task):
        return ProbeReport(("copy",), (*trial.changes, "in a member"))
    if not trial.changes:
        return ProbeReport((), ())
    for guards, guard in _GUARDS.items():
        tried = _trial(guard(bare.clone()), samples, task)
        if not tried.changes and not tried.error and tried.raised <= trial.raised:
            return ProbeReport(guards, trial.changes)
    return ProbeReport(("copy",), trial.changes)


def samples_for(feature_types: Mapping[str, type]) -> list[FeatureValues]:
    """Return made-up features for a probe; `feature_types` maps names to bool, int, float or str.

    Numbers are not negative.  Even and odd events differ in every feature, and the probe
    labels them so.

    >>> samples_for({"amount": float, "country": str})[1]
    {'amount': 1.375, 'country': 'b2'}
    """
    return [
        {
            name: _made_up(feature_type, index, place)
            for place, (name, feature_type) in enumerate(feature_types.items())
        }
        for index in range(SAMPLES)
    ]


def _made_up(feature_type: type, index: int, place: int) -> FeatureValue:
    cluster, turn = index % 2, (index + place) % 3
    if feature_type is str:
        return f"{'ab'[cluster]}{turn}"
    if feature_type is bool:
        return cluster == 1
    return cluster + turn if feature_type is int else cluster + (index * 3 + place) % 8 / 8


def label_for(index: int, task: Task) -> LabelValue:
    """Return a label of `task` for the made-up event of this number."""
    if task == "binary":
        return index % 2 == 1
    return f"class {index % 3}" if task == "multiclass" else index % 2 + index % 5 / 10


class _Trial(NamedTuple):
    """The outcome of teaching and asking one model."""

    changes: tuple[Moment, ...]
    raised: frozenset[Moment]
    """When asking raised; a guard that makes a model raise is none."""
    error: str
    """What learning raised, or asking about ordinary events after lessons."""


def _trial(model: Any, samples: Sequence[FeatureValues], task: Task) -> _Trial:
    """Teach and ask `model`."""
    changes: list[Moment] = []
    raised: set[Moment] = set()

    def ask(moment: Moment, events: Sequence[FeatureValues]) -> str:
        before = digest(model)
        error = _ask(model, events, task)
        if digest(model) != before and moment not in changes:
            changes.append(moment)
        if error:
            raised.add(moment)
        return error

    if ask("before the first lesson", samples[:3]) and not changes:
        changes.append("before the first lesson")
    failed = ""
    for index in range(LESSONS):
        try:
            model.learn_one(dict(samples[index % len(samples)]), label_for(index, task))
        except Exception as error:  # noqa: BLE001 a user's model may raise anything
            return _Trial(tuple(changes), frozenset(raised), _text(error))
        if index < FIRST_LESSONS:
            ask("after lessons", [samples[index % len(samples)]])
    failed = ask("after lessons", samples)
    ask("at a new name", [{**x, _NEW: 1.5} for x in samples[:3]])
    ask("after lessons", [{}, *({name: x[name]} for x in samples[:2] for name in x)])
    if any(isinstance(value, str) for value in samples[0].values()):
        ask("at a new name", [{**samples[0], _NEW: _NEW}])
        ask("at a new text", [with_new_texts(x) for x in samples[:3]])
    return _Trial(tuple(changes), frozenset(raised), failed)


def _ask(model: Any, events: Sequence[FeatureValues], task: Task) -> str:
    """Ask for predictions in every way scoring might; return the first error as text."""
    ways = ("predict_one",) if task == "regression" else ("predict_proba_one", "predict_one")
    first = ""
    for x in events:
        for way in ways:
            try:
                getattr(model, way)(dict(x))
            except NotImplementedError:
                continue
            except Exception as error:  # noqa: BLE001 a user's model may raise anything
                first = first or _text(error)
    return first


def with_new_texts(x: FeatureValues) -> FeatureValues:
    """Return an event with texts that no other made-up event has."""
    return {name: _NEW if isinstance(value, str) else value for name, value in x.items()}


def _text(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:200]


def _uneven(model: Any, samples: Sequence[FeatureValues], task: Task) -> bool:
    """Return whether a part of `model` that needs a guard does not learn every lesson."""
    numbers: list[FeatureValues] = [{k: v for k, v in x.items() if not isinstance(v, str)} for x in samples]
    if not numbers[0]:
        numbers = samples_for({"number": float})
    return any(_needs_guard(member, numbers, task) for part in _parts(model) for member in _members(part))


def _needs_guard(member: Any, samples: Sequence[FeatureValues], task: Task) -> bool:
    """Probe a member, of one-vs-rest for instance, with labels that it can learn."""
    tasks: tuple[Task, ...] = (task, "binary", "regression")
    for labels in dict.fromkeys(tasks):
        report = probe(member, samples, labels)
        if not report.error:
            return bool(report.guards)
    return True


def _members(part: Any) -> list[Any]:
    """Return the models that `part` teaches some lessons and spares others."""
    if isinstance(part, compose.Pipeline):
        steps = list(part.steps.values())
        filters = [place for place, step in enumerate(steps) if isinstance(step, base.AnomalyFilter)]
        return steps[filters[0] + 1 :] if filters else []
    if isinstance(part, (*_EVEN, base.AnomalyFilter)):
        return []
    if isinstance(part, base.Wrapper):
        return [part._wrapped_model]
    return list(part.models) if isinstance(part, base.Ensemble | model_selection.base.ModelSelector) else []


def _parts(model: Any) -> list[Any]:
    """Return `model` and every River object inside it."""
    found: list[Any] = []
    seen: set[int] = set()
    stack = [model]
    while stack and len(seen) < PARTS_MAX:
        part = stack.pop()
        if id(part) in seen:
            continue
        seen.add(id(part))
        if isinstance(part, base.Base):
            found.append(part)
            stack.extend(getattr(part, "__dict__", {}).values())
        elif isinstance(part, dict):
            stack.extend(part.values())
        elif isinstance(part, list | tuple):
            stack.extend(part)
    return found
