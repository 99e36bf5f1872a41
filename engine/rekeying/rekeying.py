"""Re-keying as the owner of a partition sees it: an intake whose events have the windows of every key.

Lives here: the three parts that an owner runs beside its scorer (router, enricher, gathering), the one
claim they share, and the run of events that may be answered.  Never here: what each part does,
Kafka, clocks (the shell hands in the time).

    events, labels --> intake --> router ------------------> rekey topic, partitions by other keys
                          |                                        |
                          |  in the same order               enricher (whoever owns that partition)
                          v                                        |
                        waiting <----- pending <--------------- rekeyed topic, the event's own partition
                          |
                          v   a run whose events are complete
                        scorer

The owner of partition p runs router p, enricher p and scorer p, under one claim and in one
checkpoint, so a takeover is one takeover.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping, Sequence

import msgspec
from msgspec.structs import replace

from engine.definition.pipeline import Pipeline
from engine.machines.admission import RUN_MAX, EventRead, Intake, LabelRead, Run
from engine.rekeying.enricher import Enricher
from engine.rekeying.router import RekeyingOutbox, Router
from operators.claims.rule import LoggedMessages, Reader, Writer
from operators.rekeying.pending_values import PendingValues
from operators.rekeying.stages import Stages, looked_up
from operators.state import Composite, Operator, StoredEntries
from topics.messages import Claim, Outgoing, Record
from topics.rekeying import Progress, RekeyedValues, RekeyingId, decode_rekeying

__all__ = ["Rekeying"]

OUTSTANDING_MAX = 10_000
"""Events of this partition on their way to others.  So a partition runs ahead of the slowest by no more,
and a stage holds at most so many of each source, about 1 KB each."""

TURN_MAX = 2_000
"""Records routed in one turn: some 50 ms of the loop."""

KEPT_EVERY_MS = 600_000
"""How often each log gets a progress record, so that the writers' positions do not expire with the log."""


class _RekeyingPosition(msgspec.Struct):
    values: int = 0
    """Next offset of the `rekeyed` partition."""
    taken: int = 0
    """Next offset of the events partition to be handed to the scorer."""


class Rekeying(Composite[_RekeyingPosition]):
    """Router, enricher and gathering of one partition."""

    def __init__(
        self,
        pipeline: Pipeline,
        stages: Stages,
        *,
        partition: int,
        writer: Writer,
        logged: LoggedMessages,
        stored: StoredEntries | None = None,
    ) -> None:
        """`stored` reads the entries of the router's join as of the last checkpoint."""
        self.partition = partition
        self.intake = Intake(
            pipeline.event_decoder(), pipeline.label_decoder(), max_ahead_ms=pipeline.max_ahead_ms
        )
        self._outbox = RekeyingOutbox(writer, logged)
        self._pending = PendingValues(parts=stages.parts)
        self.enricher = Enricher(pipeline, stages, partition=partition, outbox=self._outbox)
        self.router = Router(
            pipeline,
            stages,
            partition=partition,
            outbox=self._outbox,
            pending=self._pending,
            counts=self.enricher.counts,
            stored=stored,
        )
        self._reader = Reader()
        parts: dict[str, Operator] = {
            "router": self.router,
            "enricher": self.enricher,
            "pending": self._pending,
            "reader": self._reader,
        }
        super().__init__(_RekeyingPosition(), parts)
        self._kept_ms = 0
        self._messages: list[Record] = []
        """Offered and not taken: as many as one poll brings."""
        self._waiting: deque[EventRead | LabelRead] = deque()
        """Records in the order in which the router took them, for the scorer to take in the same."""

    @property
    def counts(self) -> Counter[tuple[str, str]]:
        """Counts by (metric, label), which the shell exports; no part of the state."""
        return self.enricher.counts

    @property
    def key_count(self) -> int:
        """Return how many keys windows by other keys hold, and those before them."""
        return self.enricher.key_count + self.router.key_count

    def offer_messages(self, records: Sequence[Record]) -> None:
        """Queue records of the own partition of `rekey`; the next turn takes them."""
        self._messages += records

    def offer_values(self, records: Sequence[Record]) -> None:
        """Take records of the own partition of `rekeyed`."""
        for record in records:
            self.position.values = record.offset + 1
            match decode_rekeying(record):
                case Claim(source, number):
                    self._reader.claim(source, number)
                case (RekeyedValues() | Progress()) as message:
                    counts = self._reader.counts(message.source_partition, message.claim, message.sequence)
                    if (
                        counts
                        and isinstance(message, RekeyedValues)
                        and message.event_offset >= self.position.taken
                    ):
                        self._pending.put(message.event_offset, message.values, late=message.late)

    def turn(
        self, now_ms: int, *, events_unread: bool, labels_unread: bool, idle_after_ms: int
    ) -> list[Outgoing]:
        """Route the offered records, TURN_MAX at most, and return the records to send.

        Nothing is routed while OUTSTANDING_MAX events are on their way.
        """
        self._outbox.now_ms = now_ms
        messages, self._messages = self._messages, []
        self.enricher.take(messages)
        intake, router, routed = self.intake, self.router, 0
        while routed < TURN_MAX and self._pending.outstanding < OUTSTANDING_MAX:
            run = intake.next_run(events_unread=events_unread, labels_unread=labels_unread)
            if run is None:
                break
            router.take(run)
            self._waiting.extend(run.events or run.labels)
            routed += len(run.events) + len(run.labels)
        if now_ms - self._kept_ms >= KEPT_EVERY_MS:
            self._kept_ms = now_ms
            router.say_progress()
            self.enricher.say_progress()
        quiet = not (events_unread or labels_unread or len(intake))
        router.turn(now_ms, quiet=quiet, idle_after_ms=idle_after_ms)
        return self._outbox.drain()

    def next_run(self) -> tuple[Run, list[Mapping[str, object]]] | None:
        """Return the next run that can be answered, with the values of its events; None while one waits."""
        waiting, complete = self._waiting, self._pending.complete
        if not waiting:
            return None
        events: list[EventRead] = []
        labels: list[LabelRead] = []
        values: list[Mapping[str, object]] = []
        while waiting and len(events) + len(labels) < RUN_MAX:
            read = waiting[0]
            if isinstance(read, LabelRead):
                if events:
                    break
                labels.append(read)
            else:
                offset = read.record.offset
                if labels or not complete(offset):
                    break
                computed, late = self._pending.take(offset)
                self.position.taken = offset + 1
                values.append(looked_up(computed))
                events.append(replace(read, late=True) if late else read)
            waiting.popleft()
        return (Run(events, labels), values) if events or labels else None

    def tidy(self) -> None:
        """Forget logged records that a replay cannot make again; called before each checkpoint."""
        logged = self._outbox.logged
        if not logged.empty:
            logged.forget(self._possible)

    def _possible(self, message: RekeyingId, event_id: str) -> bool:
        if message[0] == "values":
            return self.enricher.may_send(message)
        return self.router.may_send(message, event_id)
