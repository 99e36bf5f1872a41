"""The state machine that sends the events of one partition to the partitions of their other keys.

Lives here: the order in which a record is checked, held, entered into the own key's windows and sent on, and
how what leaves an owner is numbered.  Never here: what happens at the other end (`enricher.py`), topics,
clocks (the shell hands in the time).

One event walks: watermark -> seen before? -> held until the watermark has passed it -> windows of the
topic's own key -> one record for each stage, to the partition of the stage's key.
One label walks: meets its event's keys here, before any model, with the same rules as the scorer's
join -> held -> own label windows -> a record for each stage that has label windows.

So a stage gets labels in the same order as events, and waits for nobody's predictions.  The scorer
answers the same records later, and admits the same of them (`engine/machines/admission.py`): an event
that is not sent waits for nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from msgspec import Raw, json

from engine.definition.pipeline import Pipeline
from engine.kafka.sink import partition_of
from engine.machines.admission import Admission, EventRead, LabelRead, Position, Run, new_join
from operators.claims.rule import LoggedMessages, Writer
from operators.join.join import Join, Joined
from operators.join.pending import Waiting
from operators.rekeying.merge import NEVER, Merge, Taken
from operators.rekeying.pending_values import PendingValues
from operators.rekeying.stages import Stages
from operators.state import Composite, Operator, StateEntries, StoredEntries
from operators.windows.evaluate import Counts
from operators.windows.features import Features, JoinedLabel, key_reader, label_entry
from topics.codec import Decoded, Rejected
from topics.messages import Event, Outgoing, Record
from topics.rekeying import (
    IMPLICIT,
    LABEL,
    Order,
    Progress,
    RekeyedEvent,
    RekeyedLabel,
    RekeyingId,
    RekeyingMessage,
    message_id,
)
from topics.watermarks import Move

__all__ = ["Held", "RekeyingOutbox", "Router"]

HELD_MAX = 100_000
"""Events within `grace`, about 1 KB each; beyond, the oldest go as if the watermark had passed them."""
PROGRESS_EVERY_MS = 25
"""Progress goes to every partition of the stages: often enough that a hold is short, not with every run."""

Held = RekeyedEvent | RekeyedLabel
"""An item that is held until its turn, here and in the enricher."""


class _RouterPosition(Position):
    frontier: int = NEVER
    """Largest event time taken."""


class RekeyingOutbox:
    """Outgoing records of one owner for the internal topics, in order for each log, numbered by its claim."""

    def __init__(self, writer: Writer, logged: LoggedMessages) -> None:
        self.writer = writer
        self.logged = logged
        self.now_ms = 0
        """Wall clock of the shell: the record's timestamp, so that retention counts from the writing."""
        self._out: list[Outgoing] = []
        self._encode = json.Encoder().encode

    def send(
        self, target: Literal["rekey", "rekeyed"], partition: int, key: bytes | None, message: RekeyingMessage
    ) -> None:
        """Send one record, unless it stands in the log."""
        if (
            not self.logged.empty
            and (identity := message_id(message)) is not None
            and self.logged.once(identity)
        ):
            return
        message.claim = self.writer.claim
        message.sequence = self.writer.next((target, partition))
        self._out.append(Outgoing(target, partition, key, self._encode(message), (), self.now_ms))

    def drain(self) -> list[Outgoing]:
        """Return what has gathered since the last call."""
        out, self._out = self._out, []
        return out


