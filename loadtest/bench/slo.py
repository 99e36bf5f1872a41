"""The highest rate that keeps a promise: bounds as a user writes them, and which rate to try next.

Lives here: `p99<50ms` as a value, whether a run keeps it, the search.  Never here: running, printing.

Strategy: the rate doubles while the promise is kept (or halves until it is), then the middle of the lowest
that failed and the highest below it that did not is tried, in ratio.  What to try is a function of what was
tried, so a search can be read off its steps.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from topics.durations import duration_ms
from topics.errors import SettingsError

__all__ = ["STEPS_MAX", "RateStep", "SloBound", "broken", "next_rate", "parsed_bounds", "sustained_rate"]

STEPS_MAX = 12
"""Runs of one search; it ends with what it has."""
PRECISION = 0.05
"""The search is over when the lowest rate that failed is so close above the highest that held."""
RATE_MIN = 1.0
"""Below one event a second nothing is searched for."""
LEVELS = ("p50", "p90", "p99", "p99.9", "max", "mean")
COUNTS = ("lost", "duplicated", "mismatched", "foreign", "behind")
BOUND = re.compile(r"\s*([a-z0-9.]+)\s*(<|=)\s*(\S+)\s*")


class SloBound(NamedTuple):
    """One promise about a run."""

    measure: str
    """A level of the latency, or a count of the ledger."""
    most: float
    """In ms, or in events."""
    below: bool
    """Whether the measure must lie below `most`, else it must be at most that."""
    text: str
    """As it was written."""


class RateStep(NamedTuple):
    """One run of a search."""

    rate: float
    held: bool
    why: str
    """What was broken; empty where all held."""


def parsed_bounds(texts: Iterable[str]) -> tuple[SloBound, ...]:
    """Return the bounds; several may stand in one text, parted by commas.

    >>> parsed_bounds(["p99<50ms, lost=0"])[0][:3]
    ('p99', 50.0, True)

    Raises SettingsError for what is no bound.
    """
    found = []
    for text in (part for whole in texts for part in whole.split(",") if part.strip()):
        match = BOUND.fullmatch(text)
        if match is None or (match[1] in LEVELS) + (match[1] in COUNTS) != 1:
            raise SettingsError(
                f"{text.strip()!r} is no promise",
                hint=f"one of {', '.join(LEVELS)} < a duration, or {', '.join(COUNTS)} = or < a number",
            )
        name, sign, value = match.groups()
        if name in LEVELS:
            if sign == "=":
                raise SettingsError(f"{text.strip()!r}: a latency is never exact", hint=f"{name}<{value}")
            found.append(SloBound(name, float(duration_ms(value)), True, text.strip()))
        else:
            if not value.isdecimal():
                raise SettingsError(f"{text.strip()!r}: {value} is no number of events", hint=f"{name}=0")
            found.append(SloBound(name, float(value), sign == "<", text.strip()))
    if not found:
        raise SettingsError("the promise is empty", hint="--slo 'p99<50ms'")
    return tuple(found)


def broken(bounds: Sequence[SloBound], report: Mapping[str, Any]) -> str:
    """Return which promises a run's report does not keep, in words; empty where it keeps all.

    A rate that was not sustained keeps none, whatever its figures are.
    """
    if not report["verdict"]["sustained"]:
        return str(report["verdict"]["text"])
    told = []
    for bound in bounds:
        value = report["latency_ms"].get(bound.measure) if bound.measure in LEVELS else report[bound.measure]
        if value is None:
            told.append(f"{bound.text}: nothing was timed")
        elif not (value < bound.most if bound.below else value <= bound.most):
            unit = " ms" if bound.measure in LEVELS else ""
            told.append(f"{bound.text}: {bound.measure} was {value:,g}{unit}")
    return "; ".join(told)


def next_rate(steps: Sequence[RateStep], first: float, *, steps_max: int = STEPS_MAX) -> float | None:
    """Return the rate to try after these steps, None where the search is over.

    >>> steps = [RateStep(100, True, ""), RateStep(200, False, "p99")]
    >>> next_rate([], 100), next_rate(steps[:1], 100), next_rate(steps, 100)
    (100, 200.0, 141.0)
    """
    if not steps:
        return first
    if len(steps) >= steps_max:
        return None
    failed = min((one.rate for one in steps if not one.held), default=math.inf)
    held = sustained_rate(steps) or 0.0
    if math.isinf(failed):
        return _rounded(2 * held)
    if not held:
        return _rounded(failed / 2) if failed / 2 >= RATE_MIN else None
    middle = _rounded(math.sqrt(held * failed))
    return middle if failed / held > 1 + PRECISION and held < middle < failed else None


def sustained_rate(steps: Sequence[RateStep]) -> float | None:
    """Return the highest rate that held below all that failed, None where there is none."""
    failed = min((one.rate for one in steps if not one.held), default=math.inf)
    return max((one.rate for one in steps if one.held and one.rate < failed), default=None)


def _rounded(rate: float) -> float:
    return float(f"{rate:.3g}")
