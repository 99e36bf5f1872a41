"""Header names and values: CloudEvents, W3C trace context, record types, dead letters.

Lives here: every header that is written, with its meaning, and how a dead letter is cut so that its topic
takes it.  Never here: who refuses a record and why, what a topic takes (`engine/kafka/topic_admin.py`).

A dead letter goes as it came while it fits.  Otherwise the value gives way, then headers, then the key; the
reason stays whole.  What is missing is said in headers: sizes, and hashes to find the original by.
"""

from __future__ import annotations

from hashlib import sha256
from typing import NamedTuple

from msgspec.structs import replace

from topics.messages import Content, Headers, Outgoing, Record, RecordType

__all__ = [
    "BLOCK",
    "CLAIM",
    "COMMAND",
    "ERASE",
    "EXAMPLE",
    "FEATURES",
    "FIELD",
    "LETTER_BYTES_MIN",
    "MEANINGS",
    "QUARANTINE",
    "REASON",
    "RECORD_TYPE",
    "REFUSED",
    "SIGNATURE",
    "SIGNER",
    "SLOW",
    "UNREADABLE",
    "WATERMARK",
    "HeaderMeaning",
    "Refusal",
    "cloud_event",
    "dead_letter",
    "fitted",
    "place_number",
    "record_bytes",
    "record_type_of",
    "refusal_of",
    "text_of",
    "traced",
]

RECORD_TYPE = "headrace-kind"
SIGNATURE = "headrace-signature"
SIGNER, REFUSED = "headrace-signer", "headrace-refused"
ERASE = "headrace-erase"
"""On a tombstone among the events: who asks for it, and why (`erasure.py`)."""
FEATURES = "headrace-features"
"""The version of all features together, on predictions: what it stands for is in the catalogue."""
EXAMPLE: Headers = ((RECORD_TYPE, b"example"),)
CLAIM: Headers = ((RECORD_TYPE, b"claim"),)
QUARANTINE: Headers = ((RECORD_TYPE, b"quarantine"),)
COMMAND: Headers = ((RECORD_TYPE, b"command"),)
FIELD: Headers = ((RECORD_TYPE, b"field"),)
SLOW: Headers = ((RECORD_TYPE, b"slow"),)
BLOCK: Headers = ((RECORD_TYPE, b"block"),)
WATERMARK: Headers = ((RECORD_TYPE, b"watermark"),)
"""On a record among the events (`watermarks.py`)."""
_RECORD_TYPES: dict[bytes, RecordType] = {
    b"example": "example",
    b"claim": "claim",
    b"quarantine": "quarantine",
    b"command": "command",
    b"field": "field",
    b"slow": "slow",
    b"block": "block",
}
_TRACE = ("traceparent", "tracestate")
TRACE_MAX = 512
"""Bytes of a trace header that is passed on, as W3C asks of `tracestate` at the least."""
REASON = "__streams.errors.exception"
"""The first of the headers that say why a record was refused."""
UNREADABLE = "headrace.errors.unreadable"
"""Why a batch could not be read: on the record without a value that stands for it."""
TIMESTAMP = "headrace.errors.timestamp"
REPLAYED = "headrace-replayed"
"""On a record that was a dead letter and was sent to its topic again: the how-manieth try it is."""
ORIGIN = "headrace-origin"
"""There, too: TOPIC:PARTITION:OFFSET where it lay at first."""
MESSAGE_MAX = 1_024
"""Bytes of a reason: it may quote what was refused."""
BATCH_HEADER_BYTES = 61
"""The header of a batch, in which a record is alone at the least."""
RECORD_LENGTHS_BYTES = 31
"""Lengths and deltas of a record at their longest, its key's and its value's among them."""
HEADER_LENGTHS_BYTES = 10
"""The two lengths of a header."""
PLACE_DIGITS_MAX = 19
"""Of a number of 64 bits."""
LETTER_BYTES_MIN = 4_096
"""A letter without value, key and headers of its own always fits this."""
KEY_MAX = 1_024
CUT_BYTES = 512
"""Bytes of the headers that say what was cut."""


class HeaderMeaning(NamedTuple):
    """A header that a reader may meet."""

    name: str
    on: tuple[str, ...]
    """Roles of the topics."""
    meaning: str


