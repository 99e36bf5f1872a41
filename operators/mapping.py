"""Values made of values: what transforms compute.

Lives here: pure functions of one event's values.  Never here: expressions as functions of an event
(`calculation.py`), what a definition may say, memory.

Missing is None.  Logarithms, sines and cosines are the platform's: another C library may round the last bit
otherwise.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from hashlib import blake2b
from math import cos, isfinite, log, log1p, sin, sqrt, tau
from typing import Any, Final

from operators.language.expressions import Bucket, Clip, Cyclic, Hashed, Math, Transform
from operators.language.fields import Part
from topics.messages import FeatureValue

__all__ = ["bucket_of", "crossed", "mapped", "returned", "time_part"]

HASH_BYTES: Final = 8
"""Of a digest: with at most 2**24 buckets the remainder favours none by more than 2**-40."""
RETURNED_TEXT_MAX: Final = 256
WHOLE_MAX: Final = 2**63 - 1
"""What a checkpoint holds of a whole number."""
"""Characters that a function may return: as many as a window tells texts apart by."""

_MINUTE_MS: Final = 60_000
_DAY_MS: Final = 86_400_000
_EPOCH: Final = datetime(1970, 1, 1)
_FUNCTIONS: Final[dict[str, Callable[[Any], Any]]] = {"log": log, "log1p": log1p, "sqrt": sqrt, "abs": abs}


def mapped(transform: Transform) -> Callable[[Any], FeatureValue | None]:
    """Return what a transform makes of a value that is not missing, as a function.

    >>> from operators import field
    >>> mapped(field("n").bucket([0]))(0), mapped(field("n").clip(None, 3))(7), mapped(field("n").abs())(-1)
    (1, 3, 1)

    It raises ValueError and OverflowError where there is no value.
    """
    match transform:
        case Math(name, _):
            return _FUNCTIONS[name]
        case Clip(_, low, high):
            return _clip(low, high)
        case Bucket(_, boundaries):
            return partial(bisect_right, boundaries)
        case Cyclic(name, _, period):
            turn = sin if name == "sin" else cos
            return lambda value: turn(tau * (value % period / period))
        case Hashed(_, buckets):
            return lambda value: str(bucket_of(value, buckets))


def _clip(low: float | None, high: float | None) -> Callable[[Any], FeatureValue]:
    def clipped(value: Any) -> Any:
        if low is not None and value < low:
            return low
        return high if high is not None and value > high else value

    return clipped


def bucket_of(value: FeatureValue, buckets: int) -> int:
    """Return the bucket of a category: BLAKE2b of its text as UTF-8, first 8 bytes, little-endian, modulo.

    >>> bucket_of("Café Central", 1_000), bucket_of(7, 1_000) == bucket_of(7.0, 1_000)
    (682, True)
    """
    text = _text(value).encode("utf-8", "surrogatepass")
    return int.from_bytes(blake2b(text, digest_size=HASH_BYTES).digest(), "little") % buckets


def crossed(values: Sequence[FeatureValue]) -> str:
    r"""Return several categories as one, so that different ones make different texts.

    >>> crossed(["JFK", "AA", 7]), crossed(["a×b", "c"])
    ('JFK×AA×7', 'a\\×b×c')
    """
    return "×".join([_escaped(_text(value)) for value in values])


def _text(value: FeatureValue) -> str:
    """Return a category as text; equal numbers are one category."""
    if isinstance(value, str):
        return value
    return str(int(value)) if value == int(value) else repr(value)


def _escaped(text: str) -> str:
    if "×" not in text and "\\" not in text:
        return text
    return text.replace("\\", "\\\\").replace("×", "\\×")


def returned(value: object, kind: type) -> FeatureValue | None:
    """Return what a function of the user's gave as `kind`; None is missing.

    >>> returned(3, float), returned(None, int)
    (3.0, None)

    Raises ValueError for another type, a number that is not finite or beyond 64 bits, or too long a text.
    """
    if value is None:
        return None
    if kind is float and isinstance(value, int | float) and not isinstance(value, bool):
        value = float(value)
        if isfinite(value):
            return value
    elif kind is bool and isinstance(value, bool):
        return value
    elif kind is int and isinstance(value, int) and not isinstance(value, bool):
        if -WHOLE_MAX <= value <= WHOLE_MAX:
            return int(value)
    elif kind is str and isinstance(value, str) and len(value) <= RETURNED_TEXT_MAX:
        return str(value)
    raise ValueError(f"{type(value).__name__}, not {kind.__name__}, or not finite, or too large")


def time_part(part: Part, offset_min: int) -> Callable[[Any], FeatureValue | None]:
    """Return how a part is read from a time in ms or a datetime, `offset_min` ahead of UTC.

    >>> time_part("weekday", 0)(0), time_part("month", -60)(0), time_part("is_weekend", 0)(None)
    (3, 12, None)
    """
    offset_ms = offset_min * _MINUTE_MS
    read = _PARTS[part]

    def found(time: float | datetime | None) -> FeatureValue | None:
        if time is None:
            return None
        if isinstance(time, datetime):
            if time.tzinfo is not None:
                time = time.astimezone(UTC).replace(tzinfo=None)
            time = (time - _EPOCH) // timedelta(milliseconds=1)
        return read(time + offset_ms)

    return found


def _date(time: float) -> datetime:
    """Return the day of a time in ms; beyond the years 1 to 9999 there is none (OverflowError)."""
    return _EPOCH + timedelta(days=time // _DAY_MS)


_PARTS: Final[dict[Part, Callable[[Any], FeatureValue]]] = {
    "minute": lambda time: time // _MINUTE_MS % 60,
    "hour": lambda time: time // (60 * _MINUTE_MS) % 24,
    "weekday": lambda time: (time // _DAY_MS + 3) % 7,  # the first of January 1970 was a Thursday
    "is_weekend": lambda time: (time // _DAY_MS + 3) % 7 >= 5,
    "day": lambda time: _date(time).day,
    "month": lambda time: _date(time).month,
}
