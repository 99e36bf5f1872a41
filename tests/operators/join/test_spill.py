"""A join whose answers lie mostly in its checkpoint equals one that has them all in memory, step by step."""

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operators.join.join import Join
from operators.join.pending import Answered, WaitingAnswer
from operators.state import StateDelta
from topics.codec import encode
from topics.errors import CheckpointError
from topics.messages import Label, Prediction

WAIT_MS = 30


class KeptInDict:
    """What a checkpoint holds, as of the last commit; counts how often it is asked."""

    def __init__(self) -> None:
        self.entries: dict[str, bytes] = {}
        self.reads = 0

    def commit(self, delta: StateDelta) -> None:
        for name, data in delta.items():
            if data is None:
                del self.entries[name]  # what is removed was there
            else:
                self.entries[name] = data

    def get(self, names: Sequence[str]) -> dict[str, bytes]:
        self.reads += 1
        return {name: self.entries[name] for name in names if name in self.entries}

    def scan(self, after: str, before: str, count: int) -> list[str]:
        self.reads += 1
        names = sorted(self.entries)
        return names[bisect_right(names, after) : bisect_left(names, before)][:count]

    def count(self, prefix: str) -> int:
        return sum(name.startswith(prefix) for name in self.entries)


def prediction(event_id: str, time: int, offset: int) -> Prediction:
    return Prediction(
        f"p:{event_id}", event_id, time, 0, "m", 1, 0, "champion", 0.5, True, "champion", {}, offset, 1, 0
    )


class Pair:
    """One join in memory, one over a checkpoint: both get the same, and must say the same."""

    def __init__(self, options: dict[str, Any], resident_max: int) -> None:
        self.options = options
        self.resident_max = resident_max
        self.kept = KeptInDict()
        self.state: dict[str, bytes] = {}
        """What the deltas of the one in memory add up to, as of the last commit."""
        self.flying: tuple[StateDelta, StateDelta] | None = None
        self.plain, self.over = Join(wait_ms=WAIT_MS, **options), self.spilling()

    def spilling(self) -> Join:
        return Join(wait_ms=WAIT_MS, stored=self.kept, resident_max=self.resident_max, **self.options)

    @property
    def both(self) -> tuple[Join, Join]:
        return self.plain, self.over

    def same(self, one: Any, other: Any) -> None:
        assert one == other
        assert self.plain.pending == self.over.pending
        assert self.plain.next_deadline == self.over.next_deadline
        assert self.plain.counts == self.over.counts

    def event(self, who: int, time: int, offset: int, *, labelled: bool) -> None:
        event_id = f"e{who}"
        known = [join.known(event_id) for join in self.both]
        self.same(*known)
        if known[0] is not None:
            return
        outs = []
        for join in self.both:
            answer = prediction(event_id, time, offset)
            if labelled:
                outs.append([join.answered_all([Answered(event_id, time, offset, 7, True, encode(answer))])])
            else:
                waiting = WaitingAnswer.of(answer, "k", (), 7, {"m": 0.5})
                outs.append([join.open(waiting), join.meet_early(waiting)])
        self.same(*outs)

    def label(self, who: int, time: int, offset: int, *, truth: bool) -> None:
        row = Label(f"e{who}", truth, time, offset)
        self.same(*(join.label(row, key=None, value=b"v") for join in self.both))

    def expire(self, watermark: int, offset: int) -> None:
        self.same(*(join.expire(watermark, at_offset=offset) for join in self.both))

    def recall(self, whos: Sequence[int]) -> None:
        self.over.recall([f"e{who}" for who in whos])
        self.same(*([join.waits(f"e{who}") for who in whos] for join in self.both))

    def capture(self) -> None:
        if self.flying is None:
            one, other = (join.delta() for join in self.both)
            assert one == other
            self.flying = one, other

    def commit(self) -> None:
        if self.flying is not None:
            one, other = self.flying
            self.flying = None
            self.state = {name: data for name, data in {**self.state, **one}.items() if data is not None}
            self.kept.commit({name: data for name, data in other.items() if name[0] != "l"})
            self.over.committed()
            self.same(None, None)

    def save(self) -> None:
        self.commit()
        self.capture()
        self.commit()

    def crash(self) -> None:
        """What was not committed is lost; both go on from the last checkpoint."""
        self.flying = None
        counts = self.plain.counts
        self.plain = Join(Counter(counts), wait_ms=WAIT_MS, **self.options)
        self.plain.restore(self.state)
        self.over = self.spilling()
        self.over.counts.update(counts)
        before = self.kept.reads
        self.over.restore({name: data for name, data in self.state.items() if name[0] == "l"})
        assert self.over.away == self.over.pending - self.over.early
        assert self.kept.reads - before <= 2, "only what expires next is read"
        self.same(None, None)

    def check(self) -> None:
        assert self.plain.snapshot() == self.over.snapshot()


