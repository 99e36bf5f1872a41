"""Connections of aiokafka's clients: a start that retries, a stop with a deadline, errors with a fix.

Lives here: connecting, deadlines, the waits under way and the log lines about a long one, the translation of
aiokafka's errors, the bounds of a log.  Never here: records, groups, topics' settings, what a worker does in
an outage (nothing: it holds still, and goes on where it stands).

Strategy: aiokafka retries some things for ever and others never (aiokafka#1095, #1101), so
each wait has a deadline of its own here, and what aiokafka raises leaves as BrokerError.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any, TypeVar

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka import errors as kafka_errors
from aiokafka.conn import AIOKafkaConnection, CloseReason

from engine.kafka.bootstrap import hint_for, is_final, watched
from engine.kafka.record_batches import install_bounded_batches
from engine.settings import KafkaSettings
from topics.errors import BrokerError

__all__ = [
    "AWAY",
    "LOOK_S",
    "REFUSED",
    "LogPartition",
    "MissingTopics",
    "ask_broker",
    "assigned_consumer",
    "bounds",
    "broker_error",
    "broker_wait",
    "connect",
    "consumer_options",
    "disconnect",
    "exact_ends",
    "install_connection_check",
    "last_answer_s",
    "log_outages",
    "open_client",
    "unanswered_s",
]

LogPartition = tuple[str, int]
"""Topic and partition number; aiokafka's TopicPartition is equal to it, and is one."""

RETRY_FIRST_S = 0.1
RETRY_MAX_S = 2.0
"""Between tries to reach a broker: soon enough after its restart, rare enough for the log."""
NOTICED_S = 5.0
"""A wait this long is logged: brokers answer within milliseconds, and elect a new leader within seconds."""
MISSING_S = 3.0
"""A topic that is not there for so long is told, before the wait for it is taken for an outage."""
LOOK_S = 1.0
LOGGED_EVERY_S = 60.0
"""Often enough to see that it goes on."""
PROBE_MS = 10
"""Longest wait of a fetch that is only after the end of the log."""

REFUSED = (kafka_errors.KafkaError, AssertionError, ValueError)
"""Errors that aiokafka raises: its own, and bare assertions for unknown partitions and fenced producers."""

AWAY = (
    TimeoutError,
    kafka_errors.KafkaConnectionError,
    kafka_errors.KafkaTimeoutError,
    kafka_errors.LeaderNotAvailableError,
    kafka_errors.NodeNotReadyError,
    kafka_errors.NotLeaderForPartitionError,
    kafka_errors.RequestTimedOutError,
    kafka_errors.StaleMetadata,
)
"""Errors of a broker that is away: it is asked again."""

_Answer = TypeVar("_Answer")

log = structlog.get_logger("headrace")

_HINTS: tuple[tuple[type[Exception], str], ...] = (
    (
        kafka_errors.InvalidSessionTimeoutError,
        "raise kafka.session_timeout_ms: brokers refuse less than group.min.session.timeout.ms (6 s)",
    ),
    (
        kafka_errors.UnknownTopicOrPartitionError,
        "create the topic, or let `headrace topics create PIPELINE.py` do it",
    ),
    (kafka_errors.TopicAuthorizationFailedError, "give this user READ or WRITE on the topic"),
    (kafka_errors.GroupAuthorizationFailedError, "give this user READ on the consumer group"),
    (kafka_errors.ClusterAuthorizationFailedError, "give this user IDEMPOTENT_WRITE on the cluster"),
    (
        kafka_errors.MessageSizeTooLargeError,
        "raise max.message.bytes of the topic (a worker says at start to what), or send less",
    ),
    (
        kafka_errors.RecordTooLargeError,
        "raise kafka.fetch_max_bytes: a record is larger than one fetch may be",
    ),
    (
        kafka_errors.InvalidTimestampError,
        "the topic takes no time so far from now: raise message.timestamp.after.max.ms or .before.max.ms",
    ),
    (
        kafka_errors.OffsetOutOfRangeError,
        "the log was cut or replaced while it was read: restart, the checkpoint is checked against it",
    ),
    (kafka_errors.CommitFailedError, "nothing is lost: the partitions moved, their new owner commits"),
)


