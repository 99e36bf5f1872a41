"""A member of a consumer group that hands out batches, per partition and fairly.

Lives here: polls, positions, rebalances, commits.  Never here: what records mean, when to
commit, what happens at a takeover (`loop.py`).

Strategy.  Nothing is automatic: no commit, no offset reset, no position that was not set by
`seek`; a partition that is assigned but not yet sought hands out nothing, so no record is
lost between assignment and takeover.  aiokafka drains whichever partition comes first and
waits without bound during a rebalance; so each partition has a small buffer of its own
here, polls take fair shares of them, and a fetch under way is never cancelled but kept for
the next poll (cancelled, it would switch off aiokafka's own check for idle members).
"""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Protocol

import structlog
from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka import errors as kafka_errors

from engine.kafka.assignor import assignor
from engine.kafka.client import (
    REFUSED,
    LogPartition,
    bounds,
    broker_error,
    connect,
    consumer_options,
    disconnect,
    exact_ends,
)
from engine.settings import KafkaSettings
from topics.errors import BrokerError
from topics.messages import Record

__all__ = ["Listener", "Source", "checked_positions", "records_of"]

FETCH_LOOK_S = 0.1
"""How often a takeover that waits for a fetch looks whether a rebalance has come."""

METADATA_MAX_AGE_MS = 60_000
"""Partitions that were added to a topic, which end the worker, are noticed within this."""

log = structlog.get_logger("headrace")


class Listener(Protocol):
    """The owner of partitions, as called when they come and go.

    Both are awaited while the group waits: `on_revoked` has `rebalance_timeout_ms` to
    flush, checkpoint and commit; `on_assigned` should only take note and let the takeover
    run elsewhere.  An exception in either is raised by the next `poll`.
    """

    async def on_revoked(self, partitions: frozenset[LogPartition]) -> None:
        """Handle that these partitions are about to be revoked: no poll returns records of them any more."""
        ...

    async def on_assigned(self, partitions: frozenset[LogPartition]) -> None:
        """Handle that these are all partitions held now; none is read before `seek`."""
        ...


def records_of(tp: TopicPartition, fetched: Sequence[Any]) -> list[Record]:
    """Return aiokafka's records of one partition as ours; a timestamp of -1 means there is none."""
    topic, part = tp
    return [
        Record(topic, part, r.offset, r.timestamp if r.timestamp >= 0 else None, r.key, r.value, r.headers)
        for r in fetched
    ]


async def checked_positions(
    kafka: KafkaSettings,
    positions: Mapping[TopicPartition, int | None],
    bounds_of: Mapping[TopicPartition, tuple[int, int]],
    *,
    accept_lost: bool = False,
) -> dict[TopicPartition, int]:
    """Return the positions, None made the log's start, if the logs with these bounds have them.

    `accept_lost` goes on at a log's start where records before it were deleted unread, and tells.
    Raises BrokerError before a log's start otherwise, and past its end (emptied, or another log): going
    on silently would lose or repeat records.
    """
    asked = {tp: bounds_of[tp][0] if position is None else position for tp, position in positions.items()}
    beyond = {tp: bounds_of[tp][1] for tp, position in asked.items() if position > bounds_of[tp][1]}
    ends = await exact_ends(kafka, beyond) if beyond else {}
    for tp, position in asked.items():
        start = bounds_of[tp][0]
        if position < start and accept_lost:
            log.warning(
                "records were deleted before they were read: going on without them",
                topic=tp.topic,
                partition=tp.partition,
                records=start - position,
            )
            asked[tp] = start
        elif position < start:
            raise BrokerError(
                f"{start - position} records were deleted before they were read: the log starts at {start}",
                hint="raise retention.ms (it goes by the records' own times, so old data is deleted at once);"
                " `headrace run PIPELINE.py --accept-lost-records` goes on without them (never without"
                " examples)",
                topic=tp.topic,
                partition=tp.partition,
                offset=position,
            )
        if position > ends.get(tp, position):
            raise BrokerError(
                f"the log ends at {ends[tp]}, before the place where reading stopped",
                hint="was the topic deleted, or is this another cluster? Its checkpoints do not fit it",
                topic=tp.topic,
                partition=tp.partition,
                offset=position,
            )
    return asked


