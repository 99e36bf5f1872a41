"""Memory between events: one idea per file, synchronous, with time as an argument.

The names below are the feature language of a user's file (`expressions.py`).
"""

from operators.expressions import by, decay, feature, field, label, last_n, lookup, session, tiled, tumbling

__all__ = ["by", "decay", "feature", "field", "label", "last_n", "lookup", "session", "tiled", "tumbling"]
