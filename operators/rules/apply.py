"""The application of rules to runs of events and rows of features.

Lives here: how a check is decided over a column of values, and what each action does.  Never here:
what a definition may say (`rules.py`), counting, what has been seen before (`novelty.py`).

Strategy: a run is checked rule by rule, in the order of the definition, each rule over one column of
values.  Events do not see one another, so this gives what event by event would give:

    rule 1  amount.between, clip      ->  100.0  10000.0 (was 2e9)   3.5
    rule 2  paid <= amount, flag      ->    ok     flagged           ok       sees what rule 1 left

Field rules follow the decoder at once, wherever events are decoded, so that windows, features and models
see the same values.  The bytes of the event are never changed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import attrgetter
from typing import Any, Final, get_type_hints

import msgspec
from msgspec.structs import force_setattr, replace

from operators.language.conditions import RELATIONS, Comparison, Condition
from operators.language.expressions import Constant, Expression
from operators.language.fields import Feature, Field
from operators.language.rules import Rule
from operators.windows.evaluate import NOTHING, calculation, predicate
from topics.codec import Decoded, EventDecoder, Rejected
from topics.messages import FeatureValue, Record

__all__ = ["CheckedDecoder", "FeatureRules", "FieldRules", "Hits"]

Hits = dict[int, list[int]]
"""Index in the run -> numbers of the rules that were broken there."""
Find = Callable[[Sequence[Any]], list[int]]
"""Events or rows -> the indexes of those that break a rule."""
Column = Callable[[Sequence[Any]], list[Any]]
Act = Callable[[Any], object]
"""Change the event or the row."""

MATCHED_MAX: Final = 4_096
"""A longer text breaks its pattern unread: bounds what a bad pattern costs."""
SHOWN_MAX: Final = 100
"""Characters of a value in a reason."""


class FieldRules:
    """Rules about fields, over runs of decoded events.

    >>> from operators.language.by import field
    >>> class Payment(msgspec.Struct):
    ...     amount: float
    >>> rules = FieldRules([Rule(field("amount"), between=(0, 100), action="clip")], Payment)
    >>> events = [Payment(12.5), Payment(7e9)]
    >>> rules.check_all(events)
    ({1: [0]}, {})
    >>> events[1].amount
    100.0
    """

    def __init__(self, rules: Sequence[Rule], event_type: type[msgspec.Struct]) -> None:
        hints = get_type_hints(event_type, include_extras=True)
        self._rules = tuple(rules)
        self._steps = [(number, _find(rule), _act_on_event(rule, hints)) for number, rule in enumerate(rules)]

    def check_all(self, values: Sequence[Any]) -> tuple[Hits, dict[int, str]]:
        """Clip and make missing what the rules say, in place.

        Returns the rules that were broken, by index in `values`, and the reason for each event that is
        refused; the rules after the one that refused it are not asked.
        """
        hits: Hits = {}
        refused: dict[int, str] = {}
        for number, find, act in self._steps:
            for index in find(values):
                if index in refused:
                    continue
                hits.setdefault(index, []).append(number)
                if act is not None:
                    act(values[index])
                elif self._rules[number].action == "dead_letter":
                    refused[index] = _reason(self._rules[number], values[index])
        return hits, refused


class FeatureRules:
    """Rules about features, over rows of features.

    >>> from operators.language.by import feature
    >>> rules = FeatureRules([Rule(feature("mean_1h"), between=(0, 100), action="null")], {"mean_1h": float})
    >>> rows = [{"mean_1h": 3.0}, {"mean_1h": -1.0}]
    >>> rules.check_all(rows), rows
    ({1: [0]}, [{'mean_1h': 3.0}, {}])
    """

    def __init__(self, rules: Sequence[Rule], feature_types: Mapping[str, type]) -> None:
        self._steps = [
            (number, _find(rule), _act_on_row(rule, feature_types)) for number, rule in enumerate(rules)
        ]

    def check_all(self, rows: Sequence[dict[str, FeatureValue]]) -> Hits:
        """Clip and leave out what the rules say, in place; return the broken rules by index in `rows`."""
        hits: Hits = {}
        for number, find, act in self._steps:
            for index in find(rows):
                hits.setdefault(index, []).append(number)
                if act is not None:
                    act(rows[index])
        return hits


class CheckedDecoder:
    """A decoder of events that applies the field rules: windows, features and models see its values."""

    def __init__(self, decoder: EventDecoder, rules: FieldRules) -> None:
        self._decode_all = decoder.decode_all
        self._check_all = rules.check_all

    def decode(self, record: Record) -> Decoded | Rejected:
        """Return the event, or the reason why the record is none."""
        return self.decode_all((record,))[0]

    def decode_all(self, records: Iterable[Record]) -> list[Decoded | Rejected]:
        """Return for each record, in order, the event with the rules it broke, or why it is none."""
        records = list(records)
        decoded = self._decode_all(records)
        valid = [one for one in decoded if type(one) is Decoded]
        hits, refused = self._check_all([one.value for one in valid])
        if not hits:
            return decoded
        indexes = [index for index, one in enumerate(decoded) if type(one) is Decoded]
        for nth, numbers in hits.items():
            index, broken = indexes[nth], tuple(numbers)
            if nth in refused:
                decoded[index] = Rejected(records[index], "rule", "ValueError", refused[nth], broken)
            else:
                decoded[index] = replace(valid[nth], hits=broken)
        return decoded


def _find(rule: Rule) -> Find:
    """Return the check of a rule as a function of events (or rows)."""
    of = rule.of
    if isinstance(of, Condition):
        return _find_unmet(of)
    column = _column(of)
    if rule.between is not None:
        return _find_outside(column, *rule.between)
    if rule.one_of is not None:
        allowed = frozenset((*rule.one_of, None))

        def find_others(values: Sequence[Any]) -> list[int]:
            given = column(values)
            if allowed.issuperset(given):
                return []
            return [index for index, value in enumerate(given) if value not in allowed]

        return find_others
    if rule.matches is not None:
        search = re.compile(rule.matches).search

        def find_unmatched(values: Sequence[Any]) -> list[int]:
            return [
                index
                for index, value in enumerate(column(values))
                if value is not None
                and not (isinstance(value, str) and len(value) <= MATCHED_MAX and search(value))
            ]

        return find_unmatched

    def find_missing(values: Sequence[Any]) -> list[int]:
        given = column(values)
        return [index for index, value in enumerate(given) if value is None] if None in given else []

    return find_missing


def _column(of: Expression) -> Column:
    """Return the values of an expression over events (or rows) as a function."""
    match of:
        case Constant(constant):
            return lambda values: [constant] * len(values)
        case Field(name):
            get = attrgetter(name)
            return lambda events: list(map(get, events))
        case Feature(name):
            return lambda rows: [row.get(name) for row in rows]
    evaluate = calculation(of, {})
    return lambda values: [evaluate(value, NOTHING, NOTHING) for value in values]


def _find_outside(column: Column, low: float | None, high: float | None) -> Find:
    if low is None:
        return lambda values: [
            index
            for index, value in enumerate(column(values))
            if value is not None and not value <= high  # not `>`: what is no number lies nowhere
        ]
    if high is None:
        return lambda values: [
            index for index, value in enumerate(column(values)) if value is not None and not value >= low
        ]
    return lambda values: [
        index for index, value in enumerate(column(values)) if value is not None and not low <= value <= high
    ]


def _find_unmet(condition: Condition) -> Find:
    """Return the function that finds where a condition is known not to be met."""
    match condition:
        case Comparison(relation, Expression() as left, Expression() as right):
            return _find_uncompared(RELATIONS[relation], _column(left), _column(right))
    decide = predicate(condition)

    def met(value: Any) -> bool | None:
        try:
            return decide(value)
        except TypeError:  # a looked-up value may be text where a number was meant
            return False

    return lambda values: [index for index, value in enumerate(values) if met(value) is False]


def _find_uncompared(relation: Callable[[Any, Any], bool], left: Column, right: Column) -> Find:
    """Return the check of two columns, pair by pair: half the cost of a condition."""

    def holds(a: Any, b: Any) -> bool:
        try:
            return relation(a, b)
        except TypeError:  # as above
            return False

    def find(values: Sequence[Any]) -> list[int]:
        pairs = list(zip(left(values), right(values), strict=True))
        try:
            return [
                index
                for index, (a, b) in enumerate(pairs)
                if a is not None and b is not None and not relation(a, b)
            ]
        except TypeError:
            return [
                index
                for index, (a, b) in enumerate(pairs)
                if a is not None and b is not None and not holds(a, b)
            ]

    return find


def _act_on_event(rule: Rule, hints: Mapping[str, Any]) -> Act | None:
    """Return the function that changes an event as a rule says; None where the rule changes nothing."""
    target = rule.target
    if target is None or rule.action in ("dead_letter", "flag"):
        return None
    name = target.name
    if rule.action == "null":
        return lambda event: force_setattr(event, name, None)
    clipped = _clipped(rule, hints[name])
    return lambda event: force_setattr(event, name, clipped(getattr(event, name)))


def _act_on_row(rule: Rule, feature_types: Mapping[str, type]) -> Act | None:
    target = rule.target
    if target is None or rule.action == "flag":
        return None
    name = target.name
    if rule.action == "null":
        return lambda row: row.pop(name)
    clipped = _clipped(rule, feature_types[name])

    def clip(row: dict[str, FeatureValue]) -> None:
        row[name] = clipped(row[name])

    return clip


def _clipped(rule: Rule, hint: Any) -> Callable[[Any], FeatureValue]:
    """Return the function from a value outside a rule's range to the nearest bound, in the field's type."""
    assert rule.between is not None
    low, high = (None if bound is None else msgspec.convert(bound, hint) for bound in rule.between)
    return lambda value: low if low is not None and value < low else high  # type: ignore[return-value]


def _reason(rule: Rule, event: Any) -> str:
    """Return the reason why an event is refused, with the values that broke the rule."""
    fields = dict.fromkeys(part for part in rule.parts() if isinstance(part, Field))
    shown = ", ".join(f"{part!r} is {repr(getattr(event, part.name))[:SHOWN_MAX]}" for part in fields)
    return f"rule {rule.name} is broken ({rule.demand}): {shown}"
