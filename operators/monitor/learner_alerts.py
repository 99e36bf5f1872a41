"""The alerts that follow from the log: what the learner knows, looked at in label time.

Lives here: loss against a reference, the prior's share, who is quarantined, which shift is open; when they
are looked at.  Never here: when an alert begins and ends (`alerts.py`), the signals of other monitors (they
hand in theirs).

Signals are looked at after every `LOOK_EXAMPLES` examples, after every `LOOK_MS` of label time, and at every
decision: places in the log, so that however it is cut into batches, and whoever folds it, the same is told.

Signals of other monitors are read at stops of every `MORE_EVERY` examples, where all have seen the same.

Both means of the loss fade: a value counts 1/n of the mean, with n growing to `RECENT` and `REFERENCE`.  What
is compared is not the recent mean but what it is at least, `CHANCE` deviations below: as far as it is usual
that it lies from the reference, be that because losses of few rows vary much (rare classes) or because bad
days come and go (`python -m loadtest.false_alerts` counts what is told where nothing is worse).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from math import sqrt
from typing import Final

import msgspec

from operators.language.alerts import Alert, Bound
from operators.models.scoring import Roster
from operators.monitor.alerts import AlertBook, Note, Readings
from operators.race.arena import Moment
from operators.race.losses import Losses
from operators.state import StateEntries, WholeState
from topics.messages import AlertRecord, Decision, Example

__all__ = ["LearnerAlerts"]

LOOK_EXAMPLES: Final = 64
LOOK_MS: Final = 60_000
MORE_EVERY: Final = 1_024
OWN: Final = frozenset({"loss_ratio", "prior_share", "quarantined", "shift"})
RECENT: Final = 1_000
REFERENCE: Final = 20_000
CHANCE: Final = 4.0
USUAL: Final = 100_000
"""Examples over which it is learned how far the recent mean usually lies above the reference."""
JUDGED_MIN: Final = 5_000
"""Examples before a loss is compared: at first it falls, and means of few tell nothing."""
PRIOR_SPAN: Final = 500
PRIOR_MIN: Final = 1_000
"""At first the prior answers until models have learned something."""
TOLD_MAX: Final = 10_000
"""Records that wait for somebody to take them."""
ENTRY = "alert-signals"

MoreSignals = Callable[[], Mapping[str, float | Mapping[str, float]]]


class _Shift(msgspec.Struct, array_like=True):
    """A shift that is open."""

    found: str
    """The verdict at first: its alert is known by that, whatever it turns out to be."""
    note: Note


class _Means(msgspec.Struct, array_like=True):
    """What the signals of the learner are made of."""

    examples: int = 0
    recent: float = 0.0
    reference: float = 0.0
    judged: int = 0
    """Examples whose loss is in the means."""
    prior: float = 0.0
    due_ms: int = 0
    """Label time from which on signals are looked at again."""
    shift: _Shift | None = None
    """What is open now; a race has one at a time."""
    more: dict[str, dict[str, float]] = {}
    """Signals of other monitors at the last stop, by name and subject."""
    squared: float = 0.0
    """Mean of the squared loss, as the reference's."""
    apart: float = 0.0
    """Mean of the squared distance by which the recent loss lies above the reference; 0 where below."""


