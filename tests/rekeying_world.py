"""Source partitions, owners and logs without a broker: re-keying under crashes; the answer by brute force.

Lives here: the world and its crashes.  Never here: a test.

Logs are lists; what an owner sends is on its way for a while, in order for each log, so a crash loses
the tail of each log on its own.  A zombie is an owner whose last records arrive after its successor's
claim.
"""

from __future__ import annotations

import json
import random
from collections import defaultdict, deque
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import msgspec
from river import linear_model, tree

import operators.claims.takeover as claims
from engine import Labels, Pipeline, Topic
from engine.machines.outbox import Scored
from engine.offline.backtest import Backtest
from engine.rekeying.rekeying import Rekeying
from operators import by, field, indicator, label
from operators.claims.rule import Log, LogPosition
from operators.claims.takeover import Takeover, cut, log_positions, takeover
from operators.state import under
from operators.windows.features import Features
from topics import headers
from topics.codec import Decoded, encode
from topics.messages import Event, Record
from topics.rekeying import decode_rekeying

IDLE_AFTER_MS = 1_000
TURNS_MAX = 5_000
"""Some 300 are usual; a replay that loses records never ends."""


class Ride(msgspec.Struct):
    event_id: str
    event_time: int
    driver: str
    city: str
    shop: int
    fare: float
    truth: bool | None = None


FEATURES = {
    "fare": field("fare"),
    "driver_n": by("driver").count("40s"),
    "driver_late": by("driver").mean(label, "60s"),
    "city_mean": by("city").mean("fare", "30s"),
    "city_n_before": by("city").count("30s", include_current=False),
    "shop_max": by("shop").max("fare", "20s").default(0.0),
    "shop_late": by("shop").mean(label, "90s").default(-1.0),
    "shop_dear_late": by("shop").sum(label, "60s", where=field("fare") > 2),
    "city_shop_n": by("city", "shop").count("1m"),
    "all_n": by().count("10s"),
    "all_late_n": by().count(label, "30s"),
    "ratio": field("fare") / by("city").mean("fare", "30s"),
}


CLASSES = {
    "task": "multiclass",
    "models": {"tree": tree.HoeffdingTreeClassifier()},
    "features": {
        "driver_last": by("driver").last(label, "60s").default("none"),
        "shop_mode": by("shop").mode(label, "90s"),
        "shop_late": by("shop").mean(indicator(label == "True"), "90s"),
        "city_dear_late": by("city").sum(indicator(label == "True"), "60s", where=field("fare") > 2),
        "all_entropy": by().entropy(label, "30s"),
    },
}
"""Windows over classes, which the labels true and false are where the task is multiclass."""


def make_pipeline(*, partitions: int, **changed: Any) -> Pipeline:
    """A pipeline with windows by the topic's key, by three others and by none, of events and labels."""
    parts: dict[str, Any] = {
        "models": {"lr": linear_model.LogisticRegression()},
        "labels": Labels("rides.labels", wait="2m"),
        "features": FEATURES,
        "grace": "5s",
    } | changed
    grace = parts.pop("grace")
    return Pipeline(
        name="rides",
        events=Topic("rides.events", Ride, key="driver", grace=grace, partitions=partitions),
        **parts,
    )


