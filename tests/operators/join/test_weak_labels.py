"""Labels by vote: who wins, what it weighs, what becomes of it; and how complete labels are."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from river import linear_model

from engine import Labels, Pipeline, Topic, Weak
from engine.offline.backtest import LocalRun
from operators import by, feature, field, label
from operators.join.completeness import AGES, Completeness
from operators.join.weak import Vote, Voter, WeakLabels
from topics.codec import decode_example
from topics.errors import DefinitionError
from topics.messages import Example, FeatureValue, Outgoing, Record

START = 1_700_000_000_000
WAIT_MS = 40_000


class Payment(msgspec.Struct):
    event_id: str
    event_time: int
    card: str
    amount: float


def unknown_shop(row: Mapping[str, FeatureValue]) -> object:
    return row["shop"]


def by_size(row: Mapping[str, FeatureValue]) -> object:
    amount = row["amount"]
    assert isinstance(amount, float)
    return None if 20 < amount < 80 else amount >= 80


LARGE = Weak("large", feature("amount") > 50, label=True, weight=0.9)
SMALL = Weak("small", feature("amount") < 60, label=False, weight=0.6)
SIZE = Weak("size", by_size, weight=0.5)
BROKEN = Weak("broken", unknown_shop, label=True)


def pipeline(*weak: Weak, **labels: Any) -> Pipeline:
    return Pipeline(
        name="weak",
        events=Topic("weak.events", Payment, key="card", grace="10s"),
        labels=Labels("weak.labels", wait=WAIT_MS, weak=weak, **labels),
        features={"amount": field("amount"), "frauds": by("card").count(label, "1h")},
        models={"lr": linear_model.LogisticRegression()},
    )


def played(
    defined: Pipeline, amounts: Sequence[float], labelled: Mapping[int, bool], cut: int
) -> tuple[LocalRun, list[Example]]:
    """An event a second, with these labels after ten; then one late enough to end all waits."""
    events = [
        Record("weak.events", 0, n, None, b"a", json.dumps(
            {"event_id": f"e{n}", "event_time": START + 1_000 * n, "card": "a", "amount": amount}
        ).encode())
        for n, amount in enumerate(amounts)
    ]  # fmt: skip
    last = {"event_id": "last", "event_time": START + 1_000_000, "card": "b", "amount": 0.0}
    events.append(Record("weak.events", 0, len(amounts), None, b"b", json.dumps(last).encode()))
    truths = [
        {"event_id": f"e{n}", "label": value, "label_time": START + 1_000 * n + 10_000}
        for n, value in labelled.items()
    ]
    run, out = LocalRun(defined), list[Outgoing]()
    run.scorer.intake.offer_labels(
        Record("weak.labels", 0, n, None, b"a", json.dumps(one).encode()) for n, one in enumerate(truths)
    )
    for first in range(0, len(events), cut):
        run.scorer.intake.offer_events(events[first : first + cut])
        while (made := run.advance(events_unread=first + cut < len(events))) is not None:
            out += made
    return run, [decode_example(one.value or b"") for one in out if one.target == "examples"]


def saying(label: str | None) -> Vote:
    return lambda _: label


# -- votes --------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.sampled_from(["a", "b", "c", None]), st.integers(1, 16)), max_size=7))
def test_the_heavier_side_wins_and_equal_sides_abstain(votes: list[tuple[str | None, int]]) -> None:
    """Sixteenths are exact in floats: an oracle in fractions."""
    weak = WeakLabels([Voter(f"f{n}", saying(said), of_16 / 16) for n, (said, of_16) in enumerate(votes)])
    sums: dict[str, Fraction] = {}
    for said, sixteenths in votes:
        if said is not None:
            sums[said] = sums.get(said, Fraction(0)) + Fraction(sixteenths, 16)
    heaviest = max(sums.values(), default=Fraction(0))
    winners = [one for one, total in sums.items() if total == heaviest]
    cast = sum(said is not None for said, _ in votes)
    expected = (winners[0], float(heaviest) / cast) if len(winners) == 1 else None
    assert weak.label({}) == expected


@pytest.mark.parametrize("cut", [1, 3, 100])
def test_votes_become_examples_that_are_learned_and_enter_no_window(cut: int) -> None:
    amounts = [10.0, 55.0, 90.0, 30.0, 65.0]
    run, examples = played(pipeline(LARGE, SMALL, SIZE, BROKEN), amounts, {3: True, 4: False}, cut)
    made = {one.event_id: (one.label, round(one.label_weight, 6), one.origin) for one in examples}
    assert made == {
        "e0": (False, (0.6 + 0.5) / 2, "weak"),
        "e1": (True, 0.45, "weak"),
        "e2": (True, (0.9 + 0.5) / 2, "weak"),
        "e3": (True, 1.0, ""),
        "e4": (False, 1.0, ""),
    }
    voted = [one for one in examples if one.origin]
    assert [one.label_time - one.event_time for one in voted] == [WAIT_MS] * 3
    assert [one.expired_at_offset for one in voted] == [5] * 3
    counts = run.scorer.counts
    assert counts["labels", "weak"] == 3
    assert counts["predictions_dropped", "expired"] == 0
    about = {name: n for (metric, name), n in counts.items() if metric == "weak_votes"}
    assert {name: n for name, n in about.items() if "large" in name} == {
        "voted large": 2, "abstained large": 1, "silent large": 1, "wrong large": 1,
    }  # fmt: skip
    assert counts["weak_votes", "failed broken"] == 5
    # The label windows of the card hold the two that came.
    assert (
        run.scorer.features.snapshot()
        == played(pipeline(), amounts, {3: True, 4: False}, cut)[0].scorer.features.snapshot()
    )


def test_where_nobody_votes_the_prediction_expires() -> None:
    run, examples = played(pipeline(LARGE), [10.0, 90.0], {}, 1)
    assert [(one.event_id, one.origin) for one in examples] == [("e1", "weak")]
    assert run.scorer.counts["predictions_dropped", "expired"] == 1


@pytest.mark.parametrize(
    ("weak", "labels", "says"),
    [
        ([Weak("no", feature("nope") > 1, label=True)], {}, "no feature 'nope'"),
        ([Weak("no", field("amount") > 1, label=True)], {}, "no feature"),
        ([Weak("no", feature("amount") > 1)], {}, "votes for no label"),
        ([Weak("no", feature("amount") > 1, label="yes")], {}, "does not fit"),
        ([Weak("no", lambda row: True, label=True)], {}, "lambda"),  # noqa: ARG005
        ([LARGE, LARGE], {}, "cannot be called 'large'"),
        ([Weak("a b", by_size)], {}, "cannot be called 'a b'"),
        ([Weak("no", by_size, weight=1.5)], {}, "weight is 1.5"),
        ([LARGE], {"on_timeout": False}, "here there is one"),
        ([LARGE], {"learn": "corrected", "on_timeout": False}, "`weak` has no say"),
    ],
)
def test_what_could_never_vote_is_refused(weak: list[Weak], labels: dict[str, Any], says: str) -> None:
    with pytest.raises(DefinitionError, match=says):
        pipeline(*weak, **labels)


def test_functions_are_part_of_the_definition_only_where_there_are_any() -> None:
    assert "labels.weak" not in pipeline().scorer_definition()
    one, other = pipeline(LARGE).scorer_definition(), pipeline(SIZE).scorer_definition()
    assert one["labels.weak"] != other["labels.weak"]
    assert one == pipeline(LARGE).scorer_definition()


# -- completeness -------------------------------------------------------------------------------------

ROWS = st.lists(st.tuples(st.integers(0, 900), st.none() | st.integers(0, WAIT_MS)), min_size=1, max_size=60)
"""(time since the one before, delay of its label)."""


@settings(max_examples=50)
@given(ROWS, st.integers(0, 2 * WAIT_MS))
def test_the_share_by_age_is_that_of_all_old_enough(rows: list[tuple[int, int | None]], after: int) -> None:
    """Against a count of everything; whoever sits in a block that is not old enough as a whole waits."""
    completeness = Completeness(wait_ms=WAIT_MS, grace_ms=0)
    block_ms, now, steps = WAIT_MS // 16, 0, []
    for step, delay in rows:
        now += step
        steps.append((now, "opened", now, 0))
        if delay is not None:
            steps.append((now + delay, "labelled", now, delay))
    watermark = now + after
    for at, what, time, delay in sorted(steps):
        if at <= watermark:
            completeness.passed(at)
            (completeness.opened(time) if what == "opened" else completeness.labelled((time, time + delay)))
    completeness.passed(watermark)
    times = [time for _, what, time, _ in steps if what == "opened"]
    for row, age in zip(completeness.report(), AGES, strict=True):
        limit = int(WAIT_MS * age)
        old = [time for time in times if (time // block_ms + 1) * block_ms + limit <= watermark]
        assert row["aged"] == len(old)
        within = sum(
            1
            for _, w, t, d in steps
            if w == "labelled" and d <= limit and (t // block_ms + 1) * block_ms + limit <= watermark
        )
        assert row["labelled"] == within


@pytest.mark.parametrize("cut", [1, 7, 100])
def test_a_run_reports_how_complete_its_labels_are(cut: int) -> None:
    run, _ = played(pipeline(), [1.0] * 60, dict.fromkeys(range(0, 60, 3), True), cut)
    rows = run.scorer.completeness.report()
    assert [(row["aged"], row["labelled"]) for row in rows] == [(60, 20)] * 4
    counts = run.scorer.counts
    assert (counts["aged", "1"], counts["aged_labelled", "1"]) == (60, 20)
