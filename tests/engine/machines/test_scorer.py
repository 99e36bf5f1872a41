"""A batch of n equals n batches of one; every event gets one answer; replays repeat nothing."""

import dataclasses
import json
import math
from collections import Counter
from functools import cache
from itertools import chain
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from river import linear_model, naive_bayes, preprocessing

from engine import Labels, Pipeline, Topic, Watch
from engine.machines.admission import Run
from engine.machines.scorer import Scorer
from engine.worker.assembly import build_learner
from operators import by, field, label
from operators.claims.rule import Suppression, Writer
from operators.models.scoring import Roster
from topics.codec import decode_example, decode_prediction, decode_quarantine
from topics.errors import DefinitionError
from topics.headers import record_type_of
from topics.messages import Outgoing, Record

NOW_MS = 10_000_000
WAIT_MS = 40_000


class Payment(msgspec.Struct):
    event_id: str
    event_time: int
    card: str
    amount: float | None = None
    fraud: bool | None = None


def definition(labels: Labels, champion: str | None = "lr") -> Pipeline:
    return Pipeline(
        name="pay",
        events=Topic("pay.events", Payment, key="card", grace="10s", max_ahead="1h"),
        labels=labels,
        features={
            "amount": field("amount"),
            "n": by("card").count("30s"),
            "mean": by("card").mean("amount", "1m"),
            "all": by().sum("amount", "20s"),
            "frauds": by("card").mean(label, "1m").default(0.0),
        },
        models={
            "lr": preprocessing.StandardScaler() | linear_model.LogisticRegression(),
            "nb": naive_bayes.GaussianNB(),
        },
        champion=champion,
    )


DROP = definition(Labels("pay.labels", wait=WAIT_MS))
BLENDED = definition(Labels("pay.labels", wait=WAIT_MS), champion=None)
UNIFORM = definition(Labels("pay.labels", wait=WAIT_MS, learn="uniform"))
ANY = definition(Labels("pay.labels", wait=WAIT_MS, on_timeout=False, combine="max"))
IMPLICIT = definition(Labels("pay.labels", wait=WAIT_MS, on_timeout=False))
NO_LABEL_WINDOWS = Pipeline(
    name="pay",
    events=Topic("pay.events", Payment, key="card", grace="10s", max_ahead="1h"),
    labels=Labels("pay.labels", wait=WAIT_MS),
    features={"amount": field("amount")},
    models={"lr": linear_model.LogisticRegression()},
)
WEIGHED = definition(Labels("pay.labels", wait=WAIT_MS, weight="w", source="by"))
WATCHED = dataclasses.replace(
    IMPLICIT, watch=Watch(block="7s", reference_span="98s", false_alarm_every="7s", rows_max=50)
)
SHARED = dataclasses.replace(DROP, learn_share=0.25)
INSIDE = definition(Labels(field="fraud", wait=WAIT_MS))


@cache
def roster_of(pipeline: Pipeline) -> Roster:
    """Scoring leaves models as they were, so all scorers of these tests may share them."""
    return build_learner(pipeline).roster


def scorer_of(pipeline: Pipeline, suppression: Suppression | None = None, claim: int = 1) -> Scorer:
    return Scorer(
        pipeline,
        partition=0,
        roster=roster_of(pipeline),
        writer=Writer(0, claim),
        suppression=suppression or Suppression(),
    )


def event(
    offset: int, event_id: str, time: int, card: str = "a", amount: float | None = 1.0, **more: Any
) -> Record:
    value = {"event_id": event_id, "event_time": time, "card": card, "amount": amount, **more}
    return Record("pay.events", 0, offset, time, card.encode(), json.dumps(value).encode())


def label_of(offset: int, event_id: str, time: int, value: object = True) -> Record:
    body = {"event_id": event_id, "label": value, "label_time": time, "card": "a"}
    return Record("pay.labels", 0, offset, time, b"a", json.dumps(body).encode())


