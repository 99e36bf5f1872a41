"""The account of a load run against one counted by hand and by brute force; percentiles of sorted values."""

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.bench import ledger as module
from loadtest.bench.ledger import HIGHEST_US, NOTES_MAX, Answer, AskedEvent, Latency, Ledger
from topics.errors import SettingsError

EVENT = AskedEvent(b"card-1", 5, 2, scheduled_ns=1_000)
ANSWER = Answer("fraud:e1", "e1", 5, b"card-1", 2)


def ledger_of(*event_ids):
    ledger = Ledger("fraud")
    for event_id in event_ids:
        ledger.asked(event_id, EVENT)
    return ledger


def test_latency_starts_when_the_event_was_due():
    assert ledger_of("e1").answered(ANSWER, at_ns=251_000) == 250_000


def test_an_event_without_an_answer_is_lost():
    ledger = ledger_of("e1", "e2")
    ledger.answered(ANSWER, at_ns=2_000)
    assert ledger.waiting == 1
    account = ledger.account()
    assert (account.sent, account.answered, account.lost) == (2, 1, 1)
    assert not account.sound


@pytest.mark.parametrize(
    "change",
    [
        {"prediction_id": "fraud:e2"},
        {"event_time": 6},
        {"key": b"card-2"},
        {"key": None},
        {"partition": 0},
    ],
)
def test_an_answer_that_is_not_its_events_is_a_mismatch(change):
    ledger = ledger_of("e1")
    ledger.answered(ANSWER._replace(**change), at_ns=2_000)
    account = ledger.account()
    assert (account.lost, account.mismatched) == (0, 1)
    assert not account.sound
    assert next(iter(change)) in account.notes[0]


def test_mismatches_are_all_counted_and_few_told():
    ledger = ledger_of("e1")
    for _ in range(NOTES_MAX + 3):
        ledger.answered(ANSWER._replace(partition=0), at_ns=2_000)
    account = ledger.account()
    assert account.mismatched == NOTES_MAX + 3
    assert len(account.notes) == NOTES_MAX


def test_an_id_is_sent_once():
    with pytest.raises(ValueError, match="e1"):
        ledger_of("e1", "e1")


def test_what_is_missing_repeated_or_invented_is_named():
    ledger = ledger_of("e1", "e2")
    for name in ("e1", "e1", "ghost"):
        ledger.answered(ANSWER._replace(event_id=name, prediction_id=f"fraud:{name}"), at_ns=2_000)
    assert ledger.complaint() == (
        "1 events without a prediction (e2); 1 predictions repeated (e1); 1 predictions for no event (ghost)"
    )
    many = ledger_of(*(f"e{number}" for number in range(NOTES_MAX + 1)))
    assert "6 events without a prediction (e0, e1, e2, e3, e4, ...)" in many.complaint()


@given(st.integers(0, 8), st.lists(st.integers(0, 12), max_size=40))
def test_counts_equal_those_of_a_brute_force_count(sent, answers):
    ledger = ledger_of(*(f"e{number}" for number in range(sent)))
    timed = 0
    for number in answers:
        answer = ANSWER._replace(event_id=f"e{number}", prediction_id=f"fraud:e{number}")
        timed += ledger.answered(answer, at_ns=2_000) is not None
    account = ledger.account()
    seen = Counter(answers)
    ours = {number: count for number, count in seen.items() if number < sent}
    assert account.answered == timed == len(ours)
    assert account.lost == sent - len(ours)
    assert account.duplicated == sum(ours.values()) - len(ours)
    assert account.foreign == len(answers) - sum(ours.values())
    assert account.mismatched == 0
    complains = account.lost or account.duplicated or account.foreign
    assert (ledger.complaint() is not None) == bool(complains)


def test_percentiles_are_those_of_the_sorted_values_to_three_digits():
    rng = random.Random(7)
    values = sorted(int(rng.lognormvariate(15, 1.5)) for _ in range(5_000))
    latency = Latency()
    for value in values:
        latency.record(value)
    summary = latency.summary_ms()
    for name, share in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999)):
        exact = values[int(share * len(values)) - 1] / 1e6
        assert summary[name] == pytest.approx(exact, rel=3e-3, abs=2e-3)
    assert summary["max"] == pytest.approx(values[-1] / 1e6, rel=2e-3)
    assert summary["mean"] == pytest.approx(sum(values) / len(values) / 1e6, rel=2e-3)
    assert len(latency) == 5_000


def test_values_outside_the_range_are_kept_at_its_ends():
    latency = Latency()
    latency.record(-5)
    latency.record(10**18)
    assert len(latency) == 2
    assert latency.summary_ms()["max"] == pytest.approx(HIGHEST_US / 1_000, rel=1e-3)


def test_nothing_recorded_is_an_empty_summary():
    assert Latency().summary_ms() == {}


def test_a_missing_package_is_said_with_its_fix(monkeypatch):
    def missing(name):
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(module, "import_module", missing)
    with pytest.raises(SettingsError, match=r"headrace\[bench\]"):
        Latency()
