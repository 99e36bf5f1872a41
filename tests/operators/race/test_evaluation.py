"""Metrics are River's own, the window is the last thousand, curves lose nothing."""

from __future__ import annotations

import math
import pickle
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from river import datasets, evaluate, linear_model, metrics, preprocessing

from operators.models.digest import digest
from operators.race.evaluation import (
    BUCKETS_MAX,
    RECENT_MAX,
    RETIRED_MAX,
    SERVED,
    Brier,
    Curve,
    Evaluation,
    default_metrics,
)
from operators.race.losses import brier
from topics.messages import Example


def example(n, label, scores, served=None, time=0):
    return Example(
        str(n), "k", time, time + 5, label, {}, scores, served, "champion", "a", 0, n, n, claim=1, sequence=n
    )


def evaluation(task="binary", chosen=None, **settings):
    return Evaluation(task, chosen, pickle.dumps, pickle.loads, **settings)


def feed(found, label, n=0, served=None, **scores):
    found.add([example(n, label, scores, served)], [(None, dict.fromkeys(scores))])


@pytest.mark.parametrize(
    "metric", [metrics.Accuracy(), metrics.LogLoss(), metrics.ROCAUC(), metrics.F1(), Brier()]
)
def test_metrics_equal_progressive_val_score(metric):
    model = preprocessing.StandardScaler() | linear_model.LogisticRegression()
    expected = evaluate.progressive_val_score(datasets.Phishing(), model.clone(), metric.clone())
    found = evaluation(chosen=[metric])
    for n, (x, y) in enumerate(datasets.Phishing()):
        feed(found, y, n, a=model.predict_proba_one(x)[True])
        model.learn_one(x, y)
    assert found.model_scores()["a"] == {type(metric).__name__: pytest.approx(expected.get(), rel=1e-12)}


def test_the_users_metrics_are_cloned_for_each_series():
    mine = metrics.Accuracy()
    found = evaluation(chosen=[mine])
    feed(found, True, served=0.9, a=0.9, b=0.1)
    assert mine.cm.n_samples == 0
    assert found.model_scores() == {"a": {"Accuracy": 1.0}, "b": {"Accuracy": 0.0}}
    assert found.served_scores() == {"Accuracy": 1.0}


def test_metrics_that_need_labels_get_them_at_the_threshold():
    found = evaluation(chosen=[metrics.Recall(), metrics.LogLoss()], threshold=0.8)
    feed(found, True, a=0.7)
    assert found.model_scores()["a"] == {"Recall": 0.0, "LogLoss": pytest.approx(-math.log(0.7))}


@pytest.mark.parametrize(
    ("task", "label", "score"),
    [("binary", True, 0.6), ("multiclass", "a", {"a": 0.6, "b": 0.4}), ("regression", 3.0, 2.5)],
)
def test_default_metrics_work_with_their_task(task, label, score):
    found = evaluation(task)
    for n in range(3):
        feed(found, label, n, served=score, a=score)
    names = {type(metric).__name__ for metric in default_metrics(task)}
    assert found.model_scores()["a"].keys() == found.served_scores().keys() == names
    assert found.recent_scores()["a"] == found.model_scores()["a"]


def test_cold_starts_are_counted_and_left_out():
    found = evaluation(chosen=[metrics.Accuracy()])
    feed(found, True, 0, a=None)
    feed(found, True, 1, a=0.9)
    assert found.model_scores()["a"] == {"Accuracy": 1.0}
    assert found.counts()["a"] == (1, 1)


def test_warm_up_leaves_out_events_not_labels():
    found = evaluation(chosen=[metrics.Accuracy()], warmup_offset=2)
    for n, score in enumerate((0.1, 0.1, 0.9)):
        feed(found, True, n, a=score)
    assert found.model_scores()["a"] == {"Accuracy": 1.0}
    assert found.recent_scores()["a"] == {"Accuracy": pytest.approx(1 / 3)}


def test_the_recent_window_is_the_last_thousand():
    rng = random.Random(4)
    pairs = [(rng.random() < 0.4, rng.random()) for _ in range(RECENT_MAX + 500)]
    found = evaluation(chosen=[metrics.LogLoss(), metrics.Accuracy()])
    for n, (y, p) in enumerate(pairs):
        feed(found, y, n, served=p, a=p)
    logloss, accuracy = metrics.LogLoss(), metrics.Accuracy()
    for y, p in pairs[-RECENT_MAX:]:
        logloss.update(y, p)
        accuracy.update(y, p > 0.5)
    expected = {"LogLoss": logloss.get(), "Accuracy": accuracy.get()}
    assert found.recent_scores() == {"a": expected, SERVED: expected}
    losses = [brier(y, p) for y, p in pairs[-RECENT_MAX:]]
    assert found.recent_loss("a") == pytest.approx(sum(losses) / RECENT_MAX)
    assert found.recent_loss("nobody") == math.inf


