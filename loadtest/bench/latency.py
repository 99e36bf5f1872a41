"""Latencies as an HDR histogram: constant memory, exact to three digits at every percentile.

Lives here: recording and the summary.  Never here: what is measured (`ledger.py`,
`openloop.py`).

Latencies are taken from the *scheduled* send time, so a stalled system is charged for every
event that should have been sent meanwhile (the coordinated-omission rule of wrk2, G. Tene,
"How NOT to Measure Latency"); no correction afterwards is needed.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from topics.errors import SettingsError

__all__ = ["PERCENTILES", "Latency", "histogram_class"]

PERCENTILES = (50.0, 90.0, 99.0, 99.9)
LOWEST_US = 1
HIGHEST_US = 3_600_000_000
"""One hour: an answer that takes longer is counted as one hour."""
DIGITS = 3


class Latency:
    """A histogram of durations.  Raises SettingsError where `hdrhistogram` is not installed.

    >>> latency = Latency()
    >>> for nanoseconds in (1_000_000, 2_000_000, 3_000_000):
    ...     latency.record(nanoseconds)
    >>> summary = latency.summary_ms()
    >>> round(summary["p50"]), round(summary["max"])
    (2, 3)
    """

    def __init__(self) -> None:
        self._histogram = histogram_class()(LOWEST_US, HIGHEST_US, DIGITS)

    def __len__(self) -> int:
        return int(self._histogram.get_total_count())

    def record(self, duration_ns: int) -> None:
        """Add one duration; what is shorter than 1 us counts as 1 us."""
        self._histogram.record_value(min(max(duration_ns // 1_000, LOWEST_US), HIGHEST_US))

    def summary_ms(self) -> dict[str, float]:
        """Return mean, percentiles and maximum in milliseconds; empty without a value."""
        if not len(self):
            return {}
        histogram = self._histogram
        values = {f"p{level:g}": histogram.get_value_at_percentile(level) for level in PERCENTILES}
        values = {"mean": histogram.get_mean_value(), **values, "max": histogram.get_max_value()}
        return {name: round(value / 1_000, 3) for name, value in values.items()}


def histogram_class() -> Any:
    """Return the histogram of `hdrhistogram`.  Raises SettingsError where it is not installed."""
    try:
        return import_module("hdrh.histogram").HdrHistogram
    except ModuleNotFoundError:
        raise SettingsError(
            "the load test needs the package hdrhistogram", hint="pip install 'headrace[bench]'"
        ) from None
