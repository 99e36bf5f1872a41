"""The trial of a model before anything runs: what predicting does to it, and whether it can do its work.

Lives here: made-up events; the probe, which finds the guard that a model must be scored through; the smoke
test, which refuses a model that cannot score and learn rows like the pipeline's own.  Never here: the guards
themselves (`guards.py`), real events.

The probe tries it.  A fresh clone is asked and taught with made-up features, and its digest is
taken around every group of questions: before the first lesson, after lessons, with features
missing, at a name and at a text it never learned.  A clone that comes out changed is tried
again in each guard, the cheapest first, and the first that holds is the answer.

One thing no short trial shows: ensembles whose members do not learn every lesson (bagging,
one-vs-rest, bandits) or are replaced when they drift.  Such a member knows fewer names than
the model has met, so a guard that remembers what the *model* has met would be wrong.  If what
they wrap needs any guard, the answer is a copy; `scaler | ensemble(model)` in place of
`ensemble(scaler | model)` avoids it.

The smoke test lets a clone score and learn rows in the order of the race, score before lesson, exactly as it
will be scored (`score_function`).  No opinion (None) is an answer at any time: models need to warm up.  What
raises, or answers with a number that is none, would be quarantined at such a row in production, for life:

    usual        every feature is there
    unmet text   texts that no lesson had, as a new shop or a new city brings
    missing      features that may be missing are, one after the other and all at once
    bare start   all of them are missing in the very first row
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from river import base, compose, conf, ensemble, model_selection, preprocessing

from operators.models.digest import digest
from operators.models.guards import Copied, FirstLesson, KnownNames, KnownValues
from operators.models.scoring import reason_of, score_function
from topics.errors import DefinitionError
from topics.messages import FeatureValue, FeatureValues, LabelValue, Task

__all__ = ["ProbeReport", "check_model", "guarded", "label_for", "probe", "samples_for"]

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
SUSPECTS_MAX = 64
"""Features left out one at a time to find the one at fault; among more, only types are told apart."""
ROW_CHARS_MAX = 160
"""A row shown in a message; a thousand features must not fill a screen."""

Step = Literal["scoring", "learning"]


# -- the probe ---------------------------------------------------------------------------------------


class ProbeReport(NamedTuple):
    """The result of a probe: whether predicting changes a model, and the guards that it needs."""

    guards: tuple[Guard, ...]
    """Outermost first; empty for a model that predicting leaves as it was."""
    changes: tuple[Moment, ...]
    """When predicting changed the bare model, or raised before it was taught."""
    error: str = ""
    """The error of the model at made-up events, if any: it may not fit the features."""

    def __str__(self) -> str:
        """Return the result as a sentence for `headrace check`."""
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
    """Return the object that is taught, scored, stored and cloned: `model`, in its guards if it needs some.

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
            name: _made_up(feature_type, index, nth)
            for nth, (name, feature_type) in enumerate(feature_types.items())
        }
        for index in range(SAMPLES)
    ]


def _made_up(feature_type: type, index: int, nth: int) -> FeatureValue:
    cluster, turn = index % 2, (index + nth) % 3
    if feature_type is str:
        return f"{'ab'[cluster]}{turn}"
    if feature_type is bool:
        return cluster == 1
    return cluster + turn if feature_type is int else cluster + (index * 3 + nth) % 8 / 8


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
        ask("at a new text", [_with_new_texts(x) for x in samples[:3]])
    return _Trial(tuple(changes), frozenset(raised), failed)


def _ask(model: Any, events: Sequence[FeatureValues], task: Task) -> str:
    """Ask for predictions in every way that scoring does; return the first error as text."""
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


def _with_new_texts(x: FeatureValues) -> FeatureValues:
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
        filters = [index for index, step in enumerate(steps) if isinstance(step, base.AnomalyFilter)]
        return steps[filters[0] + 1 :] if filters else []
    if isinstance(part, (*_EVEN, base.AnomalyFilter)):
        return []
    if isinstance(part, base.Wrapper):
        return [part._wrapped_model]
    return list(part.models) if isinstance(part, base.Ensemble | model_selection.base.ModelSelector) else []


