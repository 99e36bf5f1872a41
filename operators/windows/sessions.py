"""Sessions: events that follow each other without a long pause.

Lives here: the session that goes on.  Never here: waiting for the watermark (`keyed_state.py`), what a
session comes to (`summaries.py`).

    events        x  x x      x     x x   x        gap of "30m"
    session       |----|      |-----------]        an event 30m after the last one is still inside
                        > 30m                      one later begins a new session

Memory: one session per key, however long it goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from operators.windows.aggregates import Target
from operators.windows.keyed_state import Row
from operators.windows.summaries import Summary, layout_of, value_of

__all__ = ["OpenSession", "SessionFold"]


class OpenSession:
    """The last session: its first and last time, and the summary of its entries."""

    __slots__ = ("end", "start", "summary")

    def __init__(self, start: int, end: int, summary: Summary) -> None:
        self.start = start
        self.end = end
        self.summary = summary


class SessionFold:
    """Sessions of one gap: a `Fold`.

    >>> from operators.language.by import by
    >>> from operators.language.window_kinds import session
    >>> from operators.windows.keyed_state import Keyed
    >>> from operators.windows.keyed_state import ReorderBuffer
    >>> from topics.messages import Event
    >>> clicks = by("user").count(session("10ms"))
    >>> kept = Keyed(ReorderBuffer(SessionFold([], [Target("clicks", clicks)], gap_ms=10), event_max=100))
    >>> for time in (0, 10, 15, 26):
    ...     out = {}
    ...     kept.step("ann", Event("id", time, "ann", None, offset=0, watermark=time), (), out)
    ...     print(out)
    {'clicks': 1}
    {'clicks': 2}
    {'clicks': 3}
    {'clicks': 1}
    """

    def __init__(self, columns: Sequence[str | None], targets: Sequence[Target], *, gap_ms: int) -> None:
        self.reach_ms = gap_ms + 1  # an event exactly one gap later is still inside
        self._gap_ms = gap_ms
        self._layout = layout_of(targets, columns)
        outputs = [(target, value_of(target.aggregate, self._layout, columns)) for target in targets]
        self._before = [output for output in outputs if not output[0].aggregate.include_current]
        self._after = [output for output in outputs if output[0].aggregate.include_current]

    def new(self) -> OpenSession:
        """Return no session."""
        return OpenSession(0, 0, Summary(self._layout))

    def copy(self, session: OpenSession) -> OpenSession:
        """Return a copy of the session."""
        return OpenSession(session.start, session.end, session.summary.copy(self._layout))

    def add(self, session: OpenSession, time: int, row: Row) -> None:
        """Add an entry to the session, or begin a new one; an entry from before the session is left out."""
        if not session.summary.count or time > session.end + self._gap_ms:
            session.start, session.end, session.summary = time, time, Summary(self._layout)
        elif time < session.start - self._gap_ms:
            return
        session.start, session.end = min(session.start, time), max(session.end, time)
        session.summary.add(self._layout, time, row)

    def seen_late(self, session: OpenSession, time: int) -> OpenSession:
        """Return the session if an event at `time` belongs to it, else none."""
        return session if time >= session.start - self._gap_ms else self.new()

    def write(self, session: OpenSession, time: int, out: dict[Any, Any], *, before: bool) -> None:
        """Write the session that goes on at `time`, or an empty one."""
        outputs: Sequence[tuple[Target, Callable[[Summary], Any]]] = self._before if before else self._after
        if not outputs:
            return
        goes_on = session.start - self._gap_ms <= time <= session.end + self._gap_ms
        summary = session.summary if goes_on else Summary(self._layout)
        for (name, _, has_default), value in outputs:
            if (found := value(summary)) is not None:
                out[name] = found
            elif not has_default:
                out.pop(name, None)

    def dump(self, session: OpenSession) -> Any:
        """Return plain values."""
        return [session.start, session.end, session.summary.dump(self._layout)]

    def load(self, data: Any) -> OpenSession:
        """Return what `dump` gave."""
        start, end, summary = data
        return OpenSession(start, end, Summary.load(self._layout, summary))
