"""The state machine of one partition of the stages: events of every source partition meet by another key.

Lives here: which records of the internal topic count, and in which order they enter the windows.
Never here: who sent them (`router.py`), who answers (`scorer.py`), topics, clocks.

One record walks: counts? (`operators/claims/rule.py`) -> held until every source has passed it
(`operators/rekeying/merge.py`) -> windows of its stage -> its values, back to its own partition.

All of it follows from the log of this one partition, so a replay makes the same again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import msgspec

from engine.definition.pipeline import Pipeline
from engine.rekeying.router import Held, RekeyingOutbox
from operators.claims.rule import Reader
from operators.rekeying.merge import NEVER, Merge, Taken
from operators.rekeying.stages import Stages
from operators.state import Composite
from operators.windows.features import Features, JoinedLabel
from topics.codec import Decoded
from topics.messages import Claim, Event, FeatureValue, Record
from topics.rekeying import Progress, RekeyedEvent, RekeyedLabel, RekeyedValues, RekeyingId, decode_rekeying

__all__ = ["Enricher"]


class _EnricherPosition(msgspec.Struct):
    rekey: int = 0
    """Next offset of the internal topic's partition."""
    frontier: int = NEVER
    """Largest event time taken."""


class Enricher(Composite[_EnricherPosition]):
    """The windows of all stages on one partition."""

    def __init__(self, pipeline: Pipeline, stages: Stages, *, partition: int, outbox: RekeyingOutbox) -> None:
        self.partition = partition
        self.counts: Counter[tuple[str, str]] = Counter()
        self.caught_up = False
        """Whether the own claim has been read: all that an earlier owner can have read lies before it."""
        self._outbox = outbox
        self._grace_ms = pipeline.grace_ms
        self._decode = pipeline.event_decoder().decode
        self._reader = Reader()
        self._partitions = pipeline.events.partitions
        self._merge: Merge[Held] = Merge(self._partitions, Held)
        self._features = {stage.number: Features(stage.plan, self.counts) for stage in stages.rekeyed}
        stages_of = {f"stage{number}": features for number, features in self._features.items()}
        super().__init__(_EnricherPosition(), {"reader": self._reader, "merge": self._merge, **stages_of})

    def __len__(self) -> int:
        return len(self._merge)

    @property
    def key_count(self) -> int:
        """Return how many keys its windows hold."""
        return sum(features.key_count for features in self._features.values())

    def take(self, records: Iterable[Record]) -> None:
        """Take records of the internal topic, in log order."""
        for record in records:
            self.position.rekey = record.offset + 1
            match decode_rekeying(record):
                case Claim(source, number):
                    self._reader.claim(source, number)
                    if (source, number) == (self.partition, self._outbox.writer.claim):
                        self.caught_up = True
                case (RekeyedEvent() | RekeyedLabel()) as message if self._counts(message):
                    for due in self._merge.offer(message.order, message):
                        self._go(due)
                case Progress() as progress if self._counts(progress):
                    source, time, idle = progress.source_partition, progress.time, progress.idle
                    for due in self._merge.progress(source, time, idle=idle):
                        self._go(due)

    def _counts(self, message: RekeyedEvent | RekeyedLabel | Progress) -> bool:
        return self._reader.counts(message.source_partition, message.claim, message.sequence)

    def _go(self, taken: Taken[Held]) -> None:
        message = taken.item
        features = self._features[message.order.stage]
        if isinstance(message, RekeyedLabel):
            features.step_labels([JoinedLabel(message.keys, message.label_time, message.value)])
            return
        late = message.late or taken.late
        self.position.frontier = max(self.position.frontier, message.order.time)
        self.counts["rekeyed", "late" if late else "in_time"] += 1
        decoded = self._decode(
            Record("", message.source_partition, message.event_offset, None, None, bytes(message.event))
        )
        values: dict[str, FeatureValue] = {}
        if isinstance(decoded, Decoded):
            watermark = self.position.frontier - self._grace_ms
            event = Event(
                decoded.event_id,
                decoded.event_time,
                decoded.key,
                decoded.value,
                message.event_offset,
                watermark,
                late,
            )
            (values,) = features.step_events([event])
        source, offset = message.source_partition, message.event_offset
        back = RekeyedValues(message.order.stage, self.partition, source, offset, late, values)
        self._outbox.send("rekeyed", source, None, back)

    def say_progress(self) -> None:
        """Send every source partition the progress of the stages here."""
        for features in self._features.values():
            features.count_evictions()
        for partition in range(self._partitions):
            said = Progress(self.partition, self._merge.horizon, idle=False)
            self._outbox.send("rekeyed", partition, None, said)

    def may_send(self, message: RekeyingId) -> bool:
        """Return whether a replay may still make this record, which the log has."""
        _, stage, source, offset = message
        return not self.caught_up or any(
            (item.order.stage, item.source_partition, item.event_offset) == (stage, source, offset)
            for _, item in self._merge.held
        )
