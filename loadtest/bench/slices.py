"""A run second by second: what was answered, how late, what waited, what the workers took.

Lives here: one slice of a run and how slices are cut; the summary of what workers took.  Never here: clocks
(times are arguments), what a slice is compared with (`compare.py`).

Strategy: a slice is a span of time at the reader, not of events: an answer belongs to the slice in which it
was read, as in an HDR interval log.  So one histogram is open at a time, and a stall shows where it happened:
slices without an answer, then one with all the late ones.  Each keeps its histogram in HDR's own encoding
(about 1 kB), which any HDR library reads and merges.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from msgspec import Struct

from loadtest.bench.ledger import Latency

__all__ = ["SLICES_MAX", "SLICE_S", "Slice", "Slicer", "Usage", "slice_seconds", "usage_figures"]

SLICE_S = 1.0
"""Length of a slice."""
SLICES_MAX = 600
"""Slices of a run: a longer run has longer slices."""


class Usage(NamedTuple):
    """What the workers of a load test have taken so far."""

    cpu_s: float
    """Processor time of all of them since each was started."""
    rss_mb: float
    """Resident memory of those that live now."""


class Slice(Struct, frozen=True, kw_only=True):
    """One span of a run."""

    at_s: float
    """Where it begins, in seconds since the first event was due."""
    seconds: float
    answered: int
    """First answers that were read in it."""
    waiting: int
    """Events without an answer at its end."""
    p50_ms: float | None
    """From due to read, of the timed answers read in it; None without any."""
    p99_ms: float | None
    cpu_s: float | None
    """Processor time of the workers in it; None where it is not known."""
    rss_mb: float | None
    """Memory of the workers at its end."""
    histogram: str
    """Latencies of the timed answers in us, as HDR encodes them (V2, deflated, base64)."""


def slice_seconds(duration_s: float) -> float:
    """Return how long the slices of a run are.

    >>> slice_seconds(30), slice_seconds(6_000)
    (1.0, 10.0)
    """
    return max(SLICE_S, duration_s / SLICES_MAX)


class Slicer:
    """Cuts a run into slices as it goes; `read_usage` is asked at the end of each, None where nobody knows.

    >>> slicer = Slicer(1.0, lambda: None)
    >>> slicer.answered(2_000_000)
    >>> slicer.turn(1.0, waiting=3)
    >>> [(one.at_s, one.answered, one.waiting) for one in slicer.slices]
    [(0.0, 1, 3)]
    """

    def __init__(self, seconds: float, read_usage: Callable[[], Usage | None]) -> None:
        self.slices: list[Slice] = []
        self._seconds, self._read_usage = seconds, read_usage
        self._begins_s = 0.0
        self._answered = 0
        self._latency = Latency()
        self._usage: Usage | None = None

    def begin(self) -> None:
        """Read what the workers took before the first slice."""
        self._usage = self._read_usage()

    def answered(self, latency_ns: int | None) -> None:
        """Enter the first answer to an event; its latency is None while the run warms up."""
        self._answered += 1
        if latency_ns is not None:
            self._latency.record(latency_ns)

    def turn(self, at_s: float, *, waiting: int) -> None:
        """End the slice if it is over at `at_s` seconds since the first event was due."""
        if at_s - self._begins_s >= self._seconds:
            self._end(at_s, waiting)

    def close(self, at_s: float, *, waiting: int) -> None:
        """End the last slice, where anything was answered in it; forget those after the last answer."""
        if self._answered and at_s > self._begins_s:
            self._end(at_s, waiting)
        while self.slices and not self.slices[-1].answered and not self.slices[-1].waiting:
            self.slices.pop()

    def _end(self, at_s: float, waiting: int) -> None:
        before, now = self._usage, self._read_usage()
        summary = self._latency.summary_ms()
        self.slices.append(
            Slice(
                at_s=round(self._begins_s, 3),
                seconds=round(at_s - self._begins_s, 3),
                answered=self._answered,
                waiting=waiting,
                p50_ms=summary.get("p50"),
                p99_ms=summary.get("p99"),
                cpu_s=None if before is None or now is None else round(now.cpu_s - before.cpu_s, 3),
                rss_mb=None if now is None else round(now.rss_mb, 1),
                histogram=self._latency.encoded(),
            )
        )
        self._begins_s, self._answered, self._latency, self._usage = at_s, 0, Latency(), now


def usage_figures(slices: Sequence[Slice]) -> dict[str, float | None]:
    """Return the workers' processor time, in all and per answer, and the most memory; None where unknown."""
    known = [one for one in slices if one.cpu_s is not None]
    cpu_s = sum(one.cpu_s or 0.0 for one in known)
    answered = sum(one.answered for one in known)
    return {
        "cpu_s": round(cpu_s, 2) if known else None,
        "cpu_ms_per_answer": round(1e3 * cpu_s / answered, 4) if answered else None,
        "rss_mb_max": max((one.rss_mb for one in slices if one.rss_mb is not None), default=None),
    }