def runs_of(scorer: Scorer, events: list[Record], labels: list[Record]) -> list[Run]:
    scorer.intake.offer_events(events)
    if labels:
        scorer.intake.offer_labels(labels)
    runs = []
    while run := scorer.intake.next_run(events_unread=False, labels_unread=False):
        runs.append(run)
    return runs


def play(scorer: Scorer, runs: list[Run]) -> list[Outgoing]:
    out: list[Outgoing] = []
    for run in runs:
        out += chain.from_iterable(scorer.step(run, NOW_MS))
    return out


def split(runs: list[Run], cuts: list[int]) -> list[Run]:
    """Cut each run into pieces of the given sizes, over and over."""
    pieces: list[Run] = []
    turn = 0
    for run in runs:
        events, labels = run.events, run.labels
        while events or labels:
            size = cuts[turn % len(cuts)]
            turn += 1
            pieces.append(Run(events[:size], labels[:size]))
            events, labels = events[size:], labels[size:]
    return pieces


def by_target(out: list[Outgoing]) -> dict[str, list[Outgoing]]:
    found: dict[str, list[Outgoing]] = {}
    for record in out:
        found.setdefault(record.target, []).append(record)
    return found


event_lists = st.lists(
    st.tuples(
        st.integers(0, 30),  # id: repeats
        st.integers(0, 120_000),  # time: in order or not, within grace or late
        st.sampled_from("ab"),
        st.none() | st.floats(-1e6, 1e6, allow_nan=False),
        st.sampled_from([None, True, False]),
    ),
    max_size=40,
)
label_lists = st.lists(
    st.tuples(st.integers(0, 34), st.integers(0, 200_000), st.sampled_from([True, False, 3])), max_size=30
)