def _parts(model: Any) -> list[Any]:
    """Return `model` and every River object inside it."""
    models: list[Any] = []
    seen: set[int] = set()
    stack = [model]
    while stack and len(seen) < PARTS_MAX:
        part = stack.pop()
        if id(part) in seen:
            continue
        seen.add(id(part))
        if isinstance(part, base.Base):
            models.append(part)
            stack.extend(getattr(part, "__dict__", {}).values())
        elif isinstance(part, dict):
            stack.extend(part.values())
        elif isinstance(part, list | tuple):
            stack.extend(part)
    return models


# -- the smoke test ----------------------------------------------------------------------------------


class _Failure(NamedTuple):
    step: Step
    row: int
    reason: str


class _Case(NamedTuple):
    """Rows of one case, and the features that each of them lacks or has."""

    name: Literal["usual", "unmet text", "missing", "bare start"]
    rows: Sequence[FeatureValues]
    marks: Sequence[tuple[str, ...]]
    """Features that make a row special, one entry a row."""


def check_model(
    name: str, model: Any, feature_types: Mapping[str, type], may_be_missing: Collection[str], task: Task
) -> None:
    """Raise DefinitionError if `model`, called `name`, cannot score and learn such rows; leave it as it was.

    `feature_types` maps features to bool, int, float or str.

    >>> from river import tree
    >>> feature_types = {"amount": float, "city": str}
    >>> check_model("tree", tree.HoeffdingTreeClassifier(), feature_types, {"city"}, "binary")
    >>> try:
    ...     check_model("tree", tree.HoeffdingTreeRegressor(), feature_types, (), "regression")
    ... except DefinitionError as refused:
    ...     print(refused.message.partition(":")[0], refused.message[-22:])
    model `tree` fails at learning (feature `city`, text)
    """
    for case in _cases(feature_types, [one for one in feature_types if one in may_be_missing]):
        failure, classes = _try(model, case.rows, task)
        if failure is not None:
            raise _refusal(name, model, case, failure, feature_types, task)
        taught = {str(label_for(index, task)) for index in range(LESSONS)}
        if strangers := sorted(classes - taught):
            raise DefinitionError(
                f"model `{name}` was taught the classes {', '.join(sorted(taught))} and answers with "
                f"{', '.join(strangers)}",
                hint=_ONE_VS_REST,
            )


def _cases(feature_types: Mapping[str, type], optional: Sequence[str]) -> Iterator[_Case]:
    samples = samples_for(feature_types)
    usual = [samples[index % SAMPLES] for index in range(LESSONS)]
    yield _Case("usual", usual, [()] * LESSONS)
    if texts := tuple(name for name, feature_type in feature_types.items() if feature_type is str):
        unmet = [*samples, *map(_with_new_texts, samples[:3])]
        yield _Case("unmet text", unmet, [()] * SAMPLES + [texts] * 3)
    if optional:
        # Each is missing once: with more features than lessons, several are missing together.
        each = [tuple(optional[start::LESSONS]) for start in range(min(len(optional), LESSONS))]
        lacking = [*each, tuple(optional)]
        rows = [_without(samples[index % SAMPLES], names) for index, names in enumerate(lacking)]
        yield _Case("missing", [*samples, *rows, *samples], [()] * SAMPLES + lacking + [()] * SAMPLES)
        yield _Case(
            "bare start", [_without(samples[0], optional), *samples], [tuple(optional), *[()] * SAMPLES]
        )


def _try(model: Any, rows: Sequence[FeatureValues], task: Task) -> tuple[_Failure | None, set[str]]:
    """Score and learn `rows` with a clone; return its failure, if any, and the classes it named."""
    clone = model.clone()
    score_of = score_function(task, clone)
    classes: set[str] = set()
    for index, row in enumerate(rows):
        step: Step = "scoring"
        try:
            score = score_of(dict(row))
            step = "learning"
            clone.learn_one(dict(row), label_for(index, task))
        except Exception as error:  # noqa: BLE001 a user's model may raise anything
            return _Failure(step, index, reason_of(error)), classes
        if isinstance(score, dict):
            classes.update(score)
    return None, classes