MEANINGS = (
    HeaderMeaning(
        RECORD_TYPE,
        ("examples", "predictions", "rekey", "rekeyed", "events"),
        "What the record is: `example`, `quarantine`, `command`, `field`, `slow`, `block` or `claim`. On"
        " predictions only claim records have it, on events only what moves a quiet partition's `watermark`.",
    ),
    HeaderMeaning(
        FEATURES,
        ("predictions", "shadow-predictions"),
        "Version of all features together, as in the catalogue.",
    ),
    HeaderMeaning(
        SIGNATURE,
        ("commands", "events"),
        "Who asks, a colon, and HMAC-SHA256 of topic and value by that one's key, in hex; of a tombstone, of"
        " what `headrace-erase` says. On what moves a watermark, too.",
    ),
    HeaderMeaning(
        ERASE,
        ("events",),
        "On a record without value: erase this key. JSON: `command_id`, `key`, `time`, `reason`, `actor`.",
    ),
    HeaderMeaning(SIGNER, ("examples",), "On a command: whose key signed it; its `actor` in decisions."),
    HeaderMeaning(REFUSED, ("examples",), "On a command that nobody's key signed: why it does nothing."),
    HeaderMeaning("ce_id", ("predictions", "alerts"), "CloudEvents: `prediction_id` or `alert_id`."),
    HeaderMeaning(
        "ce_type",
        ("predictions", "shadow-predictions", "models", "alerts"),
        "CloudEvents: `dev.headrace.prediction`, `dev.headrace.model` or `dev.headrace.alert`.",
    ),
    HeaderMeaning(
        "ce_source",
        ("predictions", "shadow-predictions", "models", "alerts"),
        "CloudEvents: `headrace/<pipeline>`.",
    ),
    HeaderMeaning(
        "ce_specversion", ("predictions", "shadow-predictions", "models", "alerts"), "CloudEvents: `1.0`."
    ),
    HeaderMeaning(
        "content-type", ("predictions", "shadow-predictions", "models", "alerts"), "`application/json`."
    ),
    HeaderMeaning(
        "traceparent", ("predictions", "examples", "decisions"), "W3C trace context of the event, passed on."
    ),
    HeaderMeaning(
        "tracestate", ("predictions", "examples", "decisions"), "W3C trace context of the event, passed on."
    ),
    HeaderMeaning(
        "headrace.errors.stage", ("dead-letters",), "Step that refused, as in `headrace_dead_letters_total`."
    ),
    HeaderMeaning("__streams.errors.exception", ("dead-letters",), "Type of the error."),
    HeaderMeaning("__streams.errors.message", ("dead-letters",), "What was wrong, and where in the message."),
    HeaderMeaning("__streams.errors.stacktrace", ("dead-letters",), "Empty: for tools of Kafka Streams."),
    HeaderMeaning("__streams.errors.topic", ("dead-letters",), "Topic of the refused record."),
    HeaderMeaning("__streams.errors.partition", ("dead-letters",), "Its partition."),
    HeaderMeaning("__streams.errors.offset", ("dead-letters",), "Its offset."),
    HeaderMeaning(
        TIMESTAMP, ("dead-letters",), "Its timestamp, ms: the letter's own is the time of writing."
    ),
    HeaderMeaning(
        "headrace.errors.value-bytes", ("dead-letters",), "Size of the whole value, where it was cut."
    ),
    HeaderMeaning(
        "headrace.errors.value-sha256", ("dead-letters",), "SHA-256 of the whole value in hex, likewise."
    ),
    HeaderMeaning("headrace.errors.key-bytes", ("dead-letters",), "Size of the whole key, where it was cut."),
    HeaderMeaning(
        "headrace.errors.key-sha256", ("dead-letters",), "SHA-256 of the whole key in hex, likewise."
    ),
    HeaderMeaning(
        "headrace.errors.headers-dropped", ("dead-letters",), "How many of its headers had no room."
    ),
    HeaderMeaning(
        REPLAYED, ("dead-letters",), "How often the record had been replayed, when it was refused again."
    ),
    HeaderMeaning(ORIGIN, ("dead-letters",), "Topic, partition and offset where it lay at first, then."),
    HeaderMeaning(UNREADABLE, ("dead-letters",), "Why a batch, for which this letter stands, was not read."),
)
"""Every header that Headrace writes; dead letters keep the refused record's own as well."""


