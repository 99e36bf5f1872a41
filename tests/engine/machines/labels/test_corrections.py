"""A later label corrects an earlier one: measured anew, learned again if asked, each once."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import chain, zip_longest
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from river import linear_model, metrics

from engine import Labels, Pipeline, Topic
from engine.machines.learner import Learner
from engine.machines.scorer import Scorer
from engine.offline.backtest import Backtest, LocalRun
from engine.worker.assembly import build_learner
from engine.worker.model_factory import ModelFactory
from operators import by, field, label
from operators.claims.rule import Suppression, Writer
from operators.models.digest import digest
from operators.models.scoring import label_of
from operators.race.evaluation import is_correctable
from topics.codec import decode_example, decode_prediction
from topics.messages import Example, Outgoing, Record

WAIT_MS = 100_000


class Visit(msgspec.Struct):
    event_id: str
    event_time: int
    shop: str
    price: float


def definition(**labels: Any) -> Pipeline:
    return Pipeline(
        name="shop",
        events=Topic("shop.visits", Visit, key="shop", grace="1s"),
        labels=Labels("shop.bought", wait=WAIT_MS, **labels),
        features={"price": field("price"), "rate": by("shop").mean(label, "50s").default(0.0)},
        models={"lr": linear_model.LogisticRegression(), "slow": linear_model.LogisticRegression(l2=0.1)},
        champion="lr",
        drift=(),
    )


def visit(number: int, time: int) -> Record:
    body = {"event_id": f"e{number}", "event_time": time, "shop": "a", "price": (number % 7) - 3.0}
    return Record("shop.visits", 0, number, None, b"a", json.dumps(body).encode())


def bought(offset: int, number: int, time: int, *, value: bool) -> Record:
    body = {"event_id": f"e{number}", "label": value, "label_time": time}
    return Record("shop.bought", 0, offset, None, b"a", json.dumps(body).encode())


def played(pipeline: Pipeline, events: Sequence[Record], labels: Sequence[Record]) -> Backtest:
    test = Backtest(pipeline, keep_examples=True)
    test.play([events], [labels])
    return test


def examples_of(run: LocalRun) -> list[Example]:
    return [
        decode_example(one.value or b"") for one in run.examples or [] if (one.headers[0][1] == b"example")
    ]


def stream(count: int, *, corrected: bool) -> tuple[list[Record], list[Record]]:
    """Each visit is labelled after 10 s; where `corrected`, wrongly, and rightly 20 s later."""
    events = [visit(n, 1_000_000 + 1_000 * n) for n in range(count)]
    given = []
    for n in range(count):
        truth, time = n % 7 < 2, 1_000_000 + 1_000 * n
        given.append((time + 10_000, n, truth ^ corrected))
        if corrected:
            given.append((time + 30_000, n, truth))
    labels = [bought(offset, n, time, value=value) for offset, (time, n, value) in enumerate(sorted(given))]
    return events, labels


@pytest.mark.parametrize("correct", [None, "record", "relearn"])
def test_3_000_corrections_are_3_000_records(correct: Any) -> None:
    test = played(definition(correct=correct), *stream(3_000, corrected=True))
    labels = test.report()["labels"]
    made = examples_of(test.run)
    corrections = [example for example in made if example.before is not None]
    if correct is None:
        assert (labels["conflicting"], len(corrections), test.dead_letters.counts["join"]) == (
            3_000,
            0,
            3_000,
        )
        return
    assert (labels["joined"], labels["corrected"], len(corrections)) == (3_000, 3_000, 3_000)
    assert not test.dead_letters.counts
    first = {example.event_id: example for example in made if example.before is None}
    for one in corrections:
        was = first[one.event_id]
        assert (one.before, one.before_time, one.label) == (was.label, was.label_time, not was.label)
        assert (one.features, one.scores, one.served_score) == (was.features, was.scores, was.served_score)
        assert one.learn == (correct == "relearn")
    assert [example.sequence for example in made] == list(range(6_000))


@pytest.mark.parametrize("correct", ["record", "relearn"])
def test_metrics_and_curves_are_those_of_the_last_labels(correct: Any) -> None:
    learner = played(definition(correct=correct), *stream(500, corrected=True)).run.learner
    made = examples_of(played(definition(correct=correct), *stream(500, corrected=True)).run)
    truth = {example.event_id: example.label for example in made}
    firsts = [example for example in made if example.before is None]
    for name, found in learner.evaluation.model_scores().items():
        expected = [metrics.Accuracy(), metrics.LogLoss(), metrics.ROCAUC()]
        for example in firsts:
            score = example.scores[name]
            for metric in expected:
                answer = label_of("binary", score, 0.5) if isinstance(metric, metrics.Accuracy) else score
                metric.update(truth[example.event_id], answer)
        for metric in expected:
            assert found[type(metric).__name__] == pytest.approx(metric.get(), abs=1e-9)
        for curve, times in (
            (learner.evaluation.by_event_time, [example.event_time for example in firsts]),
            (learner.evaluation.by_label_time, [example.label_time for example in firsts]),
        ):
            sums: dict[int, list[float]] = {}
            for example, time in zip(firsts, times, strict=True):
                loss = (float(truth[example.event_id]) - example.scores[name]) ** 2
                sums.setdefault(time // curve.width_ms * curve.width_ms, []).append(loss)
            assert [(start, count) for start, _, count in curve.points(name)] == [
                (start, len(losses)) for start, losses in sorted(sums.items())
            ]
            assert [mean for _, mean, _ in curve.points(name)] == pytest.approx(
                [sum(losses) / len(losses) for _, losses in sorted(sums.items())], abs=1e-9
            )
    squares = [(float(truth[one.event_id]) - one.served_score) ** 2 for one in firsts]
    curve_of_served = learner.monitors.report()["calibration"]["served"]
    assert curve_of_served["Brier"] == pytest.approx(sum(squares) / len(squares), abs=1e-9)
    recent = learner.evaluation.recent_scores()["lr"]
    assert recent["Accuracy"] == pytest.approx(learner.evaluation.model_scores()["lr"]["Accuracy"])


@pytest.mark.parametrize("correct", ["record", "relearn"])
def test_a_correction_is_learned_where_that_is_asked_and_only_there(correct: Any) -> None:
    run = played(definition(correct=correct), *stream(300, corrected=True)).run
    model = linear_model.LogisticRegression()
    for example in examples_of(run):
        if example.before is None or correct == "relearn":
            model.learn_one(example.features, example.label)
    guarded = run.learner.roster.racers["lr"].model
    assert digest(getattr(guarded, "model", guarded)) == digest(model)


moves = st.lists(
    st.tuples(st.integers(0, 7), st.integers(0, 200), st.booleans(), st.booleans()), min_size=1, max_size=50
)


def mixed(steps: list[tuple[int, int, bool, bool]]) -> tuple[list[Record], list[Record]]:
    """Events and labels in any order of time, labels of events that are, were or come."""
    events, labels, now = [], [], 1_000_000
    for number, (who, step, value, is_event) in enumerate(steps):
        now += 100 * step
        if is_event:
            events.append(visit(len(events), now))
        else:
            labels.append(bought(len(labels), who, now - 50 * (number % 3), value=value))
    return events, labels


@settings(max_examples=60, deadline=None)
@given(moves, st.sampled_from(["record", "relearn"]), st.lists(st.integers(1, 5), min_size=1, max_size=4))
def test_a_learner_folds_corrections_alike_however_the_log_is_cut(
    steps: list[Any], correct: Any, cuts: list[int]
) -> None:
    pipeline = definition(correct=correct)
    log = played(pipeline, *mixed(steps)).run.examples or []
    source = ModelFactory(pipeline)
    whole, pieces = build_learner(pipeline, source=source), build_learner(pipeline, source=source)
    whole.fold(log)
    at = turn = 0
    while at < len(log):
        pieces.fold(log[at : at + cuts[turn % len(cuts)]])
        pieces = restored(pieces, pipeline, source)
        at, turn = at + cuts[turn % len(cuts)], turn + 1
    assert whole.digests() == pieces.digests()
    assert same(whole.snapshot()) == same(pieces.snapshot())


def restored(learner: Learner, pipeline: Pipeline, source: ModelFactory) -> Learner:
    again = build_learner(pipeline, source=source)
    again.restore(learner.snapshot())
    return again


def same(entries: dict[str, bytes]) -> dict[str, bytes]:
    """Entries that are no pickle: models and metrics are compared by digest and value."""
    return {name: data for name, data in entries.items() if name in {"curves", "recent", "prior", "learning"}}


@settings(max_examples=60, deadline=None)
@given(moves)
def test_every_chain_of_corrections_holds_together(steps: list[Any]) -> None:
    """Oracle: labels of an event in log order, each that differs from the one before and is not older."""
    events, labels = mixed(steps)
    made = examples_of(played(definition(correct="record"), events, labels).run)
    held: dict[str, Example] = {}
    for example in made:
        before = held.get(example.event_id)
        assert (example.before is None) == (before is None)
        if before is not None:
            assert (example.before, example.before_time) == (before.label, before.label_time)
            assert example.label != before.label
            assert example.label_offset > before.label_offset
            assert before.label_time <= example.label_time <= example.event_time + WAIT_MS
        held[example.event_id] = example


def test_a_metric_that_takes_nothing_back_is_told() -> None:
    class Stubborn(metrics.Accuracy):
        def revert(self, y_true: Any, y_pred: Any, w: float = 1.0) -> None:
            raise NotImplementedError

    assert not is_correctable(Stubborn(), "binary")
    for kind in (metrics.Accuracy, metrics.F1, metrics.MCC, metrics.ROCAUC, metrics.LogLoss):
        assert is_correctable(kind(), "binary")
    for kind in (metrics.MAE, metrics.RMSE, metrics.R2):
        assert is_correctable(kind(), "regression")
    for kind in (metrics.MacroF1, metrics.CrossEntropy):
        assert is_correctable(kind(), "multiclass")


def scorer_of(pipeline: Pipeline, suppression: Suppression, claim: int) -> Scorer:
    return Scorer(
        pipeline,
        partition=0,
        roster=build_learner(pipeline).roster,
        writer=Writer(0, claim),
        suppression=suppression,
    )


def outgoing(scorer: Scorer, events: list[Record], labels: list[Record], *, by_time: bool) -> list[Outgoing]:
    """Play both topics, by time or one record of each in turn."""
    out: list[Outgoing] = []
    steps = (
        [(events, labels)]
        if by_time
        else [([one] if one else [], [other] if other else []) for one, other in zip_longest(events, labels)]
    )
    for some_events, some_labels in steps:
        scorer.intake.offer_events(some_events)
        scorer.intake.offer_labels(some_labels)
        while run := scorer.intake.next_run(events_unread=False, labels_unread=False):
            out += chain.from_iterable(scorer.step(run, 0))
    return out


@settings(max_examples=80, deadline=None)
@given(moves, st.integers(0, 60), st.booleans(), st.booleans())
def test_a_replay_in_another_order_corrects_nothing_twice(
    steps: list[Any], logged: int, first: bool, second: bool
) -> None:
    pipeline = definition(correct="record", on_timeout=False)
    events, labels = mixed(steps)
    before = outgoing(scorer_of(pipeline, Suppression(), 1), events, labels, by_time=first)
    examples = [decode_example(one.value or b"") for one in before if one.target == "examples"][:logged]
    suppression = Suppression()
    for one in before:
        if one.target == "predictions":
            suppression.add(decode_prediction(one.value or b""))
    for example in examples:
        suppression.add(example)
    after = outgoing(scorer_of(pipeline, suppression, 2), events, labels, by_time=second)
    log = examples + [decode_example(one.value or b"") for one in after if one.target == "examples"]
    held: dict[str, Example] = {}
    for example in log:
        was = held.get(example.event_id)
        assert (example.before is None) == (was is None), "one example of an event, and then corrections"
        if was is not None:
            assert example.before == was.label
            assert example.label_offset > was.label_offset
        held[example.event_id] = example
    if first == second:
        every = [decode_example(one.value or b"") for one in before if one.target == "examples"]
        key = [(one.event_id, one.label, one.before, one.label_offset) for one in log]
        assert sorted(key, key=str) == sorted(
            [(one.event_id, one.label, one.before, one.label_offset) for one in every], key=str
        )