def broker_error(error: BaseException, doing: str, kafka: KafkaSettings) -> BrokerError:
    """Return the BrokerError for an error of aiokafka: what was being done, what went wrong, the fix."""
    hint = next((hint for error_type, hint in _HINTS if isinstance(error, error_type)), "")
    if isinstance(error, TimeoutError):
        return BrokerError(
            f"{doing}: no answer within the deadline",
            hint=f"is Kafka at {kafka.bootstrap_servers} up and not overloaded?",
        )
    said = str(error) or type(error).__name__
    raised = BrokerError(
        f"{doing}: {said}", hint=hint or f"look at the log of Kafka at {kafka.bootstrap_servers}"
    )
    raised.__cause__ = error
    return raised


# -- waits under way ------------------------------------------------------------------------------

_since_s: dict[object, float] = {}
"""Waits under way, the oldest first: one process speaks to one cluster."""
_last_answer_s = 0.0


@contextmanager
def broker_wait() -> Iterator[None]:
    """Count the block as a wait for a broker, until it ends, answered or not.

    >>> with broker_wait():
    ...     unanswered_s()
    0.0
    """
    global _last_answer_s  # noqa: PLW0603 - of the process, as the waits are
    wait = object()
    _since_s[wait] = time.monotonic()
    try:
        yield
    finally:
        del _since_s[wait]
        _last_answer_s = time.monotonic()


def unanswered_s() -> float:
    """Return how long the oldest wait has taken by now, in seconds; 0.0 below `NOTICED_S`."""
    oldest_s = next(iter(_since_s.values()), None)
    if oldest_s is None:
        return 0.0
    silent_s = time.monotonic() - oldest_s
    return silent_s if silent_s >= NOTICED_S else 0.0


def last_answer_s() -> float:
    """Return when the last wait ended, by the monotonic clock."""
    return _last_answer_s


async def log_outages(deadline_ms: int) -> None:
    """Log an outage at once and then every minute, and its end; runs until it is cancelled."""
    said_s: float | None = None
    silent_s = 0.0
    while True:
        await asyncio.sleep(LOOK_S)
        now_s, longer_s = time.monotonic(), unanswered_s()
        if longer_s and (said_s is None or now_s - said_s >= LOGGED_EVERY_S):
            log.warning(
                "no broker answers: holding still",
                silent_s=round(longer_s),
                gives_up_after_s=deadline_ms // 1000,
            )
            said_s = now_s
        elif not longer_s and said_s is not None:
            log.warning("a broker answers again", silent_s=round(silent_s))
            said_s = None
        silent_s = longer_s


class MissingTopics:
    """The topics that a client uses and its cluster has no more.

    aiokafka asks for a deleted topic again and again for ever, a reader of it hundreds of times a second.
    A broker that was just started may not know all topics yet, so one must be missing for `MISSING_S`.
    """

    def __init__(self) -> None:
        self.since_s: dict[str, float] = {}
        """Topics that are missing now, and since when, by the monotonic clock."""

    def check(self, client: Any, topics: Iterable[str]) -> None:
        """Look at what aiokafka's client of the cluster last heard.  Raises BrokerError."""
        now_s = time.monotonic()
        for topic in topics:
            if client.cluster.partitions_for_topic(topic):
                self.since_s.pop(topic, None)
            elif now_s - self.since_s.setdefault(topic, now_s) >= MISSING_S:
                raise BrokerError(
                    "the topic was deleted while it was in use",
                    hint="a new one of this name is another log, and the checkpoints do not fit it: start"
                    " anew, with another pipeline `name` or an empty store",
                    topic=topic,
                )


# -- connecting, asking, leaving ------------------------------------------------------------------