class Input:
    """The user's two topics: events out of order within grace, some twice, some no events at all."""

    def __init__(
        self,
        rng: random.Random,
        *,
        partitions: int,
        events: int,
        disorder_ms: int = 5_000,
        labelled: float = 0.8,
        busy: int | None = None,
    ) -> None:
        """`busy`: how many of the partitions get events."""
        self.busy = busy or partitions
        self.grace_ms = 5_000
        self.events: list[list[Record]] = [[] for _ in range(partitions)]
        self.labels: list[list[Record]] = [[] for _ in range(partitions)]
        time = 1_600_000_000_000
        rides: list[tuple[int, Ride]] = []
        for number in range(events):
            time += rng.choice((0, 1, 40, 300, 2_000))
            ride = Ride(
                f"e{number}",
                time - rng.randint(0, disorder_ms),
                f"d{rng.randrange(3 * self.busy)}",
                rng.choice("abc"),
                rng.randrange(3),
                float(rng.randint(1, 9)),
                rng.random() < 0.5,
            )
            rides.append((self._of(ride), ride))
        for partition, ride in rides:
            self._add(partition, msgspec.json.encode(ride))
            if rng.random() < 0.05:
                self._add(partition, msgspec.json.encode(ride))
            if rng.random() < 0.03:
                self._add(partition, b'{"event_id": 7')
        labels = [
            (ride.event_time + rng.choice((0, 10, 3_000, 30_000)), partition, ride)
            for partition, ride in rides
            if rng.random() < labelled
        ]
        for label_time, partition, ride in sorted(labels, key=lambda one: one[:2]):
            value = {"event_id": ride.event_id, "label": ride.fare > 4, "label_time": label_time}
            log = self.labels[partition]
            log.append(Record("rides.labels", partition, len(log), None, None, json.dumps(value).encode()))

    @property
    def steady(self) -> set[str]:
        """Events that every partition's watermark passes, so that nobody need be taken for idle."""
        times = [[_time(record, "event_time") or 0 for record in log] for log in self.events]
        until = min(map(max, times)) - self.grace_ms
        return {
            json.loads(record.value or b"")["event_id"]
            for log, log_times in zip(self.events, times, strict=True)
            for record, time in zip(log, log_times, strict=True)
            if 0 < time < until
        }

    def _of(self, ride: Ride) -> int:
        return int(ride.driver[1:]) % self.busy

    def _add(self, partition: int, value: bytes) -> None:
        log = self.events[partition]
        log.append(Record("rides.events", partition, len(log), None, None, value))


def brute_force(given: Input, **changed: Any) -> dict[str, dict[str, Any]]:
    """Features by event id, from one partition that gets all events by (time, source partition, offset)."""

    def merged(logs: list[list[Record]], time: str) -> list[Record]:
        found = [
            (_time(record, time), record.partition, record.offset, record) for log in logs for record in log
        ]
        ordered = sorted((entry for entry in found if entry[0] is not None), key=lambda entry: entry[:3])
        return [Record("", 0, number, None, None, entry[3].value) for number, entry in enumerate(ordered)]

    result = Backtest(make_pipeline(partitions=1, **changed))
    features: dict[str, dict[str, Any]] = {}

    def keep(scored: Iterable[Scored]) -> None:
        features.update((answer.event_id, answer.features) for answer, _, _ in scored)

    labels = [] if result.run.pipeline.labels.field else [merged(given.labels, "label_time")]
    result.play([merged(given.events, "event_time")], labels, on_scored=keep)
    return features


def _time(record: Record, name: str) -> Any:
    try:
        return json.loads(record.value or b"")[name]
    except ValueError:
        return None


class World:
    """All partitions of one pipeline, each with an owner."""

    def __init__(
        self,
        pipeline: Pipeline,
        given: Input,
        rng: random.Random,
        *,
        resident_max: int | None = None,
        forgetful: bool = False,
    ) -> None:
        self.pipeline, self.given, self.rng = pipeline, given, rng
        self.resident_max = resident_max
        """Answers of a router in memory, where others are saved."""
        self.forgetful = forgetful
        """Whether at each crash the store goes back or is emptied."""
        self.behind = 0
        """Takeovers with a store behind the logs."""
        self.reads = 0
        """How often a router asked what is saved."""
        self.partitions = pipeline.events.partitions
        self.logs: dict[Log, list[Record]] = defaultdict(list)
        self.now_ms = 0
        self.answers: dict[str, dict[str, Any]] = {}
        self.late: set[str] = set()
        self.repeats = 0
        self.suppressed = 0
        self.silent: set[int] = set()
        """Partitions whose events topic tells nobody that it has more: they may be taken for idle."""
        self.pace: dict[int, float] = {}
        """How often, of all turns, a slow partition reads."""
        self.answered_order: dict[int, list[str]] = defaultdict(list)
        self.owners = [Owner(self, number, Store()) for number in range(self.partitions)]

    def run(self, *, crashes: int = 0) -> None:
        """Turn owners in any order until everything is answered."""
        crash_at = sorted(self.rng.randrange(2 * len(self.given.events[0])) for _ in range(crashes))
        turns = 0
        while not all(owner.done for owner in self.owners):
            turns = turns + 1
            assert turns < TURNS_MAX, "no end"
            self.now_ms += self.rng.choice((1, 5, 40))
            while crash_at and crash_at[0] <= len(self.answers):
                crash_at.pop(0)
                number = self.rng.randrange(self.partitions)
                self.owners[number] = self.owners[number].crashed()
            self.rng.choice(self.owners).turn()

    def append(self, log: Log, key: bytes | None, value: bytes | None, kind: headers.Headers = ()) -> int:
        records = self.logs[log]
        records.append(Record(log[0], log[1], len(records), self.now_ms, key, value, kind))
        return len(records) - 1

    @staticmethod
    def event_id(record: Record) -> str:
        return str(json.loads(record.value or b"")["event_id"])

    def answered(self, event: str, features: dict[str, Any], *, late: bool) -> None:
        """The same event may be answered again after a crash: then with the same features."""
        if event in self.answers:
            self.repeats += 1
            assert self.answers[event] == features
        self.answers[event] = features
        if late:
            self.late.add(event)


