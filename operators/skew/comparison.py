"""Served features beside their recomputation from the raw events, for a sample of keys.

Lives here: which keys are looked at, what of them is remembered, and when two values agree.  Never
here: what an aggregate is (`recompute.py`), what is kept of a key (`sample.py`), topics
(`engine/offline/skew.py`).

    events of one partition ------> entries of sampled keys ---> every value anew --.
    labels, in the order of time -> joined by event id ------^                       > match, mismatch,
    predictions: what was served ---------------------------------------------------'  missing, extra

One key of `one_in` is looked at, chosen by its checksum, for each key of the windows by itself.  What has no
key (`by()`, fields alone) is looked at in one event of `one_in`.  An event enters if it was answered.  What
cannot be said is counted as `unchecked` and never as skew:

- features with a lookup or sketches (`distinct`, quantiles in tiles and sessions), or that a rule may change;
- windows by other keys than the topic's where there are several partitions: their events lie elsewhere;
- late events; answers by another version of the features;
- what reaches back before the logs' first records, and keys with more than ENTRIES_MAX entries.

Labels: a worker answers with the labels that it has read by then.  So a feature over labels agrees if it is
what some beginning of the labels log, up to what was due at the event, gives; only the last TRIES_MAX of a
key are tried.  A label that was read only after its event had been given up is skew.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from heapq import heappop, heappush
from typing import Any, Final, Literal, NamedTuple

from operators.calculation import calculation
from operators.features import label_entry
from operators.language.fields import Aggregate, Expression, Lookup, nodes, windows_of
from operators.language.plan import FeaturePlan
from operators.language.window_kinds import Session
from operators.skew.recompute import Entry, Plain, is_plain, plain_value
from operators.skew.sample import ENTRIES_MAX, SampledGroup, SampledKey, in_sample
from topics.codec import Decoded
from topics.messages import FeatureValue, Label, LabelValue, Prediction

__all__ = ["UNKNOWN", "Found", "Outcome", "Scope", "Skew"]

Outcome = Literal["match", "mismatch", "missing", "extra", "unchecked"]
"""`missing`: it should have been served; `extra`: it should not."""

EARLY_MAX: Final = 100_000
"""Labels whose event has not come, or is not in the sample; the oldest go first."""
TRIES_MAX: Final = 64
"""Labels that may have come to the worker later than their time says, of one key."""
SWEEP_EVENTS: Final = 10_000
"""So often idle keys are forgotten."""
UNKNOWN: Final = "(unknown)"
"""Stands for all names that are not of the definition: a topic must not make metrics."""

_UNREAD: Final = -1
"""In place of a label's offset, where no record said it."""
_RELATIVE: Final = 1e-9


class Found(NamedTuple):
    """One feature of one event."""

    feature: str
    outcome: Outcome
    expected: FeatureValue | None = None
    served: FeatureValue | None = None


class Scope(NamedTuple):
    """What of a pipeline, besides its plan, decides which features can be told."""

    topic_key: str
    partitions: int
    wait_ms: int
    implicit: LabelValue | None = None
    changed: Collection[str] = ()
    """Features that a rule may change after they were computed."""
    labels_inside: bool = False


class _Waiting(NamedTuple):
    event_time: int
    keys: tuple[SampledKey | None, ...]
    """Per group the key, where labels are kept of it and it is in the sample."""
    value: Any
    """The user's event, where a window over labels has a condition."""


