"""The prior says what labels alone say; every event has one answer, and its label is River's own."""

from __future__ import annotations

import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from river import base, linear_model, tree

from operators.models.scoring import (
    CLASSES_MAX,
    Prior,
    Racer,
    Reply,
    Roster,
    Scoring,
    label_of,
    score_function,
)


def shadow(scoring, x, model_name, served_score):
    return scoring.shadow_all([Reply(x, model_name, served_score)])[0]


class Fixed(base.Classifier):
    """Answers with what it was given, and counts how often it was asked."""

    def __init__(self, answer):
        self.answer = answer
        self.asked = 0

    def learn_one(self, x, y):  # noqa: ARG002
        raise AssertionError("scoring never teaches")

    def predict_proba_one(self, x):  # noqa: ARG002
        self.asked += 1
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


class LabelOnly(base.Classifier):
    """A classifier without probabilities, as River allows."""

    def __init__(self, label):
        self.label = label

    def learn_one(self, x, y): ...

    def predict_one(self, x):  # noqa: ARG002
        return self.label


def racing(task="binary", threshold=0.5, **models):
    candidates = [Racer(name, model, version=n) for n, (name, model) in enumerate(models.items(), 1)]
    roster = Roster(task, candidates, next(iter(models)))
    roster.threshold = threshold
    return roster, Scoring(task, roster)


probability = st.floats(0, 1)


@given(
    st.one_of(
        st.tuples(probability, st.booleans()).map(lambda v: ({True: v[0], False: 1 - v[0]}, v[1])),
        st.tuples(st.sampled_from([{True: 0.5, False: 0.5}, {True: 1.0}, {False: 1.0}]), st.booleans()),
        st.tuples(st.fixed_dictionaries({True: probability, False: probability}), st.booleans()),
    )
)
def test_binary_label_is_rivers_own_ties_included(case):
    chances, turned = case
    if turned:
        chances = dict(reversed(list(chances.items())))
    model = Fixed(chances)
    score = score_function("binary", model)({})
    assert label_of("binary", score) is model.predict_one({})
    if math.isclose(sum(chances.values()), 1.0):
        assert score == pytest.approx(chances.get(True, 0.0), abs=1e-15)


def test_threshold_moves_the_label_only():
    _, scoring = racing(threshold=0.8, a=Fixed({True: 0.7, False: 0.3}))
    served = scoring.serve({})
    assert (served.score, served.label) == (0.7, False)


@pytest.mark.parametrize("model", [tree.HoeffdingTreeClassifier(), Fixed({}), LabelOnly(None)])
def test_no_opinion_before_the_first_lesson(model):
    _, scoring = racing(a=model)
    served = scoring.serve({"x": 1.0})
    assert (served.score, served.label, served.cold_start, served.served_by) == (None, None, True, "champion")
    assert shadow(scoring, {}, "a", None).scores == {"a": None}


def test_labels_without_probabilities_are_certain():
    assert score_function("binary", LabelOnly(True))({}) == 1.0
    assert score_function("binary", LabelOnly(False))({}) == 0.0
    assert score_function("multiclass", LabelOnly("b"))({}) == {"b": 1.0}


def test_multiclass_score_has_text_labels_and_rivers_choice():
    model = Fixed({2: 0.4, "b": 0.4, "c": 0.2})
    _, scoring = racing("multiclass", a=model)
    served = scoring.serve({})
    assert served.score == {"2": 0.4, "b": 0.4, "c": 0.2}
    assert served.label == str(model.predict_one({}))


def test_regression_score_is_its_own_label():
    model = linear_model.LinearRegression()
    model.learn_one({"x": 1.0}, 3.0)
    _, scoring = racing("regression", a=model)
    served = scoring.serve({"x": 2.0})
    assert served.score == served.label == model.predict_one({"x": 2.0})


