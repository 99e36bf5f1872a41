"""A dead letter read back: what was refused, why, and the record that would try it once more.

Lives here: the record in a letter, whether it is whole, how often it has been replayed.  Never here: how a
letter is written and cut (`headers.py`), reading and sending.

The headers of a letter are those that the record came with, and the reason behind them.  The last reason
counts: a record may have been refused before, by somebody else as well.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from topics.headers import (
    ORIGIN,
    REASON,
    REPLAYED,
    TIMESTAMP,
    UNREADABLE,
    Refusal,
    place_number,
    refusal_of,
    text_of,
)
from topics.messages import Content, Headers, Record

__all__ = ["REPLAYS_MAX", "Letter", "letter_of", "replay_of"]

REPLAYS_MAX = 3
"""A record that was refused so often after a replay is not mended by another one."""
_CUT = ("headrace.errors.value-bytes", "headrace.errors.key-bytes", "headrace.errors.headers-dropped")


class Letter(NamedTuple):
    """One dead letter."""

    letter: Record
    """As it lies in the topic of dead letters."""
    refusal: Refusal
    came: Headers
    """Headers that the record came with."""
    timestamp_ms: int | None
    """That the record came with; None where there was none."""
    missing: tuple[str, ...]
    """Headers that say what of the record is not in the letter; empty where it is whole."""
    replays: int
    """How often the record had been replayed when it was refused."""

    @property
    def origin(self) -> str:
        """Return where the record lay at first, `TOPIC:PARTITION:OFFSET`: the same in all its letters."""
        why = self.refusal
        return text_of(self.came, ORIGIN) or f"{why.topic}:{why.partition}:{why.offset}"

    @property
    def place(self) -> str:
        """Return where the letter lies, `PARTITION:OFFSET`."""
        return f"{self.letter.partition}:{self.letter.offset}"


def letter_of(record: Record) -> Letter:
    """Return a record of the topic of dead letters as a letter.

    Raises ValueError, whose text is the reason, where its headers give none.

    >>> from topics.headers import dead_letter
    >>> refused = Record("e", 2, 7, 55, b"k", b"{", (("app", b"x"),))
    >>> headers = dead_letter(refused, stage="decode", exception="ValueError", message="no")
    >>> letter = letter_of(Record("dead", 0, 1, 99, b"k", b"{", headers))
    >>> letter.place, letter.came, letter.timestamp_ms, letter.refusal.partition, letter.replays
    ('0:1', (('app', b'x'),), 55, 2, 0)
    """
    first = max((at for at, (name, _) in enumerate(record.headers) if name == REASON), default=None)
    if first is None:
        raise ValueError(f"it has no header {REASON}")
    came, why = record.headers[:first], record.headers[first:]
    names = {name for name, _ in why}
    return Letter(
        letter=record,
        refusal=refusal_of(why),
        came=came,
        timestamp_ms=_number(text_of(why, TIMESTAMP)),
        missing=tuple(name for name in _CUT if name in names),
        replays=max((_number(text_of((header,), REPLAYED)) or 0 for header in came), default=0),
    )


def replay_of(letter: Letter, topics: Collection[str]) -> Content:
    """Return the record of a letter as it came, to be written to its own topic and partition.

    The headers `headrace-replayed` and `headrace-origin` say the how-manieth try it is, and of what.
    `topics` are those that may be written: whoever can write a letter names its topic.

    Raises ValueError, whose text is the reason, for a letter that does not hold the whole record, or was
    replayed often enough.
    """
    refusal = letter.refusal
    if refusal.topic not in topics:
        raise ValueError(f"topic {refusal.topic!r} is none that this pipeline reads")
    if letter.missing:
        raise ValueError(f"it was cut: {', '.join(letter.missing)}")
    if any(name == UNREADABLE for name, _ in letter.came):
        raise ValueError("it stands for a batch that could not be read")
    if letter.letter.value is None:
        raise ValueError("it has no value")
    if refusal.partition < 0:
        raise ValueError("it does not say which partition it came from")
    if letter.replays >= REPLAYS_MAX:
        raise ValueError(f"it was replayed {letter.replays} times and refused each time")
    kept = tuple(header for header in letter.came if header[0] not in {REPLAYED, ORIGIN})
    again = (*kept, (REPLAYED, b"%d" % (letter.replays + 1)), (ORIGIN, letter.origin.encode()))
    return Content(letter.letter.key, letter.letter.value, again, letter.timestamp_ms)


def _number(text: str) -> int | None:
    """Return a number of a header; None for what is none."""
    found = place_number(text)
    return None if found < 0 else found