class Skew:
    """The sample of one partition.

    >>> import msgspec
    >>> from operators import by
    >>> from operators.language.plan import compile_features
    >>> class Payment(msgspec.Struct):
    ...     card: str
    >>> definition = {"n": by("card").count("1h")}
    >>> plan = compile_features(definition, Payment, grace_ms=0, max_events_per_key=9, task="binary")
    >>> skew = Skew(plan, Scope("card", 1, 1000))
    >>> for number, count in enumerate([1, 5]):
    ...     event = Decoded(str(number), number, "a", Payment("a"), None)
    ...     answer = Prediction(
    ...         "p", str(number), number, 0, "m", 1, 0, "", 0.5, None, "", {"n": count}, number, 1, number
    ...     )
    ...     print(skew.event(event, answer))
    [Found(feature='n', outcome='match', expected=1, served=1)]
    [Found(feature='n', outcome='mismatch', expected=2, served=5)]
    """

    def __init__(
        self, plan: FeaturePlan, scope: Scope, *, one_in: int = 1, complete_from_ms: int | None = None
    ) -> None:
        """`complete_from_ms` is the time of the first event where the logs do not begin with their first."""
        self._plan, self._scope, self._one_in = plan, scope, one_in
        entries_max = min(ENTRIES_MAX, plan.max_events_per_key)
        self.complete_from_ms = complete_from_ms
        self._groups: dict[tuple[tuple[str, ...], str], SampledGroup] = {}
        self._features: list[_Feature] = []
        for name, expression in plan.features:
            windows = windows_of(expression)
            for window in windows:
                place = (window.keys, window.source)
                group = SampledGroup(*place, one_in=one_in, entries_max=entries_max)
                self._groups.setdefault(place, group).reaches(window)
            self._features.append(_Feature(name, expression, windows, self._can_be_told(name, expression)))
        self._labelled = [group for group in self._groups.values() if group.source == "labels"]
        self._conditional = any(
            window.source == "labels" and window.where is not None
            for feature in self._features
            for window in feature.windows
        )
        self._time_max = -1
        self._events = 0
        self._seen: dict[str, _Waiting | None] = {}
        """Events of the sample within the horizon; None once they have their label."""
        self._order: list[tuple[int, str]] = []
        """Heap of (event time, event id)."""
        self._early: dict[str, Label] = {}

    @property
    def _watermark(self) -> int:
        return self._time_max - self._plan.grace_ms

    def _can_be_told(self, name: str, expression: Expression) -> bool:
        if name in self._scope.changed:
            return False
        for part in nodes(expression):
            if isinstance(part, Lookup):
                return False
            if isinstance(part, Aggregate) and not is_plain(part):
                return False
            if (
                isinstance(part, Aggregate)
                and self._scope.partitions > 1
                and self._scope.topic_key not in part.keys
            ):
                return False
        return True

    def event(self, event: Decoded, answer: Prediction | None, *, same_version: bool = True) -> list[Found]:
        """Take the next event of the log with what was served for it; return what was found of the sample.

        None: it was not answered, so it was refused, and changed nothing.
        """
        if answer is None or event.event_id in self._seen:
            return []
        self._events += 1
        if self._events % SWEEP_EVENTS == 0:
            for group in self._groups.values():
                group.sweep(self._watermark)
        time, value = event.event_time, event.value
        self._time_max = max(self._time_max, time)
        self._expire()
        too_old = time < self._watermark
        late = answer.late or too_old
        keys = {group: group.key_of(value) for group in self._groups.values()}
        told = [feature for feature in self._features if self._in_sample(feature, keys, event.event_id)]
        found: list[Found] = []
        if told:
            if late or not same_version:
                found = [Found(feature.name, "unchecked") for feature in told]
            else:
                found = self._compared(event, told, keys, answer.features)
        # With several partitions an event may be late for the windows of some key only; nobody says of which.
        doubtful = late and not too_old and self._scope.partitions > 1
        for group, key in keys.items():
            if key is None or group.source != "events":
                continue
            if doubtful:
                group.doubt(key, time)
            elif not late:
                group.enter(key, Entry(time, self._events, value), self._watermark)
        if any(key is not None for key in keys.values()) or told:
            self._wait(event, keys)
        return found

    def label(self, label: Label) -> None:
        """Take the next label, in its turn."""
        if not self._labelled or label.event_id in self._early:
            return
        if label.event_id not in self._seen:
            self._early[label.event_id] = label
            if len(self._early) > EARLY_MAX:
                del self._early[next(iter(self._early))]
            return
        waiting = self._seen[label.event_id]
        if waiting is not None and label.label_time <= waiting.event_time + self._scope.wait_ms:
            self._join(label.event_id, waiting, label.label, label.label_time, label.offset)

    # -- what is remembered -----------------------------------------------------------------------

    def _wait(self, event: Decoded, keys: Mapping[SampledGroup, SampledKey | None]) -> None:
        """Remember an event for its repeats and its label, which may be here already."""
        if event.event_time + self._scope.wait_ms < self._watermark:
            return  # beyond the horizon: answered, not joined
        value = event.value if self._conditional else None
        waiting = _Waiting(event.event_time, tuple(keys[group] for group in self._labelled), value)
        self._seen[event.event_id] = waiting
        heappush(self._order, (event.event_time, event.event_id))
        if event.label is not None:
            self._join(event.event_id, waiting, event.label, event.event_time, _UNREAD)
        elif (early := self._early.pop(event.event_id, None)) is not None:
            self.label(early)

    def _join(
        self, event_id: str, waiting: _Waiting, label: LabelValue, label_time: int, offset: int
    ) -> None:
        self._seen[event_id] = None
        value = label_entry(label)
        for group, key in zip(self._labelled, waiting.keys, strict=True):
            if key is not None:
                group.enter(key, Entry(label_time, offset, value, waiting.value), self._watermark)

    def _expire(self) -> None:
        """Forget events beyond the horizon; one without a label gets the implicit one, if there is one."""
        due = self._watermark - self._scope.wait_ms
        while self._order and self._order[0][0] < due:
            time, event_id = heappop(self._order)
            waiting = self._seen.pop(event_id)
            if waiting is not None and self._scope.implicit is not None:
                deadline = time + self._scope.wait_ms
                self._join(event_id, waiting, self._scope.implicit, deadline, _UNREAD)
                del self._seen[event_id]
        for event_id, label in list(self._early.items()):
            if label.label_time >= due:
                break  # nearly in order: the rest is looked at later
            del self._early[event_id]

    # -- what is compared -------------------------------------------------------------------------

    def _in_sample(
        self, feature: _Feature, keys: Mapping[SampledGroup, SampledKey | None], event_id: str
    ) -> bool:
        if not any(window.keys for window in feature.windows):
            return in_sample((event_id,), self._one_in)
        return all(keys[self._groups[w.keys, w.source]] is not None for w in feature.windows)

    def _compared(
        self,
        event: Decoded,
        told: list[_Feature],
        keys: Mapping[SampledGroup, SampledKey | None],
        served: Mapping[str, FeatureValue],
    ) -> list[Found]:
        sure = [feature for feature in told if self._is_known(feature, event.event_time, keys)]
        found = {feature.name: Found(feature.name, "unchecked") for feature in told}
        of_labels = [feature for feature in sure if feature.of_labels]
        for feature in sure:
            found[feature.name] = self._outcome(feature, event, keys, served, None)
        odd = any(found[feature.name].outcome != "match" for feature in of_labels)
        if odd and not self._scope.labels_inside:
            for before in self._beginnings(of_labels, event.event_time, keys):
                tried = [self._outcome(feature, event, keys, served, before) for feature in of_labels]
                if all(one.outcome == "match" for one in tried):
                    found.update((one.feature, one) for one in tried)
                    break
        names = {feature.name for feature in self._features}
        unknown = [Found(UNKNOWN, "extra", None, served[name]) for name in served if name not in names]
        return [*found.values(), *unknown]

    def _is_known(self, feature: _Feature, time: int, keys: Mapping[SampledGroup, SampledKey | None]) -> bool:
        if not feature.can_be_told:
            return False
        for window in feature.windows:
            group = self._groups[window.keys, window.source]
            key = keys[group]
            if key is not None and not group.is_known(key, time):
                return False
            if self.complete_from_ms is None:
                continue
            reach_ms = window.reach_ms + (self._scope.wait_ms if window.source == "labels" else 0)
            if (
                isinstance(window.span, Session)
                or time - reach_ms - self._plan.grace_ms < self.complete_from_ms
            ):
                return False
        return True

    def _beginnings(
        self, features: list[_Feature], time: int, keys: Mapping[SampledGroup, SampledKey | None]
    ) -> Iterator[int]:
        """Return the offsets before which the labels read may have ended, the newest first."""
        groups = {self._groups[w.keys, w.source] for f in features for w in f.windows if w.source == "labels"}
        numbers = {
            entry.number
            for group in groups
            for entry in group.entries.get(keys[group] or (), ())
            if entry.time <= time and entry.number != _UNREAD
        }
        return iter(sorted(numbers, reverse=True)[:TRIES_MAX])

    def _outcome(
        self,
        feature: _Feature,
        event: Decoded,
        keys: Mapping[SampledGroup, SampledKey | None],
        served: Mapping[str, FeatureValue],
        before: int | None,
    ) -> Found:
        """Compare one feature, by the labels before offset `before` (None: all)."""
        parts: list[Plain] = []
        for window in feature.windows:
            group = self._groups[window.keys, window.source]
            entries = group.entries.get(keys[group] or (), [])
            if group.source == "events":
                parts.append(plain_value(window, entries, event.event_time, event.value))
            else:
                if before is not None:
                    entries = [entry for entry in entries if entry.number < before]
                parts.append(plain_value(window, entries, event.event_time))
        values = {number: part.value for number, part in enumerate(parts) if part.value is not None}
        expected = feature.evaluate(event.value, values, {})
        slack = sum(part.slack for part in parts)
        name = feature.name
        return Found(name, _agreement(expected, served.get(name), slack), expected, served.get(name))


class _Feature:
    """One feature and what it reads."""

    def __init__(
        self, name: str, expression: Expression, windows: tuple[Aggregate, ...], can_be_told: bool
    ) -> None:
        self.name = name
        self.windows = windows
        self.can_be_told = can_be_told
        self.of_labels = any(window.source == "labels" for window in windows)
        self.evaluate = calculation(expression, {window: number for number, window in enumerate(windows)})


def _agreement(expected: FeatureValue | None, served: FeatureValue | None, slack: float) -> Outcome:
    """Return whether two values agree: to the bit, or within `slack` where it is not 0."""
    if expected is None or served is None:
        return "match" if expected is served else "missing" if served is None else "extra"
    if expected == served:
        return "match"
    if not slack or isinstance(expected, str) or isinstance(served, str):
        return "mismatch"
    return "match" if abs(expected - served) <= slack + _RELATIVE * abs(expected) else "mismatch"
