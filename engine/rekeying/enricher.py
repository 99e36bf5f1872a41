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
from engine.rekeying.outgoing import Hopbox
from operators.claims.rule import Reader
from operators.rekeying.merge import NEVER, Merge, Taken
from operators.rekeying.stages import Stages
from operators.state import Composite
from operators.windows.features import Features, JoinedLabel
from topics.codec import Decoded
from topics.messages import Claim, Event, FeatureValue, Record
from topics.rekeying import EventHop, HopId, LabelHop, Progress, ValuesHop, decode_hop

__all__ = ["Enricher"]

Held = EventHop | LabelHop


class _Position(msgspec.Struct):
    hops: int = 0
    """Next offset of the internal topic's partition."""
    frontier: int = NEVER
    """Largest event time taken."""


class Enricher(Composite[_Position]):
    """The windows of all stages on one partition."""

    def __init__(self, pipeline: Pipeline, stages: Stages, *, partition: int, hopbox: Hopbox) -> None:
        self.partition = partition
        self.counts: Counter[tuple[str, str]] = Counter()
        self.caught_up = False
        """Whether the own claim has been read: all that an earlier owner can have read lies before it."""
        self._hopbox = hopbox
        self._grace_ms = pipeline.grace_ms
        self._decode = pipeline.event_decoder().decode
        self._reader = Reader()
        self._partitions = pipeline.events.partitions
        self._merge: Merge[Held] = Merge(self._partitions, Held)
        self._features = {stage.number: Features(stage.plan, self.counts) for stage in stages.rekeyed}
        stages_of = {f"stage{number}": features for number, features in self._features.items()}
        super().__init__(_Position(), {"reader": self._reader, "merge": self._merge, **stages_of})

    def __len__(self) -> int:
        return len(self._merge)

    def take(self, records: Iterable[Record]) -> None:
        """Take records of the internal topic, in log order."""
        for record in records:
            self.position.hops = record.offset + 1
            match decode_hop(record):
                case Claim(source, number):
                    self._reader.claim(source, number)
                    if (source, number) == (self.partition, self._hopbox.writer.claim):
                        self.caught_up = True
                case (EventHop() | LabelHop()) as hop if self._counts(hop):
                    for due in self._merge.offer(hop.order, hop):
                        self._go(due)
                case Progress() as progress if self._counts(progress):
                    source, time, idle = progress.source_partition, progress.time, progress.idle
                    for due in self._merge.progress(source, time, idle=idle):
                        self._go(due)

    def _counts(self, hop: EventHop | LabelHop | Progress) -> bool:
        return self._reader.counts(hop.source_partition, hop.claim, hop.sequence)

    def _go(self, taken: Taken[Held]) -> None:
        hop = taken.item
        features = self._features[hop.order.stage]
        if isinstance(hop, LabelHop):
            features.step_labels([JoinedLabel(hop.keys, hop.label_time, hop.value)])
            return
        late = hop.late or taken.late
        self.position.frontier = max(self.position.frontier, hop.order.time)
        self.counts["rekeyed", "late" if late else "in_time"] += 1
        found = self._decode(Record("", hop.source_partition, hop.event_offset, None, None, bytes(hop.event)))
        values: dict[str, FeatureValue] = {}
        if isinstance(found, Decoded):
            watermark = self.position.frontier - self._grace_ms
            event = Event(
                found.event_id, found.event_time, found.key, found.value, hop.event_offset, watermark, late
            )
            (values,) = features.step_events([event])
        source, offset = hop.source_partition, hop.event_offset
        back = ValuesHop(hop.order.stage, self.partition, source, offset, late, values)
        self._hopbox.send("rekeyed", source, None, back)

    def say_progress(self) -> None:
        """Tell every source partition how far the stages are here; nobody waits for it."""
        for features in self._features.values():
            features.count_evictions()
        for partition in range(self._partitions):
            said = Progress(self.partition, self._merge.horizon, idle=False)
            self._hopbox.send("rekeyed", partition, None, said)

    def may_send(self, found: HopId) -> bool:
        """Return whether a replay may still make this record, which the log has."""
        _, stage, source, offset = found
        return not self.caught_up or any(
            (item.order.stage, item.source_partition, item.event_offset) == (stage, source, offset)
            for _, item in self._merge.held
        )
