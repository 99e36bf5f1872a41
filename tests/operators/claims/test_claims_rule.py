"""The reader's rule, the writer's numbers, and what a replay leaves out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from operators.claims import rule as claims
from operators.claims.rule import GAP, LoggedMessages, LogPosition, Reader, Suppression, Writer
from topics.errors import ClaimError
from topics.messages import Example, Prediction, Quarantine
from topics.rekeying import Order, Progress, RekeyedEvent, RekeyedLabel, RekeyedValues

RECORDS = st.lists(
    st.tuples(st.sampled_from(("claim", "record")), st.integers(0, 1), st.integers(-1, 3), st.integers(0, 3)),
    max_size=40,
)
"""(kind, source, claim, sequence); claims may be announcements, repeats and too low."""


def answer(offset: int, event_id: str = "e") -> Prediction:
    return Prediction(
        f"p:{event_id}", event_id, 0, 0, "m", 1, 0, "champion", 0.5, True, "champion", {}, offset, 1, 0
    )


def example(offset: int, label_offset: int = -1, expired_at: int = -1, event_id: str = "e") -> Example:
    scores = {"m": 0.5}
    return Example(
        event_id, "k", 0, 0, True, {}, scores, 0.5, "m", "m", 0, offset, label_offset, 1, 0, expired_at
    )


def never(_: str) -> bool:
    return False


def always(_: str) -> bool:
    return True


def fold(reader: Reader, records: list[tuple[str, int, int, int]]) -> list[bool]:
    counted = []
    for kind, source, claim, sequence in records:
        if kind == "claim":
            reader.claim(source, claim)
        else:
            counted.append(reader.counts(source, claim, sequence))
    return counted


def by_the_rule(records: list[tuple[str, int, int, int]]) -> list[bool]:
    """Decide each record from all before it, without memory."""
    counted: dict[int, bool] = {}
    for place, (kind, source, claim, sequence) in enumerate(records):
        if kind == "claim":
            continue
        before = [(i, *r) for i, r in enumerate(records[:place]) if r[1] == source]
        highest = max((c for _, k, _, c, _ in before if k == "claim"), default=0)
        began = next((i for i, k, _, c, _ in before if k == "claim" and c == highest), 0)
        same = [(i, s) for i, k, _, c, s in before if k == "record" and c == highest and i > began]
        done = [s for i, s in same if counted[i]]
        gap = any(not counted[i] and s > len([j for j, _ in same if j < i and counted[j]]) for i, s in same)
        counted[place] = claim == highest > 0 and not gap and sequence == len(done)
    return list(counted.values())


@given(RECORDS)
def test_reader_decides_as_the_rule_does(records: list[tuple[str, int, int, int]]) -> None:
    assert fold(Reader(), records) == by_the_rule(records)


@given(RECORDS, RECORDS)
def test_restored_reader_goes_on_as_the_old_one(
    before: list[tuple[str, int, int, int]], after: list[tuple[str, int, int, int]]
) -> None:
    reader, restored = Reader(), Reader((9, 9, 9))
    entries = dict(reader.snapshot())
    half = len(before) // 2
    for part in (before[:half], before[half:]):
        fold(reader, part)
        entries |= {name: data for name, data in reader.delta().items() if data is not None}
    assert entries == reader.snapshot()
    assert reader.delta() == {}
    restored.restore(entries)
    assert fold(restored, after) == fold(reader, after)


def test_a_repeated_claim_record_starts_nothing_anew() -> None:
    reader = Reader()
    reader.claim(0, 4)
    assert reader.counts(0, 4, 0)
    reader.claim(0, 4)
    assert not reader.counts(0, 4, 0)
    assert reader.counts(0, 4, 1)


def test_a_reader_that_starts_at_a_position_goes_on_there() -> None:
    reader = Reader((3, 7, 5), (4, 2, GAP))
    assert reader.counts(3, 7, 5)
    assert not reader.counts(4, 2, 0)
    assert (reader.highest(3), reader.highest(4), reader.highest(5)) == (7, 2, 0)


def test_a_flood_of_sources_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "SOURCES_MAX", 2)
    reader = Reader()
    for source in (0, 1, 0):
        reader.claim(source, source + 1)
    with pytest.raises(ClaimError, match="more than 2 source partitions"):
        reader.claim(2, 1)


def test_writer_numbers_per_log_and_knows_where_each_stands() -> None:
    writer = Writer(1, 5, {("predictions", 1): 10, ("examples", 0): 20})
    assert [writer.next(("predictions", 1)) for _ in range(3)] == [0, 1, 2]
    writer.acknowledged(("predictions", 1), 13)
    assert writer.positions() == (
        LogPosition("examples", 0, 21, 5, 0),
        LogPosition("predictions", 1, 14, 5, 3),
    )


def test_positions_of_a_cut_know_nothing_of_what_was_numbered_since() -> None:
    log = ("predictions", 1)
    writer = Writer(1, 5, {log: 10})
    assert [writer.next(log) for _ in range(3)] == [0, 1, 2]
    at = writer.numbered.copy()
    assert writer.next(log) == 3
    writer.acknowledged(log, 13)
    assert writer.positions(at) == (LogPosition("predictions", 1, 14, 5, 3),)


def test_the_same_acknowledgement_may_come_again_an_older_one_may_not() -> None:
    log = ("examples", 0)
    writer = Writer(1, 5, {log: 20})
    writer.acknowledged(log, 20)
    writer.acknowledged(log, 23)
    writer.acknowledged(log, 23)
    with pytest.raises(ClaimError, match="before offset 23") as refused:
        writer.acknowledged(log, 22)
    writer.skip(log, 30)
    writer.acknowledged(log, 24)
    assert writer.positions() == (LogPosition("examples", 0, 30, 5, 0),)
    assert (refused.value.topic, refused.value.offset) == ("examples", 22)


def test_an_answer_is_given_once_to_its_own_event_record() -> None:
    suppression = Suppression()
    suppression.add(answer(4))
    suppression.add(answer(7))
    assert suppression.answered("e", 5) is None
    assert suppression.answered("other", 4) is None
    assert suppression.answered("e", 7) == answer(7)
    assert suppression.answered("e", 7) is None
    assert len(suppression) == 1


def test_examples_and_quarantines_are_found_once() -> None:
    suppression = Suppression()
    suppression.add(example(4, label_offset=2))
    suppression.add(Quarantine("e", "tree", 1, "raised", 0, 4, 1, 1))
    assert not suppression.exampled("e", 5)
    assert [suppression.exampled("e", 4) for _ in range(2)] == [example(4, label_offset=2), None]
    assert not suppression.quarantined("linear", 4)
    assert [suppression.quarantined("tree", 4) for _ in range(2)] == [True, False]
    assert suppression.empty


@pytest.mark.parametrize(
    ("logged", "just_before", "just_after"),
    [
        (answer(4), (4, 99), (5, 0)),
        (Quarantine("e", "tree", 1, "raised", 0, 4, 1, 1), (4, 99), (5, 0)),
        (example(4), (4, 99), (5, 0)),
        (example(4, label_offset=2), (5, 2), (5, 3)),
        (example(4, label_offset=2), (4, 3), (5, 3)),
        (example(4, expired_at=9), (9, 99), (10, 0)),
    ],
)
def test_a_replay_forgets_what_it_has_passed(
    logged: Prediction | Example | Quarantine, just_before: tuple[int, int], just_after: tuple[int, int]
) -> None:
    suppression = Suppression()
    suppression.add(logged)
    suppression.passed(*just_before, never)
    assert not suppression.empty
    suppression.passed(*just_after, never)
    assert suppression.empty


def test_an_example_stays_while_the_join_waits_for_its_label() -> None:
    suppression = Suppression()
    suppression.add(example(4, label_offset=2))
    suppression.passed(50, 50, always)
    assert suppression.exampled("e", 4)
    suppression.add(example(5, label_offset=2))
    suppression.passed(50, 50, always)
    suppression.passed(50, 50, never)
    assert suppression.empty


@given(st.lists(st.integers(0, 30), unique=True), st.lists(st.integers(0, 35)))
def test_passing_in_steps_forgets_what_passing_at_once_does(offsets: list[int], steps: list[int]) -> None:
    """Whatever the order in which records were logged."""
    suppression, at_once = Suppression(), Suppression()
    for offset in offsets:
        for logged in (answer(offset), example(offset, 30 - offset, offset + 3)):
            suppression.add(logged)
            at_once.add(logged)
    last = max(steps, default=0)
    for position in sorted(steps):
        suppression.passed(position, position, never)
    at_once.passed(last, last, never)
    left = (
        [o for o in range(31) if suppression.answered("e", o)],
        [o for o in range(31) if suppression.exampled("e", o)],
    )
    assert left[0] == [o for o in sorted(offsets) if o >= last]
    assert left[1] == [o for o in sorted(offsets) if o + 3 >= last or 30 - o >= last]
    assert left == (
        [o for o in range(31) if at_once.answered("e", o)],
        [o for o in range(31) if at_once.exampled("e", o)],
    )


def test_a_replay_too_large_for_memory_is_refused() -> None:
    suppression = Suppression(suppressed_max=2)
    suppression.add(answer(1))
    suppression.add(answer(2))
    with pytest.raises(ClaimError, match="more than 2 records"):
        suppression.add(answer(3))


def event(stage: int, offset: int) -> RekeyedEvent:
    return RekeyedEvent(Order.of_event(5, 0, offset)._replace(stage=stage), 0, offset, False, Raw(b"{}"))


def test_a_record_is_the_same_whoever_wrote_it_and_only_for_its_stage() -> None:
    logged = LoggedMessages()
    logged.add(event(1, 7))
    logged.add(Progress(0, 5, False))
    assert len(logged) == 1
    assert not logged.once(("event", 2, 0, 7))
    assert logged.once(("event", 1, 0, 7))
    assert not logged.once(("event", 1, 0, 7))
    assert logged.empty


def test_what_no_replay_can_make_is_forgotten() -> None:
    logged = LoggedMessages()
    logged.add(RekeyedLabel(Order.after_event(5, 0, 3)._replace(stage=1), 0, 3, "e3", ("k",), 5, 1.0))
    logged.add(RekeyedValues(1, 2, 0, 4, False, {}))
    asked: list[tuple[str, str]] = []

    def possible(found: tuple[str, int, int, int], event_id: str) -> bool:
        asked.append((found[0], event_id))
        return found[0] == "label"

    logged.forget(possible)
    assert sorted(asked) == [("label", "e3"), ("values", "")]
    assert not logged.once(("values", 1, 0, 4))
    assert logged.once(("label", 1, 0, 3))


def test_the_memory_is_bounded() -> None:
    logged = LoggedMessages(logged_max=1)
    logged.add(event(1, 1))
    with pytest.raises(ClaimError, match="since the checkpoint"):
        logged.add(event(1, 2))
