"""Rules and watched fields checked against the events' type and the features.

Lives here: every refusal that follows from a type.  Never here: what a rule is (`rules.py`), values of
events (`apply.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final, Literal, NamedTuple, get_type_hints

import msgspec

from operators.language.alerts import NoveltyPlan
from operators.language.conditions import Comparison, Condition, IsMissing, leaves_of
from operators.language.expressions import Arithmetic, Constant, Expression, Negative
from operators.language.fields import Feature, Field
from operators.language.plan import FeaturePlan
from operators.language.rules import Rule
from operators.language.types import FieldTypes, type_text
from topics.errors import DefinitionError
from topics.messages import Task

__all__ = ["RulePlan", "compile_rules"]

RULES_MAX: Final = 200
"""Rules of one pipeline: every event is checked against each."""


class RulePlan(NamedTuple):
    """The rules of one pipeline, checked against its events and features, in the order of the definition."""

    fields: tuple[Rule, ...] = ()
    features: tuple[Rule, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.fields or self.features)


def compile_rules(
    rules: Sequence[Rule],
    novelty: NoveltyPlan | None,
    event_type: type[msgspec.Struct],
    features: FeaturePlan,
    *,
    task: Task,
    fixed: Mapping[str, str],
) -> RulePlan:
    """Check `rules` against the events' type and the features, and return them sorted.

    `novelty` names the fields whose new categories are told, which must be text.

    `fixed` says which fields keep their value, and as what they serve ("id", "key").  Raises
    DefinitionError with the rule's name and the fix: an unknown field or feature, a check that
    does not fit the type, a clip or null that the type does not take, a field that is fixed.
    """
    if len(rules) > RULES_MAX:
        raise DefinitionError(f"{len(rules)} rules", hint=f"give at most {RULES_MAX}")
    for rule in rules:
        if not isinstance(rule, Rule):
            raise DefinitionError(f"{rule!r} is no rule", hint="write Rule(...)")
    names = [rule.name for rule in rules]
    for name in names:
        if names.count(name) > 1:
            raise DefinitionError(f"two rules are called `{name}`", hint='give one of them name="..."')
    field_types = FieldTypes(event_type, task)
    hints = get_type_hints(event_type, include_extras=True)
    hints_of_features: dict[str, Any] = dict(features.feature_types(event_type))
    of_features = {name: field_types.check(expression, name) for name, expression in features.features}
    for rule in rules:
        if rule.on_features:
            _check_features(rule, of_features)
            if isinstance(rule.of, Feature):
                name = rule.of.name
                _check_value_type(rule, of_features[name], hints_of_features[name] | None)
            continue
        if isinstance(rule.of, Condition):
            field_types.check_condition(rule.of, rule.place)
        else:
            _check_value_type(rule, field_types.check(rule.of, rule.place, inside=True), hints[rule.of.name])
        _check_change(rule, hints, fixed)
    for name in novelty.categories if novelty is not None else ():
        place = f"alert `{novelty.alerts[name].name}`" if novelty is not None else ""
        if field_types.check(Field(name), place, inside=True) is not str:
            raise DefinitionError(
                f"{place}: {event_type.__name__}.{name} is no text", hint="categories are fields of str"
            )
    return RulePlan(
        tuple(rule for rule in rules if not rule.on_features),
        tuple(rule for rule in rules if rule.on_features),
    )


def _check_features(rule: Rule, feature_types: Mapping[str, type]) -> None:
    for part in rule.parts():
        if isinstance(part, Feature) and part.name not in feature_types:
            raise DefinitionError(
                f"{rule.place}: there is no feature {part.name!r}", hint=f"it has {', '.join(feature_types)}"
            )
    if isinstance(rule.of, Condition):
        for leaf in leaves_of(rule.of):
            compared = {_comparable(operand, feature_types, rule.place) for operand in _operands(leaf)}
            if len(compared) > 1:
                raise DefinitionError(
                    f"{rule.place}: {leaf!r} compares {' with '.join(sorted(compared))}",
                    hint="compare numbers with numbers and text with text",
                )


def _comparable(of: Expression, feature_types: Mapping[str, type], place: str) -> Literal["text", "number"]:
    """Return what one side of a comparison is; raise DefinitionError for anything else."""
    match of:
        case Constant(value):
            return "text" if isinstance(value, str) else "number"
        case Feature(name):
            return "text" if feature_types[name] is str else "number"
        case Negative(part):
            compared = {_comparable(part, feature_types, place)}
        case Arithmetic(_, left, right):
            compared = {_comparable(part, feature_types, place) for part in (left, right)}
        case _:
            raise DefinitionError(f"{place}: {of!r} is no feature", hint='use feature("...") and numbers')
    if "text" in compared:
        raise DefinitionError(f"{place}: {of!r} calculates with text", hint="calculate with numbers only")
    return "number"


def _check_value_type(rule: Rule, value_type: type, hint: Any) -> None:
    """Refuse a check that no value of this type can meet or break."""
    if rule.between is not None and value_type not in (int, float):
        raise DefinitionError(
            f"{rule.place}: {rule.of!r} is {type_text(value_type)}, so it lies in no range",
            hint="use one_of or matches",
        )
    if rule.matches is not None and value_type is not str:
        raise DefinitionError(
            f"{rule.place}: {rule.of!r} is {type_text(value_type)}, so it matches no pattern",
            hint="use between or one_of",
        )
    if rule.one_of is not None and value_type in (datetime, object):
        raise DefinitionError(
            f"{rule.place}: {rule.of!r} is {type_text(value_type)}", hint="use numbers, bools and text"
        )
    for value in rule.one_of or ():
        if not _fits(value, hint):
            raise DefinitionError(
                f"{rule.place}: {value!r} is no value of {rule.of!r}", hint="list values of its type"
            )
    if rule.required and not _fits(None, hint):
        raise DefinitionError(
            f"{rule.place}: {rule.of!r} is never missing: its type requires it",
            hint="leave the rule out, or declare the field as `str | None = None` or the like",
        )
    for bound in rule.between or ():
        if rule.action == "clip" and bound is not None and not _fits(bound, hint):
            raise DefinitionError(
                f"{rule.place}: clipped to {bound!r}, {rule.of!r} would not fit its type",
                hint="give a bound of the field's own type",
            )


def _check_change(rule: Rule, hints: Mapping[str, Any], fixed: Mapping[str, str]) -> None:
    """Refuse to change what must stay, and to make missing what the type says is there."""
    target = rule.target
    if rule.action not in ("clip", "null") or target is None:
        return
    if target.name in fixed:
        raise DefinitionError(
            f"{rule.place}: {target!r} is the event's {fixed[target.name]} and is not changed",
            hint="use dead_letter or flag",
        )
    if rule.action == "null" and not _fits(None, hints[target.name]):
        raise DefinitionError(
            f"{rule.place}: {target!r} cannot be missing by its type",
            hint="declare the field with `| None`",
        )


def _fits(value: object, hint: Any) -> bool:
    try:
        msgspec.convert(value, hint)
    except msgspec.ValidationError:
        return False
    return True


def _operands(leaf: Comparison | IsMissing) -> list[Expression]:
    """Return the expressions that a comparison compares."""
    operands = (leaf.left, leaf.right) if isinstance(leaf, Comparison) else (leaf.of,)
    return [operand for operand in operands if isinstance(operand, Expression)]