def test_shadow_asks_everybody_but_the_one_that_served():
    champion, other = Fixed({True: 0.9, False: 0.1}), Fixed({True: 0.2, False: 0.8})
    _, scoring = racing(champion=champion, other=other)
    served = scoring.serve({})
    assert (champion.asked, other.asked) == (1, 0)
    shadowed = shadow(scoring, {}, served.model_name, served.score)
    assert shadowed.scores == {"champion": 0.9, "other": 0.2}
    assert (champion.asked, other.asked) == (1, 1)


@pytest.mark.parametrize(
    "answer", [RuntimeError("boom"), {True: math.nan, False: 0.5}, {True: math.inf, False: math.inf}]
)
def test_a_failing_champion_is_followed_by_earlier_champions_then_the_prior(answer):
    previous, sick = Fixed({True: 0.6, False: 0.4}), Fixed(answer)
    roster, scoring = racing(sick=sick, previous=previous, other=Fixed({True: 0.1, False: 0.9}))
    roster.previous = ("previous",)
    roster.revision += 1

    first = scoring.serve({})
    assert (first.score, first.served_by, first.model_name, first.model_version) == (
        0.6,
        "previous",
        "previous",
        2,
    )
    assert [(failure.name, failure.version) for failure in first.failures] == [("sick", 1)]
    assert "sick" not in shadow(scoring, {}, "previous", 0.6).scores

    second = scoring.serve({})
    assert (second.served_by, second.failures) == ("previous", ())
    assert sick.asked == 1, "a candidate that failed is skipped until the line-up changes"

    previous.answer = ValueError("and now this")
    roster.prior.update(True)
    last = scoring.serve({})
    assert (last.score, last.label, last.served_by, last.model_name) == (1.0, True, "prior", "prior")
    assert [failure.reason for failure in last.failures] == ["ValueError: and now this"]


def test_a_change_of_line_up_asks_again():
    sick = Fixed(RuntimeError("x" * 1_000))
    roster, scoring = racing(sick=sick)
    assert len(scoring.serve({}).failures[0].reason) == 200
    sick.answer = {True: 0.8, False: 0.2}
    assert scoring.serve({}).served_by == "prior"
    roster.revision += 1
    assert scoring.serve({}).served_by == "champion"


def test_the_quarantined_are_not_asked():
    sick, well = Fixed({True: 0.9, False: 0.1}), Fixed({True: 0.2, False: 0.8})
    roster, scoring = racing(sick=sick, well=well)
    roster.quarantined.add("sick")
    roster.revision += 1
    assert scoring.serve({}).served_by == "prior"
    assert shadow(scoring, {}, "prior", 0.5).scores == {"well": 0.2}
    assert sick.asked == 0


def test_a_failing_shadow_costs_only_its_own_place():
    sick = Fixed(RuntimeError("no"))
    _, scoring = racing(champion=Fixed({True: 0.9, False: 0.1}), sick=sick, last=Fixed({True: 0.3}))
    shadowed = shadow(scoring, {}, "champion", 0.9)
    assert list(shadowed.scores) == ["champion", "last"]
    assert [failure.name for failure in shadowed.failures] == ["sick"]
    assert shadow(scoring, {}, "champion", 0.9).failures == ()
    assert scoring.serve({}).served_by == "champion"


def test_the_new_champion_answers_the_next_event():
    roster, scoring = racing(a=Fixed({True: 0.9, False: 0.1}), b=Fixed({True: 0.2, False: 0.8}))
    assert scoring.serve({}).model_name == "a"
    roster.champion = "b"
    roster.racers["b"].updates = 7
    roster.revision += 1
    served = scoring.serve({})
    assert (served.model_name, served.model_version, served.model_updates, served.score) == ("b", 2, 7, 0.2)


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
    roster = Roster("binary", [Racer(n, None, version=v) for v, n in enumerate("cab", 1)], "c")
    roster.quarantined.add("a")
    assert [candidate.name for candidate in roster.racing()] == ["c", "b"]
    assert [roster.healthy(name) for name in ("c", "a", "zzz")] == [True, False, False]
