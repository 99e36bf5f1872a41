"""When an alert begins, ends and comes back: signals and time in, records out.

Lives here: one place per policy and subject, its id, what damps it, the words of its records.  Never here:
where signals come from (`learner_alerts.py`, `engine/alerts`), channels, clocks.

    signal     ____/^^^^^^^^^^^^^^\\________/^^^\\__________________
    state          pending  firing  again    firing  again   gone
                   |<-for_->|      |<-- AGAIN_MS -->|
    record                  firing resolved  firing  resolved
    id                      a      a         a, 2    a, 2

An alert that comes back within `AGAIN_MS` of its end is the same one, with a count.  From `FLAPS_TOLD` times
on it does not end before it has been well for all of `AGAIN_MS`: a signal that trembles around its bound
makes that many pairs of records and no more.  An id is made of the pipeline, the policy, the subject and the
time at which the signal first lay beyond its bound, so a replay of the same signals makes the same one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, NamedTuple

import msgspec

from operators.language.alerts import Alert, Bound, OnDecision
from operators.language.signals import SIGNALS
from operators.state import StateEntries, WholeState
from topics.messages import AlertRecord, AlertState, Decision

__all__ = ["AGAIN_MS", "OPEN_MAX", "AlertBook", "Note", "Notes", "Readings"]

Readings = Mapping[str, Mapping[str, float]]
"""Values by signal and subject.  A signal that is left out is not known now, and nothing changes; a subject
that is left out is well."""


class Note(NamedTuple):
    """What is known of one subject beyond its value; an alert that fires tells again when it changes."""

    says: str
    """In place of what the signal is."""
    act: str
    """What to do, in place of what is done about the signal as such."""


Notes = Mapping[str, Mapping[str, Note]]
"""Notes by signal and subject."""

AGAIN_MS: Final = 600_000
"""An alert that comes back within ten minutes of its end tells nothing new."""
FLAPS_TOLD: Final = 3
"""Beginnings after which an alert ends only when it has been well for a while."""
OPEN_MAX: Final = 100
"""Alerts that fire at a time: a person reads no more, and what is broken then is something else."""
PLACES_MAX: Final = 1_000
"""Subjects beyond a bound, or lately so, that are remembered."""

ENTRY = "alerts"


class _Place(msgspec.Struct, array_like=True):
    """What is known of one subject under one policy."""

    bad_since_ms: int | None
    """Since when the signal has been beyond its bound, without a break; None where it is well."""
    well_since_ms: int = 0
    """Since when it has been well, where it is."""
    first_ms: int = 0
    """When it began first."""
    count: int = 0
    """How often it has fired; 0 while it is pending."""
    firing: bool = False
    value: float = 0.0
    note: Note | None = None


class AlertBook(WholeState):
    """The alerts of one pipeline that are watched in one place.

    >>> from operators.language.alerts import signal
    >>> book = AlertBook("flights", [Alert(when=signal("lag_records") > 10, for_="1m")])
    >>> [book.read(minute * 60_000, {"lag_records": {"0": 99.0}}) for minute in (0,)]
    [[]]
    >>> [(one.state, one.alert_id, one.since) for one in book.read(60_000, {"lag_records": {"0": 99.0}})]
    [('firing', 'flights:lag_records:0:0', 0)]
    >>> [(one.state, one.alert_id, one.time) for one in book.read(70_000, {"lag_records": {"0": 1.0}})]
    [('resolved', 'flights:lag_records:0:0', 70000)]
    """

    def __init__(
        self, pipeline: str, alerts: Iterable[Alert], counts: Counter[tuple[str, str]] | None = None
    ) -> None:
        """`counts` gets what is left out at a bound."""
        self._pipeline = pipeline
        self._counts = Counter() if counts is None else counts
        self._places: dict[tuple[str, str], _Place] = {}
        """By policy and subject, those that came first at the front."""
        self._now_ms = 0
        self._take(alerts)

    def _take(self, alerts: Iterable[Alert]) -> None:
        self.alerts = tuple(alerts)
        self._bounds = [(one, one.when) for one in self.alerts if isinstance(one.when, Bound)]
        self._on_decisions = [(one, one.when) for one in self.alerts if isinstance(one.when, OnDecision)]

    # -- signals and time in, records out --------------------------------------------------------------

    def read(self, now_ms: int, readings: Readings, notes: Notes | None = None) -> list[AlertRecord]:
        """Look at the signals as of `now_ms`; a time that goes back counts as the largest so far.

        One that fires already is told again, under its id and count, when its note is another one.
        """
        now_ms = self._now_ms = max(now_ms, self._now_ms)
        records: list[AlertRecord] = []
        for alert, bound in self._bounds:
            values = readings.get(bound.signal)
            if values is None:
                continue
            said = notes.get(bound.signal, {}) if notes else {}
            mine = {subject for policy, subject in self._places if policy == alert.name}
            beyond = {subject for subject, value in values.items() if bound.broken(value)}
            for subject in sorted(mine | beyond):
                if subject in beyond:
                    reading = values[subject], said.get(subject)
                    records += self._beyond(alert, bound, subject, reading, now_ms)
                else:
                    records += self._well(alert, bound, subject, values.get(subject), now_ms)
        return records

    def told(self, decision: Decision) -> list[AlertRecord]:
        """Return a record for each alert about decisions of this type."""
        return [
            AlertRecord(
                f"{self._pipeline}:{alert.name}:{decision.model_name}:{decision.offset}",
                alert.name,
                "told",
                "decision",
                alert.severity,
                decision.time,
                decision.time,
                alert.says or f"{decision.type}: {decision.model_name}: {decision.reason}",
                decision.model_name,
                look="this decision: `headrace models history PIPELINE.py`",
                runbook=alert.runbook,
                channels=alert.channels,
                event_offset=decision.offset,
            )
            for alert, when in self._on_decisions
            if decision.type in when.types
        ]

    def _beyond(
        self, alert: Alert, bound: Bound, subject: str, reading: tuple[float, Note | None], now_ms: int
    ) -> Sequence[AlertRecord]:
        key = alert.name, subject
        place = self._places.get(key)
        if place is not None and not place.firing and self._gone(alert, place, now_ms):
            del self._places[key]  # another one begins
            place = None
        if place is None:
            place = self._new_place(key, now_ms)
            if place is None:
                return ()
        self._dirty = True
        before, (place.value, place.note) = place.note, reading
        if place.bad_since_ms is None:
            place.bad_since_ms = now_ms
        if place.firing and place.note != before:
            return [self._record(alert, bound, subject, place, "firing", now_ms)]
        if place.firing or now_ms - place.bad_since_ms < alert.for_ms:
            return ()
        if self.firing >= OPEN_MAX:
            self._counts["alerts", f"{alert.name} left_out"] += 1
            return ()
        place.firing = True
        place.count += 1
        return [self._record(alert, bound, subject, place, "firing", now_ms)]

    def _well(
        self, alert: Alert, bound: Bound, subject: str, value: float | None, now_ms: int
    ) -> Sequence[AlertRecord]:
        place = self._places[alert.name, subject]
        self._dirty = True
        if place.bad_since_ms is not None:
            place.bad_since_ms, place.well_since_ms = None, now_ms
        if value is not None:
            place.value = value
        if not place.firing:
            if not place.count or self._gone(alert, place, now_ms):
                del self._places[alert.name, subject]
            return ()
        if place.count >= FLAPS_TOLD and not self._gone(alert, place, now_ms):
            return ()
        place.firing = False
        place.well_since_ms = now_ms
        return [self._record(alert, bound, subject, place, "resolved", now_ms)]

    def _gone(self, alert: Alert, place: _Place, now_ms: int) -> bool:
        """Return whether one that ended, or is well, has been so for long enough to be forgotten."""
        return (
            place.bad_since_ms is None
            and place.count > 0
            and now_ms - place.well_since_ms >= max(AGAIN_MS, alert.for_ms)
        )

    def _new_place(self, key: tuple[str, str], now_ms: int) -> _Place | None:
        """Return a new place; where there are too many, in that of one that is over, else none."""
        if len(self._places) >= PLACES_MAX:
            over = next((old for old, one in self._places.items() if one.count and not one.firing), None)
            if over is None:
                self._counts["alerts", f"{key[0]} left_out"] += 1
                return None
            del self._places[over]
        place = self._places[key] = _Place(now_ms, first_ms=now_ms)
        return place

    def _record(
        self, alert: Alert, bound: Bound, subject: str, place: _Place, state: AlertState, now_ms: int
    ) -> AlertRecord:
        meaning = SIGNALS[bound.signal]
        says, act = place.note or (meaning.meaning, meaning.act)
        of = f" of {subject}" if subject else ""
        beyond = "above" if bound.sign == ">" else "below"
        stands = f"{beyond} {bound.bound:g}" if state == "firing" else f"no longer {beyond} {bound.bound:g}"
        return AlertRecord(
            self._id(alert.name, subject, place),
            alert.name,
            state,
            "signal",
            alert.severity,
            now_ms,
            place.first_ms,
            alert.says or f"{bound.signal}{of} is {place.value:.6g}, {stands}: {says}",
            subject,
            place.value,
            float(bound.bound),
            place.count,
            meaning.costs,
            act,
            meaning.look,
            alert.runbook,
            alert.channels,
        )

    def _id(self, policy: str, subject: str, place: _Place) -> str:
        return f"{self._pipeline}:{policy}:{subject}:{place.first_ms}"

    # -- what stands -------------------------------------------------------------------------------------

    @property
    def firing(self) -> int:
        """Return how many fire."""
        return sum(place.firing for place in self._places.values())

    def open(self) -> Counter[str]:
        """Return how many fire, by policy; 0 for those that do not."""
        found = Counter({alert.name: 0 for alert, _ in self._bounds})
        for (policy, _), place in self._places.items():
            found[policy] += place.firing
        return found

    def subjects(self, policy: str) -> list[str]:
        """Return the subjects for which a policy fires."""
        return [subject for (name, subject), place in self._places.items() if name == policy and place.firing]

    def adopt(self, records: Iterable[AlertRecord]) -> None:
        """Go on with alerts as somebody else has told them, so that they keep their ids."""
        names = {alert.name for alert, _ in self._bounds}
        self._dirty = True
        for one in records:
            known = self._places.get((one.policy, one.subject))
            if known is not None and known.count:
                continue  # ours is as new
            if one.policy in names and one.kind == "signal" and len(self._places) < PLACES_MAX:
                firing = one.state == "firing"
                self._places[one.policy, one.subject] = _Place(
                    one.time if firing else None, one.time, one.since, one.count, firing, one.value or 0.0
                )

    def forget(self, which: Callable[[str], bool]) -> None:
        """Drop what is kept of subjects, without a word: somebody else watches them now."""
        self._places = {key: place for key, place in self._places.items() if not which(key[1])}
        self._dirty = True

    def follow(self, alerts: Sequence[Alert], now_ms: int) -> list[AlertRecord]:
        """Watch by other alerts from here on; what fires by one that is gone or another now is resolved."""
        now_ms = self._now_ms = max(now_ms, self._now_ms)
        kept = set(alerts)
        gone = {alert.name: (alert, bound) for alert, bound in self._bounds if alert not in kept}
        records = [
            self._record(*gone[policy], subject, place, "resolved", now_ms)
            for (policy, subject), place in self._places.items()
            if policy in gone and place.firing
        ]
        self._places = {key: place for key, place in self._places.items() if key[0] not in gone}
        self._take(alerts)
        self._dirty = True
        return records

    # -- state -------------------------------------------------------------------------------------------

    def snapshot(self) -> dict[str, bytes]:
        """Return the whole state."""
        places = [(policy, subject, place) for (policy, subject), place in self._places.items()]
        return {ENTRY: msgspec.msgpack.encode((self._now_ms, places))}

    def restore(self, entries: StateEntries) -> None:
        """Replace the whole state; checkpoints from before there were alerts have none."""
        self._now_ms, self._places = 0, {}
        if data := entries.get(ENTRY):
            self._now_ms, places = msgspec.msgpack.decode(
                data, type=tuple[int, list[tuple[str, str, _Place]]]
            )
            self._places = {(policy, subject): place for policy, subject, place in places}
        self._dirty = False