who, apart = st.integers(0, 12), st.integers(-15, 15)
labelled = st.sampled_from([False, False, True])
steps = st.one_of(
    st.tuples(st.just("event"), who, apart, labelled),
    st.tuples(st.just("event"), who, apart, labelled),
    st.tuples(st.just("label"), who, st.integers(-20, 40), st.booleans()),
    st.tuples(st.just("expire"), st.integers(0, 12)),
    st.tuples(st.just("recall"), st.lists(who, max_size=4)),
    st.tuples(st.just("prepare"), st.integers(0, 4)),
    st.just(("capture",)),
    st.just(("commit",)),
    st.sampled_from([("save",), ("check",), ("crash",)]),
)
bounds = st.fixed_dictionaries(
    {
        "implicit": st.sampled_from([None, False]),
        "pending_max": st.sampled_from([3, 6, 100]),
        "early_max": st.sampled_from([2, 100]),
    }
)


@settings(deadline=None, max_examples=300)
@given(bounds, st.integers(0, 6), st.lists(steps, min_size=40, max_size=90))
def test_a_join_over_its_checkpoint_equals_one_in_memory(
    options: dict[str, Any], resident_max: int, plan: list[tuple[Any, ...]]
) -> None:
    pair = Pair(options, resident_max)
    now = 100
    for offset, (kind, *rest) in enumerate(plan):
        match kind:
            case "event":
                pair.event(rest[0], now + rest[1], offset, labelled=rest[2])
            case "label":
                pair.label(rest[0], now + rest[1], offset, truth=rest[2])
            case "expire":
                now += rest[0]
                pair.expire(now, offset)
            case "recall":
                pair.recall(rest[0])
            case "prepare":
                for join in pair.both:
                    join.prepare(rest[0])
            case _:
                getattr(pair, kind)()
    pair.check()


def filled(count: int, resident_max: int) -> Pair:
    pair = Pair({"implicit": None, "pending_max": 10_000}, resident_max)
    for number in range(count):
        pair.event(number, number // 100, number, labelled=False)
    pair.capture()
    pair.commit()
    return pair


def test_below_the_bound_of_memory_nothing_is_read() -> None:
    pair = filled(100, 100)
    pair.event(100, 1, 100, labelled=False)
    pair.label(3, 5, 101, truth=True)
    pair.expire(1 + WAIT_MS, 102)
    assert (pair.over.away, pair.over.pending, pair.kept.reads) == (0, 1, 0)


def test_beyond_it_half_stay_and_a_run_of_new_ids_costs_one_read() -> None:
    pair = filled(1_000, 100)
    assert (pair.over.away, pair.over.pending) == (950, 1_000)
    assert pair.over.known("e999") is not None
    reads = pair.kept.reads
    pair.over.recall([f"e{number}" for number in range(2_000, 2_500)])
    for number in range(2_000, 2_500):
        pair.event(number, 10, number, labelled=False)
    assert pair.kept.reads == reads + 1


def test_a_row_that_is_not_where_it_should_be_is_told() -> None:
    pair = filled(1_000, 100)
    name = next(name for name in pair.kept.entries if name.endswith("e7") and name[0] == "w")
    del pair.kept.entries[name]
    with pytest.raises(CheckpointError, match="event e7 is not where it was stored"):
        pair.over.known("e7")


def test_an_answer_that_was_asked_for_expires_once() -> None:
    """It is in memory and stored: as one that expires next it must not come twice."""
    pair = filled(1_000, 100)
    pair.recall([0, 1, 400])
    assert pair.over.away == 947
    pair.expire(3 + WAIT_MS, 2_000)
    pair.expire(5 + WAIT_MS, 2_001)
    pair.check()


def test_an_id_that_was_not_there_is_found_once_it_is_stored() -> None:
    """The look before a run says who is new; that must not hold after the next checkpoint."""
    pair = filled(1_000, 100)
    pair.recall([5_000, *range(1_000, 1_200)])
    pair.event(5_000, 0, 5_000, labelled=False)
    for number in range(1_000, 1_200):
        pair.event(number, 10, number, labelled=False)
    pair.save()
    assert pair.over.known("e5000") == pair.plain.known("e5000") is not None
