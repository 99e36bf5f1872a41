"""The look at the first lines of a file never fails, and a failed run always gets words."""

import json

from hypothesis import given
from hypothesis import strategies as st

from engine.offline.diagnosis import Facts, InputFiles, diagnose, failures
from engine.offline.json_lines import FirstLines, Names, delays_ms, head_of

NAMES = Names("event_id", "label_time", "label", frozenset({"event_id", "label", "label_time"}))
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(), inner, max_size=2),
    max_leaves=4,
)
rows = st.fixed_dictionaries({}, optional={"event_id": values, "label_time": values, "label": values})
lines = st.lists(st.binary(max_size=30) | rows.map(lambda row: json.dumps(row).encode()), max_size=6)
metrics = st.sampled_from(
    [
        ("dead_letters", "decode"),
        ("dead_letters", "label"),
        ("dead_letters", "rule"),
        ("events", "beyond_horizon"),
        ("labels", "late"),
        ("labels", "unmatched"),
        ("predictions_dropped", "expired"),
    ]
)


@given(lines)
def test_any_lines_can_be_looked_at(found: list[bytes]) -> None:
    head = head_of(found, NAMES)
    assert head.lines == len(found)
    assert head.objects <= head.lines
    assert head.times.keys() <= head.ids.keys()
    assert sum(head.labels.values()) <= head.objects


@given(
    lines,
    lines,
    st.dictionaries(metrics, st.integers(0, 20)),
    st.tuples(*[st.integers(0, 20)] * 4),
    st.sampled_from(["binary", "multiclass", "regression"]),
    st.booleans(),
)
def test_a_failed_run_always_gets_a_cause_and_a_fix(
    events: list[bytes],
    labels: list[bytes],
    outcomes: dict[tuple[str, str], int],
    counts: tuple[int, int, int, int],
    task: object,
    inside: bool,
) -> None:
    facts = Facts(task, 1_000, inside, *counts[:3], outcomes, {"decode": "why"}, counts[3])  # type: ignore[arg-type]
    inputs = InputFiles(
        head_of(events, NAMES), head_of(labels, NAMES), "e.jsonl", "l.jsonl", len(events) // 2, len(labels)
    )
    found = diagnose(facts, inputs)
    assert found.failures == failures(facts)
    assert bool(found.failures) or facts.examples
    assert found.causes
    assert all(cause.what and cause.fix for cause in found.causes)


@given(st.dictionaries(st.integers(0, 9), st.tuples(st.integers(0, 99), st.integers(0, 99))))
def test_delays_are_those_of_ids_on_both_sides(times: dict[int, tuple[int, int]]) -> None:
    events = FirstLines(times={str(known): first for known, (first, _) in times.items()})
    labels = FirstLines(times={str(known): second for known, (_, second) in times.items() if known % 2})
    expected = sorted(second - first for known, (first, second) in times.items() if known % 2)
    assert list(delays_ms(events, labels)) == expected
