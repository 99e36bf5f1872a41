"""A blend's weights are fixed-share exponential weights over the scores as served, to an oracle."""

from __future__ import annotations

import math
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from operators.models.digest import digest
from operators.models.mixture import DEVIATIONS_MAX, RANGES_MAX, Mixture

NAMES = ("tree", "linear", "forest")
probability = st.floats(0, 1)
opinion = st.one_of(st.none(), probability)
settings = st.tuples(st.floats(0.01, 20.0), st.floats(0.0, 0.5))


def brute_force(rows, eta, share, names=NAMES):
    """Return the weights after all rows in which everybody had an opinion, as the paper writes them."""
    weights = dict.fromkeys(names, 1 / len(names))
    for scores, label in rows:
        weights = {k: w * math.exp(-eta * (scores[k] - label) ** 2) for k, w in weights.items()}
        total = sum(weights.values())
        weights = {k: (1 - share) * w / total + share / len(names) for k, w in weights.items()}
    return weights


@given(
    st.lists(st.tuples(st.fixed_dictionaries(dict.fromkeys(NAMES, probability)), st.booleans()), max_size=40),
    settings,
)
def test_weights_are_those_of_the_paper(rows, told):
    eta, share = told
    mixture = Mixture("binary", eta=eta, share=share)
    for at, (scores, label) in enumerate(rows):
        expected = brute_force(rows[:at], eta, share)
        score, weights = mixture.blend(scores, NAMES)
        assert weights == pytest.approx(expected, abs=1e-9)
        assert score == pytest.approx(sum(expected[k] * scores[k] for k in NAMES), abs=1e-9)
        mixture.learn(scores, label, NAMES)
    assert mixture.shares(NAMES) == pytest.approx(brute_force(rows, eta, share), abs=1e-9)


@given(
    st.lists(st.tuples(st.fixed_dictionaries(dict.fromkeys(NAMES, opinion)), st.booleans()), max_size=30),
    settings,
)
def test_who_has_no_opinion_has_no_say_and_only_gives_its_share(rows, told):
    eta, share = told
    mixture = Mixture("binary", eta=eta, share=share)
    for scores, label in rows:
        before = mixture.shares(NAMES)
        awake = [k for k in NAMES if scores[k] is not None]
        score, weights = mixture.blend(scores, NAMES)
        assert list(weights) == awake
        assert (score is None) == (not awake)
        if awake:
            assert sum(weights.values()) == pytest.approx(1.0)
            assert min(scores[k] for k in awake) - 1e-9 <= score <= max(scores[k] for k in awake) + 1e-9
        mixture.learn(scores, label, NAMES)
        after = mixture.shares(NAMES)
        assert sum(after.values()) == pytest.approx(1.0)
        if len(awake) < 2:
            assert after == before
        else:
            for k in set(NAMES) - set(awake):
                assert after[k] == pytest.approx((1 - share) * before[k] + share / len(NAMES))


@given(st.lists(st.tuples(st.tuples(probability, probability), st.booleans()), min_size=1, max_size=60))
def test_several_classes_of_two_are_the_binary_blend(rows):
    binary = Mixture("binary", eta=0.5, share=0.01)
    several = Mixture("multiclass", eta=0.5, share=0.01)
    for pair, label in rows:
        scores = dict(zip(("a", "b"), pair, strict=True))
        chances = {k: {"yes": p, "no": 1 - p} for k, p in scores.items()}
        score, _ = binary.blend(scores, ("a", "b"))
        assert several.blend(chances, ("a", "b")).score == pytest.approx({"yes": score, "no": 1 - score})
        binary.learn(scores, label, ("a", "b"))
        several.learn(chances, "yes" if label else "no", ("a", "b"))
    assert several.shares(("a", "b")) == pytest.approx(binary.shares(("a", "b")))


def test_a_class_that_only_one_knows_has_the_weight_of_that_one():
    mixture = Mixture("multiclass", eta=0.5, share=0.01)
    score, _ = mixture.blend({"a": {"ant": 1.0}, "b": {"ant": 0.5, "bee": 0.5}}, ("a", "b"))
    assert score == {"ant": 0.75, "bee": 0.25}


def test_a_newcomer_begins_with_its_share_and_a_leaver_gives_its_own_to_all():
    mixture = Mixture("binary", eta=0.5, share=0.1)
    for _ in range(100):
        mixture.learn({"a": 0.1, "b": 0.9}, True, ("a", "b"))
    of_two = mixture.shares(("a", "b"))
    of_three = mixture.shares(("a", "b", "c"))
    assert of_three["c"] == pytest.approx(0.1 / 3)
    assert of_three["b"] / of_three["a"] == pytest.approx(of_two["b"] / of_two["a"])
    assert mixture.shares(("b", "c")) == pytest.approx({"b": 0.95, "c": 0.05})
    assert mixture.shares(("c",)) == {"c": 1.0}
    assert mixture.shares(()) == {}
    assert Mixture("binary", eta=0.5, share=0.0).shares(("a", "b")) == {"a": 0.5, "b": 0.5}


def test_a_change_of_the_best_is_followed():
    mixture, pair = Mixture("binary", eta=0.5, share=0.01), ("a", "b")
    for _ in range(5_000):
        mixture.learn({"a": 0.9, "b": 0.4}, True, pair)
    assert mixture.shares(pair)["a"] > 0.95
    for _ in range(60):
        mixture.learn({"a": 0.9, "b": 0.4}, False, pair)
    assert mixture.shares(pair)["b"] > 0.9


