"""Memory between events: one idea per file, synchronous, with time as an argument.

The names below are the feature language of a user's file (`by.py`, `transforms.py`).
"""

from operators.language.by import by, decay, feature, field, label, last_n, lookup, session, tiled, tumbling
from operators.language.transforms import apply, coalesce, cross, indicator

__all__ = [
    "apply",
    "by",
    "coalesce",
    "cross",
    "decay",
    "feature",
    "field",
    "indicator",
    "label",
    "last_n",
    "lookup",
    "session",
    "tiled",
    "tumbling",
]
