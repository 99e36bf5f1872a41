"""Tests of models, importance, feedback loops and fairness against formulas that are worked out by hand."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operators.models.scoring import Racer, Roster
from operators.monitor.behaviour.importance import Importance
from operators.monitor.behaviour.model_tests import Directional, Invariant, ModelTest, ModelTests, Perturbed
from operators.monitor.behaviour.sample import PART_EVERY, STOP_EVERY
from operators.monitor.fairness import HALVED, Fair, Fairness
from operators.monitor.feedback import Feedback, figures
from operators.monitor.monitors import MonitorContext, Monitors
from operators.race.arena import Moment
from operators.race.losses import Losses, brier
from topics.messages import Example, FeatureValues, Task

Rows = list[tuple[Example, Losses]]
ROUND = 2 * STOP_EVERY - PART_EVERY
"""Examples by which the sample of the first round has been asked about."""


class Formula:
    """A model that is a formula of `x`, `n` and `shop`, and knows how often it was asked."""

    def __init__(self, formula: Any) -> None:
        self.formula, self.asked = formula, 0

    def predict_proba_one(self, x: FeatureValues) -> dict[bool, float]:
        self.asked += 1
        chance = self.formula(x)
        return {True: chance, False: 1.0 - chance}

    def predict_one(self, x: FeatureValues) -> float:
        self.asked += 1
        return float(self.formula(x))


def context(formula: Any, task: Task = "binary") -> MonitorContext:
    roster = Roster(task, [Racer("a", Formula(formula), version=1)], "a")
    return MonitorContext("p", task, 0.5, "brier", roster)


def stream(count: int, seed: int = 0) -> Rows:
    rng, rows = random.Random(seed), Rows()
    for number in range(count):
        x: FeatureValues = {"x": rng.random(), "n": rng.randrange(1, 100), "shop": rng.choice("abcdefgh")}
        label, score = rng.random() < float(x["x"]), rng.random()
        example = Example(
            f"e{number}", "k", number, number + 9, label, x, {"a": score}, score, "champion", "a", 0, number,
            number, 1, number,
        )  # fmt: skip
        rows.append((example, (brier(label, score), {"a": brier(label, score)})))
    return rows


def fed(made: Monitors, rows: Rows, cuts: Sequence[int] = (), start: int = 0) -> Monitors:
    """Feed rows with a stop wherever the race would make one; cuts beside them are batches."""
    stops = [n for n in range(start + 1, start + len(rows) + 1) if n % PART_EVERY == 0]
    places = sorted({start, start + len(rows), *(start + cut for cut in cuts), *stops})
    for begin, end in itertools.pairwise(places):
        batch = rows[begin - start : end - start]
        made.gathered += batch
        if end in stops:
            made.stop(Moment(end, end, end))
    return made


def outcome_of(formula: Any, *tests: ModelTest, count: int = ROUND, task: Task = "binary") -> Any:
    made = Monitors([("tests", ModelTests(tests))], context(formula, task))
    return fed(made, stream(count)).report()["tests"]


# -- tests of models ------------------------------------------------------------------------------------


def test_what_a_model_does_not_use_is_invariant_and_what_it_uses_is_not() -> None:
    told = outcome_of(lambda x: 0.9 if x["shop"] == "a" else 0.1, Invariant("shop"), Invariant("x"))
    assert told["champion"] == "a"
    assert told["examples"] == STOP_EVERY + PART_EVERY, "the second test has its turn then"
    assert told["tests"]["invariant x"] | {"worst": None} == told["tests"]["invariant x"]
    assert told["tests"]["invariant x"]["passed"]
    assert told["tests"]["invariant x"]["failing"] == 0.0
    shop = told["tests"]["invariant shop"]
    assert not shop["passed"]
    assert shop["rows"] == 50
    assert 0.0 < shop["failing"] <= 1.0
    worst = shop["worst"]
    assert "a" in {worst["features"]["shop"], worst["changed"]["shop"]}
    assert abs(worst["moved"]) == pytest.approx(0.8)
    assert worst["changed_score"] - worst["score"] == worst["moved"]


@pytest.mark.parametrize(("up", "failing"), [(True, 0.0), (False, 1.0)])
def test_a_score_that_rises_with_a_feature_goes_up_and_not_down(up: bool, failing: float) -> None:
    step = 0.5
    test = Directional("x", up=up, step=step, change_max=0.1)
    told = outcome_of(lambda x: 0.3 * x["x"], test)["tests"][test.name]
    assert told["failing"] == failing
    if not up:
        assert told["worst"]["moved"] == pytest.approx(0.3 * step)
        assert told["worst"]["changed"]["x"] == told["worst"]["features"]["x"] + step


def test_a_step_is_a_deviation_and_whole_for_integers() -> None:
    told = outcome_of(lambda x: 0.004 * x["n"], Directional("n", up=False))["tests"]["directional n down"]
    step = told["worst"]["changed"]["n"] - told["worst"]["features"]["n"]
    assert isinstance(told["worst"]["changed"]["n"], int)
    assert 20 <= step <= 37, "the deviation of 1 to 99 is 28.6"


def test_noise_flips_answers_near_the_threshold_alone() -> None:
    near = outcome_of(lambda x: min(1.0, x["x"]), Perturbed(noise=0.2))["tests"]["perturbed 0.2"]
    assert 0.0 < near["failing"] < 0.4
    score, changed = near["worst"]["score"], near["worst"]["changed"]
    assert (score > 0.5) != (near["worst"]["changed_score"] > 0.5)
    assert set(changed) == {"x", "n"}
    assert abs(changed["x"] / near["worst"]["features"]["x"] - 1.0) <= 0.2
    assert outcome_of(lambda _: 0.9, Perturbed())["tests"]["perturbed 0.05"]["passed"]


def test_a_regression_is_measured_in_deviations_of_the_label() -> None:
    test = Directional("x", up=False, step=1.0, change_max=0.0)
    told = outcome_of(lambda x: x["x"], test, task="regression")["tests"][test.name]
    assert told["worst"]["moved"] == pytest.approx(2.0, rel=0.2), "a step of 1 over labels of 0 and 1"


def test_a_model_that_has_no_answer_for_another_value_fails_there_and_is_asked_again() -> None:
    def formula(x: FeatureValues) -> float:
        if x["shop"] == "h":
            raise ValueError("no h")
        return 0.5

    told = outcome_of(formula, Invariant("shop"), Invariant("x"))["tests"]
    assert told["invariant shop"]["worst"]["moved"] is None
    assert told["invariant shop"]["worst"]["changed"] == {"shop": "h"}
    assert told["invariant x"]["passed"]
    assert told["invariant x"]["rows"] > 30, "rows that it cannot answer as they are say nothing"


def test_no_row_is_tested_where_there_is_nothing_to_change() -> None:
    told = outcome_of(lambda _: 0.5, Invariant("absent"), Directional("absent"))["tests"]
    assert [one["rows"] for one in told.values()] == [0, 0]


# -- importance -----------------------------------------------------------------------------------------


def test_importance_is_the_increase_of_the_loss_and_costs_what_it_says() -> None:
    chosen = Importance(rows=40)
    made = Monitors([("importance", chosen)], at := context(lambda x: x["x"]))
    told = fed(made, stream(2 * STOP_EVERY + ROUND)).report()["importance"]
    assert next(iter(told["features"])) == "x"
    assert told["features"]["shop"] == {"importance": 0.0, "last": 0.0, "stops": 3}
    # E (x - x')**2 of two even ones is 1/6, and the label's noise is the same with and without
    assert told["features"]["x"]["importance"] == pytest.approx(1 / 6, abs=0.08)
    assert at.roster.racers["a"].model.asked == 3 * 40 * 3 * (1 + 1), "a feature at each of three stops"


def test_with_many_features_they_take_turns() -> None:
    made = Monitors([("importance", Importance(rows=5, features=2))], context(lambda x: x["x"]))
    told = fed(made, stream(2 * STOP_EVERY + ROUND)).report()["importance"]
    assert {name: one["stops"] for name, one in told["features"].items()} == {"n": 2, "shop": 2, "x": 2}


def test_another_champion_begins_anew() -> None:
    at = context(lambda x: x["x"])
    made = fed(Monitors([("importance", Importance())], at), stream(STOP_EVERY))
    at.roster.racers["b"] = Racer("b", Formula(lambda _: 0.5), version=2)
    at.roster.champion = "b"
    told = fed(made, stream(STOP_EVERY, seed=1), start=STOP_EVERY).report()["importance"]
    assert (told["champion"], told["version"]) == ("b", 2)
    assert {one["last"] for one in told["features"].values()} == {0.0}


# -- feedback loops -------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=30))
def test_figures_of_a_block_are_their_formulas(counts: list[tuple[int, int, int]]) -> None:
    items = {f"i{n:02}": popular for n, (popular, _, _) in enumerate(counts)}
    shown = {f"i{n:02}": count for n, (_, count, _) in enumerate(counts) if count}
    hits = {f"i{n:02}": min(hit, count) for n, (_, count, hit) in enumerate(counts) if count and hit}
    told, total = figures(items, shown, hits), sum(shown.values())
    assert told["shown"] == total
    if not total:
        assert told == {"shown": 0}
        return
    each = [shown.get(item, 0) for item in items]
    apart = sum(abs(one - other) for one in each for other in each)
    assert told["gini"] == pytest.approx(apart / (2 * len(each) * total))
    assert told["coverage"] == sum(count > 0 for count in each) / len(each)
    if not any(items.values()):
        assert "tail_share" not in told
        return
    ranked = sorted(items, key=lambda item: (-items[item], item))
    head = set(ranked[: max(1, round(0.2 * len(ranked)))])
    assert told["tail_share"] == pytest.approx(sum(shown.get(i, 0) for i in items if i not in head) / total)
    parts = {
        name: told[f"hit_rate_{name}"] for name in ("head", "middle", "tail") if f"hit_rate_{name}" in told
    }
    assert all(0.0 <= rate <= 1.0 for rate in parts.values())
    if in_head := sum(shown.get(item, 0) for item in head):
        assert parts["head"] == pytest.approx(sum(hits.get(item, 0) for item in head) / in_head)


def test_a_loop_shows_and_items_beyond_the_limit_are_counted() -> None:
    rng, rows = random.Random(1), Rows()
    for number in range(4_000):
        kept = 40 - number // 100  # fewer and fewer items are shown
        item, label = rng.randrange(40), rng.random() < 0.5
        score = 0.9 if item < kept else 0.1
        example = Example(
            f"e{number}", "k", number, number, label, {"movie": item}, {}, score, "champion", "a", 0, number,
            number, 1, number,
        )  # fmt: skip
        rows.append((example, (0.1, {})))
    made = Monitors(
        [("feedback", Feedback("movie", block=500)), ("few", Feedback("movie", block=500, items_max=10))],
        context(None),
    )
    told = fed(made, rows, cuts=range(0, 4_000, 77)).report()
    loop = told["feedback"]
    assert loop["items"] == 40
    assert loop["rest"] == 0
    assert loop["blocks_seen"] == len(loop["blocks"]) == 8
    assert [one["gini"] for one in loop["blocks"]] == sorted(one["gini"] for one in loop["blocks"])
    assert loop["trend"] > 0.05
    last = Counter(e.features["movie"] for e, _ in rows[3_500:] if e.served_score == 0.9)
    assert loop["coverage"] == len(last) / 40
    assert told["few"]["items"] == 10
    assert told["few"]["rest"] > 1_000
    assert made.signals()["feedback.gini"] == loop["gini"]


# -- fairness -------------------------------------------------------------------------------------------


def test_groups_are_compared_by_what_was_served_to_them() -> None:
    rng, rows = random.Random(2), Rows()
    for number in range(3_000):
        sex, label = rng.choice("fm"), rng.random() < 0.5
        score = float(rng.random() < (0.8 if sex == "m" else 0.5))
        x: FeatureValues = {"sex": sex} if number % 50 else {"sex": "x"}
        example = Example(
            f"e{number}", "k", number, number, label, x, {}, score, "champion", "a", 0, number, number, 1,
            number,
        )  # fmt: skip
        rows.append((example, (brier(label, score), {})))
    bounds = Fair("sex"), Fair("sex", "tpr", difference_max=0.5), Fair("sex", "loss")
    made = fed(Monitors([("fairness", Fairness(bounds))], context(None)), rows)
    told = made.report()["fairness"]
    assert set(told["sex positive_rate"]["groups"]) == {"f", "m"}, "60 rows of x are too few"

    def rate(sex: str, true_only: bool) -> float:
        mine = [e for e, _ in rows if e.features["sex"] == sex and (e.label or not true_only)]
        return sum(e.served_score == 1.0 for e in mine) / len(mine)

    for name, true_only in (("sex positive_rate", False), ("sex tpr", True)):
        expected = {sex: rate(sex, true_only) for sex in "fm"}
        assert told[name]["groups"] == pytest.approx(expected)
        assert told[name]["difference"] == pytest.approx(expected["m"] - expected["f"])
    assert [one["kept"] for one in told.values()] == [False, True, True]
    assert made.signals() == {"fairness.broken": 1.0}


def test_what_was_long_ago_counts_less() -> None:
    rows = Rows()
    for number in range(4 * HALVED):
        sex = "fm"[number % 2]
        score = 1.0 if sex == "m" or number >= HALVED else 0.0
        example = Example(
            f"e{number}", "k", number, number, True, {"sex": sex}, {}, score, "champion", "a", 0, number,
            number, 1, number,
        )  # fmt: skip
        rows.append((example, (0.0, {})))
    made = Monitors([("fairness", Fairness((Fair("sex"),)))], context(None))
    assert not fed(made, rows[:HALVED]).report()["fairness"]["sex positive_rate"]["kept"]
    after = fed(made, rows[HALVED:], start=HALVED).report()["fairness"]["sex positive_rate"]
    weights = [0.5**age for age in (4, 3, 2, 1)]
    assert after["groups"]["f"] == pytest.approx(sum(weights[1:]) / sum(weights))


# -- all of them ----------------------------------------------------------------------------------------

ALL = (
    ("tests", ModelTests((Invariant("shop"), Directional("n"), Perturbed()))),
    ("importance", Importance(rows=8, features=2)),
    ("feedback", Feedback("shop", block=300, items_max=5)),
    ("fairness", Fairness((Fair("shop", rows_min=20), Fair("n", "loss")))),
)


def everything() -> Monitors:
    return Monitors(ALL, context(lambda x: 0.5 * x["x"] + (0.3 if x["shop"] in "abc" else 0.0)))


@settings(max_examples=10, deadline=None)
@given(
    st.integers(0, 1_500).flatmap(
        lambda count: st.tuples(
            st.just(count), st.integers(0, count), st.lists(st.integers(0, count), max_size=6)
        )
    )
)
def test_cuts_and_restarts_change_no_bit(case: tuple[int, int, list[int]]) -> None:
    count, half, cuts = case
    rows = stream(count)
    whole = fed(everything(), rows)
    assert fed(everything(), rows, cuts).snapshot() == whole.snapshot()
    restored = everything()
    restored.restore(fed(everything(), rows[:half]).snapshot())
    assert fed(restored, rows[half:], start=half).snapshot() == whole.snapshot()
    assert restored.report() == whole.report()
    assert restored.signals() == whole.signals()
