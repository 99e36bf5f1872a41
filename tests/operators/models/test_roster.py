"""The prior says what labels alone say; the roster knows who is healthy."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from operators.models.roster import CLASSES_MAX, Candidate, Prior, Roster


@given(st.lists(st.booleans(), min_size=1))
def test_binary_prior_is_the_share_of_true(labels):
    prior = Prior("binary")
    for label in labels:
        prior.update(label)
    assert prior.score() == pytest.approx(sum(labels) / len(labels))
    assert prior.updates == len(labels)


@given(st.lists(st.sampled_from("abc"), min_size=1))
def test_multiclass_prior_is_the_share_of_each_class(labels):
    prior = Prior("multiclass")
    for label in labels:
        prior.update(label)
    assert prior.score() == {name: n / len(labels) for name, n in Counter(labels).items()}


def test_priors_before_the_first_label():
    assert Prior("binary").score() == 0.5
    assert Prior("multiclass").score() is None
    assert Prior("regression").score() is None


def test_classes_are_bounded():
    prior = Prior("multiclass")
    for n in range(CLASSES_MAX + 50):
        prior.update(str(n))
    assert len(prior.score()) == CLASSES_MAX


@pytest.mark.parametrize(
    ("task", "labels"),
    [("binary", [True, False, True]), ("multiclass", list("abca")), ("regression", [0.1, 0.7, 3.0])],
)
def test_restored_prior_goes_on_to_the_bit(task, labels):
    prior, other = Prior(task), Prior(task)
    for label in labels:
        prior.update(label)
    other.restore(prior.snapshot())
    for label in labels:
        prior.update(label)
        other.update(label)
        assert other.score() == prior.score()
    assert other.snapshot() == prior.snapshot()


def test_racing_leaves_out_the_quarantined_in_order_of_start():
    roster = Roster("binary", [Candidate(n, None, version=v) for v, n in enumerate("cab", 1)], "c")
    roster.quarantined.add("a")
    assert [candidate.name for candidate in roster.racing()] == ["c", "b"]
    assert [roster.healthy(name) for name in ("c", "a", "zzz")] == [True, False, False]