@pytest.mark.parametrize("eta", [1e-6, 1e6])
def test_no_weight_vanishes_and_none_is_lost_to_rounding(eta):
    mixture, pair = Mixture("binary", eta=eta, share=0.0), ("a", "b")
    for _ in range(1_000):
        mixture.learn({"a": 1.0, "b": 0.0}, True, pair)
        mixture.learn({"a": 1.0, "b": 0.9}, False, pair)
    weights = mixture.shares(pair)
    assert sum(weights.values()) == pytest.approx(1.0)
    assert all(math.isfinite(weight) for weight in weights.values())


# -- regression -----------------------------------------------------------------------------------------


def test_regression_losses_are_squared_errors_by_the_labels_before():
    mixture, pair = Mixture("regression", eta=0.5, share=0.01), ("a", "b")
    labels = [3.0, 5.0, 4.0, 9.0, 1.0, 6.0]
    weights = {"a": 0.5, "b": 0.5}
    for n, label in enumerate(labels):
        scores = {"a": 4.0, "b": label + 1.0}
        past = labels[:n]
        if n >= 2:
            mean = sum(past) / n
            unit = DEVIATIONS_MAX * math.sqrt(sum((y - mean) ** 2 for y in past) / (n - 1))
            moved = {
                k: w * math.exp(-0.5 * min(abs(scores[k] - label) / unit, 1.0) ** 2)
                for k, w in weights.items()
            }
            weights = {k: 0.99 * w / sum(moved.values()) + 0.005 for k, w in moved.items()}
        mixture.learn(scores, label, pair)
        assert mixture.shares(pair) == pytest.approx(weights)


def test_a_value_far_outside_the_labels_range_has_no_say():
    mixture, pair = Mixture("regression", eta=0.5, share=0.01), ("sane", "wild")
    first = mixture.blend({"sane": 1.0, "wild": 1e6}, pair)
    assert first.score == pytest.approx(500_000.5)  # nothing is known of the labels yet
    for label in (0.0, 10.0):
        mixture.learn({"sane": 5.0, "wild": 5.0}, label, pair)
    edge = 10.0 + RANGES_MAX * 10.0
    assert mixture.blend({"sane": 5.0, "wild": edge + 0.1}, pair) == (5.0, {"sane": 1.0})
    assert mixture.left_out({"sane": 5.0, "wild": edge + 0.1}, pair) == ["wild"]
    assert mixture.blend({"sane": 5.0, "wild": edge}, pair).score == pytest.approx((5.0 + edge) / 2)
    assert mixture.left_out({"sane": 5.0, "wild": edge}, pair) == []
    # where nobody is inside, each counts as the nearest that is
    assert mixture.blend({"sane": -1e9, "wild": 1e9}, pair).score == pytest.approx(5.0)


# -- fixed weights -----------------------------------------------------------------------------------


def test_fixed_weights_combine_in_proportion_and_no_label_changes_them():
    mixture = Mixture("binary", eta=0.5, share=0.01, of=("a", "b"), fixed={"a": 3.0, "b": 1.0})
    assert mixture.members(("z", "a", "b")) == ("a", "b")
    mixture.learn({"a": 0.0, "b": 1.0}, True, ("a", "b"))
    assert mixture.blend({"a": 0.0, "b": 1.0}, ("a", "b")) == (0.25, {"a": 0.75, "b": 0.25})
    assert mixture.blend({"a": None, "b": 1.0}, ("a", "b")) == (1.0, {"b": 1.0})


def test_a_person_changes_fixed_weights_only():
    mixture = Mixture("binary", eta=0.5, share=0.01, of=("a", "b"), fixed={"a": 3.0, "b": 1.0})
    for wrong in ({"a": 1.0}, {"a": 0.0, "b": 0.0}, {"a": -1.0, "b": 2.0}, {"a": math.nan, "b": 1.0}):
        assert mixture.refusal(wrong)
    assert Mixture("binary", eta=0.5, share=0.01).refusal({"a": 1.0})
    assert not mixture.refusal({"a": 0.0, "b": 1.0})
    mixture.reweigh({"a": 0.0, "b": 1.0})
    assert mixture.blend({"a": 0.2, "b": 0.6}, ("a", "b")).score == 0.6
    assert mixture.blend({"a": 0.2, "b": None}, ("a", "b")).score is None


# -- state --------------------------------------------------------------------------------------------


@given(
    st.sampled_from(["binary", "regression"]),
    st.lists(st.tuples(opinion, opinion, probability), max_size=20),
    st.integers(0, 20),
)
def test_copies_and_restored_mixtures_go_on_to_the_bit(task, rows, cut):
    mixture, pair = Mixture(task, eta=0.5, share=0.01), ("a", "b")

    def learn(taught, part):
        for a, b, label in part:
            taught.learn({"a": a, "b": b}, label if task == "regression" else label > 0.5, pair)

    learn(mixture, rows[:cut])
    before = digest(mixture)
    restored, copied = pickle.loads(pickle.dumps(mixture)), mixture.copy()
    assert digest(restored) == digest(copied) == before
    learn(copied, rows[cut:])
    assert digest(mixture) == before
    learn(restored, rows[cut:])
    learn(mixture, rows[cut:])
    assert digest(restored) == digest(copied) == digest(mixture)
    assert digest(mixture.clone()) == digest(Mixture(task, eta=0.5, share=0.01))


def test_weights_sum_to_one_when_one_has_left_for_good():
    mixture = Mixture("binary", eta=0.5, share=0.01)
    mixture.learn({"a": 0.9, "b": 0.5, "c": 0.2}, True, ("a", "b", "c"))
    mixture.forget("c")
    assert sum(mixture.shares(("a", "b")).values()) == pytest.approx(1.0)
    mixture.forget("a")
    mixture.forget("b")
    assert mixture.shares(("d", "e")) == {"d": 0.5, "e": 0.5}