def test_recent_loss_ranks_regressors_by_absolute_error():
    found = evaluation("regression")
    feed(found, 10.0, a=13.0, b=9.0)
    assert (found.recent_loss("a"), found.recent_loss("b")) == (3.0, 1.0)


@given(st.lists(st.tuples(st.integers(0, 10**9), st.floats(0, 1)), min_size=1, max_size=1_000))
def test_a_curve_is_the_mean_of_each_bucket(rows):
    curve = Curve()
    for time, loss in rows:
        curve.extend([time], {"a": [loss], "b": [None]})
    points = curve.points("a")
    assert len(points) <= BUCKETS_MAX
    assert sum(count for _, _, count in points) == len(rows)
    assert curve.points("b") == []
    for start, mean, count in points:
        inside = [loss for time, loss in rows if start <= time < start + curve.width_ms]
        assert len(inside) == count
        assert mean == pytest.approx(sum(inside) / count)


def test_both_curves_see_their_own_time():
    found = evaluation()
    for n in range(10):
        found.add([example(n, True, {"a": 0.5}, 0.5, time=n)], [(0.25, {"a": 0.25})])
    assert found.by_event_time.points(SERVED)[0] == (0, 0.25, 1)
    assert found.by_label_time.points(SERVED)[0] == (5, 0.25, 1)


ROWS = 64
"""Examples of a batch."""


def state_of(found):
    """The state to the bit; of metrics by what they hold: pickle tells equal objects from shared ones."""
    entries = found.snapshot()
    return entries | {"metrics": digest(pickle.loads(entries["metrics"]))}


def test_rows_are_counted_the_same_in_batches_and_one_by_one_and_asking_changes_nothing():
    rng = random.Random(8)
    single, batched = evaluation(warmup_offset=5), evaluation(warmup_offset=5)
    batch = []
    for n in range(3 * ROWS + 1):
        scores = {name: rng.choice([None, rng.random()]) for name in rng.sample("abc", rng.randint(0, 3))}
        row = example(n, rng.random() < 0.5, scores, rng.random(), time=rng.randrange(10**6))
        losses = (0.5, {name: brier(row.label, score) for name, score in scores.items()})
        single.add([row], [losses])
        batch.append((row, losses))
        if rng.random() < 0.05:
            single.snapshot()
        forget = rng.random() < 0.01
        if forget or rng.random() < 0.04 or n == 3 * ROWS:
            batched.add(*zip(*batch, strict=True))
            batch.clear()
        if forget:
            single.forget("c")
            batched.forget("c")
    assert state_of(single) == state_of(batched)


