"""Losses: bounded where they can be, true to what is served, and only what is a mean over rows."""

from __future__ import annotations

import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from river import metrics

from operators.models.parameters import model_text
from operators.models.scoring import label_of
from operators.race.evidence import Promotion
from operators.race.losses import (
    ERROR_UNIT,
    Quantile,
    ScaledError,
    brier,
    judged_by,
    loss_of,
    multiclass_brier,
)
from topics.errors import DefinitionError

NAMES = ("brier", "log", "zero_one")
chances = st.floats(0, 1)


@given(st.sampled_from(NAMES), st.booleans(), chances)
def test_binary_losses_are_bounded_and_prefer_the_truth(name, label, p):
    loss = loss_of("binary", name)
    right, wrong = loss(label, p if label else 1 - p), loss(label, 1 - p if label else p)
    assert 0.0 <= right <= 1.0
    if p > 0.5:
        assert right <= wrong


@given(st.sampled_from(NAMES), st.dictionaries(st.sampled_from("abcd"), chances, min_size=1))
def test_multiclass_losses_are_bounded(name, score):
    assert 0.0 <= loss_of("multiclass", name)("a", score) <= 1.0


@pytest.mark.parametrize("name", NAMES)
def test_certainty_costs_nothing_or_everything(name):
    assert loss_of("binary", name)(True, 1.0) == 0.0
    assert loss_of("binary", name)(True, 0.0) == 1.0
    assert loss_of("multiclass", name)("a", {"a": 1.0}) == 0.0
    assert loss_of("multiclass", name)("a", {"b": 1.0}) == 1.0


def test_two_class_brier_agrees_with_binary_brier():
    for p in (0.0, 0.3, 0.5, 0.9):
        assert multiclass_brier("yes", {"yes": p, "no": 1 - p}) == pytest.approx(brier(True, p))


def test_no_opinion_has_no_loss():
    assert [loss_of("binary", name)(True, None) for name in NAMES] == [None] * 3
    assert [loss_of("multiclass", name)("a", None) for name in NAMES] == [None] * 3
    assert loss_of("regression")(1.0, None) is None


def test_scaled_error_divides_by_the_deviation_of_earlier_labels():
    loss = ScaledError()
    labels = [2.0, 4.0, 4.0, 5.0, 10.0]
    for label in labels:
        loss.update(label)
    mean = sum(labels) / len(labels)
    deviation = math.sqrt(sum((x - mean) ** 2 for x in labels) / (len(labels) - 1))
    assert loss(7.0, 6.0) == pytest.approx(1.0 / (ERROR_UNIT * deviation))
    assert loss(1e6, 0.0) == pytest.approx(1e6 / (ERROR_UNIT * deviation))  # a disaster is seen


def test_scaled_error_has_no_scale_before_two_different_labels():
    loss = ScaledError()
    assert loss(1.0, 0.0) is None
    loss.update(1.0)
    loss.update(1.0)
    assert loss(1.0, 0.0) is None


def test_scaled_error_restores_to_the_bit():
    loss, other = ScaledError(), ScaledError()
    for n in range(100):
        loss.update(n * 0.1)
    other.restore(loss.state())
    loss.update(3.3)
    other.update(3.3)
    assert other.state() == loss.state()


def test_unknown_loss_is_refused():
    with pytest.raises(DefinitionError, match=r"promotion\.loss is 'gini'"):
        loss_of("binary", "gini")


@given(st.floats(0.05, 0.95), chances, st.booleans())
def test_zero_one_is_wrong_where_the_answer_is(threshold, p, label):
    loss = loss_of("binary", "zero_one", threshold)
    assert loss(label, p) == float(label_of("binary", p, threshold) != label)
    assert loss(label, None) is None


@given(st.floats(0.05, 0.95), st.floats(-100, 100), st.floats(-100, 100))
def test_the_pinball_loss_of_the_median_is_the_absolute_error(q, label, score):
    losses = [loss_of("regression", objective) for objective in ("brier", Quantile(0.5), Quantile(q))]
    for number in (0.0, 1.0, 5.0):
        for loss in losses:
            loss.update(number)
    absolute, median, of_q = (loss(label, score) for loss in losses)
    assert median == absolute
    weight = 2 * q if label > score else 2 * (1 - q)
    assert of_q == pytest.approx(weight * absolute)


def test_the_quantile_loss_is_least_at_the_quantile():
    loss = loss_of("regression", Quantile(0.9))
    labels = [float(n) for n in range(100)]
    for label in labels:
        loss.update(label)
    totals = {score: math.fsum(loss(label, score) for label in labels) for score in (50.0, 80.0, 89.5, 95.0)}
    assert min(totals, key=totals.__getitem__) == 89.5


