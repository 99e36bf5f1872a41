"""The record that moves the watermark of a partition in which nothing happens.

Lives here: making one, telling one from events, whether it may act.  Never here: when a partition is idle
(`engine/worker/idle.py`), what a watermark does (`engine/machines/scorer.py`).

Horizons pass as event time does, and event time stands still while no event comes.  So the owner of a quiet
partition writes such a record into the events topic, in that partition: it has a place among the events, and
acts there in every replay, on a worker and in a file alike:

    events        10    20    30                        95
    record                       time 70    time 80          the watermark goes on as after events of 70, 80
    watermark     --    --    10    50          60   75      with a grace of 20

It says no more than an event of its time would, and answers nothing.  Its value is JSON with the one field
`headrace-watermark`, so that a line of a file can hold it; its header says the same to who reads the topic
for the events alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Final

import msgspec
from msgspec import Struct

from topics.codec import TIME_MAX, decoder_of
from topics.headers import WATERMARK
from topics.messages import Headers, Record
from topics.signatures import signed_by, signer_of

__all__ = ["Move", "move_in", "move_of", "moving"]

BYTES_MAX: Final = 1_024
"""Of its value: two numbers."""


class Move(Struct, frozen=True, omit_defaults=True, gc=False):
    """To where the watermark of a partition moves."""

    event_time: int
    """The event time up to which the partition is taken to be complete but for `grace`, ms."""
    quiet_ms: int = 0
    """How long no event had come by then, by the clock of who wrote it; changes nothing."""
    hits: ClassVar[tuple[int, ...]] = ()
    """Rules that it broke: none; it is read beside events, which have some."""


class _Value(Struct, frozen=True):
    move: Move = msgspec.field(name="headrace-watermark")


_BEGINNING: Final = b'{"headrace-watermark":'
_encode = msgspec.json.Encoder().encode
_decode = decoder_of(_Value)


def moving(move: Move, signer: tuple[str, bytes] | None, *, topic: str) -> tuple[bytes, Headers]:
    """Return value and headers of the record, signed where there is a `signer`: a name and its key.

    >>> value, headers = moving(Move(1_700_000_000_000), None, topic="payments")
    >>> value
    b'{"headrace-watermark":{"event_time":1700000000000}}'
    >>> move_of(Record("payments", 0, 7, 0, None, value, headers), {}).event_time
    1700000000000
    """
    value = _encode(_Value(move))
    signature = () if signer is None else signed_by(*signer, topic=topic, value=value)
    return value, (*WATERMARK, *signature)


def move_in(record: Record) -> bool:
    """Return whether a record, which is no event, asks to move the watermark."""
    return record.value is not None and record.value.startswith(_BEGINNING)


def move_of(record: Record, keys: Mapping[str, bytes]) -> Move:
    """Return where a record moves the watermark; with `keys`, one of them must have signed it.

    Raises ValueError, whose text is the reason, for what must not act.
    """
    value = record.value or b""
    if len(value) > BYTES_MAX:
        raise ValueError(f"it has {len(value)} bytes, more than {BYTES_MAX}")
    move = _decode(value).move
    if not 0 <= move.event_time <= TIME_MAX:
        raise ValueError(f"event_time {move.event_time} is outside the years 1970 to 9999")
    if keys:
        signer_of(record.headers, keys, topic=record.topic, value=value)
    return move
