"""The log's word on bounds of the join that were reached: once a minute while it goes on, with how many.

Lives here: the lines and when one is due.  Never here: what is given up (`operators/join/join.py`),
counting it (`refusals.py`).
"""

from __future__ import annotations

from collections.abc import Mapping

import structlog

from engine.definition.streams import Labels

__all__ = ["GivenUp"]

TOLD_EVERY_S = 60.0
"""Often enough to see that it goes on."""

log = structlog.get_logger("headrace")


class GivenUp:
    """Compares what a process has counted with what it has told."""

    def __init__(self, labels: Labels) -> None:
        self._lines = (
            (
                ("predictions_dropped", "given_up"),
                "answers given up before their labels came: too many wait",
                {"pending_max": labels.pending_max, "fix": "raise pending_max or shorten wait"},
            ),
            (
                ("labels", "given_up"),
                "labels refused that came before their events: too many wait",
                {"early_max": labels.early_max, "fix": "are their ids those of events? else raise early_max"},
            ),
        )
        self._told: dict[tuple[str, str], tuple[float, int]] = {}
        """When each was told last, and how many there had been."""

    def tell(self, counts: Mapping[tuple[str, str], int], now_s: float) -> None:
        """Log what has been given up since the last line; `now_s` is a clock that does not go back."""
        for counted, line, more in self._lines:
            count = counts.get(counted, 0)
            told_s, told = self._told.get(counted, (float("-inf"), 0))
            if count > told and now_s - told_s >= TOLD_EVERY_S:
                self._told[counted] = now_s, count
                log.warning(line, count=count - told, **more)
