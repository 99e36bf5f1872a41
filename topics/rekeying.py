"""The messages of the internal topics: events and labels on their way to the owner of another key, and back.

Lives here: their fields, their place in the one order of all source partitions, their bytes.  Never
here: who holds or takes them (`operators/rekeying/merge.py`), topic names (`catalog.py`).

    rekey      RekeyedEvent, RekeyedLabel    what a source partition sends to the partition of another key
               Progress              how far that source partition has come, to every partition
    rekeyed    RekeyedValues             what the windows of that key gave, to the event's own partition

All carry claim and sequence number of who wrote them (`operators/claims/rule.py`), and beside them lie
the writers' `Claim` records.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec
from msgspec import Raw, Struct

from topics.codec import decode_claim, decoder_of
from topics.headers import record_type_of
from topics.messages import Claim, FeatureValue, Record

__all__ = [
    "EVENT",
    "IMPLICIT",
    "LABEL",
    "Order",
    "Progress",
    "RekeyedEvent",
    "RekeyedLabel",
    "RekeyedValues",
    "RekeyingId",
    "RekeyingMessage",
    "decode_rekeying",
    "message_id",
]

LABEL, IMPLICIT, EVENT = 0, 1, 2
"""Ranks at one time: labels go before events, as in the order of one partition's two topics."""


class Order(NamedTuple):
    """A position in the one order of the events and labels of all source partitions.

    >>> Order.of_event(60, 1, 5) < Order.after_event(60, 1, 5) < Order.of_event(60, 2, 0)
    True
    """

    time: int
    rank: int
    source: int
    place: int
    stage: int = 0
    """An event may go to one partition for two stages; 0 before it is sent."""

    @classmethod
    def of_event(cls, time: int, source: int, offset: int) -> Order:
        """Return the position of an event: by (event time, source partition, offset)."""
        return cls(time, EVENT, source, 2 * offset)

    @classmethod
    def after_event(cls, time: int, source: int, offset: int) -> Order:
        """Return the position of a label that was there before its event: directly behind it."""
        return cls(time, EVENT, source, 2 * offset + 1)


class RekeyedEvent(Struct, gc=False, tag="event"):
    """An event on its way to the owner of one of its other keys."""

    order: Order
    """Its position in the one order of the events and labels of all source partitions."""
    source_partition: int
    """The event's own partition."""
    event_offset: int
    """Offset of the event's record there."""
    late: bool
    """It came after its own partition's watermark had passed it: it changes no window."""
    event: Raw
    """The event as it came."""
    claim: int = 0
    """Claim of the owner of the source partition."""
    sequence: int = 0
    """Number of this record under its claim, from 0."""


class RekeyedLabel(Struct, gc=False, tag="label"):
    """A label that has met its event, on its way to the windows of another key."""

    order: Order
    """Its position in the one order of the events and labels of all source partitions."""
    source_partition: int
    """The event's own partition."""
    event_offset: int
    """Offset of the event's record there."""
    event_id: str
    """Id of the event."""
    keys: tuple[str | None, ...]
    """The event's keys in the stage's label windows, in the stage's order; None where it does not enter."""
    label_time: int
    """When the label became known, ms."""
    value: float | str | None
    """The label as windows take it: a number, a class, or null."""
    claim: int = 0
    """Claim of the owner of the source partition."""
    sequence: int = 0
    """Number of this record under its claim, from 0."""


class Progress(Struct, gc=False, tag="progress"):
    """A source partition has sent everything up to a time."""

    source_partition: int
    """Whose progress it is."""
    time: int
    """Everything up to here has been sent, ms of event time."""
    idle: bool
    """Nothing has come for a while: nobody waits for this source until it says otherwise."""
    claim: int = 0
    """Claim of the owner of the source partition."""
    sequence: int = 0
    """Number of this record under its claim, from 0."""


class RekeyedValues(Struct, gc=False, tag="values"):
    """What a stage's windows gave for one event, on its way back to the event's own partition."""

    stage: int
    """Which of the keys, by its number in the plan."""
    source_partition: int
    """The partition of the stage: who wrote this."""
    event_partition: int
    """The event's own partition."""
    event_offset: int
    """Offset of the event's record there."""
    late: bool
    """The event came behind the watermark of the stage: it changed none of its windows."""
    values: dict[str, FeatureValue]
    """Features by name."""
    claim: int = 0
    """Claim of the owner of the stage's partition."""
    sequence: int = 0
    """Number of this record under its claim, from 0."""


RekeyingMessage = RekeyedEvent | RekeyedLabel | Progress | RekeyedValues
RekeyingId = tuple[str, int, int, int]
"""(type, stage, event's partition, event's offset): which record it is, whoever makes it."""


def message_id(message: RekeyingMessage) -> RekeyingId | None:
    """Return what makes a record the same again after a replay; None for progress, which may repeat."""
    match message:
        case RekeyedEvent():
            return "event", message.order.stage, message.source_partition, message.event_offset
        case RekeyedLabel():
            return "label", message.order.stage, message.source_partition, message.event_offset
        case RekeyedValues():
            return "values", message.stage, message.event_partition, message.event_offset
    return None


def decode_rekeying(record: Record) -> RekeyingMessage | Claim | None:
    """Return the value of a record of an internal topic; None for what is no message of ours."""
    if record.value is None:
        return None
    try:
        if record_type_of(record.headers) == "claim":
            return decode_claim(record.value)
        return _decode(record.value)
    except msgspec.MsgspecError:
        return None


_messages: Any = RekeyingMessage  # a union, which is no type to mypy
_decode: Callable[[bytes], RekeyingMessage] = decoder_of(_messages)
