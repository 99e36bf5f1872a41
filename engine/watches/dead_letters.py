"""Log lines about dead letters: how many were written, by stage, with the first of each.

Lives here: the line.  Never here: counting for metrics (`engine/machines/refusals.py`), writing the letters
(`engine/kafka/dead_letter_sink.py`), the interval (`pace.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import structlog

from engine.offline.dead_letters import DeadLetters
from engine.watches.pace import Pace
from topics.messages import Outgoing

__all__ = ["LetterWatch"]

log = structlog.get_logger("headrace")


class LetterWatch:
    """The dead letters of a worker since the last line."""

    def __init__(self, topic: str) -> None:
        self._topic = topic
        self._pace = Pace()
        self._letters = DeadLetters()

    def see(self, letters: Sequence[Outgoing]) -> None:
        """Add letters that are being written."""
        for letter in letters:
            self._letters.add(letter.headers)

    def tell(self, _: Mapping[tuple[str, str], int], now_s: float) -> None:
        """Log the letters since the last line; `now_s` is of a clock that does not go back."""
        letters = self._letters
        if not letters.counts or not self._pace.allows(now_s):
            return
        self._letters = DeadLetters()
        self._pace.logged(now_s)
        log.warning(
            "records were refused",
            count=letters.counts.total(),
            stages=letters.report({}),
            fix=f"`headrace tail {self._topic} --from-beginning --headers` shows each with its reason",
        )