class LearnerAlerts(WholeState):
    """The signals of one race, and the alerts about them; an observer of its examples."""

    def __init__(
        self,
        pipeline: str,
        alerts: Sequence[Alert],
        roster: Roster,
        counts: Counter[tuple[str, str]],
        more: MoreSignals = dict,
    ) -> None:
        """`more` returns the signals of other monitors."""
        self._roster = roster
        self._counts = counts
        self._more = more
        self.book = AlertBook(pipeline, alerts, counts)
        self.told: list[AlertRecord] = []
        """Records that nobody has taken yet."""
        self._means = _Means()
        self._time = 0

    @property
    def stops(self) -> Sequence[int]:
        """Return when it reads what other monitors see, if an alert is about that."""
        others = [
            one for one in self.book.alerts if isinstance(one.when, Bound) and one.when.signal not in OWN
        ]
        return (MORE_EVERY,) if others else ()

    def take(self) -> list[AlertRecord]:
        """Return the records since the last call."""
        told, self.told = self.told, []
        return told

    # -- an observer of the race ---------------------------------------------------------------------

    def observe(self, examples: Sequence[Example], tested: Sequence[Losses]) -> None:
        """Take note of examples that were learned, with their losses."""
        means, self._dirty = self._means, True
        for example, (served, _) in zip(examples, tested, strict=True):
            means.examples += 1
            is_prior = example.served_by == "prior"
            means.prior += (is_prior - means.prior) / min(means.examples, PRIOR_SPAN)
            if served is not None and not is_prior:
                means.judged += 1
                means.recent += (served - means.recent) / min(means.judged, RECENT)
                means.reference += (served - means.reference) / min(means.judged, REFERENCE)
                means.squared += (served * served - means.squared) / min(means.judged, REFERENCE)
                apart = max(means.recent - means.reference, 0.0)  # that it falls at first says nothing
                means.apart += (apart * apart - means.apart) / min(means.judged, USUAL)
            self._time = max(self._time, example.label_time)
            if not means.due_ms:
                means.due_ms = self._time + LOOK_MS
            if self._time >= means.due_ms or not means.examples % LOOK_EXAMPLES:
                means.due_ms = self._time + LOOK_MS
                self._look(self._time)

    def stop(self, at: Moment) -> list[Decision]:
        """Read what other monitors see."""
        if self.stops and not at.examples % MORE_EVERY:
            self._dirty = True
            self._means.more = {
                name: dict(value) if isinstance(value, Mapping) else {"": value}
                for name, value in self._more().items()
            }
            self._look(self._time)
        return []

    def forget(self, _name: str) -> None:
        """Do nothing: who has left the race is quarantined no more."""

    def decided(self, decisions: Sequence[Decision]) -> None:
        """Take note of decisions, in their order."""
        means, self._dirty = self._means, True
        for decision in decisions:
            if decision.type == "shift.found":
                found = str(decision.evidence["verdict"])
                means.shift = _Shift(found, _note(found, decision))
            elif decision.type == "shift.updated" and means.shift is not None:
                means.shift.note = _note(means.shift.found, decision)
            elif decision.type == "shift.ended":
                means.shift = None
            self._tell(self.book.told(decision))
            self._time = max(self._time, decision.time)
        self._look(self._time)

    def other_loss(self) -> None:
        """Begin the comparison of losses anew: they are measured in another way from here on."""
        means = self._means
        means.recent = means.reference = means.squared = means.apart = 0.0
        self._means.judged, self._dirty = 0, True

    def follow(self, alerts: Sequence[Alert], now_ms: int) -> None:
        """Watch by other alerts from here on."""
        self._tell(self.book.follow(alerts, now_ms))

    def _look(self, now_ms: int) -> None:
        shift = self._means.shift
        notes = {"shift": {shift.found: shift.note}} if shift is not None else {}
        self._tell(self.book.read(now_ms, self.readings(), notes))

    def _tell(self, records: list[AlertRecord]) -> None:
        room = TOLD_MAX - len(self.told)
        for one in records[room:]:
            self._counts["alerts", f"{one.policy} left_out"] += 1
        self.told += records[:room]

    def readings(self) -> Readings:
        """Return the signals as they are now."""
        means = self._means
        found: dict[str, Mapping[str, float]] = {
            "quarantined": dict.fromkeys(sorted(self._roster.quarantined), 1.0),
            "shift": {means.shift.found: 1.0} if means.shift is not None else {},
        }
        if means.examples >= PRIOR_MIN:
            found["prior_share"] = {"": means.prior}
        if means.judged >= JUDGED_MIN and means.reference > 0:
            found["loss_ratio"] = {"": surely(means)}
        return found | means.more

    # -- state ---------------------------------------------------------------------------------------

    def snapshot(self) -> dict[str, bytes]:
        """Return the whole state."""
        return self.book.snapshot() | {ENTRY: msgspec.msgpack.encode((self._time, self._means))}

    def restore(self, entries: StateEntries) -> None:
        """Replace the whole state; checkpoints from before there were alerts have none."""
        self.book.restore(entries)
        self.told.clear()
        self._time, self._means = 0, _Means()
        if data := entries.get(ENTRY):
            self._time, self._means = msgspec.msgpack.decode(data, type=tuple[int, _Means])
        self._dirty = False


def surely(means: _Means) -> float:
    """Return how many times the reference loss the recent one is at least.

    >>> surely(_Means(recent=0.4, reference=0.2, squared=0.04))  # all alike: nothing is chance
    2.0
    >>> surely(_Means(recent=0.4, reference=0.2, squared=0.04, apart=0.0025))  # it comes and goes
    1.0
    >>> round(surely(_Means(recent=0.02, reference=0.01, squared=0.01)), 2)  # few rows have all the loss
    1.11
    """
    of_rows = (means.squared - means.reference**2) / (2 * RECENT - 1)
    chance = CHANCE * sqrt(max(of_rows, means.apart))
    return max(means.recent - chance, 0.0) / means.reference


def _note(found: str, decision: Decision) -> Note:
    """Return what an alert says of a shift, out of its newest decision.

    >>> from msgspec.structs import replace
    >>> evidence = {"verdict": "concept_drift", "true_loss": 0.25, "act": "x"}
    >>> said = Decision("p:0:1:0", "shift.updated", 9, "m", 1, 0, "", "", 1, evidence=evidence)
    >>> _note("label_shift", replace(said, features=["a"]))
    Note(says='found as label_shift, now concept_drift; features a; true_loss 0.25', act='x')
    """
    evidence = decision.evidence
    verdict = str(evidence["verdict"])
    parts = [verdict if verdict == found else f"found as {found}, now {verdict}"]
    if decision.features:
        parts.append(f"features {', '.join(decision.features)}")
    losses = ("reference_loss", "estimated_loss", "true_loss")
    parts += [f"{name} {evidence[name]:.6g}" for name in losses if name in evidence]
    return Note("; ".join(parts), str(evidence.get("act", "")))
