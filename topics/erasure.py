"""The record that erases a key: a tombstone among the events, which says who asks and why.

Lives here: making one, telling one from events, whether it may act.  Never here: what is erased
(`operators/`, `engine/machines/scorer.py`), where keys of signatures come from.

It lies in the events topic, in the partition of its key, so it acts at its place among the key's events, and
at the same place in every replay.  Its value is null, as Kafka's convention for "delete this key" has it, so
a consumer of that convention does the right thing; what it says is in headers.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
from msgspec import Struct

from topics.codec import decoder_of
from topics.headers import ERASE
from topics.messages import Headers, Record
from topics.signatures import signed_by, signer_of

__all__ = ["Erase", "erase_in", "erase_of", "tombstone"]

BYTES_MAX = 16_384
"""Of what it says, as of a command."""


class Erase(Struct, frozen=True, omit_defaults=True, gc=False):
    """What the header of a tombstone says."""

    command_id: str
    """Of the request; it stands in the decision."""
    key: str
    """The key of the record: it is signed, too."""
    time: int
    """Wall clock of who asks, ms."""
    reason: str = ""
    actor: str = ""
    """Who asks; with signatures the name of the key."""


_decode = decoder_of(Erase)


def tombstone(erase: Erase, signing_key: bytes | None, *, topic: str) -> tuple[bytes, Headers]:
    """Return key and headers of the record; its value is null.

    >>> key, headers = tombstone(Erase("c1", "ada", 0), None, topic="payments")
    >>> erase_of(Record("payments", 0, 7, 0, key, None, headers), {}).command_id
    'c1'
    """
    said = msgspec.json.encode(erase)
    signature = () if signing_key is None else signed_by(erase.actor, signing_key, topic=topic, value=said)
    return erase.key.encode(), ((ERASE, said), *signature)


def erase_in(record: Record) -> bool:
    """Return whether a record asks for an erasure."""
    return record.value is None and any(name == ERASE for name, _ in record.headers)


def erase_of(record: Record, keys: Mapping[str, bytes]) -> Erase:
    """Return what a record asks for, with the name of the key that signed it, where there are `keys`.

    Raises ValueError, whose text is the reason, for what must not act.
    """
    said = next((value or b"" for name, value in record.headers if name == ERASE), b"")
    if len(said) > BYTES_MAX:
        raise ValueError(f"what it says has {len(said)} bytes, more than {BYTES_MAX}")
    erase = _decode(said)
    if record.key != erase.key.encode():
        raise ValueError("it lies under another key than the one that it names")
    if not keys:
        return erase
    signer = signer_of(record.headers, keys, topic=record.topic, value=said)
    return msgspec.structs.replace(erase, actor=signer)
