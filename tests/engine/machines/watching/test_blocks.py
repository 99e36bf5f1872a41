"""A block says what was answered, once, whoever owned the partition when."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable
from itertools import accumulate, chain
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from river import linear_model, naive_bayes

from engine import Estimated, Labels, Pipeline, Topic, Watch
from engine.machines.admission import Run
from engine.machines.scorer import Scorer
from engine.worker.assembly import build_learner
from operators import by, field, label
from operators.claims.rule import Suppression, Writer
from operators.models.scoring import Roster
from topics.codec import decode_block, decode_example, decode_prediction, encode
from topics.erasure import Erase, tombstone
from topics.headers import record_type_of
from topics.messages import Block, Outgoing, Prediction, Record

BLOCK_MS = 7_000
GRACE_MS = 10_000
WATCH = Watch(block=BLOCK_MS, reference_span="98s", false_alarm_every="7s", rows_max=50)
"""More rows than a test has events: all of them are in the sample."""
NOW_MS = 10_000_000
WAIT_MS = 40_000


class Payment(msgspec.Struct):
    event_id: str
    event_time: int
    card: str
    amount: float | None = None


WATCHED = Pipeline(
    name="pay",
    events=Topic("pay.events", Payment, key="card", grace=GRACE_MS, max_ahead="1h"),
    labels=Labels("pay.labels", wait=WAIT_MS, on_timeout=False),
    features={
        "amount": field("amount"),
        "n": by("card").count("30s"),
        "frauds": by("card").mean(label, "1m").default(0.0),
    },
    models={"lr": linear_model.LogisticRegression(), "nb": naive_bayes.GaussianNB()},
    champion="lr",
    watch=WATCH,
    estimate=Estimated(BLOCK_MS, answered=True),
)
FIRST = build_learner(WATCHED).roster


def roster_of_later() -> Roster:
    """Return models that give other answers than those of `FIRST`."""
    roster = build_learner(WATCHED).roster
    for racer in roster.racers.values():
        racer.model = naive_bayes.GaussianNB()
        for number in range(20):
            racer.model.learn_one({"amount": float(number)}, number % 2 == 0)
    return roster


LATER = roster_of_later()


def event(offset: int, event_id: str, time: int, card: str = "a", amount: float | None = 1.0) -> Record:
    value = msgspec.json.encode(Payment(event_id, time, card, amount))
    return Record("pay.events", 0, offset, time, card.encode(), value)


def label_of(offset: int, event_id: str, time: int) -> Record:
    value = msgspec.json.encode({"event_id": event_id, "label": True, "label_time": time})
    return Record("pay.labels", 0, offset, time, b"a", value)


def split(run: Run, size: int) -> list[Run]:
    """Return a run, of events or of labels, in pieces of a size."""
    longest = max(len(run.events), len(run.labels))
    cuts = [slice(at, at + size) for at in range(0, longest, size)]
    return [Run(run.events[cut], run.labels[cut]) for cut in cuts]


def scorer_of(roster: Roster, suppression: Suppression, claim: int) -> Scorer:
    return Scorer(WATCHED, partition=0, roster=roster, writer=Writer(0, claim), suppression=suppression)


def play(scorer: Scorer, events: list[Record], labels: list[Record], size: int) -> list[list[Outgoing]]:
    """Return what leaves with each run of at most `size` records, until the scorer has read all."""
    scorer.intake.offer_events(events)
    if labels:
        scorer.intake.offer_labels(labels)
    out = []
    while run := scorer.intake.next_run(events_unread=False, labels_unread=False):
        out += [[*chain.from_iterable(scorer.step(part, NOW_MS))] for part in split(run, size)]
    return out


def answers_in(records: Iterable[Outgoing]) -> list[Prediction]:
    return [decode_prediction(r.value or b"") for r in records if r.target == "predictions"]


def blocks_in(records: Iterable[Outgoing]) -> list[Block]:
    return [decode_block(r.value or b"") for r in records if record_type_of(r.headers) == "block"]


def rows_of(block: Block) -> Counter[str]:
    columns = [[(name, one) for one in column] for name, column in block.features.items()]
    rows = [
        {name: value for name, value in row if value is not None} for row in zip(*columns, strict=True)
    ] or [{} for _ in block.scores]
    return Counter(repr((row, score)) for row, score in zip(rows, block.scores, strict=True))


def said(block: Block) -> tuple[Any, ...]:
    bins = sorted((one.bin, one.label, one.rows, round(one.score, 6)) for one in block.answered)
    return block.number, block.start_ms, block.end_ms, block.rows, rows_of(block), bins


def bins_of(rows: list[Prediction]) -> list[tuple[int, bool, int, float]]:
    """Return the scores of answers by bin: each has one, of two classes."""
    scored = [(one.prediction_score, one.prediction_label is True) for one in rows]
    binned: dict[tuple[int, bool], list[float]] = {}
    for score, true in scored:
        assert isinstance(score, float)
        binned.setdefault((min(int(score * 100), 99), true), []).append(score)
    return sorted((*place, len(scores), round(sum(scores), 6)) for place, scores in binned.items())


def expected(answers: list[Prediction]) -> list[tuple[Any, ...]]:
    """Return, by the answers alone, what the blocks must say; each event has an id of its own."""
    closed: list[tuple[Any, ...]] = []
    opened: dict[int, list[Prediction]] = {}
    answers = sorted(answers, key=lambda one: one.event_offset)
    watermarks = [time - GRACE_MS for time in accumulate((one.event_time for one in answers), max)]
    newest = -1
    for answer, watermark in zip(answers, watermarks, strict=True):
        newest = max(newest, watermark // BLOCK_MS - 1)
        for number in sorted(number for number in opened if number <= newest):
            rows = opened.pop(number)
            sample = Counter(repr((dict(sorted(one.features.items())), one.prediction_score)) for one in rows)
            span = number * BLOCK_MS, (number + 1) * BLOCK_MS
            closed.append((number, *span, len(rows), sample, bins_of(rows)))
        number = answer.event_time // BLOCK_MS
        if number > newest and answer.event_time + WAIT_MS >= watermark:
            opened.setdefault(number, []).append(answer)
    return closed


rows_given = st.lists(
    st.tuples(st.integers(0, 120_000), st.sampled_from("ab"), st.none() | st.floats(-1e3, 1e3)), max_size=40
)


def events_of(rows: list[Any], *, nearly: bool) -> list[Record]:
    if nearly:
        rows = sorted(rows, key=lambda row: row[0] // 15_000)
    return [event(n, f"e{n}", time, card, amount) for n, (time, card, amount) in enumerate(rows)]


@settings(max_examples=80, deadline=None)
@given(rows=rows_given, nearly=st.booleans(), size=st.integers(1, 9))
def test_blocks_say_what_was_answered(rows: list[Any], nearly: bool, size: int) -> None:
    scorer = scorer_of(FIRST, Suppression(), 1)
    out = [*chain(*play(scorer, events_of(rows, nearly=nearly), [], size))]
    assert [said(block) for block in blocks_in(out)] == expected(answers_in(out))


@settings(max_examples=150, deadline=None)
@given(
    rows=rows_given,
    given_labels=st.lists(st.tuples(st.integers(0, 39), st.integers(0, 200_000)), max_size=10),
    nearly=st.booleans(),
    sizes=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    draw=st.data(),
)
def test_an_owner_that_dies_anywhere_leaves_blocks_that_the_next_one_completes(
    rows: list[Any], given_labels: list[Any], nearly: bool, sizes: tuple[int, int], draw: st.DataObject
) -> None:
    """What is logged when it dies: a beginning of its answers, and of its examples those whose answers are.

    The next owner has other models, so an answer that it made anew would say something else.
    """
    events = events_of(rows, nearly=nearly)
    labels = [label_of(n, f"e{who}", time) for n, (who, time) in enumerate(given_labels)]
    first = scorer_of(FIRST, Suppression(), 1)
    pieces = play(first, [], [], 1)
    first.intake.offer_events(events)
    if labels:
        first.intake.offer_labels(labels)
    saved_at = draw.draw(st.integers(0, len(events) + len(labels)), "runs before the checkpoint")
    state: dict[str, bytes] | None = None
    position = (0, 0)
    while run := first.intake.next_run(events_unread=False, labels_unread=False):
        for part in split(run, sizes[0]):
            if len(pieces) == saved_at:
                state, position = first.snapshot(), (first.position.events, first.position.labels)
            pieces.append([*chain.from_iterable(first.step(part, NOW_MS))])
    died_at = draw.draw(st.integers(min(saved_at, len(pieces)), len(pieces)), "runs that were sent")
    sent = [record for piece in pieces[:died_at] for record in piece]
    saved = [record for piece in pieces[:saved_at] for record in piece] if state is not None else []
    answers = answers_in(sent)
    examples = [record for record in sent if record.target == "examples"]
    held_back = draw.draw(st.integers(0, len(examples)), "examples that were not sent any more")
    kept = sum(record.target == "examples" for record in saved)
    logged = examples[: max(kept, len(examples) - held_back)]

    suppression = Suppression()
    for answer in answers[len(answers_in(saved)) :]:
        suppression.add(answer)
    for record in logged[kept:]:
        match record_type_of(record.headers):
            case "block":
                suppression.add(decode_block(record.value or b""))
            case "example":
                suppression.add(decode_example(record.value or b""))
    second = scorer_of(LATER, suppression, 2)
    if state is not None:
        second.restore(state)
    later = [*chain(*play(second, events[position[0] :], labels[position[1] :], sizes[1]))]

    answered = answers + answers_in(later)
    assert sorted(one.event_id for one in answered) == sorted(f"e{n}" for n in range(len(events)))
    blocks = blocks_in(logged) + blocks_in(later)
    assert sorted(map(said, blocks), key=lambda one: one[0]) == sorted(
        expected(answered), key=lambda one: one[0]
    )
    assert second.outbox.suppression.empty


def test_erased_keys_leave_the_blocks_that_are_open() -> None:
    erase = Erase(command_id="1", key="a", time=20_000, reason="asked", actor="me")
    key, signed = tombstone(erase, None, topic="pay.events")
    events = [
        event(0, "e0", 1_000, "a", 1.0),
        event(1, "e1", 2_000, "b", 2.0),
        Record("pay.events", 0, 2, 20_000, key, None, signed),
        event(3, "e3", 3_000, "a", 3.0),
        event(4, "e4", 30_000, "b", 4.0),
    ]
    (block,) = blocks_in(chain(*play(scorer_of(FIRST, Suppression(), 1), events, [], 9)))
    assert (block.rows, sorted(block.features["amount"])) == (3, [2.0, 3.0])  # type: ignore[type-var]


def test_a_watch_of_other_blocks_begins_anew_and_leaves_nothing_of_the_other_behind() -> None:
    scorer = scorer_of(FIRST, Suppression(), 1)
    play(scorer, [event(0, "e0", 1_000), event(1, "e1", 2_000)], [], 9)
    stored = dict(scorer.delta())
    assert any(name.startswith("blocks/row/") for name in stored)
    watch, estimate = (
        dataclasses.replace(WATCH, block="5s", reference_span="70s"),
        Estimated("5s", answered=True),
    )
    other = dataclasses.replace(WATCHED, watch=watch, estimate=estimate)
    for pipeline in (other, dataclasses.replace(WATCHED, watch=None)):
        changed = Scorer(
            pipeline,
            partition=0,
            roster=FIRST,
            writer=Writer(0, 2),
            suppression=Suppression(),
        )
        changed.restore({name: data for name, data in stored.items() if data is not None})
        after = {**stored, **changed.delta()}
        kept = {name: data for name, data in after.items() if data is not None}
        assert kept == changed.snapshot()
        assert not any(name.startswith("blocks/row/") for name in kept)


def test_a_checkpoint_of_before_there_were_blocks_is_restored() -> None:
    scorer = scorer_of(FIRST, Suppression(), 1)
    play(scorer, [event(0, "e0", 1_000)], [], 9)
    old = {name: data for name, data in scorer.snapshot().items() if not name.startswith("blocks/")}
    restored = scorer_of(FIRST, Suppression(), 2)
    restored.restore(old)
    (block,) = blocks_in(chain(*play(restored, [event(1, "e1", 2_000), event(2, "e2", 30_000)], [], 9)))
    assert (block.rows, block.claim, block.sequence, block.closed_at_offset) == (1, 2, 0, 2)
    assert decode_block(encode(block)) == block