def record_type_of(headers: Headers) -> RecordType | None:
    """Return the type of a record of a claimed log, or None where its header names none."""
    for name, value in headers:
        if name == RECORD_TYPE:
            return _RECORD_TYPES.get(value)
    return None


def text_of(headers: Headers, name: str) -> str:
    """Return the value of the first header of this name as text; empty where there is none."""
    return next(((value or b"").decode(errors="replace") for other, value in headers if other == name), "")


def traced(headers: Headers) -> Headers:
    """Return the W3C trace context among `headers`, to be passed on unchanged, without what is too long."""
    if not headers:
        return ()
    return tuple(header for header in headers if header[0] in _TRACE and len(header[1] or b"") <= TRACE_MAX)


def cloud_event(event_type: str, source: str) -> Headers:
    """Return the constant part of CloudEvents' binary-mode headers.

    `event_type` is the reverse-DNS type, `source` who writes; id and time are the
    record's own (`ce_id` is added per record).  See CloudEvents Kafka protocol
    binding 1.0, section 3.2.
    """
    return (
        ("content-type", b"application/json"),
        ("ce_specversion", b"1.0"),
        ("ce_type", event_type.encode()),
        ("ce_source", source.encode()),
    )


def dead_letter(record: Record, *, stage: str, exception: str, message: str) -> Headers:
    """Return the original headers followed by why the record was refused.

    The six `__streams.errors.*` names are Kafka Streams' own (KIP-1034), so tools that read
    its dead letters read ours; `headrace.errors.stage` says which step refused, and
    `headrace.errors.timestamp` what the record was stamped with: a letter is stamped when it is written.
    """
    stamped = () if record.timestamp_ms is None else ((TIMESTAMP, str(record.timestamp_ms).encode()),)
    return (
        *record.headers,
        (REASON, exception.encode()),
        ("__streams.errors.message", message.encode(errors="replace")[:MESSAGE_MAX]),
        ("__streams.errors.stacktrace", b""),
        ("__streams.errors.topic", record.topic.encode()),
        ("__streams.errors.partition", str(record.partition).encode()),
        ("__streams.errors.offset", str(record.offset).encode()),
        ("headrace.errors.stage", stage.encode()),
        *stamped,
    )


class Refusal(NamedTuple):
    """The reason of a dead letter, and the record's topic, partition and offset."""

    stage: str
    exception: str
    message: str
    topic: str
    partition: int
    offset: int


def refusal_of(headers: Headers) -> Refusal:
    """Return the reason that the headers of a dead letter hold; what is missing is empty, or -1.

    >>> refused = Record("e", 0, 7, None, None, b"")
    >>> refusal_of(dead_letter(refused, stage="decode", exception="ValueError", message="no"))
    Refusal(stage='decode', exception='ValueError', message='no', topic='e', partition=0, offset=7)
    """
    by_name = dict(headers)
    stage, exception, message, topic, partition, offset = (
        (by_name.get(name) or b"").decode(errors="replace")
        for name in (
            "headrace.errors.stage",
            *(
                f"__streams.errors.{name}"
                for name in ("exception", "message", "topic", "partition", "offset")
            ),
        )
    )
    return Refusal(stage, exception, message, topic, place_number(partition), place_number(offset))


def place_number(text: str) -> int:
    """Return a partition or an offset; -1 for what is none, since anybody may write a header."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= PLACE_DIGITS_MAX else -1


def record_bytes(record: Outgoing | Content) -> int:
    """Return the size of a batch that holds this record alone, uncompressed, at most."""
    size = BATCH_HEADER_BYTES + RECORD_LENGTHS_BYTES + len(record.key or b"") + len(record.value or b"")
    return size + sum(map(_header_bytes, record.headers))


def _header_bytes(header: tuple[str, bytes | None]) -> int:
    name, value = header
    return HEADER_LENGTHS_BYTES + len(name.encode()) + len(value or b"")


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
