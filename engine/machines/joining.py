"""What a label does in a scorer: it joins its answer, enters the windows, and makes an example.

Lives here: that order, and what each outcome is counted as.  Never here: what waits for what
(`operators/join/join.py`), when it is a label's turn (`scorer.py`), the words of a refusal (`refusals.py`).
"""

from __future__ import annotations

from collections import Counter

from engine.machines.admission import Admission
from engine.machines.intake import LabelRead
from engine.machines.outbox import Outbox
from engine.machines.refusals import Refusals
from operators.join.entries import WaitingAnswer
from operators.join.join import Join, Joined
from operators.windows.features import Features, JoinedLabel, label_entry
from topics.codec import Rejected
from topics.messages import LabelValue

__all__ = ["Joining"]


class Joining:
    """The labels of one events partition; `counts` gets what became of them."""

    def __init__(
        self,
        admission: Admission[WaitingAnswer],
        join: Join[WaitingAnswer],
        features: Features,
        outbox: Outbox,
        refusals: Refusals,
        counts: Counter[tuple[str, str]],
        *,
        enters_windows: bool,
    ) -> None:
        self.delays_ms: list[int] = []
        """From events to their labels, of the last run."""
        self._join = join
        self._features = features
        self._outbox = outbox
        self._refusals = refusals
        self._counts = counts
        self._enters_windows = enters_windows
        self._admission = admission

    def take(self, read: LabelRead) -> None:
        """Join a label that has come, or refuse it."""
        record, decoded = read.record, read.decoded
        if isinstance(decoded, Rejected):
            self._refusals.label(record, decoded)
            return
        outcome, joined = self._join.label(decoded, key=record.key, value=record.value)
        if joined is not None:
            key = joined.waiting.key
            if record.key != key.encode() and self._admission.misplaced([(record.key, key)]):
                self._counts["key_mismatches", "label"] += 1
            self.learnable(joined, outcome)
            return
        if outcome == "early":
            self._counts["labels", outcome] += 1
        elif outcome == "given_up":
            self._refusals.no_room(record, decoded.event_id)
        else:
            self._refusals.unusable(record, decoded.event_id, outcome)

    def learnable(self, joined: Joined[WaitingAnswer], outcome: str) -> None:
        """Let a label enter the windows and write its example."""
        self._counts["labels", outcome] += 1
        self.delays_ms.append(joined.label_time - joined.waiting.event_time)
        if self._enters_windows:
            self.enter_windows(joined.waiting.keys, joined.label_time, joined.label)
        self._outbox.example(joined)

    def enter_windows(self, keys: tuple[str | None, ...], label_time: int, label: LabelValue) -> None:
        """Let a label enter the windows of its event's keys."""
        self._features.step_labels([JoinedLabel(keys, label_time, label_entry(label))])
