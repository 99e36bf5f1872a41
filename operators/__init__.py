"""Memory between events: one idea per file, synchronous, with time as an argument.

The names below are the feature language of a user's file (`expressions.py`).
"""

from operators.expressions import by, field, label, lookup

__all__ = ["by", "field", "label", "lookup"]
