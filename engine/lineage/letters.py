"""Dead letters of a pipeline: looked through, counted, and sent to their topics again.

Lives here: which letters are meant, their groups, the pace of a replay.  Never here: what a letter is
(`topics/letters.py`), arguments and tables (`engine/cli/dlq.py`).

A replay reads each partition up to where it ended at the start, so a letter that the replay itself brings
about is not taken: a record that can never be valid comes round once for each time that somebody asks.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass

from engine.definition.pipeline import Pipeline
from engine.kafka.log_reader import log_bounds, read_log
from engine.kafka.sink import open_sink
from engine.settings import KafkaSettings
from topics.errors import SettingsError
from topics.letters import Letter, letter_of, replay_of
from topics.messages import Content

__all__ = ["Chosen", "LetterGroup", "LetterReplay", "groups", "letter_at"]

GROUPS_MAX = 1_000
"""Groups that are told apart; the rest is counted together."""
SLICE_S = 0.1
"""A replay pauses so often: as even as a rate has to be."""
ORIGINS_MAX = 1_000_000
"""Records that came back after a replay, some 200 MB."""
OTHERS = ("", "", "")


@dataclass(frozen=True)
class Chosen:
    """Which letters are meant: those to which all that is given applies."""

    stage: str | None = None
    exception: str | None = None
    reason: str | None = None
    """A part of the message."""
    since_ms: int | None = None
    """Letters written then or later."""
    until_ms: int | None = None
    """Letters written before."""

    def means(self, letter: Letter) -> bool:
        """Return whether a letter is meant."""
        why, written_ms = letter.refusal, letter.letter.timestamp_ms or 0
        return (
            self.stage in {None, why.stage}
            and self.exception in {None, why.exception}
            and (self.reason is None or self.reason in why.message)
            and (self.since_ms is None or written_ms >= self.since_ms)
            and (self.until_ms is None or written_ms < self.until_ms)
        )


class LetterGroup:
    """Letters of one topic that the same step refused with the same type of error."""

    def __init__(self, first: Letter) -> None:
        self.first, self.last = first, first
        self.letters = self.cut = self.replayed = 0

    def add(self, letter: Letter) -> None:
        """Count a letter."""
        self.last = letter
        self.letters += 1
        self.cut += bool(letter.missing)
        self.replayed += letter.replays > 0


async def letters_of(pipeline: Pipeline, kafka: KafkaSettings, chosen: Chosen) -> AsyncGenerator[Letter]:
    """Yield the letters that are meant, partition by partition, up to where each ends now.

    What is no dead letter is left out.  Raises BrokerError.
    """
    topic = pipeline.catalog["dead-letters"]
    for partition, (start, end) in sorted((await log_bounds(kafka, topic)).items()):
        if start == end:
            continue
        async with aclosing(read_log(kafka, topic, partition, start, end)) as batches:
            async for records in batches:
                for record in records:
                    try:
                        letter = letter_of(record)
                    except ValueError:
                        continue
                    if chosen.means(letter):
                        yield letter


async def groups(
    pipeline: Pipeline, kafka: KafkaSettings, chosen: Chosen
) -> dict[tuple[str, str, str], LetterGroup]:
    """Return the letters by topic, stage and exception; beyond GROUPS_MAX as OTHERS.  Raises BrokerError."""
    found: dict[tuple[str, str, str], LetterGroup] = {}
    async for letter in letters_of(pipeline, kafka, chosen):
        why = letter.refusal
        name = why.topic, why.stage, why.exception
        if name not in found and len(found) >= GROUPS_MAX:
            name = OTHERS
        found.setdefault(name, LetterGroup(letter)).add(letter)
    return found


async def letter_at(pipeline: Pipeline, kafka: KafkaSettings, partition: int, offset: int) -> Letter | None:
    """Return the letter at a place; None where there is none.  Raises BrokerError."""
    topic = pipeline.catalog["dead-letters"]
    start, end = (await log_bounds(kafka, topic)).get(partition, (0, 0))
    if not start <= offset < end:
        return None
    async with aclosing(read_log(kafka, topic, partition, offset, offset + 1)) as batches:
        async for records in batches:
            for record in records:
                if record.offset == offset:
                    return letter_of(record)
    return None


class LetterReplay:
    """The letters of one replay: which records go where, and which letters cannot be replayed.

    At most `records_max` records go.
    """

    def __init__(self, pipeline: Pipeline, kafka: KafkaSettings, chosen: Chosen, *, records_max: int) -> None:
        self._pipeline, self._kafka, self._chosen, self._max = pipeline, kafka, chosen, records_max
        self._topics = {pipeline.events.name, *([pipeline.labels.topic] if pipeline.labels.topic else [])}
        self._origins: set[str] = set()
        """Of the records that go."""
        self.refused: Counter[str] = Counter()
        """Letters that cannot be replayed, by reason."""
        self.repeats = 0
        """Letters of a record that has another one, of a later try."""
        self.left = False
        """Whether there were more than go."""

    @property
    def records(self) -> int:
        """Return how many records go, or went."""
        return len(self._origins)

    async def chosen(self) -> AsyncGenerator[tuple[Letter, Content]]:
        """Yield each record with its topic.  Raises BrokerError."""
        tries = await self._tries()
        async with aclosing(letters_of(self._pipeline, self._kafka, self._chosen)) as letters:
            async for letter in letters:
                origin = letter.origin
                if origin in self._origins or letter.replays < tries.get(origin, 0):
                    self.repeats += 1
                    continue
                try:
                    record = replay_of(letter, self._topics)
                except ValueError as reason:
                    self.refused[str(reason)] += 1
                    continue
                if self.records >= self._max:
                    self.left = True
                    return
                self._origins.add(origin)
                yield letter, record

    async def _tries(self) -> dict[str, int]:
        """Return how often each record was replayed that came back as a letter: only its last letter goes.

        Raises SettingsError where there are more than ORIGINS_MAX.
        """
        tries: dict[str, int] = {}
        async with aclosing(letters_of(self._pipeline, self._kafka, Chosen())) as letters:
            async for letter in letters:
                if letter.replays:
                    tries[letter.origin] = max(letter.replays, tries.get(letter.origin, 0))
                if len(tries) > ORIGINS_MAX:
                    raise SettingsError(
                        f"more than {ORIGINS_MAX:,} records came back after a replay",
                        hint="look at them with `headrace dlq list PIPELINE.py` before more are sent",
                    )
        return tries

    async def send(self, rate: int) -> None:
        """Send the records, `rate` a second.

        Key, value, headers, timestamp and partition are those that each came with.  Raises BrokerError.
        """
        async with open_sink(self._kafka) as sink, aclosing(self.chosen()) as records:
            together, waiting = max(1, round(rate * SLICE_S)), 0
            async for letter, record in records:
                await sink.send(letter.refusal.topic, letter.refusal.partition, [record])
                waiting += 1
                if waiting == together:
                    await sink.flush()
                    await asyncio.sleep(together / rate)
                    waiting = 0
            await sink.flush()
