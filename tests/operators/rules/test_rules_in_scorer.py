"""Rules and alerts in the scorer: what is served, counted and told, however runs are cut and replayed."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from river import compose, linear_model
from test_scorer import by_target, label_of, play, runs_of, scorer_of, split

from engine import Alert, Labels, Pipeline, Rule, Topic, changed_schema, new_category
from engine.offline.backtest import backtest
from operators import by, feature, field, label
from operators.claims.rule import Suppression, Writer
from topics.codec import decode_example, decode_prediction
from topics.messages import AlertRecord, Outgoing, Prediction, Record


class Payment(msgspec.Struct):
    event_id: str
    event_time: int
    card: str
    amount: float | None = None
    paid: float | None = None
    country: str | None = None
    fraud: bool | None = None


RULES = (
    Rule(field("amount"), between=(0, 100), action="clip"),
    Rule(field("card"), matches=r"^[a-c]", action="dead_letter"),
    Rule(field("country"), one_of=("DE", "FR"), action="null"),
    Rule(field("paid") <= field("amount"), action="flag", name="overpaid"),
    Rule(field("country"), required=True, action="flag"),
    Rule(feature("sum"), between=(None, 150), action="clip"),
    Rule(feature("amount"), between=(1, None), action="flag"),
)


def definition(labels: Labels, **changes: Any) -> Pipeline:
    given: dict[str, Any] = {
        "features": {
            "amount": field("amount"),
            "paid": field("paid"),
            "country": field("country"),
            "sum": by("card").sum("amount", "1m"),
        },
        "rules": RULES,
        "alerts": [
            Alert(when=new_category("country", learning=5)),
            Alert(when=changed_schema(learning=5)),
        ],
    }
    return Pipeline(
        name="pay",
        events=Topic("pay.events", Payment, key="card", grace="10s"),
        labels=labels,
        models={"lr": compose.Discard("country") | linear_model.LogisticRegression()},
        **(given | changes),
    )


LATER = definition(Labels("pay.labels", wait="40s"))
INSIDE = definition(Labels(field="fraud", wait="40s"))
LABEL_WINDOWS = definition(
    Labels(field="fraud", wait="40s"),
    features={"amount": field("amount"), "sum": by("card").mean(label, "1m"), "country": field("country")},
)


def event(offset: int, time: int = 1_000, event_id: str | None = None, **more: Any) -> Record:
    body = {"event_id": event_id or f"e{offset}", "event_time": time, "card": "a", **more}
    body = {name: value for name, value in body.items() if value is not None}
    return Record("pay.events", 0, offset, time, b"a", json.dumps(body).encode())


def answers_of(out: list[Outgoing]) -> list[Prediction]:
    return [decode_prediction(record.value or b"") for record in out if record.target == "predictions"]


def alerts_of(out: list[Outgoing]) -> list[AlertRecord]:
    return [msgspec.json.decode(r.value or b"", type=AlertRecord) for r in out if r.target == "alerts"]


class TestActions:
    def test_a_clipped_value_enters_features_and_windows_and_the_bytes_stay(self) -> None:
        scorer = scorer_of(LATER)
        record = event(0, amount=900.0, country="DE")
        (answer,) = answers_of(play(scorer, runs_of(scorer, [record], [])))
        assert (answer.features["amount"], answer.features["sum"]) == (100.0, 100.0)
        assert scorer.counts["rule_hits", "clip amount.between"] == 1
        assert b"900.0" in (record.value or b"")
        assert answer.flags == ()

    def test_a_broken_dead_letter_rule_refuses_the_event_as_it_came(self) -> None:
        scorer = scorer_of(LATER)
        record = event(0, card="zz", amount=900.0)
        out = play(scorer, runs_of(scorer, [record], []))
        (dead,) = by_target(out)["dead-letters"]
        reasons = dict(dead.headers)
        assert (dead.value, reasons["headrace.errors.stage"]) == (record.value, b"rule")
        assert b"card.matches" in reasons["__streams.errors.message"]
        assert b"'zz'" in reasons["__streams.errors.message"]
        assert not answers_of(out)
        assert scorer.position.time_max == -1, "a refused event moves no watermark"
        hits = {name: count for (kind, name), count in scorer.counts.items() if kind == "rule_hits"}
        assert hits == {"clip amount.between": 1, "dead_letter card.matches": 1}

    def test_null_leaves_the_feature_out_and_flags_name_the_rules(self) -> None:
        scorer = scorer_of(LATER)
        out = play(scorer, runs_of(scorer, [event(0, amount=0.5, paid=2.0, country="XX")], []))
        (answer,) = answers_of(out)
        assert "country" not in answer.features
        assert answer.flags == ("overpaid", "country.required", "feature.amount.between")

    def test_a_clipped_feature_is_served_and_learned_and_windows_keep_their_values(self) -> None:
        scorer = scorer_of(LATER)
        events = [event(n, amount=90.0, country="DE") for n in range(2)]
        out = play(scorer, runs_of(scorer, events, [label_of(0, "e1", 2_000)]))
        assert [answer.features["sum"] for answer in answers_of(out)] == [90.0, 150.0]
        (example,) = [decode_example(r.value or b"") for r in by_target(out)["examples"]]
        assert example.features["sum"] == 150.0

    def test_without_flags_a_prediction_says_nothing_of_them(self) -> None:
        scorer = scorer_of(LATER)
        out = play(scorer, runs_of(scorer, [event(0, amount=5.0, paid=1.0, country="DE")], []))
        assert b"flags" not in (by_target(out)["predictions"][0].value or b"")

    def test_a_repeated_event_gets_its_flags_again(self) -> None:
        scorer = scorer_of(LATER)
        out = play(scorer, runs_of(scorer, [event(0, amount=0.5), event(1, event_id="e0", amount=0.5)], []))
        first, again = answers_of(out)
        assert first.flags == again.flags == ("country.required", "feature.amount.between")


rows = st.lists(
    st.fixed_dictionaries(
        {
            "event_id": st.integers(0, 30).map("e{}".format),
            "time": st.integers(0, 120_000),
            "card": st.sampled_from(["a", "b", "zz"]),
            "amount": st.none() | st.floats(-200, 200, allow_nan=False),
            "paid": st.none() | st.floats(0, 200, allow_nan=False),
            "country": st.sampled_from([None, "DE", "FR", "XX", "YY"]),
            "fraud": st.sampled_from([None, True, False]),
            "extra": st.sampled_from([None, None, 1]),
        }
    ),
    max_size=30,
)


@pytest.mark.parametrize("pipeline", [LATER, INSIDE, LABEL_WINDOWS], ids=["later", "inside", "windows"])
@settings(max_examples=40, deadline=None)
@given(rows=rows, cuts=st.lists(st.integers(1, 7), min_size=1, max_size=4))
def test_a_batch_of_n_equals_n_batches_of_one(
    pipeline: Pipeline, rows: list[dict[str, Any]], cuts: list[int]
) -> None:
    events = [event(n, **row) for n, row in enumerate(rows)]
    whole, single, pieces = (scorer_of(pipeline) for _ in range(3))
    one = play(whole, runs_of(whole, events, []))
    each = play(single, split(runs_of(single, events, []), [1]))
    some = play(pieces, split(runs_of(pieces, events, []), cuts))
    assert by_target(one) == by_target(each) == by_target(some)
    assert whole.snapshot() == single.snapshot() == pieces.snapshot()
    assert whole.counts == single.counts == pieces.counts
    told = [alert.alert_id for alert in alerts_of(one)]
    assert len(told) == len(set(told)), "each once"
    answered = Counter(answer.event_id for answer in answers_of(one))
    assert answered == Counter(row["event_id"] for row in rows if row["card"] != "zz")


@settings(max_examples=40, deadline=None)
@given(rows=rows, cut=st.integers(0, 30))
def test_a_restored_scorer_goes_on_as_if_nothing_had_happened(rows: list[dict[str, Any]], cut: int) -> None:
    scorer = scorer_of(LATER)
    runs = split(runs_of(scorer, [event(n, **row) for n, row in enumerate(rows)], []), [1])
    play(scorer, runs[:cut])
    restored = scorer_of(LATER)
    restored.restore({name: data for name, data in scorer.delta().items() if data is not None})
    assert restored.snapshot() == scorer.snapshot()
    scorer.outbox.writer, restored.outbox.writer = Writer(0, 2), Writer(0, 2)
    assert play(restored, runs[cut:]) == play(scorer, runs[cut:])


def test_a_replay_reuses_the_flags_that_were_logged() -> None:
    events = [event(n, amount=0.5) for n in range(2)]
    first = scorer_of(LATER)
    logged = answers_of(play(first, runs_of(first, events, [])))
    suppression = Suppression()
    suppression.add(msgspec.structs.replace(logged[0], flags=("as logged",)))
    second = scorer_of(LATER, suppression, claim=2)
    play(second, runs_of(second, events, []))
    waiting = [second.join.known(answer.event_id) for answer in logged]
    assert [entry.prediction.flags for entry in waiting if entry] == [("as logged",), logged[1].flags]


class TestAlerts:
    def test_what_is_new_is_told_once_with_the_event_that_showed_it(self) -> None:
        pipeline = definition(Labels("pay.labels", wait="40s"), rules=())
        scorer = scorer_of(pipeline)
        known = [event(n, country="DE") for n in range(5)]
        told = alerts_of(play(scorer, runs_of(scorer, [*known, event(5, country="XX")], [])))
        (alert,) = told
        assert (alert.alert_id, alert.policy, alert.state, alert.kind) == (
            "pay:new_category:country:XX", "new_category", "told", "new_category",
        )  # fmt: skip
        assert (alert.time, alert.since, alert.field, alert.category) == (1_000, 1_000, "country", "XX")
        assert (alert.event_id, alert.event_offset, alert.partition) == ("e5", 5, 0)
        assert alert.says == "country is 'XX', which no event has been before"
        again = play(scorer, runs_of(scorer, [event(6, country="XX"), event(7, event_id="e5")], []))
        assert not alerts_of(again)
        assert scorer.counts["alerts", "new_category told"] == 1

    def test_a_repeated_event_teaches_nothing(self) -> None:
        scorer = scorer_of(LATER)
        play(scorer, runs_of(scorer, [event(0, country="DE")], []))
        before = scorer.snapshot()
        play(scorer, runs_of(scorer, [event(1, event_id="e0", country="FR", extra=1)], []))
        assert {n: d for n, d in scorer.snapshot().items() if n.startswith("novelty")} == {
            n: d for n, d in before.items() if n.startswith("novelty")
        }


def test_a_pipeline_without_rules_has_no_checks_and_no_alerts_topic() -> None:
    plain = definition(Labels("pay.labels", wait="40s"), rules=(), alerts=())
    assert scorer_of(plain)._checks is None
    assert "alerts" not in plain.catalog
    assert LATER.catalog["alerts"] == "pay.alerts"
    assert not any(name.startswith("rules") for name in plain.scorer_definition())


def test_a_backtest_answers_as_the_scorer_does_and_reports_the_rules(tmp_path: Path) -> None:
    events = [
        event(n, n * 1_000, amount=n * 30.0, paid=50.0, country="DE", fraud=n % 2 == 0) for n in range(9)
    ]
    file, out = tmp_path / "events.jsonl", tmp_path / "out.jsonl"
    file.write_bytes(b"\n".join(record.value or b"" for record in events))
    with out.open("wb") as predictions:
        report = backtest(INSIDE, file, None, predictions_out=predictions)
    scorer = scorer_of(INSIDE)
    served = answers_of(play(scorer, runs_of(scorer, events, [])))
    found = [decode_prediction(line) for line in out.read_bytes().splitlines()]
    assert [(a.features, a.flags) for a in found] == [(a.features, a.flags) for a in served]
    assert report["rules"] == {
        "amount.between": 5,
        "overpaid": 2,
        "feature.sum.between": 6,
        "feature.amount.between": 1,
    }
