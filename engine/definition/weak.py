"""What a definition says of labels by vote: labelling functions, checked and made callable.

Lives here: `Weak` as users write it, and every refusal of it.  Never here: how votes become a label
(`operators/join/weak.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

from operators.join.weak import Vote, Voter
from operators.language.conditions import Condition
from operators.language.fields import Aggregate, Feature, Field, LabelTerm, Lookup, nodes
from operators.windows.evaluate import predicate
from topics.codec import label_value
from topics.errors import DefinitionError
from topics.messages import FeatureValue, LabelValue, Task

__all__ = ["Weak", "check_weak", "voters_of", "weak_text"]

WEAK_MAX = 100
"""Functions: each is asked about every event whose label does not come, and about every one whose does."""


@dataclass(frozen=True, eq=False)
class Weak:
    """One labelling function: what it votes for, and for which events.

    `name`
        What metrics call it.
    `when`
        A condition about features, `feature("amount") > 1000`, or a function of the features as served, a
        mapping in which missing ones are left out.  It must be pure: the same features, the same answer.
        What it raises is counted, and it abstains.
    `label`
        The label that it votes for where the condition is met, or the function returns true; left out, the
        function returns the label itself, or None to abstain.
    `weight`
        What its vote counts for, in (0, 1]: best the share of events on which it is right.
    """

    name: str
    when: Condition | Callable[[Mapping[str, FeatureValue]], object]
    label: LabelValue | None = None
    weight: float = 1.0


def check_weak(weak: Sequence[Weak], types: Mapping[str, type], task: Task, classes: type | None) -> None:
    """Raise DefinitionError for functions that could never vote, or not for a label of this task."""
    if task == "regression" and weak:
        raise DefinitionError(
            "labels.weak votes for classes, and the models predict a number",
            hint="leave `weak` out: numbers are rarely equal, so no vote would win",
        )
    if len(weak) > WEAK_MAX:
        raise DefinitionError(f"labels.weak has {len(weak)} functions", hint=f"give {WEAK_MAX} at most")
    for number, one in enumerate(weak):
        place = f"labels.weak[{number}]"
        if not isinstance(one, Weak):
            raise DefinitionError(f"{place} is {one!r}", hint='write Weak("large", when=..., label=True)')
        if not one.name.isidentifier() or one.name in {other.name for other in weak[:number]}:
            raise DefinitionError(
                f"{place}: a function cannot be called {one.name!r}",
                hint="give each a name of its own, of letters, digits and underscores: metrics show it",
            )
        if not (isfinite(one.weight) and 0 < one.weight <= 1):
            raise DefinitionError(
                f"{place}: weight is {one.weight!r}",
                hint="give the share of events on which it is right, in (0, 1]",
            )
        _check_when(one, place, types)
        _check_label(one, place, task, classes)


def _check_when(weak: Weak, place: str, types: Mapping[str, type]) -> None:
    when = weak.when
    if not isinstance(when, Condition):
        if getattr(when, "__qualname__", "<lambda>").endswith("<lambda>"):
            raise DefinitionError(
                f"{place}: `when` is {when!r}",
                hint='give a condition about features, feature("amount") > 1000, or a function with a name',
            )
        return
    if weak.label is None:
        raise DefinitionError(f"{place}: a condition votes for no label", hint="give `label`")
    for part in nodes(when):
        if isinstance(part, Feature) and part.name not in types:
            raise DefinitionError(
                f"{place}: there is no feature {part.name!r}",
                hint=f"features are {', '.join(list(types)[:10])}",
            )
        if isinstance(part, Field | Aggregate | Lookup | LabelTerm):
            raise DefinitionError(
                f"{place}: {part!r} is no feature",
                hint="only features as served are kept until the wait is over: give the field as a feature,"
                ' and write feature("name")',
            )


def _check_label(weak: Weak, place: str, task: Task, classes: type | None) -> None:
    if weak.label is None:
        return
    try:
        label_value(weak.label, task, classes)
    except ValueError as error:
        raise DefinitionError(
            f"{place}: label {weak.label!r} does not fit the {task} models: {error}",
            hint="give a label that the models can learn",
        ) from None


def voters_of(weak: Sequence[Weak], task: Task, classes: type | None) -> list[Voter]:
    """Return the functions of a definition that was checked, ready to be asked."""
    return [Voter(one.name, _vote_of(one, task, classes), float(one.weight)) for one in weak]


def _vote_of(weak: Weak, task: Task, classes: type | None) -> Vote:
    when: Callable[[Any], object] = predicate(weak.when) if isinstance(weak.when, Condition) else weak.when
    if weak.label is None:

        def said(features: Mapping[str, FeatureValue]) -> LabelValue | None:
            label = when(features)
            return None if label is None else label_value(label, task, classes)

        return said
    label = label_value(weak.label, task, classes)
    return lambda features: label if when(features) is True else None


def weak_text(weak: Sequence[Weak]) -> str:
    """Return what the functions are, as far as a text can tell: for the definition's digest."""
    return ", ".join(
        f"{one.name} {one.when!r} {one.label!r} {one.weight!r}"
        if isinstance(one.when, Condition)
        else f"{one.name} {one.when.__module__}:{one.when.__qualname__} {one.label!r} {one.weight!r}"
        for one in weak
    )
