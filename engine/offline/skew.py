"""`headrace skew`: served features beside their recomputation, from the topics, in a process of its own.

Lives here: reading the three logs of each partition in step, counting, metrics.  Never here: what is
compared (`operators/skew/comparison.py`), arguments and tables (`skew.py`).

    predictions  |--- read by the rule of claims, up to LOOK_RECORDS -->|  says up to which event
    events       |------------------------ up to there --------------->|
    labels       |------- up to the time of the last of these events -->|  older head first, as a worker

So no event is looked at before its answer is there, nothing is asked of a worker, and what is held is
one look of each partition besides the sample.  A new start begins with the logs' first records.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import aclosing
from heapq import heappop, heappush
from typing import Any, Final, NamedTuple

import msgspec
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from engine.alerts.skewed import SkewAlerts
from engine.definition.pipeline import Pipeline
from engine.kafka.log_reader import log_bounds, read_log
from engine.kafka.sink import open_sink
from engine.machines.admission import Intake, Run
from engine.settings import KafkaSettings
from operators.claims.rule import Reader
from operators.language.fields import Feature
from operators.rekeying.merge import NEVER
from operators.skew.comparison import FeatureCheck, Scope, Skew
from topics import headers
from topics.codec import Decoded, Rejected, decode_claim, decode_prediction
from topics.messages import Label, Prediction, Record
from topics.watermarks import Move

__all__ = ["PartitionSkew", "SkewCounts", "SkewMetrics", "check_once", "follow"]

LOOK_RECORDS: Final = 5_000
"""Records read at once of each log, about 10 MB."""
SHARE_SPAN: Final = 1_000
SHARE_MIN: Final = 20
"""Of fewer compared values a share says nothing."""
DIFFERENCES_MAX: Final = 10
"""Differences kept to be shown; the counts have all."""
SKEWED: Final = ("mismatch", "missing", "extra")


class Difference(NamedTuple):
    """One difference, as it is shown."""

    partition: int
    event_id: str
    event_offset: int
    check: FeatureCheck


class SkewCounts:
    """The counts of compared features, over all partitions."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self.features: Counter[tuple[str, str]] = Counter()
        self.events: Counter[str] = Counter()
        self.examples: deque[Difference] = deque(maxlen=DIFFERENCES_MAX)
        """The newest differences."""
        self._names = names
        self._compared: Counter[str] = Counter()
        self._shares: dict[str, float] = {}
        """By feature, the share of the newest compared values that were not as they should be."""

    def add(self, partition: int, event_id: str, event_offset: int, checks: list[FeatureCheck]) -> None:
        """Count one event's features."""
        self.features.update((one.feature, one.outcome) for one in checks)
        self.examples.extend(
            Difference(partition, event_id, event_offset, one) for one in checks if one.outcome in SKEWED
        )
        for one in checks:
            if one.outcome != "unchecked":
                self._compared[one.feature] += 1
                share = self._shares.get(one.feature, 0.0)
                span = min(self._compared[one.feature], SHARE_SPAN)
                self._shares[one.feature] = share + ((one.outcome in SKEWED) - share) / span

    def shares(self) -> dict[str, float]:
        """Return the share of skewed ones of the newest values, by feature; without those of too few."""
        return {name: share for name, share in self._shares.items() if self._compared[name] >= SHARE_MIN}

    @property
    def skewed(self) -> int:
        """Return how many features were not as they should be."""
        return sum(count for (_, outcome), count in self.features.items() if outcome in SKEWED)

    @property
    def compared(self) -> int:
        """Return how many features were compared."""
        return sum(count for (_, outcome), count in self.features.items() if outcome != "unchecked")

    def report(self) -> dict[str, Any]:
        """Return everything as one plain object."""
        names = dict.fromkeys([*self._names, *(name for name, _ in self.features)])
        outcomes = ("match", *SKEWED, "unchecked")
        return {
            "events": dict(sorted(self.events.items())),
            "compared": self.compared,
            "skewed": self.skewed,
            "features": {
                name: {outcome: self.features[name, outcome] for outcome in outcomes} for name in names
            },
            "examples": [
                {
                    "partition": one.partition,
                    "event_id": one.event_id,
                    "event_offset": one.event_offset,
                    **one.check._asdict(),
                }
                for one in self.examples
            ],
        }


class SkewMetrics(Collector):
    """The Prometheus counters of the comparison."""

    def __init__(self, counts: SkewCounts) -> None:
        self._counts = counts

    def collect(self) -> Iterator[Metric]:
        """Yield both counters; called by the registry at each scrape."""
        features = CounterMetricFamily(
            "headrace_skew_features",
            "Served features beside their recomputation.",
            labels=["feature", "outcome"],
        )
        for (feature, outcome), count in sorted(self._counts.features.items()):
            features.add_metric([feature, outcome], count)
        events = CounterMetricFamily("headrace_skew_events", "Events read by the check.", labels=["outcome"])
        for outcome, count in sorted(self._counts.events.items()):
            events.add_metric([outcome], count)
        yield from (features, events)


