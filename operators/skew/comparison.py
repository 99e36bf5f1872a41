"""The comparison of served features with their recomputation from the raw events, for a sample of keys.

Lives here: which features of which events are compared, the labels that had come by then, and when two values
agree.  Never here: the windows of sampled keys (`sample.py`), topics (`engine/offline/skew.py`).

    events of one partition ------> windows of sampled keys ----> every value again --.
    labels, in the order of time -> joined by event id -----^                          > match, mismatch,
    predictions: what was served -----------------------------------------------------'  missing, extra

One key of `one_in` is looked at, chosen by its checksum, for each key of the windows by itself.  What has no
key (`by()`, fields alone) is looked at in one event of `one_in`.  An event enters if it was answered.  What
cannot be said is counted as `unchecked` and never as skew:

- features with a lookup or sketches (`distinct`, quantiles in tiles and sessions), or that a rule may change;
- windows by other keys than the topic's where there are several partitions: their events lie elsewhere;
- late events; answers by another version of the features;
- what reaches back before the logs' first records, and what is beyond the limits of `sample.py`.

Labels: a worker answers with the labels that it has read by then.  So a feature over labels agrees if it is
what some beginning of the labels log, up to what was due at the event, gives; only the last TRIES_MAX of a
key are tried.  A label that was read only after its event had been given up is skew.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from heapq import heappop, heappush
from typing import Final, Literal, NamedTuple

from operators.join.join import EARLY_MAX
from operators.language.expressions import Expression
from operators.language.fields import Aggregate, Lookup, nodes, windows_of
from operators.language.plan import FeaturePlan
from operators.language.window_kinds import Decay, Session, Tiled
from operators.skew.sample import UNREAD, AggregateValues, SampledKey, SampledLabel, SampledWindows, in_sample
from operators.windows.evaluate import calculation
from operators.windows.features import JoinedLabel, label_entry
from topics.codec import Decoded
from topics.messages import Event, FeatureValue, Label, LabelValue, Prediction

__all__ = ["UNKNOWN", "FeatureCheck", "Outcome", "Scope", "Skew"]

Outcome = Literal["match", "mismatch", "missing", "extra", "unchecked"]
"""`missing`: it should have been served; `extra`: it should not."""

TRIES_MAX: Final = 64
"""Labels that may have come to the worker later than their time says, of one key."""
SWEEP_EVENTS: Final = 10_000
"""Events between two removals of idle keys."""
UNKNOWN: Final = "(unknown)"
"""Stands for all names that are not of the definition: a topic must not make metrics."""
RELATIVE: Final = 1e-9
"""How far apart two values may be that are made of sums."""

_SKETCHED: Final = frozenset(("distinct", "median", "quantile"))
"""Aggregates that are estimates in tiles and sessions."""
_SUMMED: Final = frozenset(("sum", "mean", "var", "std", "entropy", "median", "quantile"))
"""Aggregates that are calculated, in which another machine may round otherwise."""

Keys = Mapping[SampledWindows, SampledKey | None]
"""The key of one event in each of the windows, None where it is not in the sample."""


class FeatureCheck(NamedTuple):
    """The comparison of one feature of one event."""

    feature: str
    outcome: Outcome
    expected: FeatureValue | None = None
    served: FeatureValue | None = None


class Scope(NamedTuple):
    """The parts of a pipeline, besides its plan, that decide which features can be compared."""

    topic_key: str
    partitions: int
    wait_ms: int
    implicit: LabelValue | None = None
    changed: Collection[str] = ()
    """Features that a rule may change after they were computed."""
    labels_inside: bool = False


class _Waiting(NamedTuple):
    """An event that waits for its label."""

    event_time: int
    keys: tuple[tuple[SampledKey, tuple[str | None, ...]] | None, ...]
    """For each window over labels: the event's key, and the keys of its label; None: not in the sample."""