@pytest.mark.parametrize(
    "pipeline",
    [DROP, IMPLICIT, INSIDE, BLENDED, UNIFORM, ANY, WATCHED],
    ids=["drop", "implicit", "inside", "blended", "uniform", "any", "watched"],
)
@settings(max_examples=60, deadline=None)
@given(
    rows=event_lists,
    given_labels=label_lists,
    cuts=st.lists(st.integers(1, 7), min_size=1, max_size=5),
    nearly=st.booleans(),
)
def test_a_batch_of_n_equals_n_batches_of_one(
    pipeline: Pipeline, rows: list[Any], given_labels: list[Any], cuts: list[int], nearly: bool
) -> None:
    if nearly:
        rows = sorted(rows, key=lambda row: row[1] // 15_000)
    events = [
        event(n, f"e{who}", time, card, amount, fraud=fraud)
        for n, (who, time, card, amount, fraud) in enumerate(rows)
    ]
    inside = pipeline is INSIDE
    labels = (
        []
        if inside
        else [label_of(n, f"e{who}", time, value) for n, (who, time, value) in enumerate(given_labels)]
    )
    whole, single, pieces = (scorer_of(pipeline) for _ in range(3))
    one = play(whole, runs_of(whole, events, labels))
    each = play(single, split(runs_of(single, events, labels), [1]))
    some = play(pieces, split(runs_of(pieces, events, labels), cuts))
    assert by_target(one) == by_target(each) == by_target(some)
    assert whole.snapshot() == single.snapshot() == pieces.snapshot()
    assert whole.counts == single.counts == pieces.counts

    answers = Counter(
        decode_prediction(r.value).event_id for r in one if r.target == "predictions" and r.value
    )
    assert answers == Counter(f"e{who}" for who, *_ in rows)
    learned = Counter(
        decode_example(r.value).event_id for r in one if record_type_of(r.headers) == "example" and r.value
    )
    times = [time for _, time, *_ in rows]
    if times and max(times) - min(times) <= WAIT_MS:
        assert set(learned.values()) <= {1}, "within the horizon an id is learned once"
    assert learned <= answers


@pytest.mark.parametrize("pipeline", [IMPLICIT, ANY, WATCHED], ids=["implicit", "any", "watched"])
@settings(max_examples=40, deadline=None)
@given(rows=event_lists, given_labels=label_lists, cut=st.integers(0, 80))
def test_snapshot_restore_continue_equals_continue(
    pipeline: Pipeline, rows: list[Any], given_labels: list[Any], cut: int
) -> None:
    events = [event(n, f"e{who}", time, card, amount) for n, (who, time, card, amount, _) in enumerate(rows)]
    labels = [label_of(n, f"e{who}", time, value) for n, (who, time, value) in enumerate(given_labels)]
    scorer = scorer_of(pipeline)
    pieces = split(runs_of(scorer, events, labels), [1])
    play(scorer, pieces[:cut])
    state = {name: data for name, data in scorer.delta().items() if data is not None}
    assert state == scorer.snapshot()
    restored = scorer_of(pipeline)
    restored.restore(state)
    restored.outbox.writer = scorer.outbox.writer
    assert restored.snapshot() == scorer.snapshot()
    writer = Writer(0, 2)
    scorer.outbox.writer = writer
    first = play(scorer, pieces[cut:])
    restored.outbox.writer = Writer(0, 2)
    assert play(restored, pieces[cut:]) == first


def test_an_event_too_far_ahead_of_its_arrival_is_a_dead_letter_and_moves_no_watermark() -> None:
    scorer = scorer_of(DROP)
    good, bad = event(0, "e0", 1_000), replace(event(1, "e1", 1_000), timestamp_ms=1_000)
    bad = replace(bad, value=bad.value.replace(b"1000", b"99999999")) if bad.value else bad
    out = play(scorer, runs_of(scorer, [good, bad], []))
    dead = [record for record in out if record.target == "dead-letters"]
    assert len(dead) == 1
    assert (dead[0].value, dead[0].key, dead[0].timestamp_ms) == (bad.value, bad.key, None)
    reasons = dict(dead[0].headers)
    assert reasons["headrace.errors.timestamp"] == b"1000"
    assert b"max_ahead" in reasons["__streams.errors.message"]
    assert reasons["headrace.errors.stage"] == b"time"
    assert scorer.position.time_max == 1_000


def test_a_duplicate_changes_no_state_and_gets_the_same_answer_again() -> None:
    scorer = scorer_of(DROP)
    first = play(scorer, runs_of(scorer, [event(0, "e0", 1_000)], []))
    before = scorer.snapshot()
    again = play(scorer, runs_of(scorer, [event(1, "e0", 1_000)], []))
    after = scorer.snapshot()
    assert before.pop("position") != after.pop("position")
    assert before == after
    one, two = (decode_prediction(out[0].value or b"") for out in (first, again))
    assert (two.sequence, two.event_offset) == (1, 1)
    assert msgspec.structs.replace(two, sequence=0, event_offset=0) == one


def test_a_repeated_id_with_other_content_is_answered_and_reported() -> None:
    scorer = scorer_of(DROP)
    out = play(scorer, runs_of(scorer, [event(0, "e0", 1_000), event(1, "e0", 1_000, amount=9.0)], []))
    assert [record.target for record in out].count("predictions") == 2
    dead = [record for record in out if record.target == "dead-letters"]
    assert len(dead) == 1
    assert scorer.counts["events", "conflicting"] == 1


def test_labels_are_counted_by_what_became_of_them() -> None:
    scorer = scorer_of(DROP)
    events = [event(0, "e0", 1_000), event(1, "e1", 2_000), event(2, "e2", 90_000)]
    labels = [
        label_of(0, "e0", 3_000),
        label_of(1, "e0", 3_500),
        label_of(2, "e0", 4_000, value=False),
        label_of(3, "e1", 60_000),
        label_of(4, "later", 70_000),
        label_of(5, "e2", 91_000, value="no"),
    ]
    out = play(scorer, runs_of(scorer, events, labels))
    counts = {name: count for (kind, name), count in scorer.counts.items() if kind == "labels"}
    assert counts == {"joined": 1, "duplicate": 1, "conflicting": 1, "late": 1, "early": 1}
    assert sum(record.target == "examples" for record in out) == 1
    assert scorer.counts["dead_letters", "label"] == 1


def test_a_label_that_its_event_shows_to_be_late_is_refused_in_its_turn() -> None:
    scorer = scorer_of(NO_LABEL_WINDOWS)
    assert play(scorer, runs_of(scorer, [], [label_of(0, "e0", 50_000)])) == []
    broken = Record("pay.events", 0, 1, 9_000, b"a", b"{")
    out = play(scorer, runs_of(scorer, [event(0, "e0", 9_000), broken], []))
    late, other = by_target(out)["dead-letters"]
    told = dict(late.headers)
    assert (late.key, late.value) == (b"a", label_of(0, "e0", 50_000).value)
    assert told["headrace.errors.stage"] == b"join"
    assert told["__streams.errors.topic"] == b"pay.labels"
    assert b"late label for event e0" in told["__streams.errors.message"]
    assert other.value == b"{"
    assert scorer.counts["labels", "late"] == scorer.counts["dead_letters", "join"] == 1
    assert "examples" not in by_target(out)


@settings(max_examples=50, deadline=None)
@given(event_lists, label_lists)
def test_every_label_is_joined_waits_or_is_refused(rows: list[Any], given_labels: list[Any]) -> None:
    scorer = scorer_of(DROP)
    events = [event(n, f"e{who}", time, card, amount) for n, (who, time, card, amount, _) in enumerate(rows)]
    labels = [label_of(n, f"e{who}", time, value) for n, (who, time, value) in enumerate(given_labels)]
    out = play(scorer, runs_of(scorer, events, labels))
    found = by_target(out)
    refused = sum(
        dict(record.headers)["__streams.errors.topic"] == b"pay.labels"
        for record in found.get("dead-letters", [])
    )
    assert len(found.get("examples", [])) + refused + scorer.join.early == len(labels)


@settings(max_examples=50, deadline=None)
@given(event_lists, label_lists)
def test_a_share_of_the_examples_is_left_out_and_nothing_else(
    rows: list[Any], given_labels: list[Any]
) -> None:
    whole, shared = scorer_of(DROP), scorer_of(SHARED)
    events = [event(n, f"e{who}", time, card, amount) for n, (who, time, card, amount, _) in enumerate(rows)]
    labels = [label_of(n, f"e{who}", time, value) for n, (who, time, value) in enumerate(given_labels)]
    made, kept = (by_target(play(one, runs_of(one, events, labels))) for one in (whole, shared))
    assert kept.get("predictions") == made.get("predictions")
    assert kept.get("dead-letters") == made.get("dead-letters")
    assert shared.snapshot() == whole.snapshot()
    examples = [decode_example(record.value or b"") for record in made.get("examples", [])]
    learned = [one for one in examples if SHARED.learns(one.event_id)]
    assert [decode_example(record.value or b"") for record in kept.get("examples", [])] == [
        replace(one, sequence=number, weight=4.0) for number, one in enumerate(learned)
    ]
    assert shared.counts["examples_left_out", "share"] == len(examples) - len(learned)
    assert shared.counts["labels", "joined"] == len(examples)


def test_the_share_that_is_learned_is_as_large_as_was_asked() -> None:
    scorer = scorer_of(SHARED)
    events = [event(n, f"e{n}", 1_000 + n) for n in range(2_000)]
    out = play(scorer, runs_of(scorer, events, [label_of(n, f"e{n}", 5_000 + n) for n in range(2_000)]))
    assert 400 < len(by_target(out)["examples"]) < 600  # 500 expected, five standard deviations


@pytest.mark.parametrize("share", [0.0, -0.1, 1.5])
def test_a_share_that_is_none_is_refused(share: float) -> None:
    with pytest.raises(DefinitionError, match=f"learn_share is {share}"):
        dataclasses.replace(DROP, learn_share=share)


def test_labels_inside_events_are_all_learned() -> None:
    with pytest.raises(DefinitionError, match="learn_share needs labels of a topic"):
        dataclasses.replace(INSIDE, learn_share=0.5)


def test_what_is_learned_is_what_was_served() -> None:
    scorer = scorer_of(DROP)
    out = play(scorer, runs_of(scorer, [event(0, "e0", 1_000)], [label_of(7, "e0", 3_000)]))
    answer = decode_prediction(out[0].value or b"")
    example = decode_example(out[1].value or b"")
    assert (example.features, example.served_score) == (answer.features, answer.prediction_score)
    assert example.scores == {"lr": answer.prediction_score, "nb": None}
    assert (example.event_offset, example.label_offset, example.sequence) == (0, 7, 0)


def test_an_example_says_who_answered_in_which_state_and_of_which_trace() -> None:
    trace = (("traceparent", b"00-1-1-01"), ("tracestate", b"a=1"))
    asked = replace(event(0, "a", 1_000), headers=(*trace, ("other", b"x")))
    scorer = scorer_of(DROP)
    out = play(scorer, runs_of(scorer, [asked], []))
    restored = scorer_of(DROP)
    restored.restore(scorer.snapshot())
    out += play(restored, runs_of(restored, [], [label_of(0, "a", 2_000)]))
    (answer,), (learned,) = (by_target(out)[target] for target in ("predictions", "examples"))
    prediction, example = decode_prediction(answer.value or b""), decode_example(learned.value or b"")
    assert (example.model_version, example.model_updates) == (1, 0)
    assert example.model_version == prediction.model_version
    assert learned.headers == (("headrace-kind", b"example"), *trace)


def test_a_replay_reuses_logged_answers_and_sends_only_what_is_missing() -> None:
    events = [event(n, f"e{n}", 1_000 + n) for n in range(4)]
    labels = [label_of(n, f"e{n}", 5_000 + n) for n in range(4)]
    first = scorer_of(IMPLICIT)
    out = play(first, runs_of(first, events, labels))
    logged = by_target(out)
    suppression = Suppression()
    for record in logged["predictions"][:3]:
        answer = decode_prediction(record.value or b"")
        suppression.add(msgspec.structs.replace(answer, prediction_score=0.125))
    suppression.add(decode_example(logged["examples"][0].value or b""))

    second = scorer_of(IMPLICIT, suppression, claim=2)
    repeated = by_target(play(second, runs_of(second, events, labels)))
    assert [decode_prediction(r.value or b"").event_id for r in repeated["predictions"]] == ["e3"]
    examples = [decode_example(r.value or b"") for r in repeated["examples"]]
    assert [(e.event_id, e.served_score) for e in examples] == [("e1", 0.125), ("e2", 0.125), ("e3", 0.5)]
    assert [(e.claim, e.sequence) for e in examples] == [(2, 0), (2, 1), (2, 2)]
    assert suppression.empty


class Sick(linear_model.LogisticRegression):
    def predict_proba_one(self, x: dict[str, Any]) -> dict[bool, float]:
        if x.get("amount", 0.0) > 100.0:
            raise RuntimeError("overflow of something")
        return super().predict_proba_one(x)


SICK = Pipeline(
    name="pay",
    events=Topic("pay.events", Payment, key="card"),
    labels=Labels("pay.labels", wait="1h"),
    features={"amount": field("amount")},
    models={"sick": Sick(), "well": linear_model.LogisticRegression()},
    champion="sick",
)


def test_a_sick_model_is_reported_and_the_event_is_answered() -> None:
    scorer = scorer_of(SICK)
    out = play(scorer, runs_of(scorer, [event(0, "e0", 1_000), event(1, "e1", 2_000, amount=500.0)], []))
    answers = [decode_prediction(record.value or b"") for record in out if record.target == "predictions"]
    assert [answer.served_by for answer in answers] == ["champion", "prior"]
    assert answers[1].prediction_score == 0.5
    reports = [record for record in out if ("headrace-kind", b"quarantine") in record.headers]
    assert len(reports) == 1
    assert b"overflow of something" in (reports[0].value or b"")


def test_a_model_that_was_released_answers_after_a_replay_of_what_it_failed_at() -> None:
    """The log has its quarantine, and the learner has let it in again: no second report, no silence."""
    events = [event(0, "e0", 1_000), event(1, "e1", 2_000, amount=500.0)]
    first = scorer_of(SICK)
    logged = by_target(play(first, runs_of(first, events, [])))
    suppression = Suppression()
    for record in logged["predictions"]:
        suppression.add(decode_prediction(record.value or b""))
    (report,) = logged["examples"]
    suppression.add(decode_quarantine(report.value or b""))

    second = scorer_of(SICK, suppression, claim=2)
    again = play(second, runs_of(second, events, []))
    again += play(second, runs_of(second, [event(2, "e2", 3_000)], []))
    assert [record.target for record in again] == ["predictions"]
    assert decode_prediction(again[0].value or b"").served_by == "champion"


def weighed(offset: int, event_id: str, time: int, weight: float, by: str = "ann") -> Record:
    body = {"event_id": event_id, "label": True, "label_time": time, "w": weight, "by": by}
    return Record("pay.labels", 0, offset, time, b"a", json.dumps(body).encode())


def test_an_example_weighs_what_its_label_does() -> None:
    """Beside it stands how many labels it stands for."""
    for pipeline, stands_for in (
        (WEIGHED, 1.0),
        (dataclasses.replace(WEIGHED, learn_share=0.999), 1 / 0.999),
    ):
        out = _all_out(pipeline, [event(0, "e0", 1_000), event(1, "e1", 2_000)], [
            weighed(0, "e1", 500, 2.5), weighed(1, "e0", 3_000, 0.5, by="bob"), weighed(2, "e9", 3_100, 1e9),
        ])  # fmt: skip
        made = [decode_example(one.value) for one in out if one.target == "examples"]
        told = {(one.event_id, one.label_weight, one.source, one.weight) for one in made}
        assert told == {("e1", 2.5, "ann", stands_for), ("e0", 0.5, "bob", stands_for)}
        assert [one.target for one in out].count("dead-letters") == 1


def _all_out(pipeline: Pipeline, events: list[Record], labels: list[Record]) -> list[Outgoing]:
    scorer = scorer_of(pipeline)
    return [one for run in runs_of(scorer, events, labels) for outs in scorer.step(run, 0) for one in outs]


@pytest.mark.parametrize(
    ("named", "refusal"),
    [
        ({"weight": "w", "sampled": "p"}, "weighed twice"),
        ({"weight": "label"}, "one name"),
        ({"weight": "w", "weight_max": math.inf}, "weight_max"),
        ({"weight": "w", "weight_max": 0.0}, "weight_max"),
    ],
)
def test_weights_that_cannot_be_are_refused(named: dict[str, Any], refusal: str) -> None:
    with pytest.raises(DefinitionError, match=refusal):
        Labels("pay.labels", wait=WAIT_MS, **named)


def test_a_kind_is_worth_no_more_than_a_label_may_weigh() -> None:
    labels = Labels("pay.labels", wait=WAIT_MS, kinds={"click": 1.0, "purchase": 200.0})
    with pytest.raises(DefinitionError, match="worth 200"):
        labels.check_task("binary")
    labels.check_task("regression")


@pytest.mark.parametrize("named", ["weight", "sampled", "source"])
def test_a_label_inside_its_event_has_no_weight_of_its_own(named: str) -> None:
    with pytest.raises(DefinitionError, match="come inside events"):
        Labels(field="fraud", **{named: "w"})
