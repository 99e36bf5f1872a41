"""Log and wait: labels meet predictions inside the horizon, whatever comes first."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from operators.join.join import EarlyLabel, Join, Joined
from operators.join.pending import Answered, WaitingAnswer
from topics.codec import encode
from topics.messages import Label, Prediction

WAIT_MS = 100


def waiting(event_id: str, time: int, offset: int = 0) -> WaitingAnswer:
    answer = Prediction(
        f"p:{event_id}", event_id, time, 0, "m", 1, 0, "champion", 0.5, True, "champion", {}, offset, 1, 0
    )
    return WaitingAnswer.of(answer, "k", (), 0, {"m": 0.5})


def with_label(entry: WaitingAnswer, *, label: bool) -> Answered:
    answer = entry.prediction
    return Answered(
        answer.event_id, answer.event_time, answer.event_offset, entry.payload_crc, label, encode(answer)
    )


def test_an_event_that_brought_its_label_is_known_by_its_answer() -> None:
    join = Join(wait_ms=30, implicit=False)
    entry = waiting("e1", 5, 0)
    join.answered_all([with_label(entry, label=True)])
    restored = Join(wait_ms=30, implicit=False)
    restored.restore(join.snapshot())
    for found in (join, restored):
        known = found.known("e1")
        assert known is not None
        assert (known.prediction, known.label) == (entry.prediction, True)
        assert found.label(Label("e1", True, 6, 1), key=None, value=None) == ("duplicate", None)
        assert found.label(Label("e1", False, 6, 2), key=None, value=None) == ("conflicting", None)
        assert found.expire(36, at_offset=1) == ([], []), "it has its label"
        assert found.known("e1") is None


def answered(join: Join, event_id: str, time: int, offset: int = 0) -> Any:
    entry = waiting(event_id, time, offset)
    join.open(entry)
    for met in join.meet_early(entry):
        return met.joined or met.early
    return None


def test_the_deadline_is_inside_the_horizon() -> None:
    join = Join(wait_ms=WAIT_MS, implicit=False)
    answered(join, "a", 0)
    assert join.expire(WAIT_MS, at_offset=1) == ([], [])
    implicit, _ = join.expire(WAIT_MS + 1, at_offset=2)
    assert [(joined.label, joined.label_time, joined.expired_at_offset) for joined in implicit] == [
        (False, 100, 2)
    ]
    assert join.pending == 0


def test_a_label_first_waits_for_its_event() -> None:
    join = Join(wait_ms=WAIT_MS, implicit=None)
    assert join.label(Label("a", True, 50, 3), key=b"k", value=b"v") == ("early", None)
    assert join.early_label("a")
    joined = answered(join, "a", 10)
    assert (joined.label, joined.label_time, joined.label_offset) == (True, 50, 3)
    assert join.expire(10_000, at_offset=9) == ([], [])


def test_an_early_label_that_its_event_shows_to_be_late_is_handed_back() -> None:
    join = Join(wait_ms=WAIT_MS, implicit=None)
    join.label(Label("a", True, 111, 3), key=b"k", value=b"v")
    early = answered(join, "a", 10)
    assert (early.label.label_time, early.key, early.value) == (111, b"k", b"v")
    assert join.waits("a")
    assert not join.early_label("a")
    assert join.label(Label("a", True, 110, 4), key=None, value=None)[0] == "joined"


def test_a_label_whose_event_never_comes_is_handed_back() -> None:
    join = Join(wait_ms=WAIT_MS, implicit=None)
    join.label(Label("a", True, 50, 3), key=b"k", value=b"v")
    _, unmatched = join.expire(151, at_offset=9)
    assert [(early.label.event_id, early.key, early.value) for early in unmatched] == [("a", b"k", b"v")]
    assert join.pending == 0


@pytest.mark.parametrize(
    ("second", "outcome"),
    [(Label("a", True, 60, 4), "duplicate"), (Label("a", False, 60, 4), "conflicting")],
)
def test_the_first_label_holds(second: Label, outcome: str) -> None:
    join = Join(wait_ms=WAIT_MS, implicit=None)
    answered(join, "a", 0)
    assert join.label(Label("a", True, 50, 3), key=None, value=None)[0] == "joined"
    assert join.label(second, key=None, value=None) == (outcome, None)


def test_a_late_label_is_not_joined_though_its_entry_is_still_there() -> None:
    join = Join(wait_ms=WAIT_MS, implicit=None)
    answered(join, "a", 0)
    assert join.label(Label("a", True, 101, 3), key=None, value=None) == ("late", None)
    assert join.waits("a")


def test_the_bound_gives_up_the_earliest_deadline_and_counts_it() -> None:
    join = Join(wait_ms=WAIT_MS, implicit=None, pending_max=2)
    for number, event_id in enumerate("abc"):
        answered(join, event_id, number)
    assert join.pending == 2
    assert join.counts["predictions_dropped", "given_up"] == 1
    assert join.known("a") is None
    assert join.known("c") is not None


events = st.tuples(st.just("event"), st.integers(0, 9), st.integers(0, 20))
labels = st.tuples(st.just("label"), st.integers(0, 9), st.integers(0, 60))


@given(st.lists(st.one_of(events, labels), max_size=60))
def test_against_the_definition(steps: list[tuple[str, int, int]]) -> None:
    """Oracle: scan all that ever happened, and look the answer up."""
    join = Join(wait_ms=30, implicit=False)
    seen: dict[str, int] = {}
    labelled: dict[str, tuple[bool, int]] = {}
    expected: list[tuple[str, bool, int]] = []
    found: list[tuple[str, bool, int]] = []
    early: dict[str, tuple[int, int]] = {}
    now = 0
    for number, (kind, who, step) in enumerate(steps):
        event_id = f"e{number if kind == 'event' else who}"
        if kind == "event":
            now += step
            for known, time in sorted(seen.items(), key=lambda item: (item[1], int(item[0][1:]))):
                if time + 30 < now and known not in labelled:
                    labelled[known] = (False, time + 30)
                    expected.append((known, False, time + 30))
            early = {name: at for name, at in early.items() if at[0] + 30 >= now}
            implicit, _ = join.expire(now, at_offset=number)
            found += [(j.waiting.prediction.event_id, bool(j.label), j.label_time) for j in implicit]
            seen[event_id] = now
            joined = answered(join, event_id, now, number)
            if event_id in early and early[event_id][0] <= now + 30:
                labelled[event_id] = (True, early[event_id][0])
                expected.append((event_id, True, early[event_id][0]))
            assert isinstance(joined, EarlyLabel) == (event_id in early and event_id not in labelled)
            if isinstance(joined, Joined):
                found.append((event_id, bool(joined.label), joined.label_time))
        else:
            label_time = step
            _, joined = join.label(Label(event_id, True, label_time, number), key=None, value=None)
            if joined is not None:
                found.append((event_id, True, joined.label_time))
            alive = event_id in seen and seen[event_id] + 30 >= now
            if alive and event_id not in labelled and label_time <= seen[event_id] + 30:
                labelled[event_id] = (True, label_time)
                expected.append((event_id, True, label_time))
            elif not alive and event_id not in early:
                early[event_id] = (label_time, number)
    assert found == expected


answers = st.lists(st.tuples(st.integers(0, 60), st.booleans()), max_size=25)
early_labels = st.lists(
    st.tuples(st.sampled_from(["early", "late", "never"]), st.integers(0, 60)), max_size=6
)


@given(answers, early_labels, st.lists(st.integers(0, 100), max_size=4), st.booleans())
def test_what_ends_ends_by_deadline_whatever_the_order_it_came_in(
    rows: list[tuple[int, bool]], first: list[tuple[str, int]], watermarks: list[int], restored: bool
) -> None:
    """Oracle: sort everything that waits by (deadline, events before labels, offset)."""
    join = Join(wait_ms=30, implicit=False)
    waits: list[tuple[int, int, int, str]] = []
    for offset, (name, time) in enumerate(first):
        join.label(Label(f"{name}{offset}", True, time, offset), key=None, value=None)
        waits.append((time + 30, 1, offset, f"{name}{offset}"))
    for offset, (time, labelled) in enumerate(rows):
        entry = waiting(f"e{offset}", time, offset)
        if labelled:
            join.answered_all([with_label(entry, label=True)])
        else:
            join.open(entry)
        waits.append((time + 30, 0, offset, f"e{offset}"))
    if restored:
        join.restore(dict(sorted(join.snapshot().items(), reverse=True)))
    waits.sort()
    for watermark in sorted(watermarks):
        assert join.next_deadline == min((wait[0] for wait in waits), default=None)
        ended = [wait for wait in waits if wait[0] < watermark]
        waits = waits[len(ended) :]
        implicit, unmatched = join.expire(watermark, at_offset=1)
        assert [(j.label_time, j.waiting.prediction.event_id) for j in implicit] == [
            (deadline, name) for deadline, kind, offset, name in ended if not kind and not rows[offset][1]
        ]
        assert [early.label.event_id for early in unmatched] == [name for _, kind, _, name in ended if kind]
        assert join.pending == len(waits)


@given(answers, st.integers(1, 30), st.integers(1, 9))
def test_a_run_of_n_equals_n_runs_of_one(rows: list[tuple[int, bool]], pending_max: int, size: int) -> None:
    runs, each = (Join(wait_ms=30, implicit=None, pending_max=pending_max) for _ in range(2))
    entries = [with_label(waiting(f"e{n}", time, n), label=label) for n, (time, label) in enumerate(rows)]
    for at in range(0, len(rows), size):
        runs.answered_all(entries[at : at + size])
    for entry in entries:
        each.answered_all([entry])
    assert runs.snapshot() == each.snapshot()
    assert runs.delta() == each.delta()
    assert (runs.next_deadline, runs.counts) == (each.next_deadline, each.counts)


@given(answers, st.lists(st.tuples(st.integers(0, 9), st.booleans())))
def test_deltas_prepared_at_any_moment_give_the_state(
    rows: list[tuple[int, bool]], moments: list[tuple[int, bool]]
) -> None:
    join = Join(wait_ms=30, implicit=None)
    state: dict[str, bytes] = {}
    moment = iter(moments)
    for offset, (time, labelled) in enumerate(rows):
        answered(join, f"e{offset}", time, offset)
        if labelled:
            join.label(Label(f"e{offset - 1}", True, time, offset), key=None, value=None)
        join.expire(time, at_offset=offset)
        count, saved = next(moment, (0, False))
        join.prepare(count)
        if saved:
            changed = join.delta()
            assert all(state.get(name) is not None for name, data in changed.items() if data is None)
            state = {**state, **changed}  # type: ignore[dict-item]
            assert not join.delta()
    state = {name: data for name, data in {**state, **join.delta()}.items() if data is not None}
    assert state == join.snapshot()
