"""The smoke test of a model: whether it can score and learn rows like the pipeline's own.

Lives here: the rows it is tried on, the search for the feature at fault, the refusal.  Never here: what
predicting does to a model (`probe.py`), real events.

Strategy: a clone scores and learns made-up rows (`samples_for`) in the order of the race, score before
lesson, exactly as it will be scored (`score_function`).  No opinion (None) is an answer at any time: models
need to warm up.  What raises, or answers with a number that is none, would be quarantined at such a row in
production, for life; so it is refused before anything runs:

    usual        every feature is there
    unmet text   texts that no lesson had, as a new shop or a new city brings
    missing      features that may be missing are, one after the other and all at once
    bare start   all of them are missing in the very first row
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from operators.models.probe import LESSONS, SAMPLES, label_for, samples_for, with_new_texts
from operators.models.scoring import reason_of, score_function
from topics.errors import DefinitionError
from topics.messages import FeatureValue, FeatureValues, Task

__all__ = ["check_model"]

SUSPECTS_MAX = 64
"""Features left out one at a time to find the one at fault; among more, only types are told apart."""
ROW_CHARS_MAX = 160
"""A row shown in a message; a thousand features must not fill a screen."""

Step = Literal["scoring", "learning"]


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
        unmet = [*samples, *map(with_new_texts, samples[:3])]
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
    """Let a clone score and learn `rows`; return what ended it early, and the classes it named."""
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
