"""What does predicting do to this model, and through what must it be scored?

Lives here: the trial of a model on made-up events, once, when a pipeline is loaded.  Never
here: the guards themselves (`guard.py`), real events.

Strategy: try it.  A fresh clone is asked and taught with made-up features, and its digest is
taken around every group of questions: before the first lesson, after lessons, with features
missing, at a name and at a text it never learned.  A clone that comes out changed is tried
again in each guard, the cheapest first, and the first that holds is the answer.

One thing no short trial shows: ensembles that replace a member when it drifts.  The new
member has forgotten every name and is as untaught as at the start, so a guard that remembers
what the *model* has met would be wrong.  Where a model holds drift detectors and a wrapped
model that needs any guard, the answer is a copy; `scaler | ensemble(model)` in place of
`ensemble(scaler | model)` avoids it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from river import base

from operators.digest import digest
from operators.guard import Copied, FirstLesson, KnownNames, KnownValues
from topics.messages import Features, FeatureValue, LabelValue, Task

__all__ = ["ProbeReport", "guarded", "probe", "samples_for"]

SAMPLES = 24
"""Events made up for a probe: enough that every number and text varies."""
LESSONS = 96
"""Lessons of one trial; by then ensembles have their members, and slow forests end in a second."""
PARTS_MAX = 10_000
"""Parts of a fresh model that are searched for wrapped models; a thousand times what anybody writes."""

Guard = Literal["first lesson", "known names", "known values", "copy"]
Moment = Literal[
    "before the first lesson", "after lessons", "at a new name", "at a new text", "after a drift"
]

_NEW = "~never learned"
_DETECTORS = (base.DriftDetector, base.BinaryDriftDetector)


class ProbeReport(NamedTuple):
    """What predicting does to a model, and how it is scored therefore."""

    guards: tuple[Guard, ...]
    """Outermost first; empty for a model that predicting leaves as it was."""
    changes: tuple[Moment, ...]
    """When predicting changed the bare model, or raised before it was taught."""
    error: str = ""
    """What the model raised at made-up events, if it did: it may not fit the features."""

    def __str__(self) -> str:
        """Say it in a sentence for `headrace check`."""
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


def probe(model: Any, samples: Sequence[Features], task: Task) -> ProbeReport:
    """Return what predicting does to `model`, by trying it on clones; `model` itself is not touched.

    `samples` are events like the pipeline's own (`samples_for`), labelled here by turns.
    """
    bare = model
    while isinstance(bare, FirstLesson | KnownNames | KnownValues | Copied):
        bare = bare.model
    changes, error = _trial(bare.clone(), samples, task)
    if error:
        return ProbeReport(("copy",), changes, error)
    if _forgets(bare, samples, task):
        return ProbeReport(("copy",), (*changes, "after a drift"))
    if not changes:
        return ProbeReport((), ())
    for guards, guard in _GUARDS.items():
        if _trial(guard(bare.clone()), samples, task) == ((), ""):
            return ProbeReport(guards, changes)
    return ProbeReport(("copy",), changes)


def samples_for(kinds: Mapping[str, type]) -> list[Features]:
    """Return made-up features for a probe; `kinds` maps names to bool, int, float or str.

    Numbers are not negative.  Even and odd events differ in every feature, and the probe
    labels them so.

    >>> samples_for({"amount": float, "country": str})[1]
    {'amount': 1.375, 'country': 'b2'}
    """
    return [
        {name: _made_up(kind, index, place) for place, (name, kind) in enumerate(kinds.items())}
        for index in range(SAMPLES)
    ]


def _made_up(kind: type, index: int, place: int) -> FeatureValue:
    cluster, turn = index % 2, (index + place) % 3
    if kind is str:
        return f"{'ab'[cluster]}{turn}"
    if kind is bool:
        return cluster == 1
    return cluster + turn if kind is int else cluster + (index * 3 + place) % 8 / 8


def _label(index: int, task: Task) -> LabelValue:
    if task == "binary":
        return index % 2 == 1
    return f"class {index % 3}" if task == "multiclass" else index % 2 + index % 5 / 10


def _trial(model: Any, samples: Sequence[Features], task: Task) -> tuple[tuple[Moment, ...], str]:
    """Teach and ask `model`; return the moments at which asking changed it, and its error if it raised."""
    changes: list[Moment] = []

    def ask(moment: Moment, events: Sequence[Features]) -> str:
        before = digest(model)
        error = _ask(model, events, task)
        if digest(model) != before:
            changes.append(moment)
        return error

    if ask("before the first lesson", samples[:3]) and "before the first lesson" not in changes:
        changes.append("before the first lesson")
    try:
        for index in range(LESSONS):
            model.learn_one(dict(samples[index % len(samples)]), _label(index, task))
    except Exception as error:  # noqa: BLE001 a user's model may raise anything
        return tuple(changes), _text(error)
    if raised := ask("after lessons", samples):
        return tuple(changes), raised
    ask("after lessons", [{}, *({name: x[name]} for x in samples[:2] for name in x)])
    ask("at a new name", [{**x, _NEW: 1.5} for x in samples[:3]])
    if any(isinstance(value, str) for value in samples[0].values()):
        ask("at a new name", [{**samples[0], _NEW: _NEW}])
        ask("at a new text", [_with_new_texts(x) for x in samples[:3]])
    return tuple(dict.fromkeys(changes)), ""


def _ask(model: Any, events: Sequence[Features], task: Task) -> str:
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


def _with_new_texts(x: Features) -> Features:
    return {name: _NEW if isinstance(value, str) else value for name, value in x.items()}


def _text(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:200]


def _forgets(model: Any, samples: Sequence[Features], task: Task) -> bool:
    """Return whether `model` replaces, when it drifts, a wrapped model that needs a guard."""
    numbers: list[Features] = [
        {name: value for name, value in x.items() if not isinstance(value, str)} for x in samples
    ]
    if not numbers[0]:
        numbers = samples_for({"number": float})
    replaced = [wrapped for part in _parts(model) if (wrapped := _replaced(part)) is not None]
    return any(probe(wrapped, numbers, task).guards for wrapped in replaced)


def _replaced(part: Any) -> Any:
    """Return the model that `part` clones anew when a detector of its own fires, or None."""
    wrapped = getattr(part, "_wrapped_model", None)
    if wrapped is None:
        return None
    held = [item for value in vars(part).values() for item in (value if isinstance(value, list) else [value])]
    return wrapped if any(isinstance(item, _DETECTORS) for item in held) else None


def _parts(model: Any) -> Iterator[Any]:
    """Yield `model` and every River object inside it."""
    seen: set[int] = set()
    stack = [model]
    while stack and len(seen) < PARTS_MAX:
        part = stack.pop()
        if id(part) in seen:
            continue
        seen.add(id(part))
        if isinstance(part, base.Base):
            yield part
            stack.extend(vars(part).values() if hasattr(part, "__dict__") else ())
        elif isinstance(part, dict):
            stack.extend(part.values())
        elif isinstance(part, list | tuple):
            stack.extend(part)
