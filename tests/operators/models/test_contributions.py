"""Contributions add up to what the model says, for every linear model of River and around it."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from river import compose, linear_model, multiclass, optim, preprocessing, tree

from operators.models.contributions import linear_scores, tree_path
from operators.models.digest import digest
from operators.models.guards import FirstLesson, KnownNames

NAMES = ("a", "b", "c")
rows = st.lists(
    st.tuples(
        st.dictionaries(st.sampled_from(NAMES), st.floats(-50, 50), min_size=1),
        st.sampled_from(["red", "green", "blue"]),
        st.floats(-10, 10),
    ),
    min_size=3,
    max_size=30,
)


def encoded(step: Any) -> Any:
    words = compose.SelectType(str) | preprocessing.OneHotEncoder()
    return (words + (compose.SelectType(float) | preprocessing.StandardScaler())) | step


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value)) if value > -700 else 0.0


@given(rows)
def test_a_binary_score_is_the_sigmoid_of_its_parts(lessons: list[Any]) -> None:
    model = KnownNames(encoded(linear_model.LogisticRegression(optim.SGD(0.01))))
    for numbers, word, label in lessons:
        model.learn_one({**numbers, "word": word}, label > 0)
    numbers, word, _ = lessons[0]
    before = digest(model)
    (score,) = linear_scores(model, {**numbers, "word": word})
    assert math.isclose(
        sigmoid(score.total), model.predict_proba_one({**numbers, "word": word})[True], abs_tol=1e-9
    )
    assert {part.name for part in score.contributions} >= {f"word_{word}"}
    assert digest(model) == before


@given(rows)
@pytest.mark.parametrize("regressor", [linear_model.LinearRegression, linear_model.PARegressor])
def test_a_value_is_the_sum_of_its_parts(regressor: Any, lessons: list[Any]) -> None:
    model = FirstLesson(preprocessing.StandardScaler() | regressor())
    for numbers, _, label in lessons:
        model.learn_one(numbers, label)
    numbers = lessons[0][0]
    (score,) = linear_scores(model, numbers)
    assert math.isclose(score.total, model.predict_one(numbers), rel_tol=1e-9, abs_tol=1e-9)
    amounts = [abs(part.contribution) for part in score.contributions]
    assert amounts == sorted(amounts, reverse=True)


@given(rows)
def test_classes_have_their_parts_each(lessons: list[Any]) -> None:
    rest = preprocessing.StandardScaler() | multiclass.OneVsRestClassifier(linear_model.LogisticRegression())
    softmax = preprocessing.StandardScaler() | linear_model.SoftmaxRegression()
    for numbers, word, _ in lessons:
        rest.learn_one(numbers, word)
        softmax.learn_one(numbers, word)
    numbers = lessons[0][0]
    one_by_one = {score.label: sigmoid(score.total) for score in linear_scores(rest, numbers)}
    total = sum(one_by_one.values())
    for label, chance in rest.predict_proba_one(numbers).items():
        assert math.isclose(one_by_one[label] / total, chance, rel_tol=1e-9, abs_tol=1e-9)
    totals = {score.label: score.total for score in linear_scores(softmax, numbers)}
    top = max(totals.values())
    whole = sum(math.exp(value - top) for value in totals.values())
    for label, chance in softmax.predict_proba_one(numbers).items():
        assert math.isclose(math.exp(totals[label] - top) / whole, chance, rel_tol=1e-9, abs_tol=1e-9)


def test_what_is_not_linear_has_no_contributions_and_a_tree_has_a_way() -> None:
    grown = tree.HoeffdingTreeClassifier(grace_period=20)
    for number in range(200):
        grown.learn_one({"a": float(number % 10)}, number % 10 > 4)
    before = digest(grown)
    assert linear_scores(grown, {"a": 1.0}) == []
    assert "Class False" in tree_path(grown, {"a": 1.0})
    assert digest(grown) == before
    assert tree_path(preprocessing.StandardScaler() | linear_model.Perceptron(), {"a": 1.0}) == ""
