"""Values as they stand in a definition.

Lives here: the text of a constant, and what may be one.  Never here: expressions (`fields.py`).
"""

from __future__ import annotations

from math import isfinite

from topics.errors import DefinitionError
from topics.messages import FeatureValue

__all__ = ["check_value", "literal", "quote"]


def quote(text: str) -> str:
    r"""Return `text` as it stands in a definition.

    >>> print(quote('a "b"'))
    "a \"b\""
    """
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def literal(value: FeatureValue) -> str:
    """Return a constant as it stands in a definition."""
    return quote(value) if isinstance(value, str) else repr(value)


def check_value(value: object, place: str) -> None:
    """Raise DefinitionError, naming `place`, if `value` cannot be a feature's value."""
    if not isinstance(value, bool | int | float | str) or (isinstance(value, float) and not isfinite(value)):
        raise DefinitionError(f"{place}: no feature value", hint="give a finite number, a bool or text")
