"""Logs, checkpoint stores and a bad network, for the owners of `claims_owner.py` to work in.

One `random.Random(seed)` decides everything.  `left_out` names one step of the protocol that this
world does without, to see that the check in `test_claims_model.py` notices.
"""

from __future__ import annotations

import random
from collections import Counter, deque
from typing import Any, NamedTuple

import operators.claims.takeover as protocol
from operators.claims.rule import Log
from topics.messages import Claim, Command, Example, Prediction

SOURCES = 2
EVENTS = 22
LOSSES_MAX = 6
"""How often in a run the stores may go back or be emptied."""
WAIT = 6
"""How long an event waits for its label, in event time; event times grow by 1."""
NOTHING = Command("nothing", "pause", 0)
"""Written in place of a claim that is left out."""
Value = Claim | Prediction | Example | Command


class Violation(AssertionError):  # noqa: N818  # the name says what it is
    """A promise is broken."""


def require(holds: bool, what: str) -> None:
    if not holds:
        raise Violation(what)


class Event(NamedTuple):
    event_id: str
    time: int


class Label(NamedTuple):
    event_id: str
    time: int
    value: int


class Store:
    """The checkpoint store of one source: compare-and-set on claim and last checkpoint, and its past.

    It keeps what changed, as the real ones do: laid on another checkpoint than the one before, that is none.
    """

    def __init__(self) -> None:
        self.claim = 0
        self.checkpoint: Any = None
        self._past: list[tuple[int, Any]] = [(0, None)]

    def fence(self, above: int) -> int:
        self.claim = max(self.claim, above) + 1
        self._past.append((self.claim, self.checkpoint))
        return self.claim

    def save(self, checkpoint: Any) -> None:
        self.checkpoint = checkpoint
        self._past.append((self.claim, self.checkpoint))

    def go_back(self, writes: int) -> bool:
        """Hold again what it held before the last `writes` writes; return whether that is anything else.

        Among them are those that it has lost before: a copy is put in its place, and another one later.
        """
        before = self.claim, self.checkpoint
        self.claim, self.checkpoint = self._past[-min(len(self._past), writes + 1)]
        return before != (self.claim, self.checkpoint)

    def empty(self) -> bool:
        """Lose everything; return whether there was anything."""
        return self.go_back(len(self._past))


class Sender:
    """One owner's producer: in order per log; after a lost record it is broken."""

    def __init__(self, network: Network, *, reliable: bool) -> None:
        self.broken = False
        self.reliable = reliable
        self.acknowledged: dict[Log, list[int]] = {}
        """Offsets of the acknowledged records, in the order they were sent."""
        self.queues: dict[Log, deque[Value]] = {}
        self._network = network

    def send(self, log: Log, value: Value) -> None:
        queue = self.queues.setdefault(log, deque())
        queue.append(value)
        if len(queue) == 1:
            self._network.busy.append((self, log))

    def sent(self) -> dict[Log, int]:
        """Return how many records were sent by now."""
        return {log: len(queue) + len(self.acknowledged.get(log, ())) for log, queue in self.queues.items()}

    def waits(self, sent: dict[Log, int]) -> bool:
        """Return whether some of the first `sent` records is not acknowledged and still due."""
        return not self.broken and any(
            len(self.acknowledged.get(log, ())) < count for log, count in sent.items()
        )


class Network:
    """Everything that is sent and not yet written: late, lost or repeated, also after its owner's end."""

    def __init__(self, rng: random.Random, logs: Logs, counts: Counter[str]) -> None:
        self.rng, self.logs, self.counts = rng, logs, counts
        self.busy: list[tuple[Sender, Log]] = []
        self._strays: list[tuple[Log, Value]] = []
        """Copies that overtook nothing and come last."""

    def idle(self) -> bool:
        return not self.busy and not self._strays

    def crash(self, sender: Sender) -> None:
        """Forget what the sender's process still held; the rest is on its way."""
        for queue in sender.queues.values():
            for _ in range(self.rng.randrange(len(queue) + 1)):
                queue.pop()
        self.busy = [(other, log) for other, log in self.busy if other.queues[log]]

    def deliver(self) -> None:
        """Let one thing arrive, or not."""
        rng = self.rng
        if self._strays and rng.random() < 0.1:
            self.logs.append(*self._strays.pop(rng.randrange(len(self._strays))))
            return
        if not self.busy:
            return
        number = rng.randrange(len(self.busy))
        sender, log = self.busy[number]
        queue = sender.queues[log]
        chance = rng.random()
        if chance < 0.03 and not sender.reliable:
            sender.broken = True
            self.counts["lost sends"] += 1
        else:
            offset = self.logs.append(log, queue[0])
            if chance > 0.96:  # the acknowledgement is lost, so it is sent again
                return
            if chance > 0.93:
                self._strays.append((log, queue[0]))
            sender.acknowledged.setdefault(log, []).append(offset)
        queue.popleft()
        if not queue:
            self.busy[number] = self.busy[-1]
            self.busy.pop()