class PartitionSkew:
    """One partition: records in, counts out.  No clock, no socket.

    Offer predictions first, then the events they answer, then labels; `advance` until it says
    that it needs more labels or has nothing left.
    """

    def __init__(
        self, pipeline: Pipeline, partition: int, counts: SkewCounts, *, one_in: int, is_whole: bool
    ) -> None:
        """`is_whole`: the logs begin with their first records."""
        inside = pipeline.labels.field is not None
        rules = pipeline.rule_plan.features
        changed = {rule.of.name for rule in rules if isinstance(rule.of, Feature) and rule.action != "flag"}
        if any(not isinstance(rule.of, Feature) and rule.action != "flag" for rule in rules):
            changed = set(pipeline.features)
        scope = Scope(
            pipeline.events.key,
            pipeline.events.partitions,
            pipeline.labels.wait_ms,
            pipeline.implicit_label,
            changed,
            inside,
        )
        self.skew = Skew(pipeline.plan, scope, one_in=one_in)
        self.intake = Intake(
            pipeline.event_decoder(), pipeline.label_decoder(), max_ahead_ms=pipeline.max_ahead_ms
        )
        self.answered_to = 0
        """Next offset of the events that are answered."""
        self._partition = partition
        self._version = pipeline.features_version.encode()
        self._counts = counts
        self.is_whole = is_whole
        self._reader = Reader()
        self._begun = is_whole
        self._answers: dict[int, tuple[Prediction, bool]] = {}
        self._looked_to = 0
        self._in_order = pipeline.stages is not None
        self._grace_ms = pipeline.grace_ms
        self._time_max = NEVER
        self._held: list[tuple[int, int, Decoded, Prediction, bool]] = []
        """Heap by time and offset: where events travel to other keys, windows get them in this order.

        As many as come within the grace, as in a router."""

    def offer_predictions(self, records: list[Record]) -> None:
        """Take records of the predictions log: those that count, by the reader's rule."""
        for record in records:
            if record.value is None:
                continue
            if headers.record_type_of(record.headers) == "claim":
                claim = decode_claim(record.value)
                self._reader.claim(claim.source_partition, claim.claim)
                self._begun = True
                continue
            try:
                answer = decode_prediction(record.value)
            except msgspec.MsgspecError:  # of a foreign writer: it has no number either
                self._counts.events["unreadable"] += 1
                continue
            if not self._begun:
                # What was claimed before the log's first record is not there to be read.
                self._reader = Reader((self._partition, answer.claim, answer.sequence))
                self._begun = True
            if not self._reader.counts(self._partition, answer.claim, answer.sequence):
                self._counts.events["superseded"] += 1
                continue
            version = dict(record.headers).get(headers.FEATURES, self._version)
            if answer.event_offset in self._answers or answer.event_offset < self._looked_to:
                self._counts.events["answered_twice"] += 1
                continue
            self._answers[answer.event_offset] = answer, version == self._version
            self.answered_to = max(self.answered_to, answer.event_offset + 1)

    def first_answered(self) -> int | None:
        """Return the offset of the first event whose answer is here."""
        return min(self._answers, default=None)

    def advance(self, *, labels_unread: bool) -> bool:
        """Take one run; return False where there is no event left, or labels must come first."""
        if not self.intake.events_buffered:
            return False
        run = self.intake.next_run(events_unread=False, labels_unread=labels_unread)
        if run is None:
            return False
        self._take(run)
        return True

    def _take(self, run: Run) -> None:
        for label in run.labels:
            if isinstance(label.decoded, Label):
                self.skew.label(label.decoded)
        for event in run.events:
            decoded, offset = event.decoded, event.record.offset
            answer, same_version = self._answers.pop(offset, (None, True))
            self._looked_to = offset + 1
            if isinstance(decoded, Move):
                self._move(decoded)
                continue
            if isinstance(decoded, Rejected):
                self._counts.events["refused"] += 1
                continue
            if answer is None:
                self._counts.events["unanswered"] += 1
                continue
            if not self._in_order:
                self._look(decoded, offset, answer, same_version=same_version)
                continue
            self._time_max = max(self._time_max, decoded.event_time)
            time = NEVER if answer.late else decoded.event_time  # a late one goes at once
            heappush(self._held, (time, offset, decoded, answer, same_version))
            self._go(self._time_max - self._grace_ms)

    def _move(self, move: Move) -> None:
        """Let the watermark go on without an event."""
        self._counts.events["watermark"] += 1
        self._time_max = max(self._time_max, move.event_time)
        self._go(self._time_max - self._grace_ms)
        self.skew.move(move.event_time)

    def _go(self, until: int) -> None:
        """Compare held events older than `until`."""
        while self._held and self._held[0][0] < until:
            _, offset, decoded, answer, same_version = heappop(self._held)
            self._look(decoded, offset, answer, same_version=same_version)

    def finish(self) -> None:
        """Compare the events still held: no more events come."""
        self._go(1 << 62)

    def _look(self, decoded: Decoded, offset: int, answer: Prediction, *, same_version: bool) -> None:
        if not self.is_whole and self.skew.complete_from_ms is None:
            self.skew.complete_from_ms = decoded.event_time
        checks = self.skew.event(decoded, answer, same_version=same_version)
        self._counts.events["checked" if checks else "passed"] += 1
        self._counts.add(self._partition, decoded.event_id, offset, checks)