class _Feature(NamedTuple):
    """One feature and what it reads."""

    name: str
    expression: Expression
    reads: tuple[tuple[SampledWindows, Aggregate], ...]
    is_comparable: bool

    @property
    def of_labels(self) -> bool:
        """Return whether it reads windows over labels."""
        return any(windows.source == "labels" for windows, _ in self.reads)

    @property
    def is_summed(self) -> bool:
        """Return whether it reads an aggregate that is calculated."""
        return any(one.function in _SUMMED or isinstance(one.span, Decay) for _, one in self.reads)


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
    [FeatureCheck(feature='n', outcome='match', expected=1, served=1)]
    [FeatureCheck(feature='n', outcome='mismatch', expected=2, served=5)]
    """

    def __init__(
        self, plan: FeaturePlan, scope: Scope, *, one_in: int = 1, complete_from_ms: int | None = None
    ) -> None:
        """`complete_from_ms` is the time of the first event where the logs do not begin with their first."""
        self._plan, self._scope, self._one_in = plan, scope, one_in
        self.complete_from_ms = complete_from_ms
        numbers = {aggregate: number for number, aggregate in enumerate(plan.group_of)}
        windows = {
            (keys, source): SampledWindows(plan, keys, source, numbers, one_in=one_in)
            for keys, source in dict.fromkeys((group.keys, group.source) for group in plan.groups)
        }
        self._windows = tuple(windows.values())
        self._labelled = [one for one in self._windows if one.source == "labels"]
        self._features = [
            _Feature(
                name,
                expression,
                tuple((windows[one.keys, one.source], one) for one in windows_of(expression)),
                self._is_comparable(name, expression),
            )
            for name, expression in plan.features
        ]
        self._evaluate = {name: calculation(expression, numbers) for name, expression in plan.features}
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

    def _is_comparable(self, name: str, expression: Expression) -> bool:
        if name in self._scope.changed:
            return False
        for part in nodes(expression):
            if isinstance(part, Lookup):
                return False
            if not isinstance(part, Aggregate):
                continue
            if part.function in _SKETCHED and isinstance(part.span, Tiled | Session):
                return False
            if self._scope.partitions > 1 and self._scope.topic_key not in part.keys:
                return False
        return True

    def event(
        self, event: Decoded, answer: Prediction | None, *, same_version: bool = True
    ) -> list[FeatureCheck]:
        """Take the next event of the log and its answer; return the comparisons of its sampled features.

        None: it was not answered, so it was refused, and changed nothing.
        """
        if answer is None or event.event_id in self._seen:
            return []
        self._events += 1
        if self._events % SWEEP_EVENTS == 0:
            for windows in self._windows:
                windows.sweep(self._watermark)
        time, value = event.event_time, event.value
        self._time_max = max(self._time_max, time)
        self._expire()
        too_old = time < self._watermark
        late = answer.late or too_old
        keys = {windows: windows.key_of(value) for windows in self._windows}
        sampled = [feature for feature in self._features if self._in_sample(feature, keys, event.event_id)]
        admitted = Event(event.event_id, time, event.key, value, self._events, self._watermark, late)
        outcomes: list[FeatureCheck] = []
        if not late:
            values = self._enter(admitted, keys)
            if sampled and same_version:
                outcomes = self._compared(admitted, sampled, keys, values, answer.features)
        elif not too_old and self._scope.partitions > 1:
            # With several partitions it may be late for the windows of some key only; nobody says of which.
            for windows, key in keys.items():
                if key is not None and windows.source == "events":
                    windows.doubt(key, time)
        if any(key is not None for key in keys.values()) or sampled:
            self._wait(event, admitted, keys)
        return outcomes or [FeatureCheck(feature.name, "unchecked") for feature in sampled]

    def move(self, time: int) -> None:
        """Move the watermark as an event of this time would, which a record among the events asks for."""
        self._time_max = max(self._time_max, time)
        self._expire()

    def label(self, label: Label) -> None:
        """Take the next label, in the order of time."""
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

    def _enter(self, event: Event, keys: Keys) -> AggregateValues:
        """Enter an event into the windows of its sampled keys; return the values of all their aggregates."""
        values: AggregateValues = {}
        for windows, key in keys.items():
            if key is not None:
                values |= windows.take(key, event) if windows.source == "events" else windows.read(event)
        return values

    def _wait(self, event: Decoded, admitted: Event, keys: Keys) -> None:
        """Keep an event for its repeats and its label; enter the label if it came before."""
        if event.event_time + self._scope.wait_ms < self._watermark:
            return  # beyond the horizon: answered, not joined
        waiting = _Waiting(
            event.event_time,
            tuple(
                None if (key := keys[windows]) is None else (key, windows.label_keys(admitted))
                for windows in self._labelled
            ),
        )
        self._seen[event.event_id] = waiting
        heappush(self._order, (event.event_time, event.event_id))
        if event.label is not None:
            self._join(event.event_id, waiting, event.label, event.event_time, UNREAD)
        elif (early := self._early.pop(event.event_id, None)) is not None:
            self.label(early)

    def _join(
        self, event_id: str, waiting: _Waiting, label: LabelValue, label_time: int, offset: int
    ) -> None:
        self._seen[event_id] = None
        value = label_entry(label)
        for windows, label_key in zip(self._labelled, waiting.keys, strict=True):
            if label_key is not None:
                key, label_keys = label_key
                joined = JoinedLabel(label_keys, label_time, value)
                windows.enter(key, SampledLabel(offset, self._watermark, joined))

    def _expire(self) -> None:
        """Remove events beyond the horizon; enter the implicit label, if any, of one without a label."""
        due = self._watermark - self._scope.wait_ms
        while self._order and self._order[0][0] < due:
            time, event_id = heappop(self._order)
            waiting = self._seen.pop(event_id)
            if waiting is not None and self._scope.implicit is not None:
                deadline = time + self._scope.wait_ms
                self._join(event_id, waiting, self._scope.implicit, deadline, UNREAD)
                del self._seen[event_id]
        for event_id, label in list(self._early.items()):
            if label.label_time >= due:
                break  # nearly in order: the rest is looked at later
            del self._early[event_id]

    # -- what is compared -------------------------------------------------------------------------

    def _in_sample(self, feature: _Feature, keys: Keys, event_id: str) -> bool:
        if not any(aggregate.keys for _, aggregate in feature.reads):
            return in_sample((event_id,), self._one_in)
        return all(keys[windows] is not None for windows, _ in feature.reads)

    def _compared(
        self,
        event: Event,
        sampled: list[_Feature],
        keys: Keys,
        values: AggregateValues,
        served: Mapping[str, FeatureValue],
    ) -> list[FeatureCheck]:
        sure = [feature for feature in sampled if self._is_complete(feature, event.event_time, keys)]
        outcomes = {feature.name: FeatureCheck(feature.name, "unchecked") for feature in sampled}
        of_labels = [feature for feature in sure if feature.of_labels]
        outcomes.update((feature.name, self._outcome(feature, event, values, served)) for feature in sure)
        odd = any(outcomes[feature.name].outcome != "match" for feature in of_labels)
        if odd and not self._scope.labels_inside:
            for before in self._beginnings(of_labels, event, keys, values):
                tried = [self._outcome(feature, event, before, served) for feature in of_labels]
                if all(one.outcome == "match" for one in tried):
                    outcomes.update((one.feature, one) for one in tried)
                    break
        names = {feature.name for feature in self._features}
        unknown = [FeatureCheck(UNKNOWN, "extra", None, served[name]) for name in served if name not in names]
        return [*outcomes.values(), *unknown]

    def _is_complete(self, feature: _Feature, time: int, keys: Keys) -> bool:
        if not feature.is_comparable:
            return False
        for windows, aggregate in feature.reads:
            key = keys[windows]
            if key is not None and not windows.is_complete(key, time):
                return False
            if self.complete_from_ms is None:
                continue
            reach_ms = aggregate.reach_ms + (self._scope.wait_ms if windows.source == "labels" else 0)
            if (
                isinstance(aggregate.span, Session)
                or time - reach_ms - self._plan.grace_ms < self.complete_from_ms
            ):
                return False
        return True

    def _beginnings(
        self, features: list[_Feature], event: Event, keys: Keys, values: AggregateValues
    ) -> Iterator[AggregateValues]:
        """Yield the values by each beginning of the labels log that may have been read, the longest first."""
        read = {
            windows: key
            for feature in features
            for windows, _ in feature.reads
            if windows.source == "labels" and (key := keys[windows]) is not None
        }
        offsets = {
            offset for windows, key in read.items() for offset in windows.offsets(key, event.event_time)
        }
        numbers = {number for windows in read for number in windows.numbers}
        others = {number: value for number, value in values.items() if number not in numbers}
        for offset in sorted(offsets, reverse=True)[:TRIES_MAX]:
            before = others.copy()
            for windows, key in read.items():
                before |= windows.read_before(key, event, offset)
            yield before

    def _outcome(
        self, feature: _Feature, event: Event, values: AggregateValues, served: Mapping[str, FeatureValue]
    ) -> FeatureCheck:
        """Return how the served value of a feature compares with that computed from `values`."""
        name = feature.name
        expected, given = self._evaluate[name](event.value, values, {}), served.get(name)
        return FeatureCheck(name, _agreement(expected, given, is_summed=feature.is_summed), expected, given)


def _agreement(expected: FeatureValue | None, served: FeatureValue | None, *, is_summed: bool) -> Outcome:
    """Return whether two values agree: to the bit, or within RELATIVE where sums are in it."""
    if expected is None or served is None:
        return "match" if expected is served else "missing" if served is None else "extra"
    if expected == served:
        return "match"
    if not is_summed or isinstance(expected, str) or isinstance(served, str):
        return "mismatch"
    return "match" if math.isclose(expected, served, rel_tol=RELATIVE) else "mismatch"
