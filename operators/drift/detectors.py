"""Drift detection: whether the champion's loss, the labels or a feature have changed.

Lives here: River's detectors, fed one example at a time, and the direction of what they see.
Never here: reactions (`arena.py`); drift is an alarm, never a swap.

Strategy: River's detectors reset themselves on the update after a detection, so `drift_detected`
is read right after `update` and counted here.  They fire on a fall as on a rise; the mean of the
last values against the mean of those before tells which, and a loss that fell is good news.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import msgspec
from river.base import BinaryDriftDetector, DriftDetector

from operators.state import StateDelta, StateEntries, WholeState
from topics.errors import DefinitionError
from topics.messages import Example, FeatureValue, LabelValue

__all__ = ["FEATURE", "Detection", "Detectors", "Drift"]

RECENT_MAX = 128
"""Values that count as recent: as many as River's detectors take to see a doubled error rate."""
FEATURE = "feature:"
"""Stands before a feature's name in `Drift.on`."""


@dataclass(frozen=True)
class Drift:
    """One River detector and what it watches.

    `detector`
        Any of `river.drift`, cloned; those of `river.drift.binary` see right and wrong answers instead of
        losses.
    `on`
        `"loss"` (the present champion's: concept drift), `"label"` (a class given as 1 or 0, or the number:
        label drift) or `"feature:NAME"` (a numeric feature as served: covariate drift).
    `then`
        What an alarm does: `"tell"`, or `"pause"`, which stops learning and swaps behind the example that
        raised it, until a person types `headrace models resume`.  A loss that fell pauses nothing.
    """

    detector: DriftDetector | BinaryDriftDetector
    on: str = "loss"
    then: Literal["tell", "pause"] = field(default="tell", metadata={"untold": True})

    def __post_init__(self) -> None:
        """Refuse a subject that does not exist.  Raises DefinitionError."""
        if self.on not in {"loss", "label"} and not self.on.startswith(FEATURE):
            raise DefinitionError(
                f"drift cannot watch `{self.on}`", hint='use "loss", "label" or "feature:NAME"'
            )
        if self.then not in {"tell", "pause"}:
            raise DefinitionError(f"an alarm of drift cannot `{self.then}`", hint='use "tell" or "pause"')


class Detection(NamedTuple):
    """One alarm."""

    detector: str
    on: str
    improved: bool
    """Whether it is a loss that fell, which is good news."""
    before: float
    """Mean of the values since the last alarm, the recent ones left out."""
    after: float
    """Mean of the recent values."""
    examples: int
    """Values seen since the last alarm."""
    detections: int
    """Alarms of this detector so far, this one included."""
    pauses: bool = False
    """Whether it stops learning."""


class _Fed:
    """One detector, and the values that tell a rise from a fall."""

    def __init__(self, drift: Drift) -> None:
        self.drift = drift
        self.name = type(drift.detector).__name__
        self.errors = isinstance(drift.detector, BinaryDriftDetector)
        self.feature = drift.on.removeprefix(FEATURE) if drift.on.startswith(FEATURE) else None
        self.detections = 0
        self.renew()

    def renew(self) -> None:
        """Replace the detector by a fresh one."""
        self.detector: Any = self.drift.detector.clone()
        self.update: Callable[[Any], None] = self.detector.update
        self.start_over()

    def start_over(self) -> None:
        self.total = 0.0
        self.count = 0
        self.recent: deque[float] = deque(maxlen=RECENT_MAX)

    def see(self, value: float) -> Detection | None:
        """Feed one value; return the alarm it raised, if any."""
        self.total += value
        self.count += 1
        self.recent.append(value)
        self.update(bool(value) if self.errors else value)
        if not self.detector.drift_detected:
            return None
        self.detections += 1
        before, after = self._means()
        improved = self.drift.on == "loss" and after < before
        pauses = self.drift.then == "pause" and not improved
        detection = Detection(
            self.name, self.drift.on, improved, before, after, self.count, self.detections, pauses
        )
        self.start_over()
        return detection

    def _means(self) -> tuple[float, float]:
        """Return the means of earlier and of recent values; of the two halves if there are few values."""
        values = list(self.recent)
        cut = len(values) // 2 if self.count < 2 * RECENT_MAX else 0
        after = math.fsum(values[cut:])
        size = len(values) - cut
        before = (self.total - after) / (self.count - size) if self.count > size else after / size
        return before, after / size