async def connect(make: Callable[[], Any], kafka: KafkaSettings, *, longest_ms: int = 0) -> Any:
    """Return `make()`, a client of aiokafka, started.

    A broker that cannot be reached is tried again, with a new client, until
    `connect_deadline_ms`, one that refuses this client is not; `longest_ms` is what a start may
    take beyond that.  Raises BrokerError naming the address.
    """
    install_connection_check()
    loop = asyncio.get_running_loop()
    deadline = loop.time() + kafka.connect_deadline_ms / 1000
    wait = RETRY_FIRST_S
    with broker_wait():
        while True:
            client = make()
            try:
                with watched() as attempt:
                    async with asyncio.timeout_at(deadline + longest_ms / 1000):
                        await client.start()
            except (kafka_errors.KafkaConnectionError, OSError) as error:  # TimeoutError is an OSError
                await disconnect(client, kafka)
                reason = attempt.reason or error
                if is_final(reason) or loop.time() + wait >= deadline:
                    what = "lets this client in" if is_final(reason) else "answers"
                    raise BrokerError(
                        f"no Kafka {what} at {kafka.bootstrap_servers}: {reason or type(reason).__name__}",
                        hint=hint_for(reason, kafka),
                    ) from error
            except REFUSED as error:
                await disconnect(client, kafka)
                raise broker_error(error, "connecting", kafka) from error
            except BaseException:
                await disconnect(client, kafka)
                raise
            else:
                return client
            await asyncio.sleep(wait)
            wait = min(wait * 2, RETRY_MAX_S)


async def ask_broker(ask: Callable[[], Awaitable[_Answer]], doing: str, kafka: KafkaSettings) -> _Answer:
    """Return the result of `ask()`; a broker that is away is asked again until `connect_deadline_ms`.

    Raises BrokerError.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + kafka.connect_deadline_ms / 1000
    with broker_wait():
        while True:
            try:
                async with asyncio.timeout(kafka.request_timeout_ms / 1000):
                    return await ask()
            except (*REFUSED, TimeoutError) as error:
                if not isinstance(error, AWAY) or loop.time() + RETRY_MAX_S >= deadline:
                    raise broker_error(error, doing, kafka) from error
            await asyncio.sleep(RETRY_MAX_S)


async def disconnect(client: Any, kafka: KafkaSettings) -> None:
    """Close a client, waiting `stop_deadline_ms` at most."""
    if client is None:
        return
    stop = getattr(client, "stop", None) or client.close
    # A task of its own: the cancellation of aiokafka's inner tasks comes out of it as if it were ours.
    goodbye = asyncio.ensure_future(stop())
    goodbye.add_done_callback(_retrieve_exception)
    try:
        await asyncio.wait({goodbye}, timeout=kafka.stop_deadline_ms / 1000)
    finally:
        goodbye.cancel()


@asynccontextmanager
async def open_client(make: Callable[[], Any], kafka: KafkaSettings) -> AsyncGenerator[Any]:
    """Connect `make()`, a client of aiokafka, for the block.  Raises BrokerError as `connect`."""
    client = await connect(make, kafka)
    try:
        yield client
    finally:
        await disconnect(client, kafka)


def _retrieve_exception(done: asyncio.Future[Any]) -> None:
    """Retrieve the exception of a finished task, so that asyncio does not log it."""
    if not done.cancelled():
        done.exception()


def consumer_options(kafka: KafkaSettings) -> dict[str, Any]:
    """Return the arguments of every consumer: no automatic commit or reset, no aborted records."""
    install_bounded_batches()
    return kafka.aiokafka_options() | {
        "enable_auto_commit": False,
        "auto_offset_reset": "none",
        "isolation_level": "read_committed",
        "fetch_max_wait_ms": kafka.fetch_max_wait_ms,
        "max_partition_fetch_bytes": kafka.fetch_max_bytes,
    }


async def bounds(
    consumer: Any, partitions: Iterable[TopicPartition], kafka: KafkaSettings
) -> dict[TopicPartition, tuple[int, int]]:
    """Return each log's first offset and its end as listed, by some brokers too low (`exact_ends`)."""
    wanted = list(partitions)

    async def ask() -> dict[TopicPartition, tuple[int, int]]:
        starts = await consumer.beginning_offsets(wanted)
        ends = await consumer.end_offsets(wanted)
        return {tp: (starts[tp], ends[tp]) for tp in wanted}

    return await ask_broker(ask, "asking for the bounds of logs", kafka)


