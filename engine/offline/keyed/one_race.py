"""The log of one key's race, taken out of the examples log that it shares with others.

Lives here: which records of the shared log are about one race, and their numbers among themselves.  Never
here: what a record does (`engine/machines`), reading the shared log (`engine/offline/replay.py`).

A key's race is the race of the same pipeline without `per` over the key's part of the log.  So whoever folds
one log for one race (`Replay`) folds this one.  Offsets stay as they are: a record of another key is there
without a value, which says nothing.

    offset           0       1    2    3    4        5        6
    shared log       claim   a:0  b:1  b:2  field    b:3      command a
    that of b        claim   .    b:0  b:1  field    b:2      .          sequence numbers are b's own

A race that begins later begins with the field that then holds, so changes before its first example are not
its own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import aclosing

import msgspec
from msgspec.structs import replace as with_fields

from engine.offline.replay import ReadableLog
from operators.claims.rule import Reader
from operators.race.commands import OF_ALL_RACES
from topics import headers
from topics.codec import decode_claim, decode_command, decode_example, decode_quarantine, encode
from topics.messages import Example, Quarantine, Record

__all__ = ["RaceLog"]


class RaceLog:
    """The part of an examples log that makes the race of one key."""

    def __init__(self, log: ReadableLog, key: str) -> None:
        self._log, self._key = log, key

    async def read(self, start: int | None = None) -> AsyncGenerator[list[Record]]:
        """Yield the records from `start` on; the log is read from its first one, which says what counts."""
        part = _Part(self._key)
        async with aclosing(self._log.read()) as batches:
            async for records in batches:
                taken = [part.take(record) for record in records]
                if kept := [record for record in taken if record.offset >= (start or 0)]:
                    yield kept


class _Part:
    """What has been read so far, as far as it says which of the next records are about the race."""

    def __init__(self, key: str) -> None:
        self._key = key
        self._reader = Reader()
        self._numbered: Counter[tuple[int, int]] = Counter()
        """Messages of the race, by source partition and claim."""
        self._begun = False
        """Whether the race has an example: it begins with the first."""

    def take(self, record: Record) -> Record:
        """Return the record as the race alone would have it, without a value where it is not about it."""
        kind = None if record.value is None else headers.record_type_of(record.headers)
        try:
            own = record if kind is None else self._own(kind, record)
        except msgspec.MsgspecError:
            own = None
        return own or with_fields(record, value=None, headers=headers.EXAMPLE)

    def _own(self, kind: str, record: Record) -> Record | None:
        value = record.value or b""
        match kind:
            case "claim":
                claim = decode_claim(value)
                self._reader.claim(claim.source_partition, claim.claim)
                return record
            case "example":
                return self._message(decode_example(value), record)
            case "quarantine":
                return self._message(decode_quarantine(value), record)
            case "command":
                command = decode_command(value)
                own = command.key == self._key and self._begun
                return record if own or (not command.key and command.command in OF_ALL_RACES) else None
        return record if self._begun else None

    def _message(self, message: Example | Quarantine, record: Record) -> Record | None:
        """Return a message of the race under its number there; None for another's, or what does not count."""
        source = message.source_partition, message.claim
        if not self._reader.counts(*source, message.sequence) or message.key != self._key:
            return None
        self._begun = True
        number = self._numbered[source]
        self._numbered[source] += 1
        return with_fields(record, value=encode(with_fields(message, sequence=number)))
