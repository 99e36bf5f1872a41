"""What the scaling figures are made of: the payments, their parts, and ages by two logs."""

from __future__ import annotations

import json
import statistics

import pytest

from loadtest.scale.__main__ import ALONE, CASES
from loadtest.scale.parts import DELAY, START_MS, costs, messages
from loadtest.scale.pipeline import pipeline
from loadtest.scale.rounds import Case, CpuTaken, _ages, _page


def test_every_payment_has_one_label_behind_it_in_its_partition() -> None:
    made = list(messages(DELAY + 300))
    events = {json.loads(one.value)["event_id"]: (at, one) for at, one in enumerate(made) if not one.is_label}
    labels = {json.loads(one.value)["event_id"]: (at, one) for at, one in enumerate(made) if one.is_label}
    assert events.keys() == labels.keys()
    assert len(made) == 2 * len(events)
    for name, (at, event) in events.items():
        later, label = labels[name]
        assert later > at
        assert (label.key, label.card) == (event.key, event.card)
        assert 0 < label.time_ms - event.time_ms < pipeline.labels.wait_ms
    times = [one.time_ms for one in made if not one.is_label]
    assert times == sorted(times)
    assert times[0] == START_MS
    assert {one.card % 8 for one in made} == set(range(8))
    assert 0.01 < statistics.mean(json.loads(one.value)["label"] for _, one in labels.values()) < 0.5
    assert made == list(messages(DELAY + 300)), "two rounds would differ"


def test_every_part_costs_something() -> None:
    found = costs(pipeline, 3_000)
    assert found.keys() == {
        "decode", "features", "score", "answer", "shadows", "join", "learn", "the rest"
    }  # fmt: skip
    assert min(found.values()) > 0.0


def test_the_slowest_worker_says_how_many_payments_there_are() -> None:
    assert CpuTaken([400.0], 0.0).per_s == 2_500
    assert CpuTaken([250.0, 160.0], 0.0).per_s == 4_000
    assert Case(2, "1s", 0.1, 8, 1).told == {
        "SCALE_FOLLOW": "1s",
        "SCALE_LEARN_SHARE": "0.1",
        "SCALE_PARTITIONS": "8",
        "HEADRACE_LEADER_PARTITIONS_MAX": "1",
    }


def test_each_case_is_compared_with_one_worker_of_its_kind_and_waits_for_its_shares() -> None:
    alone = {name: CASES[other] for name, other in ALONE.items()}
    assert {case.workers for case in alone.values()} == {1}
    assert {name: case.partitions for name, case in alone.items()} == {
        name: case.partitions for name, case in CASES.items()
    }
    assert alone["two, follow=1s, learn_share=0.1"].learn_share == 0.1
    assert [Case(2, partitions=8, leader_partitions_max=own).shares for own in (0, 2, 1)] == [
        [4, 4], [2, 6], [1, 7]
    ]  # fmt: skip


def test_a_page_says_what_was_answered_and_left_out() -> None:
    page = _page(
        'headrace_predictions_total{served_by="champion"} 7.0\n'
        'headrace_predictions_total{served_by="prior"} 2.0\n'
        "headrace_examples_left_out_total 3.0\nheadrace_partitions 2.0\nheadrace_leader 1.0\n"
        "headrace_examples_total 5.0\n"
    )
    assert (page.partitions, page.leading, page.learned) == (2, True, 5)
    assert page.counts == {"answered": 9, "left_out": 3}


def test_an_answer_is_as_old_as_the_leaders_first_by_newer_models() -> None:
    leader = [(1_000 * n, n) for n in range(1, 201)]
    follower = [(10_000, 10), (10_500, 9), (12_000, 9), (900_000, 200)]
    ages = _ages({0: leader, 1: follower * 25})
    assert ages.answers == 100
    assert ages.most_s == 2.0
    assert ages.median_s == pytest.approx(0.25, abs=0.26)
    assert _ages({0: leader, 1: [(50, 0)] * 3}).most_s == 0.0