def _refusal(
    name: str, model: Any, case: _Case, failure: _Failure, feature_types: Mapping[str, type], task: Task
) -> DefinitionError:
    step, row, reason = failure
    message = f"model `{name}` fails at {step}"
    marked = case.marks[0 if case.name == "bare start" else row]
    if case.name in ("missing", "bare start"):
        event = "after a first event" if case.name == "bare start" and row else "an event"
        return DefinitionError(
            f"{message} {event} without {_listed(marked) or 'some feature'}: {reason}",
            hint=f"give the model a value where there is none: "
            f"{_default_of([feature_types[one] for one in marked])} on the feature",
        )
    if case.name == "unmet text" and marked:
        return DefinitionError(
            f"{message} a text that it has not learned, of {_listed(marked)}: {reason}",
            hint="encode text in front of the model with one that takes unknown texts, such as "
            "preprocessing.OneHotEncoder()",
        )

    def fails_without(names: Collection[str]) -> bool:
        rows = [_without(one, names) for one in case.rows[: row + 1]]
        return _try(model, rows, task)[0] is not None

    at_fault = _at_fault(fails_without, feature_types)
    if not at_fault:
        by_itself = f"try it by itself: learn_one({_shown(case.rows[row])}, {label_for(row, task)!r})"
        two_classes = task == "multiclass" and not getattr(model, "_multiclass", True)
        return DefinitionError(f"{message}: {reason}", hint=_ONE_VS_REST if two_classes else by_itself)
    type_text = _WORDS[feature_types[at_fault[0]]]
    of = f"feature{'s' * (len(at_fault) > 1)} {_listed(at_fault)}, {type_text}"
    return DefinitionError(f"{message}: {reason} ({of})", hint=_hint(feature_types[at_fault[0]], at_fault))


def _at_fault(
    fails_without: Callable[[Collection[str]], bool], feature_types: Mapping[str, type]
) -> tuple[str, ...]:
    """Return the feature without which the model works, else all of the type without which it does."""
    alike = [
        tuple(name for name in feature_types if feature_types[name] is feature_type)
        for feature_type in (str, bool, int, float)
    ]
    single = [(name,) for name in feature_types] if len(feature_types) <= SUSPECTS_MAX else []
    suspects = [*single, *(names for names in alike if len(names) > 1)]
    return next((names for names in suspects if not fails_without(names)), ())


def _hint(feature_type: type, at_fault: Sequence[str]) -> str:
    if feature_type is str:
        return (
            "encode text in front of the model: (compose.SelectType(str) | preprocessing.OneHotEncoder()) + "
            f"compose.SelectType(int, float) | model; or leave it out: {_discard(at_fault)} | model"
        )
    return f"leave it out for this model: {_discard(at_fault)} | model"


def _discard(names: Sequence[str]) -> str:
    listed = ", ".join(f'"{name}"' for name in names[:3])
    return f"compose.Discard({listed}{', ...' * (len(names) > 3)})"


def _default_of(feature_types: Collection[type]) -> str:
    return '.default("")' if str in feature_types else ".default(0)"


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(f"`{name}`" for name in names[:5]) + more


def _shown(row: FeatureValues) -> str:
    text = repr(row)
    return text if len(text) <= ROW_CHARS_MAX else f"{text[:ROW_CHARS_MAX]}...}}"


def _without(row: FeatureValues, names: Collection[str]) -> dict[str, FeatureValue]:
    return {name: value for name, value in row.items() if name not in names}


_ONE_VS_REST = (
    'it takes two classes only: wrap it in river.multiclass.OneVsRestClassifier, or say task="binary"'
)
_WORDS: dict[type, str] = {str: "text", bool: "true or false", int: "whole numbers", float: "numbers"}
