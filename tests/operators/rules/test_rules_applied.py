"""Columns of values against rules, beside the plainest reading of each rule."""

from __future__ import annotations

import json
import re
from copy import deepcopy
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from operators import feature, field
from operators.language.rules import Rule
from operators.rules.apply import MATCHED_MAX, CheckedDecoder, FeatureRules, FieldRules
from topics.codec import Decoded, EventDecoder, Rejected
from topics.messages import Record


class Payment(msgspec.Struct, frozen=True):
    card: str = "c-1"
    amount: float | None = None
    paid: float | None = None
    items: int | None = None
    country: str | None = None


def meets(rule: Rule, event: Payment) -> bool:
    """What a rule says, read off its text; a missing value meets all but `required`."""
    match rule.name:
        case "amount":
            return event.amount is None or 0 <= event.amount <= 10
        case "items":
            return event.items is None or event.items >= 1
        case "country":
            return event.country is None or event.country in {"DE", "FR"}
        case "pattern":
            return event.country is None or re.search("^[DX]", event.country) is not None
        case "required":
            return event.country is not None
        case "pair":
            return event.amount is None or event.paid is None or event.paid <= event.amount
        case "either":
            return event.paid is None or event.amount is None or event.paid > 0 or event.amount > 0
    raise AssertionError(rule)


def done(rule: Rule, event: dict[str, Any]) -> None:
    """What an action does to an event whose rule is broken."""
    if rule.action == "null":
        assert rule.target is not None
        event[rule.target.name] = None
    elif rule.name == "amount" and rule.action == "clip":
        event["amount"] = min(10.0, max(0.0, event["amount"]))
    elif rule.action == "clip":
        event["items"] = 1


def rules_about(of: Any, **given: Any) -> st.SearchStrategy[Rule]:
    actions = ["dead_letter", "flag"]
    if "between" in given:
        actions.append("clip")
    if given["name"] not in ("required", "either"):
        actions.append("null")
    return st.sampled_from(actions).map(lambda action: Rule(of, action=action, **given))


RULES = st.tuples(
    rules_about(field("amount"), between=(0, 10), name="amount"),
    rules_about(field("items"), between=(1, None), name="items"),
    rules_about(field("country"), one_of=["DE", "FR"], name="country"),
    rules_about(field("country"), matches="^[DX]", name="pattern"),
    rules_about(field("country"), required=True, name="required"),
    rules_about(field("paid") <= field("amount"), name="pair"),
    rules_about((field("paid") > 0) | (field("amount") > 0), name="either"),
).flatmap(st.permutations)
EVENTS = st.lists(
    st.builds(
        Payment,
        amount=st.none() | st.floats(-20, 20),
        paid=st.none() | st.floats(-20, 20),
        items=st.none() | st.integers(-2, 3),
        country=st.sampled_from([None, "DE", "FR", "DX", "XX", ""]),
    ),
    max_size=12,
)


@given(RULES, EVENTS)
def test_a_column_at_a_time_is_one_event_after_the_other(rules: list[Rule], events: list[Payment]) -> None:
    expected, changed = {}, []
    refused = set()
    for place, event in enumerate(events):
        values = msgspec.structs.asdict(event)
        for number, rule in enumerate(rules):
            if not meets(rule, Payment(**values)):
                expected.setdefault(place, []).append(number)
                done(rule, values)
                if rule.action == "dead_letter":
                    refused.add(place)
                    break
        changed.append(Payment(**values))
    hits, reasons = FieldRules(rules, Payment).check_all(events)
    assert (hits, set(reasons)) == (expected, refused)
    for place, event in enumerate(events):
        if place not in refused:
            assert event == changed[place]
            assert type(event.amount) in {float, type(None)}


