"""The digest of a definition's text: the version of a feature, the name of a group's state.

Lives here: which digest, and how many digits of it.  Never here: what is written into the text
(`catalogue.py`, `plan.py`, `engine/definition/pipeline.py`), digests of models (`operators/models`).
"""

from __future__ import annotations

from hashlib import sha256
from typing import Final

__all__ = ["text_digest"]

DIGITS: Final = 12
"""48 bits: by chance two of 1,000 versions are equal once in 500 million catalogues."""


def text_digest(text: str, digits: int = DIGITS) -> str:
    """Return the first hexadecimal digits of a text's SHA-256.

    >>> text_digest('by("card").count("1h")')
    '60daf87a9dc7'
    """
    return sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:digits]