@pytest.mark.parametrize(
    ("task", "metric", "scores"),
    [
        ("binary", metrics.Accuracy(), [(True, 0.3), (False, 0.1), (True, 0.2)]),
        ("binary", metrics.LogLoss(), [(True, 0.3), (False, 0.1)]),
        ("multiclass", metrics.CrossEntropy(), [("a", {"a": 0.4, "b": 0.6}), ("b", {"a": 0.1, "b": 0.9})]),
        ("multiclass", metrics.MicroF1(), [("a", {"a": 0.4, "b": 0.6}), ("b", {"a": 0.1, "b": 0.9})]),
        ("regression", metrics.MSE(), [(1.0, 3.0), (2.0, -5.0)]),
        ("regression", metrics.MAE(), [(1.0, 3.0), (2.0, -5.0)]),
    ],
)
def test_a_metric_that_is_a_mean_over_rows_is_an_objective(task, metric, scores):
    Promotion(loss=metric)
    loss, whole = loss_of(task, metric, 0.25), metric.clone()
    for label, score in scores:
        whole.update(
            label, label_of(task, score, 0.25) if getattr(metric, "requires_labels", False) else score
        )
    mean = sum(loss(label, score) for label, score in scores) / len(scores)
    assert mean == pytest.approx(1 - whole.get() if metric.bigger_is_better else whole.get())
    assert loss(scores[0][0], None) is None
    assert judged_by(task, metric) == type(metric).__name__


@pytest.mark.parametrize(
    ("task", "objective"),
    [
        ("binary", metrics.F1()),
        ("binary", metrics.ROCAUC()),
        ("binary", metrics.R2()),
        ("binary", Quantile(0.5)),
        ("multiclass", metrics.MacroF1()),
        ("regression", metrics.RMSE()),
        ("regression", metrics.R2()),
        ("regression", {(True, False): 1.0}),
    ],
)
def test_an_objective_that_cannot_judge_the_task_is_refused(task, objective):
    with pytest.raises(DefinitionError):
        loss_of(task, objective)


@pytest.mark.parametrize("loss", ["gini", {}, {True: 1.0}, {(True, False): -1.0}, {(True, False): 0}, 0.5])
def test_what_is_no_objective_is_refused_where_it_is_written(loss):
    with pytest.raises(DefinitionError, match=r"promotion\.loss"):
        Promotion(loss=loss)


@pytest.mark.parametrize("q", [0.0, 1.0, -1.0, math.nan])
def test_a_quantile_is_a_share(q):
    with pytest.raises(DefinitionError):
        Quantile(q)


def test_a_cost_matrix_costs_what_the_answer_at_the_threshold_costs():
    loss = loss_of("binary", {(True, False): 10.0, (False, True): 1.0}, threshold=0.2)
    assert [loss(True, 0.1), loss(True, 0.3), loss(False, 0.3), loss(False, 0.1)] == [10.0, 0.0, 1.0, 0.0]
    of_classes = loss_of("multiclass", {("a", "b"): 3.0})
    assert [of_classes("a", {"b": 1.0}), of_classes("b", {"a": 1.0}), of_classes("a", None)] == [
        3.0,
        0.0,
        None,
    ]


def test_a_cost_is_the_loss_by_which_a_race_is_judged():
    promotion = Promotion(cost={"fp": 1.0, "fn": 20.0})
    loss = loss_of("binary", promotion.loss, threshold=0.2)
    answers = [(True, 0.9), (True, 0.1), (False, 0.3), (False, 0.2)]
    assert [loss(truth, score) for truth, score in answers] == [0.0, 20.0, 1.0, 0.0]
    assert dataclasses.replace(promotion, min_examples=5).loss == promotion.loss
    assert Promotion(cost={("a", "b"): 2.0}).loss == {("a", "b"): 2.0}
    assert model_text(Promotion()) == model_text(Promotion(cost=None))
    assert "cost" not in model_text(Promotion())


@pytest.mark.parametrize(
    "said",
    [
        {"cost": {"fp": -1.0}},
        {"cost": {"fp": math.nan}},
        {"cost": {"fx": 1.0}},
        {"cost": {"fp": 0.0}},
        {"cost": {"fp": 1.0, (False, True): 2.0}},
        {"cost": {"fp": 1.0}, "loss": "log"},
    ],
)
def test_a_cost_that_cannot_be_is_refused(said):
    with pytest.raises(DefinitionError):
        Promotion(**said)
