"""The skew check: silent about what a scorer serves, whatever the stream; loud about anything else."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from river import linear_model
from window_oracle import GRACE, Payment, features_of, histories

from engine import Labels, Pipeline, Rule, Topic
from engine.offline.backtest import LocalRun
from engine.offline.skew import PartitionSkew, SkewCounts
from operators import (
    apply,
    by,
    cross,
    decay,
    feature,
    field,
    indicator,
    label,
    last_n,
    lookup,
    session,
    tiled,
    tumbling,
)
from operators.language.expressions import Expression
from operators.skew.comparison import UNKNOWN, FeatureCheck, Scope, Skew
from topics import headers
from topics.codec import Decoded, decode_prediction
from topics.messages import Event, FeatureValues, Prediction, Record

HOUR_MS = 3_600_000
START = 1_700_000_000_000
CARD = by("card")


def per_fee(amount: float, fee: int) -> float:
    return amount / fee


EVERY_KIND: dict[str, Expression] = {
    "amount": field("amount"),
    "count": CARD.count("40ms"),
    "others": by("kind").count("1s", include_current=False),
    "all": by().rate("500ms"),
    "sum": CARD.sum("amount", "1s"),
    "mean": CARD.mean("amount", "40ms"),
    "share": CARD.sum("amount", "40ms") / CARD.count("1s"),
    "std": CARD.std("amount", "1s"),
    "min": CARD.min("amount", "500ms", where=field("kind") == "sale"),
    "first": CARD.first("amount", "1s"),
    "since": CARD.since_last("1s"),
    "shifted": CARD.mean("amount", "1s", shift="20ms"),
    "mode": CARD.mode("shop", "1s"),
    "distinct": CARD.distinct("shop", "1s"),
    "median": CARD.median("amount", "1s"),
    "entropy": CARD.entropy("shop", "1s"),
    "best": CARD.arg_max("shop", "amount", "1s"),
    "hourly": CARD.sum("amount", tumbling("100ms")),
    "visit": CARD.count(session("50ms")),
    "latest": CARD.mean("amount", last_n(3)),
    "tiled": CARD.max("amount", tiled("100ms", step="20ms")),
    "decayed": CARD.sum("amount", decay("100ms")),
    "logs": CARD.mean(field("amount").log(), "1s"),
    "per_fee": CARD.max(apply(per_fee, field("amount"), field("fee"), returns=float), "40ms"),
    "sales": CARD.sum(indicator(field("kind") == "sale"), "1s", where=field("amount") > 0),
    "pairs": CARD.distinct(cross(field("shop"), field("kind")), "1s"),
    "top_pair": CARD.arg_min(cross(field("shop"), field("kind")), field("amount") * field("fee"), "1s"),
    "faded_fee": CARD.mean(field("fee") * 2, decay("100ms")),
}


def answer(event: Event, row: FeatureValues) -> Prediction:
    names = ("m", 1, 0, "champion", 0.5, True, "champion")
    return Prediction(
        f"p:{event.event_id}", event.event_id, event.event_time, 0, *names, row, event.offset, 1, event.offset
    )


def decoded(event: Event) -> Decoded:
    return Decoded(event.event_id, event.event_time, event.key, event.value, None)


def compared(
    definition: Mapping[str, Expression],
    history: Sequence[Event],
    rows: Sequence[FeatureValues],
    partitions: int = 1,
    **settings: Any,
) -> list[list[FeatureCheck]]:
    """Let a check see a history and what was served for it."""
    plan = features_of(definition).plan
    skew = Skew(plan, Scope("card", partitions, HOUR_MS), **settings)
    pairs = zip(history, rows, strict=True)
    return [skew.event(decoded(event), replace(answer(event, row), late=event.late)) for event, row in pairs]


@given(histories())
def test_what_windows_of_every_kind_serve_is_no_skew(history: list[Event]) -> None:
    found = compared(EVERY_KIND, history, features_of(EVERY_KIND).step_events(history))
    for event, outcomes in zip(history, found, strict=True):
        wanted = "unchecked" if event.late else "match"
        assert {one.outcome for one in outcomes} == {wanted}, [
            one for one in outcomes if one.outcome != wanted
        ]
        assert len(outcomes) == len(EVERY_KIND)


@given(histories(size=30), st.sampled_from(sorted(EVERY_KIND)), st.data())
def test_one_changed_value_is_found_and_named(history: list[Event], name: str, data: st.DataObject) -> None:
    rows = features_of(EVERY_KIND).step_events(history)
    place = data.draw(st.integers(0, len(rows) - 1))
    tampered = [dict(row) for row in rows]
    served = tampered[place].pop(name, None)
    wanted = "missing"
    if served is None:
        tampered[place][name], wanted = 1.0, "extra"
    elif data.draw(st.booleans()):
        tampered[place][name] = f"{served}x" if isinstance(served, str) else served + max(1e6, abs(served))
        wanted = "mismatch"
    found = compared(EVERY_KIND, history, tampered)
    odd = [(at, o.feature, o.outcome) for at, os in enumerate(found) for o in os if o.outcome not in OK]
    assert odd == ([] if history[place].late else [(place, name, wanted)])


OK = ("match", "unchecked")


def line(count: int, keys: int = 1) -> list[Event]:
    """Return events a millisecond apart, the cards in turn."""
    return [Event(str(n), n, card := f"c{n % keys}", Payment(card, 1.0), n, n - GRACE) for n in range(count)]


def test_a_sample_is_whole_keys_and_always_the_same() -> None:
    history = line(400, keys=100)
    rows = features_of({"n": CARD.count("1s")}).step_events(history)
    found = compared({"n": CARD.count("1s")}, history, rows, one_in=10)
    looked_at = {event.key for event, outcomes in zip(history, found, strict=True) if outcomes}
    assert 3 <= len(looked_at) <= 20
    assert all(
        bool(outcomes) == (event.key in looked_at) for event, outcomes in zip(history, found, strict=True)
    )


@pytest.mark.parametrize("entered", [True, False])
def test_what_was_late_for_some_windows_only_leaves_its_key_unchecked_while_it_may_be_in_one(
    entered: bool,
) -> None:
    """Event 3 is within the grace, yet was late for the windows of some key on another partition."""
    definition = {"n": CARD.count("5ms")}
    history = line(12, keys=2)
    rows = features_of(definition).step_events(
        [replace(event, late=event.offset == 3 and not entered) for event in history]
    )
    marked = [replace(event, late=event.offset == 3) for event in history]
    outcomes = [one.outcome for (one,) in compared(definition, marked, rows, partitions=2)]
    assert [number for number, outcome in enumerate(outcomes) if outcome != "match"] == [3, 5, 7]
    assert {outcomes[number] for number in (3, 5, 7)} == {"unchecked"}


def test_a_session_that_may_have_one_more_is_never_told_again() -> None:
    definition = {"visit": CARD.count(session("2ms"))}
    history = [replace(event, late=event.offset == 3) for event in line(12, keys=2)]
    rows = features_of(definition).step_events(history)
    outcomes = [one.outcome for (one,) in compared(definition, history, rows, partitions=2)]
    assert outcomes == ["match", "match", "match"] + ["unchecked", "match"] * 4 + ["unchecked"]


def test_an_unknown_name_is_extra_under_one_name() -> None:
    (found,) = compared({"n": CARD.count("1s")}, line(1), [{"n": 1, "invented": 2}])
    assert found == [FeatureCheck("n", "match", 1, 1), FeatureCheck(UNKNOWN, "extra", None, 2)]


def test_where_the_log_begins_late_windows_are_told_when_they_are_full() -> None:
    history = line(200)
    definition = {"n": CARD.count("50ms"), "visit": CARD.count(session("50ms"))}
    rows = features_of(definition).step_events(history)
    found = compared(definition, history[100:], rows[100:], complete_from_ms=100)
    told = [[one.feature for one in outcomes if one.outcome != "unchecked"] for outcomes in found]
    first = 100 + 50 + GRACE
    assert told == [["n"] if event.event_time >= first else [] for event in history[100:]]
    assert all(one.outcome in OK for outcomes in found for one in outcomes)


def test_a_key_with_more_entries_than_are_kept_is_not_told() -> None:
    history, definition = line(40), {"n": CARD.count("1s")}
    features = features_of(definition, event_max=30)
    skew = Skew(features.plan, Scope("card", 1, HOUR_MS))
    rows = features.step_events(history)
    assert rows[-1] == {"n": 30}
    found = [skew.event(decoded(e), answer(e, row)) for e, row in zip(history, rows, strict=True)]
    assert [one.outcome for (one,) in found] == ["match"] * 30 + ["unchecked"] * 10


def test_a_repeat_changes_nothing() -> None:
    first, second = line(2)
    skew = Skew(features_of({"n": CARD.count("1s")}).plan, Scope("card", 1, HOUR_MS))
    assert skew.event(decoded(first), answer(first, {"n": 1}))[0].outcome == "match"
    assert skew.event(decoded(first), answer(first, {"n": 1})) == []
    assert skew.event(decoded(second), answer(second, {"n": 2}))[0].outcome == "match"


@pytest.mark.parametrize(
    ("expression", "partitions", "is_told"),
    [
        (CARD.count("1s"), 4, True),
        (by("card", "kind").count("1s"), 4, True),
        (by("kind").count("1s"), 4, False),
        (by("kind").count("1s"), 1, True),
        (lookup("card:{card}", "limit", default=0.0) + CARD.count("1s"), 1, False),
        (CARD.distinct("shop", tiled("1s", step="10ms")), 1, False),
    ],
    ids=repr,
)
def test_what_cannot_be_recomputed_is_unchecked(
    expression: Expression, partitions: int, is_told: bool
) -> None:
    skew = Skew(features_of({"x": expression}).plan, Scope("card", partitions, HOUR_MS))
    (event,) = line(1)
    (found,) = skew.event(decoded(event), answer(event, {"x": 1}))
    assert (found.outcome != "unchecked") is is_told


# -- a whole pipeline: labels, rules, dead letters, repeats -----------------------------------------------


class Sale(msgspec.Struct):
    event_id: str
    event_time: int
    card: str
    amount: float


def pipeline(**changes: Any) -> Pipeline:
    settings: dict[str, Any] = {
        "labels": Labels("sales.labels", wait="10m"),
        "features": {
            "n": CARD.count("1h"),
            "risk": CARD.mean(label, "30m").default(0.0),
            "all_risk": by().mean(label, "1h"),
            "age": CARD.since_last(label, "1h"),
            "dear": CARD.sum(label, "1h", where=field("amount") > 2),
        },
    }
    return Pipeline(
        name="sales",
        events=Topic("sales.events", Sale, key="card", grace="1m"),
        models={"linear": linear_model.LogisticRegression()},
        **(settings | changes),
    )


sales = st.lists(
    st.tuples(st.integers(0, 90_000), st.sampled_from("ab"), st.integers(-70_000, 700_000), st.booleans()),
    min_size=1,
    max_size=25,
)


def records(of: Pipeline, drawn: list[tuple[int, str, int, bool]]) -> tuple[list[Record], list[Record]]:
    """Return events and labels; some out of order, late, repeated, broken, early, never joined."""
    events, labels, time = [], [], START
    for number, (step, card, delay, truth) in enumerate(drawn):
        time += step - (40_000 if step % 5 == 0 else 0)
        event_id = f"e{number // 2 if step % 7 == 0 else number}"
        value = {"event_id": event_id, "event_time": time, "card": card, "amount": number / 2}
        events.append(json.dumps(value).encode() if step % 11 else b"broken")
        labels.append((time + delay, {"event_id": event_id, "label": truth, "label_time": time + delay}))
    labels.sort(key=lambda pair: pair[0])
    lines = [json.dumps(value).encode() for _, value in labels]
    topics = (of.events.name, events), (of.labels.topic or "", lines)
    first, second = ([Record(t, 0, n, None, None, v) for n, v in enumerate(vs)] for t, vs in topics)
    return first, second


def played(of: Pipeline, events: list[Record], labels: list[Record], held: int) -> list[Record]:
    """Return the predictions log of a scorer that reads each label `held` events after its turn."""
    run, log = LocalRun(of), []
    for number, event in enumerate(events):
        run.scorer.intake.offer_events([event])
        due = [one for one in labels if number >= held and _time(one) <= _time(events[number - held])]
        run.scorer.intake.offer_labels(due)
        labels = labels[len(due) :]
        while run.scorer.intake.events_buffered:
            log += run.advance() or []
    sent = [out for out in log if out.target == "predictions"]
    return [Record("p", 0, n, None, out.key, out.value, out.headers) for n, out in enumerate(sent)]


def _time(record: Record) -> int:
    try:
        found = json.loads(record.value or b"")
    except ValueError:
        return START
    return int(found.get("label_time", found.get("event_time")))


def checked(of: Pipeline, answers: list[Record], events: list[Record], labels: list[Record]) -> SkewCounts:
    counts = SkewCounts(tuple(of.features))
    skew = PartitionSkew(of, 0, counts, one_in=1, is_whole=False)
    skew.is_whole = True  # the claim is not in this log: the first answer says it
    skew.offer_predictions(answers)
    skew.intake.offer_events(events)
    skew.intake.offer_labels(labels)
    while skew.advance(labels_unread=False):
        pass
    return counts


PIPELINE = pipeline()
ASSUMING = pipeline(labels=Labels("sales.labels", wait="10m", on_timeout=False))


@given(st.sampled_from([PIPELINE, ASSUMING]), sales, st.integers(0, 3))
def test_labels_join_as_in_a_worker_even_if_it_reads_them_late(of: Pipeline, drawn: Any, held: int) -> None:
    if of is ASSUMING:  # no label is read after its event was given up
        drawn = [(step, card, min(delay, 300_000), truth) for step, card, delay, truth in drawn]
    events, labels = records(of, drawn)
    counts = checked(of, played(of, events, labels, held), events, labels)
    assert counts.skewed == 0, counts.report()


def test_a_wrong_risk_is_found() -> None:
    drawn = [(60_000, "a", 30_000, True)] * 10
    events, labels = records(PIPELINE, drawn)
    answers = played(PIPELINE, events, labels, 0)
    last = decode_prediction(answers[-1].value or b"")
    assert last.features["risk"] == 1.0
    value = msgspec.json.encode(replace(last, features=last.features | {"risk": 0.75}))
    counts = checked(PIPELINE, [*answers[:-1], replace(answers[-1], value=value)], events, labels)
    assert counts.features["risk", "mismatch"] == counts.skewed == 1
    assert counts.examples[0].event_id == last.event_id
    assert counts.examples[0].check == FeatureCheck("risk", "mismatch", 1.0, 0.75)


def test_what_a_rule_may_change_is_unchecked() -> None:
    of = pipeline(rules=[Rule(feature("n"), between=(0, 2), action="clip")])
    events, labels = records(of, [(60_000, "a", 30_000, True)] * 5)
    counts = checked(of, played(of, events, labels, 0), events, labels)
    assert counts.skewed == 0
    assert Counter(outcome for name, outcome in counts.features if name == "n") == {"unchecked": 1}
    assert counts.features["risk", "match"] == 5


def test_what_is_no_answer_of_this_definition_is_counted_and_never_skew() -> None:
    events, labels = records(PIPELINE, [(60_000, "a", 30_000, True)] * 4)
    answers = played(PIPELINE, events, labels, 0)
    other = [(name, b"v0" if name == headers.FEATURES else value) for name, value in answers[1].headers]
    doctored = decode_prediction(answers[3].value or b"")
    twice = msgspec.json.encode(replace(doctored, sequence=4, features={"n": 99}))
    zombie = msgspec.json.encode(replace(doctored, sequence=9, features={"n": 99}))
    log = [
        answers[0],
        replace(answers[1], headers=tuple(other)),
        replace(answers[2], value=b"{}"),
        *answers[2:],
        replace(answers[3], value=twice),
        replace(answers[3], value=zombie),
    ]
    counts = checked(PIPELINE, log, events, labels)
    assert counts.events == {"checked": 4, "unreadable": 1, "answered_twice": 1, "superseded": 1}
    assert (counts.features["n", "match"], counts.features["n", "unchecked"], counts.skewed) == (3, 1, 0)
