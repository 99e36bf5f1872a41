"""What the page shows of a race: curves, and how far each challenger is ahead of the champion.

Lives here: curves as columns, an interval that holds whenever somebody looks.  Never here: losses, evidence
(`operators/race`), what is decided: a swap rests on evidence, never on this interval.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

from engine.machines.learner import Learner
from operators.race.evaluation import SERVED, Curve

__all__ = ["LEAD_ALPHA", "LEAD_BLOCKS_MIN", "curve_of", "lead_of", "race_of"]

LEAD_ALPHA: Final = 0.05
"""The interval misses the truth, at any time of the race, in one race of twenty."""
TIGHT_AT: Final = 100
"""Blocks after which the interval is tightest: about where a race is decided."""
LEAD_BLOCKS_MIN: Final = 20
"""Before, the deviation is not known well enough: an interval from the second block on misses in one of six
races, from here on in one of twenty; of skewed (exponential) blocks in one of twelve."""
SERIES_MAX: Final = 24
"""Curves sent; a field of more is told by its first, those in the race before those that have left."""
DIGITS: Final = 5

Column = list[float | None]


def curve_of(curve: Curve, names: Sequence[str]) -> dict[str, Any]:
    """Return a curve as columns: the starts of its buckets in ms, and the mean loss of each series.

    >>> curve = Curve()
    >>> curve.extend([0, 1], {"a": [0.5, 0.25], "b": [None, 1.0]})
    >>> curve_of(curve, ["a", "b"])
    {'width_ms': 1, 'times': [0, 1], 'series': {'a': [0.5, 0.25], 'b': [None, 1.0]}}
    """
    buckets = sorted(curve.buckets.items())
    series: dict[str, Column] = {name: [] for name in names}
    for _, cells in buckets:
        for name, column in series.items():
            total, count = cells.get(name, (0.0, 0))
            column.append(round(total / count, DIGITS) if count else None)
    return {
        "width_ms": curve.width_ms,
        "times": [number * curve.width_ms for number, _ in buckets],
        "series": {name: column for name, column in series.items() if any(one is not None for one in column)},
    }


def lead_of(mean: float, deviation: float, blocks: int) -> tuple[float, float] | None:
    """Return bounds of the mean difference of so many blocks, valid at all times together; None of too few.

    The asymptotic confidence sequence of Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas (2024), Robbins'
    normal mixture with an estimated deviation.  Who looks at a page stops looking when it pleases him, so an
    interval of fixed size would promise too much.

    >>> [round(bound, 4) for bound in lead_of(0.01, 0.02, 100)]
    [0.0039, 0.0161]
    >>> lead_of(0.01, 0.02, 19)
    """
    if blocks < LEAD_BLOCKS_MIN or deviation <= 0.0:
        return None
    wanted = -2.0 * math.log(LEAD_ALPHA)
    tuned = (wanted + math.log(wanted) + 1.0) / TIGHT_AT
    grown = blocks * tuned + 1.0
    half = deviation * math.sqrt(
        2.0 * grown / (blocks * blocks * tuned) * math.log(math.sqrt(grown) / LEAD_ALPHA)
    )
    return mean - half, mean + half


def race_of(learner: Learner) -> dict[str, Any]:
    """Return the curves by event time and by label time, and the leads, of one race."""
    evaluation = learner.evaluation
    racing = [SERVED, *learner.roster.racers]
    by_event, by_label = evaluation.by_event_time, evaluation.by_label_time
    known: Mapping[str, None] = dict.fromkeys(name for cells in by_event.buckets.values() for name in cells)
    names = [name for name in racing if name in known]
    names = [*names, *(name for name in known if name not in racing)][:SERIES_MAX]
    return {
        "by_event_time": curve_of(by_event, names),
        "by_label_time": curve_of(by_label, names),
        "leads": _leads(learner),
    }


def _leads(learner: Learner) -> dict[str, dict[str, Any]]:
    """Return of each challenger by how much its loss is lower than the champion's, with bounds."""
    verdicts = {verdict.name: verdict for verdict in learner.evidence.compared()}
    leads = {}
    for name, (mean, deviation, blocks) in learner.evidence.differences().items():
        bounds = lead_of(mean, deviation * math.sqrt(max(1.0, verdicts[name].inflation)), blocks)
        leads[name] = {
            "mean": mean,
            "lower": None if bounds is None else bounds[0],
            "upper": None if bounds is None else bounds[1],
            "blocks": blocks,
            "examples": verdicts[name].examples,
            "correlation": verdicts[name].correlation,
        }
    return leads
