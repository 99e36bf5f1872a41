"""Log lines about labels that join no prediction: from which share on, with the likely cause and the fix.

Lives here: the share, the cause, the line.  Never here: counting (`engine/machines`), the interval
(`pace.py`), a clock.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

import structlog

from engine.watches.pace import EVERY_S, Pace

__all__ = ["UNMATCHED_SHARE_MAX", "LabelWatch", "Unmatched", "unmatched"]

UNMATCHED_SHARE_MAX = 0.05
"""Beyond this, models learn from a selection."""
LABELS_MIN = 20
"""Of fewer labels a share says nothing: the span grows until there are so many."""

log = structlog.get_logger("headrace")

Counts = Mapping[tuple[str, str], int]


class Unmatched(NamedTuple):
    """The labels of a span, too many of which joined no prediction."""

    labels: int
    """Labels of the span whose fate is known; where none is, those that wait for their event."""
    unmatched: int
    share: float
    cause: str
    fix: str


def unmatched(span: Counts) -> Unmatched | None:
    """Return what is wrong with the labels of a span, or None where at most 5 % of them joined nothing.

    `span` holds counts by (metric, label), as scorers count them.
    """
    labels = {label: count for (metric, label), count in span.items() if metric == "labels"}
    joined, early, late = (labels.get(name, 0) for name in ("joined", "early", "late"))
    alone = labels.get("unmatched", 0) + late
    known = joined + alone + labels.get("duplicate", 0) + labels.get("conflicting", 0)
    if known < LABELS_MIN:
        if joined or early < LABELS_MIN:
            return None
        cause = "no event with the id of any of these labels has been read"
        return Unmatched(early, early, 1.0, cause, _COMPARE)
    share = alone / known
    if share <= UNMATCHED_SHARE_MAX:
        return None
    given_up = span.get(("predictions_dropped", "given_up"), 0)
    forgotten = span.get(("predictions_dropped", "expired"), 0) + labels.get("implicit", 0)
    if given_up > forgotten:
        cause, fix = "more predictions waited than are kept, and the oldest were given up", _FEWER
    elif 2 * late > alone or 2 * forgotten >= alone:
        cause, fix = "they came when their predictions had waited for `wait` and were forgotten", _WAIT
    else:
        cause, fix = "no event with their ids was read in time", _COMPARE
    return Unmatched(known, alone, round(share, 4), cause, fix)


_COMPARE = (
    "compare the id fields of events and labels, and their record keys: a label must have its event's key"
)
_WAIT = (
    "raise Labels(wait=...) beyond the longest delay; old data: send both files by one "
    "`headrace send PIPELINE.py --events E --labels L`"
)
_FEWER = "raise Labels(pending_max=...), or shorten wait"


class LabelWatch:
    """The labels of a worker since they were last judged.

    >>> watch = LabelWatch()
    >>> watch.look(0.0, Counter())
    >>> counts = Counter({("labels", "joined"): 90, ("labels", "unmatched"): 10})
    >>> found = watch.look(60.0, counts)
    >>> found.labels, found.unmatched, found.share
    (100, 10, 0.1)
    >>> watch.look(119.0, counts)
    """

    def __init__(self, every_s: float = EVERY_S) -> None:
        self._pace = Pace(every_s)
        self._started = False
        self._before: Counter[tuple[str, str]] = Counter()

    def tell(self, counts: Counter[tuple[str, str]], now_s: float) -> None:
        """Log what `look` finds."""
        if (found := self.look(now_s, counts)) is not None:
            log.warning("labels find no prediction", **found._asdict())

    def look(self, now_s: float, counts: Counter[tuple[str, str]]) -> Unmatched | None:
        """Return what is wrong with the labels since the last look; None, and no look, within `every_s` of
        it.

        The first call only begins the span.  `counts` only grow; `now_s` is of a clock that does too.
        """
        if not self._pace.allows(now_s):
            return None
        self._pace.logged(now_s)
        if not self._started:
            self._started = True
            return None
        span = Counter(
            {key: count - self._before[key] for key, count in counts.items() if key[0] in _WATCHED}
        )
        found = unmatched(span)
        if found is not None or sum(count for key, count in span.items() if key[1] in _FATES) >= LABELS_MIN:
            self._before = Counter({key: counts[key] for key in span})
        return found


_WATCHED = ("labels", "predictions_dropped")
_FATES = ("joined", "late", "duplicate", "conflicting", "unmatched")