class Saved(NamedTuple):
    """A checkpoint of one owner."""

    logs: tuple[LogPosition, ...]
    entries: dict[str, bytes]
    position: tuple[int, int]
    """Next offsets of events and labels."""


class Store:
    """What outlives the owners of one partition."""

    def __init__(self) -> None:
        self.claim = 0
        self.saved: Saved | None = None
        self.past: list[tuple[int, Saved | None]] = [(0, None)]

    def go_back(self, rng: random.Random) -> None:
        """Hold again what it held after some earlier save, or nothing."""
        self.claim, self.saved = rng.choice((self.past[0], *self.past))


class RoutersJoin:
    """What the last save holds of the router's join, as `StoredEntries`."""

    PREFIX = "router/join/"

    def __init__(self, store: Store) -> None:
        self._store = store
        self.reads = 0

    def _entries(self) -> dict[str, bytes]:
        return under("router/join", self._store.saved.entries) if self._store.saved is not None else {}

    def get(self, names: Sequence[str]) -> dict[str, bytes]:
        self.reads += 1
        entries = self._entries()
        return {name: entries[name] for name in names if name in entries}

    def scan(self, after: str, before: str, count: int) -> list[str]:
        self.reads += 1
        return [name for name in sorted(self._entries()) if after < name < before][:count]

    def count(self, prefix: str) -> int:
        return sum(name.startswith(prefix) for name in self._entries())


