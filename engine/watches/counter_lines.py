"""Counters that a person on call must hear of: a log line when one has grown, with by how much.

Lives here: the table of these lines.  Never here: counting (`engine/machines`), the interval (`pace.py`), a
clock.

A record under another key than its own is taken all the same.  With one partition that changes nothing; with
several, the windows of its key and the label of an event may lie on another one, where the label joins
nothing and is counted as `unmatched`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import structlog

from engine.definition.streams import Labels
from engine.watches.pace import EVERY_S, Pace

__all__ = ["CountWatch", "CountedLine", "counted_lines"]

log = structlog.get_logger("headrace")


class CountedLine(NamedTuple):
    """One line of the log and the counters that cause it."""

    event: str
    figures: Mapping[str, tuple[str, str]]
    """Counters by the name under which the line shows how much they have grown."""
    advice: Mapping[str, object] = {}
    """What the line shows besides."""
    level: str = "warning"


def counted_lines(labels: Labels) -> tuple[CountedLine, ...]:
    """Return the lines of a worker whose labels are defined by `labels`."""
    return (
        CountedLine(
            "no model could answer: the prior did", {"predictions": ("predictions", "prior")}, level="error"
        ),
        CountedLine(
            "records lie under other keys than their own",
            {"events": ("key_mismatches", "event"), "labels": ("key_mismatches", "label")},
            {
                "fix": "send every event, and its label, with the key field's value as the record's key: "
                "`headrace send --key`"
            },
        ),
        CountedLine(
            "answers given up before their labels came: too many wait",
            {"count": ("predictions_dropped", "given_up")},
            {"pending_max": labels.pending_max, "fix": "raise pending_max or shorten wait"},
        ),
        CountedLine(
            "labels refused that came before their events: too many wait",
            {"count": ("labels", "given_up")},
            {"early_max": labels.early_max, "fix": "are their ids those of events? else raise early_max"},
        ),
    )


class CountWatch:
    """Logs each line when one of its counters has grown, at most once in `every_s`.

    >>> watch = CountWatch([CountedLine("refused", {"labels": ("labels", "late")})])
    >>> with structlog.testing.capture_logs() as lines:
    ...     for second, late in enumerate((0, 2, 3)):
    ...         watch.tell({("labels", "late"): late}, second)
    ...     watch.tell({("labels", "late"): 3}, 61.0)
    >>> [line["labels"] for line in lines]
    [2, 1]
    """

    def __init__(self, lines: Sequence[CountedLine], every_s: float = EVERY_S) -> None:
        self._lines = [(line, Pace(every_s), dict.fromkeys(line.figures, 0)) for line in lines]
        """Each with its interval and the counts that were logged last."""

    def tell(self, counts: Mapping[tuple[str, str], int], now_s: float) -> None:
        """Log what has grown since its last line; `counts` only grow, `now_s` is of a clock that does too."""
        for line, pace, logged in self._lines:
            current = {name: counts.get(counter, 0) for name, counter in line.figures.items()}
            if current != logged and pace.allows(now_s):
                growth = {name: count - logged[name] for name, count in current.items()}
                getattr(log, line.level)(line.event, **growth, **line.advice)
                pace.logged(now_s)
                logged.update(current)