class Logs:
    """The predictions and examples logs; an offset is an index."""

    def __init__(self, examples_partitions: int, left_out: str) -> None:
        self.left_out = left_out
        self.examples_partitions = examples_partitions
        self.values: dict[Log, list[Value]] = {
            log: []
            for source in range(SOURCES)
            for log in protocol.claimed_logs(source, range(examples_partitions))
        }

    def append(self, log: Log, value: Value) -> int:
        values = self.values[log]
        if self.left_out == "claim records":  # then the first record of a higher claim must do as one
            if isinstance(value, Claim):
                value = NOTHING
            elif not isinstance(value, Command):
                source = source_of(log, value)
                claims = (v.claim for v in values if isinstance(v, Claim) and v.source_partition == source)
                if value.claim > max(claims, default=0):
                    values.append(Claim(source, value.claim))
        elif self.left_out == "announcement" and isinstance(value, Claim) and value.claim < 0:
            value = NOTHING
        values.append(value)
        return len(values) - 1

    def segment(self, event_id: str) -> Log:
        """Return the examples partition of an event."""
        return "examples", int(event_id[1:]) % self.examples_partitions


def source_of(log: Log, value: Claim | Prediction | Example) -> int:
    return log[1] if isinstance(value, Prediction) else value.source_partition


class World:
    """What one run begins with."""

    def __init__(self, seed: int, left_out: str = "") -> None:
        self.rng = rng = random.Random(seed)
        self.left_out = left_out
        self.counts: Counter[str] = Counter()
        """What happened: a check of a world where nothing did is worth nothing."""
        self.logs = Logs(rng.choice((1, 2)), left_out)
        self.network = Network(rng, self.logs, self.counts)
        self.stores = [Store() for _ in range(SOURCES)]
        self._losses_left = rng.choice((0, 1, 2, 4, LOSSES_MAX))
        self.implicit = rng.choice((None, 0))
        self.corrects = rng.random() < 0.5
        """Whether a later label of an event corrects the one before."""
        self.events = [self._make_events() for _ in range(SOURCES)]
        self.labels = [self._make_labels(events) for events in self.events]

    def _make_events(self) -> list[Event]:
        """Return events out of order, some published twice, some with an id used before."""
        rng = self.rng
        events: list[Event] = []
        for number in range(EVENTS):
            chance = rng.random()
            if events and chance < 0.2:
                again = rng.choice(events[-8:])
                events.append(again if chance < 0.15 else Event(again.event_id, number))
            else:
                events.append(Event(f"e{number}", max(0, number + rng.randrange(-3, 3))))
        return events

    def _make_labels(self, events: list[Event]) -> list[Label]:
        """Return labels from long before to long after their events, some twice with other values."""
        rng = self.rng
        labels = [
            Label(event.event_id, event.time + rng.randrange(-9, WAIT + 2), rng.randrange(1, 100))
            for event in events
            if rng.random() < 0.9
        ]
        if self.corrects:
            labels += [
                Label(label.event_id, label.time + rng.randrange(3), rng.randrange(1, 100))
                for label in labels
                if rng.random() < 0.5
            ]
        return sorted(labels, key=lambda label: label.time + rng.randrange(4))

    def lose(self, source: int) -> bool:
        """Let a store go back, or be emptied; return whether it was."""
        if not self._losses_left:
            return False
        if self.rng.random() < 0.3:
            return self._lost("stores emptied", self.stores[source].empty())
        return self._lost("stores gone back", self.stores[source].go_back(self.rng.choice((1, 1, 2, 5))))

    def lose_the_last(self, source: int) -> None:
        """Now and then, let a store lose the write that it has just answered, as a failover does."""
        if self._losses_left and self.rng.random() < 0.2:
            self._lost("stores gone back", self.stores[source].go_back(1))

    def _lost(self, how: str, anything: bool) -> bool:
        self.counts[how] += anything
        self._losses_left -= anything
        return anything

    def answer(self, source: int, request: protocol.Request) -> Any:
        """Carry out what a takeover asks for; claims are written by the owner's sender."""
        store = self.stores[source]
        match request:
            case protocol.Look():
                return protocol.Stored(store.claim, store.checkpoint.logs if store.checkpoint else ())
            case protocol.Fence(above):
                claim = store.fence(above)
                self.lose_the_last(source)
                return claim
            case protocol.LoadCheckpoint():
                return store.checkpoint
            case protocol.FindBounds(target, partition):
                return protocol.Bounds(0, len(self.logs.values[target, partition]))
            case protocol.ReadLog(target, partition, position, until):
                upto = min(until, position + self.rng.randrange(1, 30))
                values = self.logs.values[target, partition][position:upto]
                records = [protocol.LogRecord(position + n, value) for n, value in enumerate(values)]
                return protocol.LogBatch(records, upto)
        raise AssertionError(request)
