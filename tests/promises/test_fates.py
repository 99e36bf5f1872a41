"""Nothing is lost in silence: every event and every label of a run has exactly one counted fate."""

from collections import Counter

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from river import linear_model

from engine import Labels, Pipeline, Topic
from engine.machines.scorer import Scorer
from engine.worker.assembly import build_learner
from operators import by, field
from operators.claims.rule import Suppression, Writer
from operators.join.join import Join
from topics.codec import encode_json
from topics.messages import Record

WAIT_MS = 40
NOW_MS = 10_000_000


class Payment(msgspec.Struct):
    event_id: str
    event_time: int
    card: str
    amount: float


def definition(**options: object) -> Pipeline:
    return Pipeline(
        name="fates",
        events=Topic("fates.events", Payment, key="card", grace=5, max_ahead="1h"),
        labels=Labels("fates.labels", wait=WAIT_MS, **options),  # type: ignore[arg-type]
        features={"amount": field("amount"), "sum": by("card").sum("amount", 30)},
        models={"lr": linear_model.LogisticRegression()},
        max_events_per_key=3,
    )


DROPS, ASSUMES = definition(), definition(on_timeout=False)
PIPELINES = (
    DROPS,
    ASSUMES,
    definition(pending_max=1, early_max=2),
    definition(pending_max=3, early_max=0),
    definition(pending_max=3, early_max=2, on_timeout=False),
)
ROSTERS = {id(pipeline): build_learner(pipeline).roster for pipeline in PIPELINES}

events = st.lists(st.tuples(st.integers(0, 12), st.integers(0, 200)), max_size=25)
labels = st.lists(st.tuples(st.integers(0, 15), st.integers(0, 260), st.booleans()), max_size=25)


def counted(
    pipeline: Pipeline,
    rows: list[tuple[int, int]],
    truths: list[tuple[int, int, bool]],
) -> Scorer:
    scorer = Scorer(
        pipeline,
        partition=0,
        roster=ROSTERS[id(pipeline)],
        writer=Writer(0, 1),
        suppression=Suppression(),
    )
    scorer.intake.offer_events(
        Record(
            "e", 0, n, None, None,
            encode_json({"event_id": f"e{who}", "event_time": at, "card": "c", "amount": 1.0}),
        )
        for n, (who, at) in enumerate(rows)
    )  # fmt: skip
    scorer.intake.offer_labels(
        Record("l", 0, n, None, None, encode_json({"event_id": f"e{who}", "label_time": at, "label": truth}))
        for n, (who, at, truth) in enumerate(truths)
    )
    while run := scorer.intake.next_run(events_unread=False, labels_unread=False):
        list(scorer.step(run, NOW_MS))
    return scorer


def waiting_unlabelled(join: Join) -> int:
    return sum(join.waits(name.removeprefix("i/")) for name in join.snapshot() if name.startswith("i/"))


@settings(deadline=None)
@given(events, labels, st.sampled_from(PIPELINES))
def test_every_label_and_every_prediction_has_one_fate(
    rows: list[tuple[int, int]],
    truths: list[tuple[int, int, bool]],
    pipeline: Pipeline,
) -> None:
    scorer = counted(pipeline, rows, truths)
    fates: Counter[str] = Counter()
    for (kind, name), count in scorer.counts.items():
        fates[f"{kind} {name}"] = count
    ends = ("joined", "late", "duplicate", "conflicting", "unmatched", "given_up")
    assert sum(fates[f"labels {end}"] for end in ends) + scorer.join.early == len(truths)

    answered = fates["events accepted"] + fates["events late"] - fates["events beyond_horizon"]
    learned = fates["labels joined"] + fates["labels implicit"]
    gone = fates["predictions_dropped expired"] + fates["predictions_dropped given_up"]
    assert learned + gone + waiting_unlabelled(scorer.join) == answered
    refused = ("labels late", "labels duplicate", "labels conflicting", "labels unmatched", "labels given_up")
    told = ("predictions_dropped given_up", *refused)
    assert fates["dead_letters join"] == sum(fates[end] for end in told)
    if pipeline in (DROPS, ASSUMES):
        assert not fates["predictions_dropped given_up"] + fates["labels given_up"]
    if pipeline.implicit_label is not None:
        assert not fates["predictions_dropped expired"]


@settings(deadline=None)
@given(events)
def test_what_windows_push_out_is_counted(rows: list[tuple[int, int]]) -> None:
    scorer = counted(DROPS, rows, [])
    found = {name: count for (kind, name), count in scorer.counts.items() if kind == "window_evictions"}
    assert found.get("max_events_per_key", 0) == scorer.features.evicted_events
    assert found.get("idle", 0) == scorer.features.evicted_keys


def test_a_burst_of_one_key_evicts_and_says_so() -> None:
    scorer = counted(DROPS, [(n, 10) for n in range(8)], [])
    assert scorer.counts["window_evictions", "max_events_per_key"] == 5


def test_a_label_that_came_early_and_is_late_for_its_event_is_counted_and_kept() -> None:
    scorer = counted(DROPS, [(9, 100), (0, 56)], [(0, 98, True)])
    assert (scorer.counts["labels", "early"], scorer.counts["labels", "late"]) == (1, 1)
    assert scorer.counts["dead_letters", "join"] == 1