@asynccontextmanager
async def assigned_consumer(
    kafka: KafkaSettings, partitions: Iterable[TopicPartition] = ()
) -> AsyncGenerator[Any]:
    """Connect a consumer without a group that is assigned these partitions.  Raises BrokerError."""

    def make() -> Any:
        return AIOKafkaConsumer(**consumer_options(kafka))

    async with open_client(make, kafka) as consumer:
        consumer.assign(list(partitions))
        yield consumer


async def exact_ends(
    kafka: KafkaSettings, reported: Mapping[TopicPartition, int]
) -> dict[TopicPartition, int]:
    """Return the ends of logs as a fetch tells them, where a broker's list of offsets cannot be trusted.

    Tansu 0.6 lists the first offset of the last batch plus one, less than the end; what a
    fetch says is right on every broker.  Raises BrokerError.
    """
    ends = dict(reported)
    async with assigned_consumer(kafka.model_copy(update={"fetch_max_wait_ms": PROBE_MS}), ends) as consumer:
        for tp, end in reported.items():
            consumer.seek(tp, end)

        async def ask() -> None:
            while silent := [tp for tp in ends if consumer.highwater(tp) is None]:
                await consumer.getmany(*silent, timeout_ms=PROBE_MS)

        await ask_broker(ask, "asking for the ends of logs", kafka)
        for tp, end in reported.items():
            ends[tp] = max(end, consumer.last_stable_offset(tp) or 0)
    return ends


# -- connections that were reset ------------------------------------------------------------------

# A broker that dies resets its connections.  The event loop closes the transport at once; aiokafka 0.14
# closes its connection two turns of the loop later and takes it for open until then.  A write in between is
# dropped by asyncio's loop, but uvloop raises RuntimeError (aiokafka#1038), which aiokafka does not catch:
# the background task that was writing ends.  The producer's, the fetcher's and the coordinator's end the
# worker.  The end of the one that updates the metadata is not even noticed: every wait for metadata, and so
# every request that is tried again, then hangs, although the broker is back.  So a connection whose
# transport is closing is closed before it is written to.
#
# And a client that is told to stop while it asks its first broker for the cluster forgets that connection:
# aiokafka closes it for errors, not for a cancellation, and knows it by no name.  It is the only kind without
# somebody to tell of its end, so whoever is cancelled while it waits for such a one closes it.

_send_of_aiokafka = AIOKafkaConnection.send


def install_connection_check() -> None:
    """Check the connection before every request of this process.  May be called more than once."""
    AIOKafkaConnection.send = _send


def _send(connection: Any, request: Any, expect_response: bool = True) -> Any:
    """Send a request as aiokafka does, and return what it returns: an awaitable of the response.

    Raises KafkaConnectionError if the broker has reset the connection.
    """
    writer = connection._writer
    if writer is not None and writer.is_closing():
        connection.close(reason=CloseReason.CONNECTION_BROKEN)
        raise kafka_errors.KafkaConnectionError(
            f"Connection at {connection.host}:{connection.port} was reset"
        )
    response = _send_of_aiokafka(connection, request, expect_response)
    return _first_response(connection, response) if connection._on_close_cb is None else response


async def _first_response(connection: Any, response: Awaitable[Any]) -> Any:
    """Return the response over a first connection; close that if nobody waits for it any more."""
    try:
        return await response
    except asyncio.CancelledError:
        connection.close()
        raise
