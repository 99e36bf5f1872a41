"""Header names and values: CloudEvents, W3C trace context, dead letters, record types."""

from __future__ import annotations

from typing import NamedTuple

from topics.messages import Headers, Record, RecordType

__all__ = [
    "CLAIM",
    "COMMAND",
    "EXAMPLE",
    "FEATURES",
    "MEANINGS",
    "QUARANTINE",
    "REASON",
    "RECORD_TYPE",
    "UNREADABLE",
    "HeaderMeaning",
    "Refusal",
    "cloud_event",
    "dead_letter",
    "record_type_of",
    "refusal_of",
    "traced",
]

RECORD_TYPE = "headrace-kind"
FEATURES = "headrace-features"
"""The version of all features together, on predictions: what it stands for is in the catalogue."""
EXAMPLE: Headers = ((RECORD_TYPE, b"example"),)
CLAIM: Headers = ((RECORD_TYPE, b"claim"),)
QUARANTINE: Headers = ((RECORD_TYPE, b"quarantine"),)
COMMAND: Headers = ((RECORD_TYPE, b"command"),)
_RECORD_TYPES: dict[bytes, RecordType] = {
    b"example": "example",
    b"claim": "claim",
    b"quarantine": "quarantine",
    b"command": "command",
}
_TRACE = ("traceparent", "tracestate")
TRACE_MAX = 512
"""Bytes of a trace header that is passed on, as W3C asks of `tracestate` at the least."""
REASON = "__streams.errors.exception"
"""The first of the headers that say why a record was refused."""
UNREADABLE = "headrace.errors.unreadable"
"""Why a batch could not be read: on the record without a value that stands for it."""
TIMESTAMP = "headrace.errors.timestamp"
MESSAGE_MAX = 1_024
"""Bytes of a reason: it may quote what was refused."""


class HeaderMeaning(NamedTuple):
    """A header that a reader may meet."""

    name: str
    on: tuple[str, ...]
    """Roles of the topics."""
    meaning: str


MEANINGS = (
    HeaderMeaning(
        RECORD_TYPE,
        ("examples", "predictions", "rekey", "rekeyed"),
        "What the record is: `example`, `quarantine`, `command` or `claim`. On predictions only claim records"
        " have it.",
    ),
    HeaderMeaning(
        FEATURES,
        ("predictions", "shadow-predictions"),
        "Version of all features together, as in the catalogue.",
    ),
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
    HeaderMeaning("traceparent", ("predictions",), "W3C trace context of the event, passed on."),
    HeaderMeaning("tracestate", ("predictions",), "W3C trace context of the event, passed on."),
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
    HeaderMeaning(UNREADABLE, ("dead-letters",), "Why a batch, for which this letter stands, was not read."),
)
"""Every header that Headrace writes; dead letters keep the refused record's own as well."""


def record_type_of(headers: Headers) -> RecordType | None:
    """Return what a record of a claimed log is, or None where its header names no such type."""
    for name, value in headers:
        if name == RECORD_TYPE:
            return _RECORD_TYPES.get(value)
    return None


def traced(headers: Headers) -> Headers:
    """Return the W3C trace context among `headers`, to be passed on unchanged; too long, it is none."""
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
    """Why a record is a dead letter, and where it lay."""

    stage: str
    exception: str
    message: str
    topic: str
    partition: int
    offset: int


def refusal_of(headers: Headers) -> Refusal:
    """Return what the headers of a dead letter say; what is missing is empty, or -1.

    >>> refused = Record("e", 0, 7, None, None, b"")
    >>> refusal_of(dead_letter(refused, stage="decode", exception="ValueError", message="no"))
    Refusal(stage='decode', exception='ValueError', message='no', topic='e', partition=0, offset=7)
    """
    found = dict(headers)
    stage, exception, message, topic, partition, offset = (
        found.get(name, b"").decode(errors="replace")
        for name in (
            "headrace.errors.stage",
            *(
                f"__streams.errors.{name}"
                for name in ("exception", "message", "topic", "partition", "offset")
            ),
        )
    )
    return Refusal(stage, exception, message, topic, int(partition or -1), int(offset or -1))