@given(RULES, EVENTS, st.integers(1, 5))
def test_a_batch_of_n_equals_n_batches_of_one(rules: list[Rule], events: list[Payment], size: int) -> None:
    checked = FieldRules(rules, Payment)
    others = deepcopy(events)
    hits, reasons = checked.check_all(events)
    for start in range(0, len(others), size):
        some, why = checked.check_all(others[start : start + size])
        for place in range(start, min(start + size, len(others))):
            assert hits.get(place) == some.get(place - start)
            assert reasons.get(place) == why.get(place - start)
    assert events == others


def test_features_are_clipped_left_out_and_flagged_in_place() -> None:
    rules = [
        Rule(feature("mean"), between=(0, 10), action="clip"),
        Rule(feature("kind"), one_of=("a",), action="null"),
        Rule(feature("mean") <= feature("max"), action="null"),
        Rule(feature("max"), required=True, action="flag"),
        Rule(feature("mean") + feature("max") < 15, action="flag"),
    ]
    rows: list[dict[str, Any]] = [
        {"mean": 50.0, "max": 7.0, "kind": "b"},
        {"mean": -1.0, "max": 7.0, "kind": "a"},
        {},
        {"mean": 9.0, "max": 9.0},
    ]
    hits = FeatureRules(rules, {"mean": float, "max": float, "kind": str}).check_all(rows)
    assert rows == [{"max": 7.0}, {"mean": 0.0, "max": 7.0, "kind": "a"}, {}, {"mean": 9.0, "max": 9.0}]
    assert hits == {0: [0, 1, 2], 1: [0], 2: [3], 3: [4]}


def test_looked_up_values_of_another_kind_break_a_rule_and_nothing_else() -> None:
    rules = [
        Rule(feature("risk"), matches="^a", action="flag"),
        Rule(feature("risk") < "m", action="flag"),
        Rule(feature("risk") < feature("kind"), action="flag"),
    ]
    rows: list[dict[str, Any]] = [{"risk": 12, "kind": "b"}, {"risk": "a", "kind": "b"}]
    assert FeatureRules(rules, {"risk": str, "kind": str}).check_all(rows) == {0: [0, 1, 2]}


def test_a_text_beyond_the_limit_breaks_its_pattern_unread() -> None:
    rules = FieldRules([Rule(field("country"), matches="x", action="flag")], Payment)
    texts = ["x" * MATCHED_MAX, "x" * (MATCHED_MAX + 1)]
    assert rules.check_all([Payment(country=text) for text in texts])[0] == {1: [0]}


class Event(msgspec.Struct):
    event_id: str
    event_time: int
    card: str
    amount: float | None = None


@pytest.mark.parametrize("action", ["dead_letter", "clip"])
def test_the_decoder_gives_events_as_the_rules_leave_them(action: Any) -> None:
    rules = FieldRules([Rule(field("amount"), between=(0, 5), action=action)], Event)
    plain = EventDecoder(Event, event_id="event_id", event_time="event_time", key="card")
    decoder = CheckedDecoder(plain, rules)
    values = [b"{", *(_bytes(n, amount) for n, amount in enumerate([1.0, 9.0, None, 7.0]))]
    records = [Record("t", 0, n, None, None, value) for n, value in enumerate(values)]
    found = decoder.decode_all(record for record in records)
    assert [decoder.decode(record) for record in records] == found
    assert found[0] == plain.decode(records[0])
    assert found[1] == plain.decode(records[1])
    broken = [found[2], found[4]]
    assert [one.hits for one in broken] == [(0,), (0,)]
    if action == "clip":
        assert [one.value.amount for one in broken if isinstance(one, Decoded)] == [5.0, 5.0]
    else:
        first = broken[0]
        assert isinstance(first, Rejected)
        assert (first.record, first.stage) == (records[2], "rule")
        assert 'field("amount") is 9.0' in first.message


def _bytes(number: int, amount: float | None) -> bytes:
    body = {"event_id": f"e{number}", "event_time": 1_700_000_000_000, "card": "a", "amount": amount}
    return json.dumps(body).encode()