class _FedState(msgspec.Struct):
    detector: bytes
    detections: int
    total: float
    count: int
    recent: list[float]


class Detectors(WholeState):
    """All detectors of a pipeline.

    `dump` and `load` turn River's detectors into bytes and back.

    >>> import pickle
    >>> from river import drift
    >>> detectors = Detectors([Drift(drift.ADWIN())], pickle.dumps, pickle.loads)
    >>> for n in range(2_000):
    ...     for alarm in detectors.update_loss(0.1 if n < 1_000 else 0.6, wrong=n >= 1_000):
    ...         print(n, alarm.detector, alarm.improved, round(alarm.before, 2))
    1023 ADWIN False 0.1
    """

    def __init__(
        self, drifts: Sequence[Drift], dump: Callable[[Any], bytes], load: Callable[[bytes], Any]
    ) -> None:
        self._dump, self._load = dump, load
        self._fed: list[_Fed] = []
        self._entries = 0
        """Detectors that the last delta or the restored state holds."""
        self.change(drifts, [None] * len(drifts))

    def change(self, drifts: Sequence[Drift], kept: Sequence[int | None]) -> None:
        """Watch by these detectors from here on; `kept` numbers the one before that each is, or none."""
        before = self._fed
        self._fed = [
            _Fed(drift) if number is None else before[number]
            for drift, number in zip(drifts, kept, strict=True)
        ]
        self._dirty = True
        self.pauses = any(drift.then == "pause" for drift in drifts)
        """Whether an alarm of one of them stops learning."""
        self._on_loss = [one for one in self._fed if one.drift.on == "loss"]
        self._on_label = [one for one in self._fed if one.drift.on == "label"]
        self._on_feature = [(one, one.feature) for one in self._fed if one.feature is not None]

    @property
    def detections(self) -> dict[tuple[str, str], int]:
        """Return the number of alarms so far by (detector, what it watches)."""
        return {(one.name, one.drift.on): one.detections for one in self._fed}

    def update(self, example: Example, loss: float | None, *, wrong: bool) -> list[Detection]:
        """Feed one example; `loss` is the present champion's, `wrong` whether its label was."""
        self._dirty = True
        alarms = [] if loss is None else self.update_loss(loss, wrong=wrong)
        if self._on_label:
            number = _number(example.label)
            if number is not None:
                alarms += [alarm for one in self._on_label if (alarm := one.see(number)) is not None]
        for one, feature in self._on_feature:
            number = _number(example.features.get(feature))
            if number is not None and (alarm := one.see(number)) is not None:
                alarms.append(alarm)
        return alarms

    def update_loss(self, loss: float, *, wrong: bool) -> list[Detection]:
        """Feed the champion's loss on one example."""
        self._dirty = True
        alarms = []
        for one in self._on_loss:
            alarm = one.see(float(wrong) if one.errors else loss)
            if alarm is not None:
                alarms.append(alarm)
        return alarms

    def start_over(self) -> None:
        """Replace the loss detectors by fresh ones: another champion's loss is another stream."""
        for one in self._on_loss:
            one.renew()
        self._dirty = True

    def snapshot(self) -> dict[str, bytes]:
        """Return the whole state, one entry per detector."""
        return {
            f"drift/{number}": msgspec.msgpack.encode(
                _FedState(self._dump(one.detector), one.detections, one.total, one.count, list(one.recent))
            )
            for number, one in enumerate(self._fed)
        }

    def delta(self) -> StateDelta:
        """Return the whole state if it changed since the last call."""
        gone: StateDelta = {f"drift/{number}": None for number in range(len(self._fed), self._entries)}
        self._entries = len(self._fed)
        return gone | super().delta()

    def restore(self, entries: StateEntries) -> None:
        """Replace the whole state."""
        self._entries = len(self._fed)
        for number, one in enumerate(self._fed):
            state = msgspec.msgpack.decode(entries[f"drift/{number}"], type=_FedState)
            one.detector = self._load(state.detector)
            one.update = one.detector.update
            one.detections, one.total, one.count = state.detections, state.total, state.count
            one.recent = deque(state.recent, maxlen=RECENT_MAX)
        self._dirty = False


def _number(value: LabelValue | FeatureValue | None) -> float | None:
    return float(value) if isinstance(value, (bool, int, float)) else None
