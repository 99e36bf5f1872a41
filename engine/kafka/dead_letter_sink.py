"""The producer of dead letters: no size that their topic refuses ends a worker.

Lives here: cutting them to what the topic takes, and trying again where it takes less than it said.  Never
here: why a record is refused (`engine/machines/outbox.py`), what is cut first (`topics/headers.py`).

Strategy: a producer of their own, from the first letter on, without idempotence.  An idempotent producer
cannot go on after a batch that was refused, and dead letters are written at least once anyway.  A refusal
for size (someone has lowered the limit) halves what a letter may take, and all that is not acknowledged
goes again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import structlog
from aiokafka.errors import MessageSizeTooLargeError

from engine.kafka.sink import Sink
from engine.kafka.topic_admin import LETTER_LIMIT_MIN, TopicLimits
from engine.settings import KafkaSettings
from topics.errors import BrokerError
from topics.headers import fitted
from topics.messages import Outgoing

__all__ = ["LetterSink"]

PENDING_BYTES_MAX = 4_194_304
"""Letters kept until they are acknowledged; beyond, sending waits for them."""

log = structlog.get_logger("headrace")


class LetterSink:
    """Writes dead letters to one topic, each stamped with the time of writing."""

    def __init__(self, kafka: KafkaSettings, topic: str) -> None:
        self.limits = TopicLimits()
        """What the topic takes: set once it is known, and halved where it takes less."""
        self.counts: Counter[tuple[str, str]] = Counter()
        """How many letters were cut; the worker exports it."""
        self._told = False
        self._kafka = kafka.model_copy(update={"enable_idempotence": False})
        self._topic = topic
        self._sink: Sink | None = None
        self._pending: list[Outgoing] = []
        self._pending_bytes = 0

    async def send(self, letters: Sequence[Outgoing]) -> None:
        """Send letters, cut to what the topic takes.  Raises BrokerError, but for no size."""
        self._pending += letters
        self._pending_bytes += sum(len(letter.value or b"") for letter in letters)
        try:
            await self._send(letters)
        except BrokerError as error:
            await self._send_smaller(error)
        if self._pending_bytes > PENDING_BYTES_MAX:
            await self.flush()

    async def flush(self) -> None:
        """Wait until all letters are acknowledged.  Raises BrokerError."""
        if self._pending and self._sink is not None:
            try:
                await self._sink.flush()
            except BrokerError as error:
                await self._send_smaller(error)
        self._pending.clear()
        self._pending_bytes = 0

    async def stop(self) -> None:
        """Close the producer."""
        sink, self._sink = self._sink, None
        if sink is not None:
            await sink.stop()

    async def _send(self, letters: Sequence[Outgoing]) -> None:
        if self._sink is None:
            self._sink = Sink(self._kafka)
            self._sink.limits = {self._topic: self.limits}
            await self._sink.start()
        bytes_max = self.limits.record_bytes_max
        sent = [fitted(letter, bytes_max) for letter in letters]
        if cut := sum(one is not letter for one, letter in zip(sent, letters, strict=True)):
            self._tell(cut)
        await self._sink.send(self._topic, None, sent)

    def _tell(self, cut: int) -> None:
        """Count letters that were cut, and log it once: headers of each say what is missing."""
        self.counts["letters_cut", "size"] += cut
        if not self._told:
            self._told = True
            log.warning("dead letters are cut: their topic takes less", topic=self._topic)

    async def _send_smaller(self, error: BrokerError) -> None:
        """Write all that is not acknowledged again, cut further, until the topic takes it."""
        while isinstance(error.__cause__, MessageSizeTooLargeError):
            if self.limits.bytes_max <= LETTER_LIMIT_MIN:
                break
            smaller = max(self.limits.bytes_max // 2, LETTER_LIMIT_MIN)
            log.warning("dead letters were too large for their topic", topic=self._topic, cut_to=smaller)
            self.limits = replace(self.limits, bytes_max=smaller)
            await self.stop()
            try:
                await self._send(self._pending)
                assert self._sink is not None
                await self._sink.flush()
            except BrokerError as again:
                error = again
            else:
                return
        raise error
