"""Static features as they are stored and loaded: the text of a value, and timed rows.

Lives here: how a value reads in a store that knows only text, and what one line of a file of
static features must be.  Never here: stores (`engine/stores/hashes.py`), which row holds at which
time (`operators/windows/asof.py`).

Strategy: a value is read from its text, whether it comes from a store or from a file.  So a model
gets the same value in a backtest and when it serves: "12" is the number 12 in both, true is 1.
"""

from __future__ import annotations

import re

from msgspec import Struct

from topics.codec import BYTES_MAX, NUMBER_MAX, decoder_of, time_ms
from topics.messages import FeatureValue

__all__ = ["StaticRow", "StoredValue", "decode_static_row", "parsed", "stored_text"]

StoredValue = str | float | int | None
"""None: there is no such key or field, or it could not be had in time."""

DIGITS_MAX = 32
"""A longer text is no quantity."""
_NUMBER = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?", re.ASCII)
"""JSON's numbers: "007" and "1_000" are text, as are "nan" and "inf"."""


class StaticRow(Struct, frozen=True, gc=False):
    """The fields of one key that became known at one time."""

    key: str
    """The key of the hash: "merchant:7"."""
    time: int
    """From this time on, ms, the fields hold; until a later row has them again."""
    fields: dict[str, StoredValue]
    """Field name -> value; None ends the field's value."""


class _Line(Struct):
    key: str
    time: int | str
    fields: dict[str, FeatureValue | None]


_decode = decoder_of(_Line)


def decode_static_row(line: bytes) -> StaticRow:
    """Return the row that a line of JSON is; its time is milliseconds or RFC 3339 text.

    >>> decode_static_row(b'{"key": "merchant:7", "time": 0, "fields": {"risk": 0.2, "vip": true}}')
    StaticRow(key='merchant:7', time=0, fields={'risk': 0.2, 'vip': 1})

    Raises ValueError with what is wrong.
    """
    if len(line) > BYTES_MAX:
        raise ValueError(f"line of {len(line)} bytes is longer than {BYTES_MAX}")
    row = _decode(line)
    if not row.key:
        raise ValueError("empty key")
    for name, value in row.fields.items():
        if isinstance(value, int | float) and not -NUMBER_MAX <= value <= NUMBER_MAX:
            raise ValueError(f"number beyond {NUMBER_MAX:g} - at `$.fields.{name}`")
    fields = {
        name: None if value is None else parsed(stored_text(value)) for name, value in row.fields.items()
    }
    return StaticRow(row.key, time_ms(row.time), fields)


def stored_text(value: FeatureValue) -> str:
    """Return the text under which a value is stored; `parsed` gives the value back, 1 and 0 for bools.

    >>> [stored_text(value) for value in (12, -1500.0, "FR", True)]
    ['12', '-1500.0', 'FR', '1']
    """
    if isinstance(value, str):
        return value
    return repr(int(value) if isinstance(value, bool) else value)


def parsed(text: str) -> str | float | int:
    """Return a stored text as the number it spells, or as it is.

    >>> [parsed(text) for text in ("12", "-1.5e3", "007", "nan", "1_000")]
    [12, -1500.0, '007', 'nan', '1_000']
    """
    number = _NUMBER.fullmatch(text) if len(text) <= DIGITS_MAX else None
    if number is None:
        return text
    if number[2] is None and number[3] is None:
        return int(text)
    value = float(text)
    return text if value in {float("inf"), float("-inf")} else value
