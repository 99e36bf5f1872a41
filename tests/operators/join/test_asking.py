"""Which events people are asked to label: the most doubtful of each window, never more than asked for."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any
from zlib import crc32

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from river import linear_model, naive_bayes

from engine import Labels, Pipeline, Queries, Topic
from engine.offline.backtest import LocalRun
from operators import field
from operators.join.queries import doubt
from topics.codec import decode_prediction
from topics.errors import DefinitionError
from topics.messages import Outgoing, Prediction, Query, Record
from topics.watermarks import Move, moving

START = 1_700_000_040_000
"""Ten minutes begin here: windows of a minute begin on the minute."""
WAIT_MS = 600_000
PER_MS = 60_000


class Payment(msgspec.Struct):
    event_id: str
    event_time: int
    card: str
    amount: float


def pipeline(queries: Queries | None, **more: Any) -> Pipeline:
    models = {"lr": linear_model.LogisticRegression(), "nb": naive_bayes.GaussianNB()}
    given = {"models": models, "champion": "lr", "labels": Labels("ask.labels", wait=WAIT_MS)} | more
    return Pipeline(
        name="ask",
        events=Topic("ask.events", Payment, key="card", grace="5s"),
        features={"amount": field("amount")},
        queries=queries,
        **given,
    )


def event(offset: int, time: int, amount: float) -> Record:
    value = {"event_id": f"e{offset}", "event_time": START + time, "card": "a", "amount": amount}
    return Record("ask.events", 0, offset, None, b"a", json.dumps(value).encode())


def truth(offset: int, of: int, time: int, label: bool) -> Record:
    value = {"event_id": f"e{of}", "label": label, "label_time": START + time}
    return Record("ask.labels", 0, offset, None, b"a", json.dumps(value).encode())


def played(
    defined: Pipeline, events: Sequence[Record], labels: Sequence[Record], cut: int, *, restart: int = 1 << 30
) -> tuple[LocalRun, list[Outgoing]]:
    """Feed events in pieces of `cut`; after `restart` of them another scorer goes on from a checkpoint."""
    run, out = LocalRun(defined), list[Outgoing]()
    run.scorer.intake.offer_labels(labels)
    for first in range(0, len(events), cut):
        if first >= restart:
            windows = run.scorer._asking.windows
            assert windows is not None
            windows.restore(windows.snapshot())
        run.scorer.intake.offer_events(events[first : first + cut])
        while (made := run.advance(events_unread=first + cut < len(events))) is not None:
            out += made
    return run, out


def asked(out: Sequence[Outgoing]) -> list[Query]:
    return [msgspec.json.decode(one.value or b"", type=Query) for one in out if one.target == "queries"]


def answers(out: Sequence[Outgoing]) -> dict[str, Prediction]:
    found = [decode_prediction(one.value or b"") for one in out if one.target == "predictions"]
    return {one.event_id: one for one in found}


STREAMS = st.lists(
    st.tuples(st.integers(0, 25_000), st.floats(-3, 3), st.none() | st.booleans()), min_size=1, max_size=50
)
"""(time since the one before, amount, label)."""


@settings(max_examples=20)
@given(STREAMS, st.integers(1, 7), st.integers(1, 4))
def test_the_most_doubtful_of_each_window_are_asked_for(
    rows: list[tuple[int, float, bool | None]], cut: int, most: int
) -> None:
    times = [sum(step for step, _, _ in rows[: n + 1]) for n in range(len(rows))]
    events = [
        event(n, time, amount) for n, (time, (_, amount, _)) in enumerate(zip(times, rows, strict=True))
    ]
    labels = [
        truth(n, n, time + 40_000, bool(label))
        for n, (time, (_, _, label)) in enumerate(zip(times, rows, strict=True))
        if label is not None
    ]
    run, out = played(pipeline(Queries(per=PER_MS, max=most)), events, labels, cut, restart=len(rows) // 2)
    watermark = run.scorer.admission.watermark
    by_window: dict[int, list[Prediction]] = {}
    for one in answers(out).values():
        by_window.setdefault(one.event_time // PER_MS, []).append(one)
    expected: list[tuple[str, int]] = []
    for number, found in sorted(by_window.items()):
        if (number + 1) * PER_MS > watermark:
            continue
        found.sort(key=lambda one: (score(one), crc32(one.event_id.encode())), reverse=True)
        expected += [(one.event_id, rank) for rank, one in enumerate(found[:most], 1)]
    sent = asked(out)
    counts = run.scorer.counts
    assert [(one.event_id, one.rank) for one in sent] == [
        pair for pair in expected if pair in {(one.event_id, one.rank) for one in sent}
    ]
    assert len(expected) == sum(counts["queries", outcome] for outcome in ("sent", "labelled", "expired"))
    assert not {one.event_id for one in sent} & {
        f"e{n}"
        for n, (_, _, label) in enumerate(rows)
        if label is not None and labelled_in_time(times[n], run)
    }
    for one in sent:
        answer = answers(out)[one.event_id]
        assert one.doubt == score(answer)
        assert (one.features, one.prediction_score) == (answer.features, answer.prediction_score)
        assert one.window_start <= one.event_time < one.window_end == one.window_start + PER_MS
        assert one.query_id == f"ask:{one.window_start}:{one.event_id}"


def score(answer: Prediction) -> float:
    value = doubt("uncertainty", answer.prediction_score, {})
    assert value is not None
    return value


def labelled_in_time(time: int, run: LocalRun) -> bool:
    """Whether the label is before the first event that can have ended the window."""
    end = ((START + time) // PER_MS + 1) * PER_MS
    return START + time + 40_000 <= end and run.scorer.position.labels > 0


def test_a_question_leaves_with_the_move_of_a_quiet_partition_and_its_answer_joins() -> None:
    defined = pipeline(Queries(by="disagreement", per=PER_MS, max=2))
    teaching = [event(n, 100 * n, (-1.0) ** n) for n in range(20)]
    labels = [truth(n, n, 100 * n + 1, n % 2 == 0) for n in range(20)]
    later = [event(20 + n, 60_000 + n, 0.3 * n) for n in range(5)]
    value, headers = moving(Move(START + 130_000), None, topic="ask.events")
    quiet = Record("ask.events", 0, 25, None, None, value, headers)
    run, out = played(defined, [*teaching, *later], labels, 7)
    assert run.scorer.next_deadline == START + 60_000 - 1
    run.scorer.intake.offer_events([quiet])
    out = run.advance() or []
    questions = asked(out)
    assert [one.rank for one in questions] == [1, 2]
    assert questions[0].doubt >= questions[1].doubt > 0
    assert all(one.by == "disagreement" and set(one.scores) == {"lr", "nb"} for one in questions)
    first = questions[0]
    run.scorer.intake.offer_labels([
        Record("ask.labels", 0, 20, None, first.key.encode(), json.dumps(
            {"event_id": first.event_id, "label": True, "label_time": first.until}).encode())
    ])  # fmt: skip
    learned = run.examples_learned
    while run.advance() is not None:
        pass
    assert run.examples_learned == learned + 1


@pytest.mark.parametrize(
    ("queries", "more", "says"),
    [
        (Queries(per="10m"), {}, "needs time for its answer"),
        (
            Queries(by="disagreement"),
            {"models": {"lr": linear_model.LogisticRegression()}},
            "cannot disagree",
        ),
        (Queries(), {"models": {"r": linear_model.LinearRegression()}, "champion": "r"}, "uncertainty"),
    ],
)
def test_questions_that_nobody_could_answer_are_refused(
    queries: Queries, more: Mapping[str, Any], says: str
) -> None:
    labels = Labels("ask.labels", wait="10m" if queries.per == "10m" else "3h")
    with pytest.raises(DefinitionError) as refused:
        pipeline(queries, labels=labels, **more)
    assert says in f"{refused.value.message} {refused.value.hint}"


def test_settings_that_mean_nothing_are_refused() -> None:
    for wrong in ({"by": "doubt"}, {"max": 0}, {"max": 10_001}, {"per": 0}):
        with pytest.raises(DefinitionError):
            Queries(**wrong)  # type: ignore[arg-type]
