"""A run cut into slices: together they are the run, whatever came when."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadtest.bench.ledger import Latency
from loadtest.bench.slices import SLICES_MAX, Slicer, Usage, slice_seconds, usage_figures

READS = st.lists(
    st.tuples(st.floats(0.01, 2.5), st.lists(st.none() | st.integers(1_000, 10**10), max_size=5)), max_size=12
)
"""Seconds since the last read, and the latencies read, None while the run warms up."""


@settings(max_examples=25)  # a slice costs a histogram
@given(READS)
def test_slices_add_up_to_the_run(reads: list[tuple[float, list[int | None]]]) -> None:
    usage, at_s, waiting = Usage(3.0, 50.0), 0.0, sum(len(found) for _, found in reads)
    slicer, whole = Slicer(1.0, lambda: usage), Latency()
    slicer.begin()
    for seconds, found in reads:
        at_s += seconds
        usage = Usage(usage.cpu_s + 0.25, usage.rss_mb + 1.0)
        for latency_ns in found:
            slicer.answered(latency_ns)
            if latency_ns is not None:
                whole.record(latency_ns)
        waiting -= len(found)
        slicer.turn(at_s, waiting=waiting)
    slicer.close(at_s, waiting=waiting)
    slices, merged = slicer.slices, Latency()
    for one in slices:
        merged.merge(one.histogram)
    assert merged.summary_ms() == whole.summary_ms()
    assert sum(one.answered for one in slices) == sum(len(found) for _, found in reads)
    assert all(one.seconds >= 1.0 - 1e-9 for one in slices[:-1])
    ends = [one.at_s + one.seconds for one in slices]
    assert [one.at_s for one in slices[1:]] == pytest.approx(ends[:-1], abs=2e-3)
    if slices:
        # Each reading cost a quarter of a second, and those after the last answer are none of the run's.
        read = sum(1 for end in _sums(reads) if end <= ends[-1] + 2e-3)
        assert usage_figures(slices)["cpu_s"] == pytest.approx(0.25 * read)
        assert slices[-1].answered or slices[-1].waiting


def _sums(reads: list[tuple[float, list[int | None]]]) -> list[float]:
    total, sums = 0.0, []
    for seconds, _ in reads:
        total += seconds
        sums.append(total)
    return sums


def test_a_stall_shows_where_it_was() -> None:
    slicer = Slicer(1.0, lambda: None)
    for at_s, waiting, late_ns in ((1.0, 0, 5_000_000), (2.0, 100, None), (3.0, 0, 1_500_000_000)):
        if late_ns is not None:
            slicer.answered(late_ns)
        slicer.turn(at_s, waiting=waiting)
    assert [(one.answered, one.waiting) for one in slicer.slices] == [(1, 0), (0, 100), (1, 0)]
    assert slicer.slices[1].p99_ms is None
    assert [slicer.slices[at].p99_ms for at in (0, 2)] == pytest.approx([5.0, 1_500.0], rel=1e-3)
    assert usage_figures(slicer.slices) == {"cpu_s": None, "cpu_ms_per_answer": None, "rss_mb_max": None}


def test_a_long_run_has_longer_slices_and_no_more_of_them() -> None:
    assert 86_400 / slice_seconds(86_400) <= SLICES_MAX
