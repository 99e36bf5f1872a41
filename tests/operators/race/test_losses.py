"""Losses are bounded, worst where they should be, and never choose their own scale."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from operators.models.scoring import label_of
from operators.race.losses import DEVIATIONS_MAX, ScaledError, brier, loss_of, multiclass_brier
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
    assert loss(7.0, 6.0) == pytest.approx(1.0 / (DEVIATIONS_MAX * deviation))
    assert loss(1e9, 0.0) == 1.0


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
    with pytest.raises(DefinitionError, match="no loss `gini`"):
        loss_of("binary", "gini")


@given(st.floats(0.05, 0.95), chances, st.booleans())
def test_zero_one_is_wrong_where_the_answer_is(threshold, p, label):
    loss = loss_of("binary", "zero_one", threshold)
    assert loss(label, p) == float(label_of("binary", p, threshold) != label)
    assert loss(label, None) is None