class Owner:
    """One partition's owner: what a worker does around `Rekeying`, with the real takeover."""

    def __init__(self, world: World, number: int, store: Store, zombie: Owner | None = None) -> None:
        self.world, self.number, self.store = world, number, store
        self.zombie = zombie
        inside = world.pipeline.labels.field is not None
        self._all_labels = [] if inside else world.given.labels[number]
        self.flying: dict[Log, deque[tuple[bytes | None, bytes | None]]] = defaultdict(deque)
        self.taken = self._take_over()
        self.zombie = None
        world.behind += self.taken.behind is not None
        world.suppressed += len(self.taken.suppression.rekeyed)
        self.writer = self.taken.writer
        stages = world.pipeline.stages
        assert stages is not None
        logged = self.taken.suppression.rekeyed
        self.stored = RoutersJoin(store)
        self.rekeying = Rekeying(
            world.pipeline, stages, partition=number, writer=self.writer, logged=logged, stored=self.stored
        )
        if world.resident_max is not None:
            self.rekeying.router._join.entries.resident_max = world.resident_max
        self.answering = Features(stages.answer)
        self.events = self.labels = 0
        if store.saved is not None:
            self.events, self.labels = store.saved.position
            apart = (f"{RoutersJoin.PREFIX}w/", f"{RoutersJoin.PREFIX}i/")
            saved = store.saved.entries
            self.rekeying.restore({name: saved[name] for name in saved if not name.startswith(apart)})
        self.offered_events, self.offered_labels = self.events, self.labels

    def _take_over(self) -> Takeover:
        nonce = f"{len(self.world.logs['predictions', self.number])}"
        protocol = takeover(self.number, nonce, rekey_partitions=self.world.partitions)
        answer: Any = None
        while True:
            try:
                answer = self._carry_out(protocol.send(answer))
            except StopIteration as end:
                taken: Takeover = end.value
                return taken

    def _carry_out(self, request: claims.Request) -> Any:
        store, logs = self.store, self.world.logs
        match request:
            case claims.Look():
                return claims.Stored(store.claim, store.saved.logs if store.saved is not None else ())
            case claims.Fence(above):
                store.claim = max(store.claim, above) + 1
                return store.claim
            case claims.LoadCheckpoint():
                return store.saved
            case claims.FindBounds(target, partition):
                return claims.Bounds(0, len(logs[target, partition]))
            case claims.WriteClaim(target, partition, value):
                if self.zombie is not None:
                    self.zombie._land(self.world.rng.random(), (target, partition))
                return self.world.append((target, partition), None, encode(value), headers.CLAIM)
            case claims.ReadLog(target, partition, position, until):
                found = logs[target, partition][position:until]
                values = [(record.offset, decode_rekeying(record)) for record in found]
                return claims.LogBatch([claims.LogRecord(at, value) for at, value in values if value], until)
        raise AssertionError(request)

    @property
    def done(self) -> bool:
        return (
            self.events == len(self.world.given.events[self.number])
            and self.labels == len(self._all_labels)
            and not any(self.flying.values())
        )

    def turn(self) -> None:
        world, rng, rekeying = self.world, self.world.rng, self.rekeying
        events, labels = world.given.events[self.number], self._all_labels
        if rng.random() < world.pace.get(self.number, 0.5):
            upto = self.offered_events + rng.randrange(12)
            rekeying.intake.offer_events(events[self.offered_events : upto])
            self.offered_events = min(upto, len(events))
        if labels and rng.random() < 0.5:
            upto = self.offered_labels + rng.randrange(12)
            rekeying.intake.offer_labels(labels[self.offered_labels : upto])
            self.offered_labels = min(upto, len(labels))
        self._read()
        out = rekeying.turn(
            world.now_ms,
            events_unread=self.offered_events < len(events) and self.number not in world.silent,
            labels_unread=self.offered_labels < len(labels),
            idle_after_ms=IDLE_AFTER_MS,
        )
        for record in out:
            assert record.partition is not None
            self.flying[record.target, record.partition].append((record.key, record.value))
        while (found := rekeying.next_run()) is not None:
            self._answer(*found)
        self._land(rng.random())
        if rng.random() < 0.1:
            self.save()

    def _read(self) -> None:
        """Read some of the own partition of both internal topics, in batches of any size."""
        rekeying, logs, rng = self.rekeying, self.world.logs, self.world.rng
        messages = rekeying.enricher.position.rekey
        rekeying.offer_messages(logs["rekey", self.number][messages : messages + rng.randrange(40)])
        values = rekeying.position.values
        rekeying.offer_values(logs["rekeyed", self.number][values : values + rng.randrange(40)])

    def _answer(self, run: Any, values: list[dict[str, object]]) -> None:
        for read, looked_up in zip(run.events, values, strict=True):
            self.events = read.record.offset + 1
            if not isinstance(read.decoded, Decoded):
                continue
            found = read.decoded
            event = Event(found.event_id, found.event_time, found.key, found.value, read.record.offset, 0)
            if not looked_up:
                assert found.event_id in self.world.answers, "no values for an event that is no repeat"
                continue
            self.world.answered_order[self.number].append(found.event_id)
            (features,) = self.answering.step_events([event], [looked_up])
            self.world.answered(found.event_id, features, late=read.late)
        if run.labels:
            self.labels = run.labels[-1].record.offset + 1

    def _land(self, share: float, *logs: Log) -> None:
        """Let a part of what is on its way reach its log; each log on its own, in order."""
        for log in logs or list(self.flying):
            waiting = self.flying[log]
            for _ in range(int(len(waiting) * share + 0.5)):
                offset = self.world.append(log, *waiting.popleft())
                self.writer.acknowledged(log, offset)

    def save(self) -> None:
        self._land(1.0)
        self.rekeying.tidy()
        entries = dict(self.store.saved.entries) if self.store.saved is not None else {}
        for name, data in self.rekeying.delta().items():
            if data is None:
                entries.pop(name, None)
            else:
                entries[name] = data
        assert entries == self.rekeying.snapshot()
        logs = log_positions(self.taken, cut(self.taken))
        self.store.saved = Saved(logs, entries, (self.events, self.labels))
        self.store.past.append((self.store.claim, self.store.saved))
        self.rekeying.router.committed()
        self.world.reads += self.stored.reads
        self.stored.reads = 0

    def crashed(self) -> Owner:
        """The next owner; what was on its way is lost, in part, or arrives too late to count."""
        if self.world.forgetful:
            self.store.go_back(self.world.rng)
        successor = Owner(self.world, self.number, self.store, self)
        for log in list(self.flying):
            self._land(self.world.rng.random(), log)
        return successor
