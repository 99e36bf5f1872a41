"""Admitted events of one run that wait to be answered together, as columns.

Lives here: the columns.  Never here: when they must be answered (`scorer.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import groupby

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

    def stretches(self, wait_ms: int) -> Iterator[tuple[slice, bool]]:
        """Yield the events in stretches that can be learned at once, as they carry a label, and that cannot.

        A label that comes more than `wait_ms` after its event, by the watermark, is not learned.
        """
        if not self.late and None not in self.labels:
            yield slice(0, len(self.events)), True
            return
        start = 0
        for learnable, same in groupby(
            label is not None and (not event.late or event.event_time + wait_ms >= event.watermark)
            for event, label in zip(self.events, self.labels, strict=True)
        ):
            end = start + sum(1 for _ in same)
            yield slice(start, end), learnable
            start = end

    def other_keys(self, *, keyless: bool) -> int:
        """Return how many lie under another record key than their own; `keyless`: under none counts too."""
        wrong = [event.record_key for event in self.events if event.record_key != event.key.encode()]
        return len(wrong) if keyless else len(wrong) - wrong.count(None)

    def clear(self) -> None:
        """Forget them: they have been answered."""
        for column in (self.events, self.labels, self.crcs, self.lookups, self.ids):
            column.clear()
        self.oldest = _NEVER
        self.late = 0