class _Buffer:
    """Records of one partition that were fetched and not handed out yet."""

    __slots__ = ("ahead", "end", "known", "looked", "records")

    def __init__(self, position: int, end: int) -> None:
        self.records: deque[Record] = deque()
        self.ahead = position
        """Next offset to fetch: past compacted records and transaction markers."""
        self.end = end
        """Largest end of the log that was seen."""
        self.known = False
        """Whether a fetch has told the end: what brokers list may be too low."""
        self.looked = position
        """What lies before here was in the log when `look_beside` last asked."""

    @property
    def position(self) -> int:
        """The next offset to hand out."""
        return self.records[0].offset if self.records else self.ahead


class Source:
    """A member of the consumer group `group` that reads `topics`.

    Topics with equal partition counts are assigned together: partition 3 of each comes to
    the same member (Kafka's range assignor).  The one that has partition 0 gets no more than
    `leader_partitions_max` of each where there are others; 0: as many as by range.
    """

    def __init__(
        self,
        kafka: KafkaSettings,
        *,
        group: str,
        topics: Sequence[str],
        listener: Listener,
        leader_partitions_max: int = 0,
    ) -> None:
        self._at_start = kafka
        self._kafka = kafka.patient()
        self._group = group
        self._topics = tuple(topics)
        self._listener = listener
        self._assignor = assignor(leader_partitions_max)
        self._consumer: Any = None
        self._open: dict[TopicPartition, _Buffer] = {}
        self._paused: set[TopicPartition] = set()
        self._rebalancing = True
        self._changed = asyncio.Event()
        self._fetch: asyncio.Task[Mapping[TopicPartition, Sequence[Any]]] | None = None
        self._fetching: tuple[TopicPartition, ...] = ()
        self._turn = 0
        self._counts: dict[str, int] = {}
        self._failure: BaseException | None = None

    async def start(self) -> None:
        """Join the group; returns when partitions are assigned.  Raises BrokerError."""
        await connect(self._make, self._at_start, longest_ms=self._kafka.rebalance_timeout_ms)

    def _make(self) -> Any:
        kafka = self._kafka
        self._consumer = AIOKafkaConsumer(
            **consumer_options(kafka),
            group_id=self._group,
            group_instance_id=kafka.group_instance_id,
            partition_assignment_strategy=(self._assignor,),
            session_timeout_ms=kafka.session_timeout_ms,
            heartbeat_interval_ms=kafka.heartbeat_interval_ms,
            rebalance_timeout_ms=kafka.rebalance_timeout_ms,
            max_poll_interval_ms=kafka.max_poll_interval_ms,
            metadata_max_age_ms=METADATA_MAX_AGE_MS,
        )
        self._consumer.subscribe(self._topics, listener=_Rebalance(self))
        return self._consumer

    async def stop(self) -> None:
        """Leave the group.  What was not committed is not committed now."""
        self._open.clear()
        if self._fetch is not None:
            self._fetch.cancel()
            await asyncio.wait({self._fetch}, timeout=self._kafka.stop_deadline_ms / 1000)
            if self._fetch.done():
                with suppress(*REFUSED, asyncio.CancelledError):
                    self._fetch.result()
            self._fetch = None
        await disconnect(self._consumer, self._kafka)

    @property
    def assignment(self) -> frozenset[LogPartition]:
        """The partitions held now, sought or not."""
        return frozenset(self._consumer.assignment())

    async def seek(
        self, positions: Mapping[LogPartition, int | None], *, accept_lost: bool = False
    ) -> dict[LogPartition, int]:
        """Open partitions at these positions (None: the start of the log) and return them.

        Raises BrokerError for a position the log does not have: before its start (records
        were deleted unread) or past its end (the log was emptied or is another one).
        """
        wanted = {TopicPartition(*partition): offset for partition, offset in positions.items()}
        limits = await bounds(self._consumer, wanted, self._kafka)
        checked = await checked_positions(self._kafka, wanted, limits, accept_lost=accept_lost)
        # A fetch that meets a rebalance ends with it, and the rebalance may wait for whoever seeks.
        while (
            self._fetch is not None and not wanted.keys().isdisjoint(self._fetching) and not self._rebalancing
        ):
            await asyncio.wait({self._fetch}, timeout=FETCH_LOOK_S)
            await self._take()
        held = self._consumer.assignment()
        for tp, position in checked.items():
            if self._rebalancing or tp not in held:
                raise BrokerError(
                    "the partition is not assigned to this worker any more",
                    hint="its new owner takes over; nothing to do",
                    topic=tp.topic,
                    partition=tp.partition,
                )
            self._consumer.seek(tp, position)
            self._consumer.resume(tp)
            self._paused.discard(tp)
            self._open[tp] = _Buffer(position, limits[tp][1])
        self._changed.set()
        return dict(checked)

    async def poll(self, timeout_ms: int, records_max: int) -> dict[LogPartition, list[Record]]:
        """Return up to `records_max` records, in log order per partition, shared out fairly.

        Waits up to `timeout_ms` if there are none, never longer, rebalance or not.
        Raises BrokerError, and whatever a listener raised.
        """
        if self._failure is None:
            ready = any(buffer.records and tp not in self._paused for tp, buffer in self._open.items())
            await self._fill(0 if ready else timeout_ms, records_max)
        if self._failure is not None:
            raise self._failure
        return self._shares(records_max)

    async def _fill(self, timeout_ms: int, low: int) -> None:
        """Fetch for the partitions with fewer than `low` buffered, waiting up to `timeout_ms`."""
        if self._fetch is None:
            hungry = tuple(
                tp for tp, held in self._open.items() if len(held.records) < low and tp not in self._paused
            )
            if self._rebalancing:
                # Waits for the assignment and brings nothing; but it raises what ended the group.
                hungry, patience_ms = (TopicPartition(self._topics[0], 0),), 0
            elif hungry:
                patience_ms = timeout_ms
            else:
                await self._wait_for_change(timeout_ms)
                return
            self._fetching = hungry
            self._fetch = asyncio.ensure_future(self._consumer.getmany(*hungry, timeout_ms=patience_ms))
        await asyncio.wait({self._fetch}, timeout=timeout_ms / 1000)
        await self._take()

    async def _wait_for_change(self, timeout_ms: int) -> None:
        if timeout_ms <= 0:
            await asyncio.sleep(0)  # heartbeats and fetches need their turn while records abound
            return
        self._changed.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_ms / 1000):
                await self._changed.wait()

    async def _take(self) -> None:
        """Move what a finished fetch brought into the buffers of the partitions still open."""
        fetch = self._fetch
        if fetch is None or not fetch.done():
            return
        self._fetch = None
        try:
            fetched = fetch.result()
        except REFUSED as error:
            self._failure = broker_error(error, "reading", self._kafka)
            return
        if self._consumer._fetcher.error_future.done():
            self._failure = BrokerError("aiokafka's fetcher has died", hint="restart; its log says why")
            return
        for tp in self._fetching:
            buffer = self._open.get(tp)
            if buffer is None:
                continue
            buffer.records.extend(records_of(tp, fetched.get(tp, ())))
            with suppress(kafka_errors.IllegalStateError):
                buffer.ahead = await self._consumer.position(tp)
                stable = self._consumer.last_stable_offset(tp)
                if stable is not None:
                    buffer.end = max(buffer.end, stable)
                    buffer.known = True

    def _shares(self, records_max: int) -> dict[LogPartition, list[Record]]:
        ready = [tp for tp, buffer in self._open.items() if buffer.records and tp not in self._paused]
        if not ready:
            return {}
        self._turn = (self._turn + 1) % len(ready)
        shares: dict[LogPartition, list[Record]] = {}
        left = records_max
        for served, tp in enumerate(itertools.chain(ready[self._turn :], ready[: self._turn])):
            share = -(-left // (len(ready) - served))
            if share < 1:
                break
            records = self._open[tp].records
            shares[tp] = [records.popleft() for _ in range(min(share, len(records)))]
            left -= len(shares[tp])
        return shares

    def position(self, partition: LogPartition) -> int:
        """Return the next offset that a poll hands out.  KeyError unless sought."""
        return self._open[TopicPartition(*partition)].position

    def unread(self, partition: LogPartition) -> bool:
        """Return whether the log holds, or may hold, records that no poll has handed out yet.

        As of the broker's last answer, as in KIP-695; before its first one (within
        `fetch_max_wait_ms` of polling) it may.  KeyError unless sought.
        """
        buffer = self._open[TopicPartition(*partition)]
        return not buffer.known or bool(buffer.records) or buffer.ahead < buffer.end

    async def look_beside(self, partition: LogPartition, other: LogPartition) -> None:
        """Ask for the end of `other`: `unread` then covers all that is older than records of `partition`.

        The end that `unread` goes by is as old as the last fetch.  Asks once for all that `partition` is
        known to hold, so a backlog costs one round trip.  Raises BrokerError.
        """
        here, there = self._open.get(TopicPartition(*partition)), self._open.get(TopicPartition(*other))
        if here is None or there is None or here.position <= here.looked:
            return
        looked = max(here.position, here.end)
        tp = TopicPartition(*other)
        there.end = max(there.end, (await bounds(self._consumer, [tp], self._kafka))[tp][1])
        here.looked = looked

    async def look_at_ends(self, partitions: Iterable[LogPartition]) -> None:
        """Ask where these logs end, as far as they are open: `lag` then knows what no fetch has brought.

        Raises BrokerError.
        """
        wanted = [tp for partition in partitions if (tp := TopicPartition(*partition)) in self._open]
        for tp, (_, end) in (await bounds(self._consumer, wanted, self._kafka)).items():
            if (buffer := self._open.get(tp)) is not None:
                buffer.end = max(buffer.end, end)

    def lag(self, partition: LogPartition) -> int:
        """Return how many offsets lie between the position and the end of the log."""
        buffer = self._open[TopicPartition(*partition)]
        return max(buffer.end - buffer.position, 0)

    async def bounds(self, partition: LogPartition) -> tuple[int, int]:
        """Ask the broker where any log begins and ends, assigned or not; one round trip."""
        tp = TopicPartition(*partition)
        return (await bounds(self._consumer, [tp], self._kafka))[tp]

    def pause(self, partitions: Iterable[LogPartition]) -> None:
        """Stop fetching and handing out; what is buffered stays."""
        for tp in self._held(partitions):
            self._paused.add(tp)
            self._consumer.pause(tp)

    def resume(self, partitions: Iterable[LogPartition]) -> None:
        """Go on where `pause` stopped."""
        for tp in self._held(partitions):
            self._paused.discard(tp)
            self._consumer.resume(tp)
        self._changed.set()

    def _held(self, partitions: Iterable[LogPartition]) -> list[TopicPartition]:
        return [tp for partition in partitions if (tp := TopicPartition(*partition)) in self._open]

    async def commit(self, positions: Mapping[LogPartition, int]) -> None:
        """Commit these next offsets to Kafka, for lag tools: a restart reads them from the checkpoint.

        Raises BrokerError if Kafka does not take them within the deadline or the
        partitions have moved; nothing is lost by that.
        """
        offsets = {TopicPartition(*partition): offset for partition, offset in positions.items()}
        try:
            async with asyncio.timeout(self._kafka.commit_deadline_ms / 1000):
                await self._consumer.commit(offsets)
        except (*REFUSED, TimeoutError) as error:
            raise broker_error(error, "committing offsets", self._kafka) from error

    async def _revoked(self, partitions: set[TopicPartition]) -> None:
        self._rebalancing = True
        for tp in partitions:
            self._open.pop(tp, None)
            self._paused.discard(tp)
        if partitions:
            await self._told(self._listener.on_revoked, partitions)

    async def _assigned(self, partitions: set[TopicPartition]) -> None:
        self._open.clear()
        self._paused.clear()
        for tp in partitions:
            # A valid position and no fetch: or aiokafka would go to the committed offset by itself.
            self._consumer.seek(tp, 0)
            self._consumer.pause(tp)
        self._rebalancing = False
        self._failure = self._failure or self._topics_changed()
        await self._told(self._listener.on_assigned, partitions)
        self._changed.set()

    def _topics_changed(self) -> BrokerError | None:
        """Return the error for a topic that was deleted or has another number of partitions now, or None."""
        for topic in self._topics:
            count = len(self._consumer.partitions_for_topic(topic) or ())
            before = self._counts.setdefault(topic, count)
            if count == 0:
                return BrokerError("the topic was deleted while it was read", hint="restore it", topic=topic)
            if count != before:
                return BrokerError(
                    f"the topic has {count} partitions now, it had {before}: keys have moved between them",
                    hint="state is kept by partition: start anew, on topics with that many partitions",
                    topic=topic,
                )
        return None

    async def _told(
        self, tell: Callable[[frozenset[LogPartition]], Awaitable[None]], partitions: set[TopicPartition]
    ) -> None:
        try:
            await tell(frozenset(partitions))
        except Exception as error:  # noqa: BLE001 - aiokafka would log and forget it
            self._failure = error
            self._changed.set()


class _Rebalance(ConsumerRebalanceListener):  # type: ignore[misc]  # aiokafka is not typed
    """aiokafka's listener, handing on to its Source."""

    def __init__(self, source: Source) -> None:
        self._source = source

    async def on_partitions_revoked(self, revoked: set[TopicPartition]) -> None:
        await self._source._revoked(revoked)

    async def on_partitions_assigned(self, assigned: set[TopicPartition]) -> None:
        await self._source._assigned(assigned)
