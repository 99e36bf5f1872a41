"""The size of a dead letter: what it keeps of a refused record so that its topic takes it.

Lives here: the size of a record as brokers count it, and the order in which a letter is cut.  Never here:
who refuses and why, what a topic takes (`engine/kafka/topic_admin.py`).

A letter goes as it came while it fits.  Otherwise the value gives way, then headers, then the key; the
reason stays whole.  What is missing is said in headers: sizes, and hashes to find the original by.
"""

from __future__ import annotations

from hashlib import sha256

from msgspec.structs import replace

from topics.headers import REASON
from topics.messages import Headers, Outgoing

__all__ = ["LETTER_BYTES_MIN", "fitted", "record_bytes"]

BATCH_BYTES = 61
"""The header of a batch, in which a record is alone at the least."""
RECORD_BYTES = 31
"""Lengths and deltas of a record at their longest, its key's and its value's among them."""
HEADER_BYTES = 10
"""The two lengths of a header."""
LETTER_BYTES_MIN = 4_096
"""A letter without value, key and headers of its own always fits this."""
KEY_MAX = 1_024
CUT_BYTES = 512
"""What the headers about what was cut take."""


def record_bytes(record: Outgoing) -> int:
    """Return the size of a batch that holds this record alone, uncompressed, at most."""
    size = BATCH_BYTES + RECORD_BYTES + len(record.key or b"") + len(record.value or b"")
    return size + sum(map(_header_bytes, record.headers))


def _header_bytes(header: tuple[str, bytes | None]) -> int:
    name, value = header
    return HEADER_BYTES + len(name.encode()) + len(value or b"")


def fitted(letter: Outgoing, bytes_max: int) -> Outgoing:
    """Return a dead letter that takes at most `bytes_max`, from LETTER_BYTES_MIN on.

    >>> reason = (("__streams.errors.exception", b"ValueError"), ("__streams.errors.message", b"too large"))
    >>> letter = Outgoing("dead-letters", None, b"k", b"x" * 10_000, reason, None)
    >>> cut = fitted(letter, 4_096)
    >>> record_bytes(cut) <= 4_096, cut.key, dict(cut.headers)["headrace.errors.value-bytes"]
    (True, b'k', b'10000')
    """
    if record_bytes(letter) <= bytes_max:
        return letter
    came, reason = _parted(letter.headers)
    room = bytes_max - CUT_BYTES - record_bytes(replace(letter, key=None, value=None, headers=reason))
    key, about_key = _cut("key", letter.key, min(KEY_MAX, room // 4))
    kept: list[tuple[str, bytes]] = []
    left = room // 4
    for header in came:
        left -= _header_bytes(header)
        if left < 0:
            break
        kept.append(header)
    dropped = len(came) - len(kept)
    about_headers = (("headrace.errors.headers-dropped", b"%d" % dropped),) if dropped else ()
    spent = len(key or b"") + sum(map(_header_bytes, kept))
    value, about_value = _cut("value", letter.value, room - spent)
    return replace(
        letter, key=key, value=value, headers=(*kept, *reason, *about_key, *about_headers, *about_value)
    )


def _parted(headers: Headers) -> tuple[Headers, Headers]:
    """Return the headers that a record came with, and the reason behind them."""
    first = max((at for at, (name, _) in enumerate(headers) if name == REASON), default=len(headers))
    return headers[:first], headers[first:]


def _cut(name: str, data: bytes | None, longest: int) -> tuple[bytes | None, Headers]:
    if data is None or len(data) <= longest:
        return data, ()
    said = (
        (f"headrace.errors.{name}-bytes", b"%d" % len(data)),
        (f"headrace.errors.{name}-sha256", sha256(data).hexdigest().encode()),
    )
    return data[: max(longest, 0)], said
