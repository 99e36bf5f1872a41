"""Durations as people write them: "250ms", "30s", "10m", "3h", "7d"; and offsets from UTC: "+02:00".

Lives here: text to milliseconds or minutes, and back.  Never here: points in time, clocks.
"""

from __future__ import annotations

import re

from topics.errors import DefinitionError

__all__ = ["DURATION_MAX_MS", "Duration", "duration_ms", "duration_text", "offset_minutes", "offset_text"]

Duration = str | int
"""A span: text with a unit, or whole milliseconds."""

_UNITS_MS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_OFFSET = re.compile(r"([+-])(0[0-9]|1[0-4]):([0-5][0-9])")
_TEXT = re.compile(r"([0-9]{1,15})(ms|s|m|h|d)")

DURATION_MAX_MS = 3_660 * 86_400_000
"""Ten years: anything longer is a slip of the unit."""


def duration_ms(text: Duration) -> int:
    """Return a span in milliseconds, 0 included.

    >>> duration_ms("90s"), duration_ms("3h"), duration_ms(250)
    (90000, 10800000, 250)

    Raises DefinitionError if `text` is no span, negative, or longer than ten years.
    """
    if isinstance(text, str) and (match := _TEXT.fullmatch(text)):
        span = int(match[1]) * _UNITS_MS[match[2]]
    elif isinstance(text, int) and not isinstance(text, bool) and text >= 0:
        span = text
    else:
        raise DefinitionError(
            f"{text!r} is no duration",
            hint='write a whole number and a unit (ms, s, m, h, d) such as "30s" or "7d", or milliseconds',
        )
    if span > DURATION_MAX_MS:
        raise DefinitionError(f"duration {text!r} is longer than ten years", hint="check the unit")
    return span


def duration_text(span_ms: int) -> str:
    """Return the shortest text of a span: equal spans have equal texts.

    >>> duration_text(90_000), duration_text(duration_ms("60m")), duration_text(0)
    ('90s', '1h', '0ms')
    """
    for unit, unit_ms in reversed(_UNITS_MS.items()):
        if span_ms and span_ms % unit_ms == 0:
            return f"{span_ms // unit_ms}{unit}"
    return f"{span_ms}ms"


def offset_minutes(text: str) -> int:
    """Return how many minutes local time is ahead of UTC, as RFC 3339 writes it.

    >>> offset_minutes("+05:30"), offset_minutes("-08:00"), offset_minutes("+00:00")
    (330, -480, 0)

    Raises DefinitionError for any other text, such as the name of a zone.
    """
    match = _OFFSET.fullmatch(str(text))
    if match is None:
        raise DefinitionError(
            f"{text!r} is no offset from UTC",
            hint='write hours and minutes such as "+02:00"; a zone with summer time has no fixed one: '
            "send the local hour as a field where it matters",
        )
    minutes = int(match[2]) * 60 + int(match[3])
    return minutes if match[1] == "+" else -minutes


def offset_text(minutes: int) -> str:
    """Return the text of an offset.

    >>> offset_text(offset_minutes("-05:30"))
    '-05:30'
    """
    hours, rest = divmod(abs(minutes), 60)
    return f"{'-' if minutes < 0 else '+'}{hours:02}:{rest:02}"