@pytest.mark.parametrize("differ", [0, 1, ROWS // 2, ROWS, 3 * ROWS])
@pytest.mark.parametrize("restored", [1, ROWS + 7, 2 * ROWS])
def test_what_is_served_is_counted_apart_from_the_first_difference_on(differ, restored):
    rng = random.Random(differ)
    single, batched, again = evaluation(), evaluation(), evaluation()
    batch = []
    truth = {name: [metric.clone() for metric in default_metrics("binary")] for name in ("a", "b", SERVED)}
    for n in range(3 * ROWS):
        label, scores = rng.random() < 0.5, {"a": rng.random(), "b": rng.random()}
        served = scores["b" if n == differ else "a"]
        for name, score in (scores | {SERVED: served}).items():
            for metric in truth[name]:
                metric.update(label, score > 0.5 if metric.requires_labels else score)
        for found in (single, again):
            feed(found, label, n, served, **scores)
        batch.append((example(n, label, scores, served), (None, dict.fromkeys(scores))))
        if len(batch) == ROWS:
            batched.add(*zip(*batch, strict=True))
            batch.clear()
        if n == restored:
            again.restore(single.snapshot())
    for found in (single, batched, again):
        cards = found.model_scores() | {SERVED: found.served_scores()}
        expected = {name: {type(m).__name__: m.get() for m in kept} for name, kept in truth.items()}
        assert cards == expected
    assert state_of(single) == state_of(batched) == state_of(again)


def test_a_retired_candidate_is_forgotten():
    found = evaluation()
    feed(found, True, a=0.5, b=0.5)
    found.forget("b")
    assert found.model_scores().keys() == {"a"}


@given(st.lists(st.integers(0, 3 * RETIRED_MAX), max_size=150), st.integers(0, 150))
@settings(max_examples=30, deadline=None)
def test_of_those_that_have_left_the_last_ones_keep_their_curves(names, cut):
    """A name that races again is none of them, until it leaves again; what is served stays whole."""
    found, again, left = evaluation(chosen=[]), evaluation(chosen=[]), []
    entries = {}
    for n, number in enumerate(names):
        entries |= found.delta()
        if n == cut:
            again.restore(entries)
        name = f"a-{number}"
        for one in (found, again) if n >= cut else (found,):
            one.add([example(n, True, {name: 0.5}, 0.5, time=n)], [(0.25, {name: 0.25})])
            one.forget(name)
        left = [*(other for other in left if other != name), name]
    for curve in (found.by_event_time, found.by_label_time):
        kept = {name for cells in curve.buckets.values() for name in cells} - {SERVED}
        assert kept == set(left[-RETIRED_MAX:])
        assert sum(count for _, _, count in curve.points(SERVED)) == len(names)
    if len(names) > cut:
        assert state_of(again) == state_of(found)


@pytest.mark.parametrize("cut", [0, 1, 700, 1_200])
def test_restored_evaluation_goes_on_to_the_bit(cut):
    rng = random.Random(cut)
    rows = [(rng.random() < 0.5, rng.random()) for _ in range(1_300)]

    def step(found, n):
        y, p = rows[n]
        found.add([example(n, y, {"a": p}, p, time=n * 1_000)], [(brier(y, p), {"a": brier(y, p)})])

    whole, again, entries = evaluation(), evaluation(), {}
    for n in range(cut):
        step(whole, n)
        if n % 100 == 0:
            entries |= whole.delta()
    entries |= whole.delta()
    assert whole.delta() == {}
    again.restore(entries)
    for n in range(cut, len(rows)):
        step(whole, n)
        step(again, n)
    assert again.model_scores() == whole.model_scores()
    assert again.recent_scores() == whole.recent_scores()
    assert again.counts() == whole.counts()
    for name in ("by_event_time", "by_label_time"):
        assert getattr(again, name).points("a") == getattr(whole, name).points("a")
        assert getattr(again, name).buckets == getattr(whole, name).buckets


@pytest.mark.parametrize(
    ("task", "pairs", "churn"),
    [
        ("binary", [(0.4, 0.6), (0.6, 0.7), (0.2, None), (0.1, 0.2)], 1 / 3),
        (
            "multiclass",
            [({"a": 0.6, "b": 0.4}, {"a": 0.4, "b": 0.6}), ({"a": 1.0}, {"a": 0.9, "b": 0.1})],
            0.5,
        ),
        ("regression", [(1.0, 1.01), (1.0, 1.2), (5.0, 5.0), (5.0, 1.0)], 0.5),
        ("binary", [(0.4, None)], None),
        ("binary", [], None),
    ],
)
def test_churn_is_the_share_of_answers_that_would_differ(task, pairs, churn):
    found = Evaluation(task, [], pickle.dumps, pickle.loads)
    labels = {"binary": [True, False], "multiclass": ["a", "b"], "regression": [0.0, 2.0]}[task]
    for n, (before, after) in enumerate(pairs):
        scores = {"x": before, "y": after}
        example = Example("e", "k", n, n, labels[n % 2], {}, scores, before, "champion", "x", 0, n, n, 1, n)
        found.add([example], [(0.1, {"x": 0.1, "y": 0.1})])
    assert found.churn("x", "y") == (None if churn is None else pytest.approx(churn))


@pytest.mark.parametrize(("every", "shown"), [(20, True), (5, False)])
def test_a_rare_class_is_told_by_what_sees_it(every, shown):
    """F1, recall, precision and MCC as River's own, row by row; where both classes are common nobody asks."""
    told = [metrics.F1(), metrics.Recall(), metrics.Precision(), metrics.MCC()]
    found = evaluation()
    for n in range(200):
        label, score = n % every == 0, 0.9 if n % every == 0 or n % 13 == 0 else 0.2
        feed(found, label, n, served=score, a=score)
        for metric in told:
            metric.update(label, score > 0.5)
    usual = {"Accuracy", "LogLoss", "ROCAUC", "Brier"}
    expected = {type(metric).__name__: metric.get() for metric in told}
    for values in (found.model_scores()["a"], found.served_scores(), found.recent_scores()["a"]):
        assert set(values) - usual == (set(expected) if shown else set())
        assert {name: values[name] for name in set(values) - usual} == (expected if shown else {})


def test_metrics_that_a_user_names_stay_what_they_are():
    found = evaluation(chosen=[metrics.Accuracy()])
    for n in range(100):
        feed(found, n == 7, n, a=0.1)
    assert set(found.model_scores()["a"]) == {"Accuracy"}
