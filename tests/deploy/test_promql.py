"""The oracle of dashboards and rules finds what it is there to find."""

from __future__ import annotations

import pytest
from promql import labels_left, problems


@pytest.mark.parametrize(
    "expression",
    [
        "headrace_partitions",
        'sum by (instance) (rate(headrace_dead_letters_total{stage="decode"}[5m])) > 0',
        "histogram_quantile(0.9, sum by (le) (rate(headrace_label_delay_seconds_bucket[1h])))",
        'headrace_model_info{alias="champion"} * on (instance) group_left headrace_leader',
        'rate(process_cpu_seconds_total{job="headrace"}[1m])',
        'headrace_labels_total{outcome=~"late|un.*"}',
        'headrace_model_failures_total{model="of another file"}',
    ],
)
def test_what_is_there_is_no_problem(expression: str) -> None:
    assert problems(expression) == []


@pytest.mark.parametrize(
    ("expression", "found"),
    [
        ("headrace_partition", "there is no metric 'headrace_partition'"),
        ("rate(headrace_examples[5m])", "there is no metric 'headrace_examples'"),
        ('headrace_events_total{stage="decode"}', "headrace_events_total has no label 'stage'"),
        ('headrace_events_total{outcome="lost"}', "headrace_events_total: outcome is never 'lost'"),
        ('headrace_labels_total{outcome=~"late|gone"}', "headrace_labels_total: outcome is never 'gone'"),
        (
            "sum by (stage) (rate(headrace_events_total[5m]))",
            "sum by 'stage', which nothing of 'rate(headrace_events_total[5m])' has",
        ),
        (
            "headrace_leader and on (model) headrace_model_updates",
            "matched on 'model', which a side of and lacks",
        ),
    ],
)
def test_what_is_not_there_is_one(expression: str, found: str) -> None:
    assert problems(expression) == [found]


def test_what_is_no_promql_is_refused() -> None:
    with pytest.raises(ValueError, match="unclosed left parenthesis"):
        problems("sum by (")


@pytest.mark.parametrize(
    ("expression", "left"),
    [
        ("headrace_leader", {"job", "instance", "pipeline"}),
        ("sum by (stage) (rate(headrace_dead_letters_total[5m]))", {"stage"}),
        ("sum(headrace_leader)", set()),
        ("headrace_leader == 0 or absent(headrace_partitions)", {"job", "instance", "pipeline"}),
        (
            "histogram_quantile(0.5, sum by (le, job) (rate(headrace_label_delay_seconds_bucket[5m])))",
            {"job"},
        ),
        ("sum by (job) (headrace_leader) / sum by (job) (headrace_partitions)", {"job"}),
    ],
)
def test_labels_that_are_left_are_known(expression: str, left: set[str]) -> None:
    assert labels_left(expression) == left