class _Logs:
    """The three logs of one partition, read in step."""

    def __init__(
        self, kafka: KafkaSettings, pipeline: Pipeline, partition: int, begin: dict[str, int]
    ) -> None:
        self._kafka, self._pipeline, self._partition = kafka, pipeline, partition
        self._at = dict(begin)

    async def look(self, skew: PartitionSkew, ends: dict[str, int]) -> bool:
        """Read up to LOOK_RECORDS of each log and compare them; return whether there was anything to read."""
        catalog, labels = self._pipeline.catalog, self._pipeline.labels.topic
        answers = await self._read(catalog["predictions"], ends)
        if not answers:
            return False
        skew.offer_predictions(answers)
        events, first = self._pipeline.events.name, skew.first_answered()
        if first is not None and self._at[events] < first and not skew.is_whole:
            self._at[events] = first  # what was answered before is not there to be compared
        while self._at[events] < skew.answered_to:
            records = await self._read(events, {events: skew.answered_to})
            skew.intake.offer_events(records)
            while skew.intake.events_buffered:
                unread = labels is not None and self._at[labels] < ends[labels]
                if skew.advance(labels_unread=unread):
                    continue
                assert labels is not None  # only unread labels hold a run up
                skew.intake.offer_labels(await self._read(labels, ends))
        return True

    async def _read(self, topic: str, ends: dict[str, int]) -> list[Record]:
        """Return the next records of a log, LOOK_RECORDS at most, up to its end."""
        start = self._at[topic]
        until = min(ends[topic], start + LOOK_RECORDS)
        taken: list[Record] = []
        if start < until:
            async with aclosing(read_log(self._kafka, topic, self._partition, start, until)) as chunks:
                async for records in chunks:
                    taken += records
            self._at[topic] = until
        return taken


class _Check:
    """All partitions of one pipeline."""

    def __init__(self, pipeline: Pipeline, kafka: KafkaSettings, one_in: int) -> None:
        self.counts = SkewCounts(tuple(pipeline.features))
        self._pipeline, self._kafka, self._one_in = pipeline, kafka, one_in
        # Predictions first: whatever a worker had read by then lies before the ends of the others.
        self._topics = [pipeline.catalog["predictions"], pipeline.events.name]
        self._topics += [pipeline.labels.topic] if pipeline.labels.topic is not None else []
        self._partitions: dict[int, tuple[PartitionSkew, _Logs]] = {}

    async def look(self) -> None:
        """Read all logs up to their present ends, and compare."""
        bounds = {topic: await log_bounds(self._kafka, topic) for topic in self._topics}
        for partition in bounds[self._topics[0]]:
            here = {topic: by_partition[partition] for topic, by_partition in bounds.items()}
            if partition not in self._partitions:
                begin = {topic: start for topic, (start, _) in here.items()}
                is_whole = not any(begin.values())
                skew = PartitionSkew(
                    self._pipeline, partition, self.counts, one_in=self._one_in, is_whole=is_whole
                )
                self._partitions[partition] = skew, _Logs(self._kafka, self._pipeline, partition, begin)
            skew, logs = self._partitions[partition]
            ends = {topic: end for topic, (_, end) in here.items()}
            while await logs.look(skew, ends):
                pass

    def finish(self) -> None:
        """Compare the events still held."""
        for skew, _ in self._partitions.values():
            skew.finish()


async def check_once(pipeline: Pipeline, kafka: KafkaSettings, *, one_in: int) -> SkewCounts:
    """Compare the logs as they stand.  Raises BrokerError."""
    check = _Check(pipeline, kafka, one_in)
    await check.look()
    check.finish()
    return check.counts


async def follow(
    pipeline: Pipeline, kafka: KafkaSettings, *, one_in: int, registry: CollectorRegistry, interval_s: float
) -> None:
    """Compare the logs every `interval_s` until cancelled, and tell people of skew.

    `registry` has the counts.  Raises BrokerError.
    """
    check = _Check(pipeline, kafka, one_in)
    registry.register(SkewMetrics(check.counts))
    async with open_sink(kafka) as sink:
        alerts = SkewAlerts(pipeline, kafka, sink)
        while True:
            await check.look()
            await alerts.look(check.counts.shares())
            await asyncio.sleep(interval_s)
