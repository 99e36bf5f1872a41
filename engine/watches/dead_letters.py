"""The log's word on dead letters: the first at once, then once a minute while there are more.

Lives here: the line and when it is due.  Never here: counting for metrics (`refusals.py`), writing the
letters (`dead_letter_sink.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import structlog

from engine.offline.dead_letters import DeadLetters
from topics.messages import Outgoing

__all__ = ["LetterWatch"]

EVERY_S = 60.0
"""Least time between two lines: a flood of bad records is no flood of lines."""

log = structlog.get_logger("headrace")


class LetterWatch:
    """Sees the dead letters of a worker and tells of them by stage, with the first of each."""

    def __init__(self, topic: str, every_s: float = EVERY_S) -> None:
        self._topic = topic
        self._every_s = every_s
        self._due_s = float("-inf")
        self._letters = DeadLetters()

    def see(self, letters: Sequence[Outgoing]) -> None:
        """Take note of letters that are being written."""
        for letter in letters:
            self._letters.add(letter.headers)

    def tell(self, _: Mapping[tuple[str, str], int], now_s: float) -> None:
        """Log what was seen since the last line; `now_s` is a clock that does not go back."""
        letters = self._letters
        if not letters.counts or now_s < self._due_s:
            return
        self._letters, self._due_s = DeadLetters(), now_s + self._every_s
        log.warning(
            "records were refused",
            count=letters.counts.total(),
            stages=letters.report({}),
            fix=f"`headrace tail {self._topic} --from-beginning --headers` shows each with its reason",
        )