class Router(Composite[_RouterPosition]):
    """One source partition's part in re-keying; `pending` learns which events wait for what."""

    def __init__(
        self,
        pipeline: Pipeline,
        stages: Stages,
        *,
        partition: int,
        outbox: RekeyingOutbox,
        pending: PendingValues,
        counts: Counts | None = None,
        stored: StoredEntries | None = None,
    ) -> None:
        """`counts` gets the failures of the user's functions; they are no part of the state.

        `stored` reads the join's entries as of the last checkpoint; without it all are in memory.
        """
        self.partition = partition
        self._outbox = outbox
        self._pending = pending
        self._stages = stages
        self._partitions = pipeline.events.partitions
        self._decode = pipeline.event_decoder().decode
        self._grace_ms = pipeline.grace_ms
        self._join: Join[Waiting] = new_join(pipeline, stored=stored)
        position = _RouterPosition()
        self._admission = Admission(pipeline, position, self._join)
        self.committed = self._join.committed
        """Record that every delta so far is stored."""
        self._hold: Merge[Held] = Merge(1, Held, held_max=HELD_MAX)
        self._own = Features(stages.own, counts) if stages.own is not None else None
        parts: dict[str, Operator] = {"join": self._join, "hold": self._hold}
        if self._own is not None:
            parts["own"] = self._own
        super().__init__(position, parts)
        self._key_of = [key_reader(stage.keys) for stage in stages.rekeyed]
        self._labelled = [
            (
                stage.number,
                key_of,
                Features(stage.plan).label_keys,
                len(stage.plan.label_key_groups),
            )
            for stage, key_of in zip(stages.rekeyed, self._key_of, strict=True)
            if stage.plan.uses_labels
        ]
        self._own_labels = stages.own is not None and stages.own.uses_labels
        self._decoded: dict[int, Decoded] = {}
        """Held events, decoded; after a restart they are decoded again when their turn comes."""
        self._said: tuple[int, bool] | None = None
        self._said_ms = 0
        self._quiet_ms: int | None = None

    @property
    def key_count(self) -> int:
        """Return how many keys its windows hold."""
        return 0 if self._own is None else self._own.key_count

    # -- records ----------------------------------------------------------------------------------

    def take(self, run: Run) -> None:
        """Take one run of records in the one order of both topics; those taken before change nothing."""
        position = self.position
        if self._join.away:
            self._join.recall(run.event_ids())
        for read in run.events:
            if read.record.offset >= position.events:
                self._quiet_ms = None
                self._event(read)
                position.events = read.record.offset + 1
        for label in run.labels:
            if label.record.offset >= position.labels:
                self._label(label)
                position.labels = label.record.offset + 1

    def _event(self, read: EventRead) -> None:
        record, decoded = read.record, read.decoded
        if isinstance(decoded, Move):
            self._move(decoded, record.offset)
            return
        if isinstance(decoded, Rejected) or self._join.entries.known(decoded.event_id) is not None:
            return
        if self._hold.idle(0):
            self._go(self._hold.progress(0, NEVER, idle=False))
            self.say_progress()  # before any record of ours: the others wait again
        event = self._admission.admit(read, decoded)
        offset, watermark = event.offset, event.watermark
        self._expire(watermark, offset)
        self._pending.expect(offset)
        self._decoded[offset] = decoded
        held = RekeyedEvent(
            Order.of_event(event.event_time, self.partition, offset),
            self.partition,
            offset,
            event.late,
            Raw(record.value or b""),
        )
        self._go(self._hold.offer(held.order, held))
        if self._admission.waits(event):
            self._open(event, decoded)
        self._go(self._hold.progress(0, watermark - 1, idle=False))

    def _move(self, move: Move, offset: int) -> None:
        """Let the watermark go on without an event; who is idle stays so."""
        self._admission.move(move)
        watermark = self._admission.watermark
        self._expire(watermark, offset)
        self._go(self._hold.progress(0, watermark - 1, idle=self._hold.idle(0)))

    def _expire(self, watermark: int, offset: int) -> None:
        """Enter what the end of a wait gives."""
        emitted, _ = self._join.expire(watermark, at_offset=offset)
        for joined in emitted:
            # Where one partition has it all, this is entered before the first event beyond the deadline.
            due = joined.label_time + self._grace_ms + 1
            self._enter(joined, Order(due, IMPLICIT, self.partition, 2 * joined.waiting.event_offset))

    def _open(self, event: Event, decoded: Decoded) -> None:
        """Remember the event until its horizon has passed; let its label meet it if it is here."""
        keys: tuple[str | None, ...] = ()
        if self._own_labels and self._own is not None:
            keys += self._own.label_keys(event)
        for _, key_of, label_keys, _ in self._labelled:
            keys += (key_of(decoded.value), *label_keys(event))
        waiting = Waiting(event.event_id, event.event_time, event.offset, keys)
        self._join.open(waiting)
        for met in self._join.meet_early(waiting):
            self._joined(met.joined)
        if decoded.label is not None:
            self._joined(self._join.close(waiting, decoded.label, event.event_time))

    def _label(self, read: LabelRead) -> None:
        if isinstance(read.decoded, Rejected):
            return
        _, joined = self._join.label(read.decoded, key=None, value=None)
        self._joined(joined)

    def _joined(self, joined: Joined[Waiting] | None) -> None:
        """Enter a joined label at its time, or directly behind its event if that is later.

        The first of an event is the one that windows know: no correction, and nothing but its label.
        """
        if joined is None or joined.before is not None or joined.origin:
            return
        event = joined.waiting
        if joined.label_time > event.event_time:
            self._enter(joined, Order(joined.label_time, LABEL, self.partition, 2 * joined.label_offset))
        else:
            self._enter(joined, Order.after_event(event.event_time, self.partition, event.event_offset))

    def _enter(self, joined: Joined[Waiting], order: Order) -> None:
        if not (self._own_labels or self._labelled):
            return
        event = joined.waiting
        held = RekeyedLabel(
            order,
            self.partition,
            event.event_offset,
            event.event_id,
            joined.waiting.keys,
            joined.label_time,
            label_entry(joined.label),
        )
        self._go(self._hold.offer(order, held))

    # -- what is due ------------------------------------------------------------------------------

    def _go(self, due: Sequence[Taken[Held]]) -> None:
        """Send on the held events that the watermark has passed."""
        for taken in due:
            if isinstance(taken.item, RekeyedEvent):
                self._send_event(taken.item, late=taken.late)
            else:
                self._send_label(taken.item)

    def _send_event(self, held: RekeyedEvent, *, late: bool) -> None:
        offset = held.event_offset
        decoded = self._decoded.pop(offset, None) or self._decode_again(held)
        self.position.frontier = max(self.position.frontier, held.order.time)
        own = {}
        if self._own is not None:
            watermark = self.position.frontier - self._grace_ms
            (own,) = self._own.step_events([_event_of(decoded, offset, watermark, late=late)])
        self._pending.sent(offset, own, late=late)
        for stage, key_of in zip(self._stages.rekeyed, self._key_of, strict=True):
            key = key_of(decoded.value).encode()
            order = held.order._replace(stage=stage.number)
            message = RekeyedEvent(order, self.partition, offset, late, held.event)
            self._outbox.send("rekey", partition_of(key, self._partitions), key, message)

    def _decode_again(self, held: RekeyedEvent) -> Decoded:
        decoded = self._decode(Record("", self.partition, held.event_offset, None, None, bytes(held.event)))
        assert isinstance(decoded, Decoded)
        return decoded

    def _send_label(self, held: RekeyedLabel) -> None:
        keys = held.keys
        if self._own_labels and self._own is not None:
            own = len(self._own.plan.label_key_groups)
            self._own.step_labels([JoinedLabel(keys[:own], held.label_time, held.value)])
            keys = keys[own:]
        for number, _, _, count in self._labelled:
            key, of_stage, keys = str(keys[0]).encode(), keys[1 : 1 + count], keys[1 + count :]
            message = RekeyedLabel(
                held.order._replace(stage=number),
                self.partition,
                held.event_offset,
                held.event_id,
                of_stage,
                held.label_time,
                held.value,
            )
            self._outbox.send("rekey", partition_of(key, self._partitions), key, message)

    # -- progress ---------------------------------------------------------------------------------

    def turn(self, now_ms: int, *, quiet: bool, idle_after_ms: int) -> None:
        """Send the progress of this source to the stages; `quiet`: nothing is left to read, as far as known.

        After `idle_after_ms` of quiet, held events are released, and no stage waits for this source any more.
        `now_ms` is a wall clock; one that goes back makes a wait longer.
        """
        if not quiet:
            self._quiet_ms = None
        elif self._quiet_ms is None:
            self._quiet_ms = now_ms
        if self._quiet_ms is not None and now_ms - self._quiet_ms >= idle_after_ms and not self._hold.idle(0):
            self._go(self._hold.progress(0, self.position.time_max, idle=True))
        said = (self._hold.horizon, self._hold.idle(0))
        if said == self._said:
            return
        if self._said is None or said[1] != self._said[1] or now_ms - self._said_ms >= PROGRESS_EVERY_MS:
            self.say_progress()
            self._said_ms = now_ms

    def say_progress(self) -> None:
        """Send the progress of this source to every partition of the stages, changed or not."""
        if self._own is not None:
            self._own.count_evictions()
        time, idle = self._said = (self._hold.horizon, self._hold.idle(0))
        for partition in range(self._partitions):
            self._outbox.send("rekey", partition, None, Progress(self.partition, time, idle))

    def may_send(self, message: RekeyingId, event_id: str) -> bool:
        """Return whether a replay may still make this record, which the log has."""
        name, _, _, offset = message
        if offset >= self.position.events:
            return True
        if name == "label" and self._join.waits(event_id):
            return True
        message_type: Any = RekeyedEvent if name == "event" else RekeyedLabel
        return any(
            isinstance(item, message_type) and item.event_offset == offset for _, item in self._hold.held
        )

    def restore(self, entries: StateEntries) -> None:
        """Replace the state by that of a checkpoint."""
        super().restore(entries)
        self._decoded.clear()
        self._said = None


def _event_of(decoded: Decoded, offset: int, watermark: int, *, late: bool) -> Event:
    return Event(decoded.event_id, decoded.event_time, decoded.key, decoded.value, offset, watermark, late)
