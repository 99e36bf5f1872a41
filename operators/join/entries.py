"""The entry of an event that waits for its label, answered or not, and its name in a checkpoint.

Lives here: the values, their bytes, their order.  Never here: how many wait, and where (`pending.py`).

    w/<event time><offset><event id>   the value; twelve hexadecimal digits each, so names stand by deadline
    i/<event id>                       <event time><offset>: where it is
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec
from msgspec import Struct

from topics.codec import decode_prediction
from topics.messages import LabelValue, Prediction, Score

__all__ = [
    "END_NAME",
    "FIRST_NAME",
    "ID_AT",
    "Answered",
    "Entry",
    "EntryPlace",
    "Waiting",
    "WaitingAnswer",
    "decode_entry",
    "encode_entry",
    "name_of",
    "place_at",
    "place_digits",
    "place_named",
    "with_keys",
]


class Waiting(Struct, gc=False, array_like=True, tag="waiting"):
    """One event, and its label once that has come."""

    event_id: str
    event_time: int
    event_offset: int
    keys: tuple[str | None, ...]
    """The event's keys in the label windows, in plan order; None where a changed definition added one."""
    label: LabelValue | None = None


class WaitingAnswer(Waiting, gc=False, array_like=True, kw_only=True, tag="answer"):
    """One answered event: what was served, and its label once that has come."""

    prediction: Prediction
    """What was served; a duplicate of the event is answered with it again."""
    key: str
    payload_crc: int
    """CRC-32 of the event's bytes, to tell a repeat from another event under the same id."""
    scores: dict[str, Score]

    @classmethod
    def of(
        cls,
        prediction: Prediction,
        key: str,
        keys: tuple[str | None, ...],
        payload_crc: int,
        scores: dict[str, Score],
    ) -> WaitingAnswer:
        """Return the entry of an answer to an event of this key, with every candidate's score."""
        return cls(
            prediction.event_id,
            prediction.event_time,
            prediction.event_offset,
            keys,
            prediction=prediction,
            key=key,
            payload_crc=payload_crc,
            scores=scores,
        )


class Answered(Struct, frozen=True, gc=False, array_like=True, tag="answered"):
    """One answered event that has its label and was learned: no more than a repeat of it needs."""

    event_id: str
    event_time: int
    event_offset: int
    payload_crc: int
    label: LabelValue
    answer: bytes
    """The prediction as it was sent."""

    @property
    def prediction(self) -> Prediction:
        """Return what was served."""
        return decode_prediction(self.answer)


Entry = Waiting | WaitingAnswer | Answered
EntryPlace = tuple[int, int, str]
"""(event time, offset, event id): the order in which entries expire."""

TIME_END: Final = 14
ID_AT: Final = 26
"""Where the id begins in a name."""
FIRST_NAME: Final = "w/"
END_NAME: Final = "w0"
"""Before and after the name of every value."""

encode_entry = msgspec.msgpack.Encoder().encode
decode_entry = msgspec.msgpack.Decoder(Entry).decode


def with_keys(data: bytes, before: Sequence[str], after: Sequence[str]) -> bytes:
    """Return the value of an entry whose label goes to the windows of another definition.

    `before` and `after` say what each key is made of, there and here; empty: the key is empty.  A key that
    the entry does not know is None.
    """
    entry = decode_entry(data)
    if not isinstance(entry, Waiting):
        return data
    known = dict(zip(before, entry.keys, strict=True)) | {"": ""}
    entry.keys = tuple(known.get(made_of) for made_of in after)
    return encode_entry(entry)


def name_of(place: EntryPlace) -> str:
    """Return the name of the value.

    >>> name_of((1700000000000, 42, "e1"))
    'w/018bcfe5680000000000002ae1'
    """
    time, offset, event_id = place
    return f"w/{time:012x}{offset:012x}{event_id}"


def place_digits(place: EntryPlace) -> bytes:
    """Return what stands under the event's id."""
    return b"%012x%012x" % place[:2]


def place_named(name: str) -> EntryPlace:
    """Return the place that a name of a value says.

    >>> place_named("w/018bcfe5680000000000002ae1")
    (1700000000000, 42, 'e1')
    """
    return int(name[2:TIME_END], 16), int(name[TIME_END:ID_AT], 16), name[ID_AT:]


def place_at(event_id: str, digits: bytes) -> EntryPlace:
    """Return the place that stands under the event's id."""
    return int(digits[:12], 16), int(digits[12:], 16), event_id
