"""The group by itself: what one worker says, and who counts as there."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from engine.group.members import EVERY_MAX_MS, FORGOTTEN_MS, GONE_AFTER, MEMBERS_MAX, Members, totals
from engine.group.record import (
    LAGS_MAX,
    STATUS_BYTES_MAX,
    Buckets,
    SeenWorker,
    StatusMaker,
    Tallies,
    encoded,
    quantile_s,
)
from topics.codec import decode_status, encode
from topics.messages import Record, WorkerStatus

BOUNDS = [0.001, 0.01, 0.1, 1.0, 10.0]
EVERY_MS = 5_000
NOTHING = Tallies(0, 0, 0)
LEAVES = None
NAMES = ("a:1", "b:1", "c:1", "d:1")


def moment(clock_s: float, done: Tallies = NOTHING, latencies_s: Sequence[float] = ()) -> SeenWorker:
    places = np.searchsorted(BOUNDS, latencies_s)
    buckets = Buckets(BOUNDS, np.bincount(places, minlength=len(BOUNDS) + 1).tolist())
    return SeenWorker(
        clock_s, done, buckets, buckets, True, "ok", True, False, 1, {("f.events", 0): 7}, 5, 0, "tree",
        {"tree": "2@5"}, 100, 3, 0, {"lag": 1, "quiet": 0},
    )  # fmt: skip


def maker(name: str = "a:1") -> StatusMaker:
    return StatusMaker(name, started_ms=0, every_ms=EVERY_MS, version="1", features_version="f")


def said(name: str, now_ms: int, **fields: object) -> WorkerStatus:
    plain = {"worker": name, "time": now_ms, "started": 0, "every_ms": EVERY_MS, "version": "1"}
    return msgspec.convert(plain | fields, WorkerStatus)


def record(status: WorkerStatus | None, name: str, stamp_ms: int = 0) -> Record:
    value = None if status is None else encoded(status)
    return Record("f.status", 0, 0, stamp_ms, name.encode(), value)


# -- what one worker says -----------------------------------------------------------------------------

steps = st.lists(
    st.tuples(st.floats(0.1, 100), *(st.integers(0, 10**6) for _ in Tallies._fields)), min_size=1, max_size=8
)


@given(steps)
def test_rates_times_spans_are_what_was_done(taken: list[tuple[float, int, int, int]]) -> None:
    one, clock_s, done = maker(), 0.0, NOTHING
    assert one.make(moment(clock_s), 0).answered_per_s == 0.0
    sums = [0.0, 0.0, 0.0]
    for span_s, *more in taken:
        clock_s, done = clock_s + span_s, Tallies(*(a + b for a, b in zip(done, more, strict=True)))
        told = one.make(moment(clock_s, done), int(clock_s * 1_000))
        for at, rate in enumerate((told.answered_per_s, told.labelled_per_s, told.refused_per_s)):
            sums[at] += rate * span_s
    assert (told.answered, told.labelled, told.refused) == done
    assert all(abs(a - b) <= 0.001 * clock_s for a, b in zip(sums, done, strict=True))


@given(st.lists(st.floats(0, 9.9), min_size=1, max_size=50), st.sampled_from([0.5, 0.9, 0.99]))
def test_a_quantile_lies_in_the_bucket_of_the_true_one(values: list[float], part: float) -> None:
    told = quantile_s(moment(0, latencies_s=values).scoring, part)
    true = float(np.quantile(values, part, method="inverted_cdf"))
    at = int(np.searchsorted(BOUNDS, true))
    assert told is not None
    assert ([0.0, *BOUNDS][at] - 1e-12) <= told <= BOUNDS[at] + 1e-12


def test_latency_is_that_since_the_record_before() -> None:
    one = maker()
    one.make(moment(0, latencies_s=[5.0] * 100), 0)
    told = one.make(moment(1, latencies_s=[5.0] * 100 + [0.05]), 1_000)
    assert told.scoring_p99_ms is not None
    assert 10 < told.scoring_p99_ms <= 100
    assert one.make(moment(2, latencies_s=[5.0] * 100 + [0.05]), 2_000).scoring_p99_ms is None


def test_a_record_is_read_as_it_was_written_and_says_nothing_of_alerts_that_are_quiet() -> None:
    told = maker().make(moment(1, Tallies(9, 8, 7), [0.05]), 1_000)
    assert decode_status(encoded(told)) == told
    assert told.alerts == {"lag": 1}


@given(st.integers(0, 300), st.text(min_size=1, max_size=400), st.text(max_size=100_000))
def test_no_record_is_larger_than_the_bound(partitions: int, name: str, standing: str) -> None:
    wide = moment(0)._replace(
        lag={(f"{name}{number % 5}", number): number for number in range(partitions)},
        models={f"{name}{number}": "1@1" for number in range(partitions)},
        firing={f"{name}{number}": 1 for number in range(partitions)},
        standing=standing,
    )
    told = maker().make(wide, 0)
    assert len(encoded(told)) <= STATUS_BYTES_MAX
    assert told.lag_records == sum(range(partitions))
    lags = sorted((n for by in told.lag.values() for n in by.values()), reverse=True)
    assert lags == sorted(range(partitions), reverse=True)[:LAGS_MAX]


# -- who is there -------------------------------------------------------------------------------------

spoken = st.lists(st.tuples(st.sampled_from(NAMES), st.integers(0, 60_000), st.booleans()), max_size=30)


@given(spoken)
def test_the_last_word_of_each_counts_until_it_is_too_old(words: list[tuple[str, int, bool]]) -> None:
    members, clock_ms, last = Members(), 0, {}
    for name, wait_ms, leaves in words:
        clock_ms += wait_ms
        # The writer's clock is an hour off: who listens goes by its own.
        status = LEAVES if leaves else said(name, clock_ms + 3_600_000, answered_per_s=1.5)
        members.hear([record(status, name, clock_ms + 3_600_000)], clock_ms)
        last[name] = None if leaves else clock_ms
    expected = {
        name: clock_ms - at > GONE_AFTER * EVERY_MS
        for name, at in last.items()
        if at is not None and clock_ms - at <= FORGOTTEN_MS
    }
    told = members.told(clock_ms)
    assert {one.status.worker: one.gone for one in told} == expected
    there = sum(not gone for gone in expected.values())
    assert (totals(told).workers, totals(told).answered_per_s) == (there, 1.5 * there)


def test_what_lay_there_was_heard_when_it_was_stamped() -> None:
    members = Members()
    members.recall([record(said("a:1", 9), "a:1", stamp_ms=1_000), record(said("b:1", 9), "b:1", 30_000)])
    assert [(one.status.worker, one.gone) for one in members.told(31_000)] == [("a:1", True), ("b:1", False)]


def test_what_is_no_status_is_counted_and_changes_nothing() -> None:
    members = Members()
    members.hear([record(said("a:1", 0, partitions=2), "a:1")], 0)
    large = encode(said("a:1", 0, standing="x" * STATUS_BYTES_MAX))
    bad = [b"", b"{", b'{"worker":"a:1"}', b"\xff", b"[" * 100_000, large]
    records = [Record("f.status", 0, 0, 0, b"a:1", value) for value in bad]
    records += [
        record(said("a:1", 0), "b:1"),
        record(said("a:1", 0, every_ms=EVERY_MAX_MS + 1), "a:1"),
        record(said("a:1", 0, every_ms=0), "a:1"),
        Record("f.status", 0, 0, 0, None, encoded(said("a:1", 0))),
    ]
    members.hear(records, 0)
    assert members.counts == {("status_records", "unreadable"): len(records)}
    assert [(one.status.worker, one.status.partitions) for one in members.told(0)] == [("a:1", 2)]


def test_of_too_many_the_longest_silent_are_left_out() -> None:
    members = Members()
    for number in range(MEMBERS_MAX + 3):
        members.add(said(f"w{number:03}", 0), number)
    names = [one.status.worker for one in members.told(MEMBERS_MAX + 3)]
    assert names == [f"w{number:03}" for number in range(3, MEMBERS_MAX + 3)]
    assert members.counts == {("status_records", "left_out"): 3}
