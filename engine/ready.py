"""Admitted events of one run that wait to be answered together, as columns.

Lives here: the columns.  Never here: when they must be answered (`scorer.py`).
"""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct

from topics.messages import Event, LabelValue

__all__ = ["Ready"]

_NEVER = 1 << 62


class Ready(Struct, gc=False):
    """Events with what else is needed of them, one entry of each column per event."""

    events: list[Event] = []
    labels: list[LabelValue | None] = []
    crcs: list[int] = []
    lookups: list[Mapping[str, object]] = []
    ids: set[str] = set()
    oldest: int = _NEVER
    """Smallest event time, ms: the first entry to expire, once they are open."""
    late: int = 0

    def clear(self) -> None:
        """Forget them: they have been answered."""
        for column in (self.events, self.labels, self.crcs, self.lookups, self.ids):
            column.clear()
        self.oldest = _NEVER
        self.late = 0
